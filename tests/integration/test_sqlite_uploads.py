"""Uploads to a file: new tokens go in as rows of one statement, and what comes out is as if each had been saved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from apicas.clients.bulks import MAX_BULK_DOCUMENTS
from apicas.clients.sqlite import SQLiteClient
from apicas.clients.sqlite.schema import RUN
from apicas.tokens import new_token


async def _rows(client: SQLiteClient, columns: str) -> list[Any]:
    thread = client._thread
    assert thread is not None
    found: list[Any] = await thread.read(
        lambda connection: connection.execute(f"SELECT {columns} FROM tokens ORDER BY number").fetchall()
    )
    return found


async def test_what_is_uploaded_is_stored_as_what_is_saved(tmp_path: Path) -> None:
    contents: list[dict[str, Any]] = [
        {"_id": "a", "input": {"lines": "one\ntwo", "é": "\u2028"}},
        {"_id": "b", "mine": [None, 1.5]},
        {"_id": "c", "lock": 1_700_000_000},
        {"_id": "d", "type": "note"},
    ]
    async with SQLiteClient(tmp_path / "uploaded.db") as uploaded, SQLiteClient(tmp_path / "saved.db") as saved:
        for content in contents:
            await uploaded.upload([content])
            await saved.save([new_token(content, "unused")])
        columns = "id, state, seq, attached, typeof(body), typeof(rev)"
        assert await _rows(uploaded, columns) == await _rows(saved, columns)
        stored = [await client.get(["a", "b", "c", "d"]) for client in (uploaded, saved)]
        for document in [*stored[0], *stored[1]]:
            assert document is not None
            assert str(document.pop("_rev")).startswith("1-")
        assert stored[0] == stored[1]


async def test_every_change_has_a_number_and_neighbours_share_a_spot(tmp_path: Path) -> None:
    number = 2 * MAX_BULK_DOCUMENTS + 3
    async with SQLiteClient(tmp_path / "pool.db") as client:
        await client.upload({"input": n} for n in range(number))
        rows = await _rows(client, "id, rev, seq, spot")
    ids, revs, numbers, spots = zip(*rows, strict=True)
    assert list(ids) == sorted(set(ids))
    assert len(set(revs)) == number
    assert list(numbers) == list(range(1, number + 1))
    assert len(set(spots)) == -(-number // RUN)


@pytest.mark.parametrize("odd", [False, True])
async def test_ids_that_are_taken_are_told_one_by_one(tmp_path: Path, odd: bool) -> None:
    async with SQLiteClient(tmp_path / "pool.db") as client:
        await client.upload([{"_id": "t5"}, {"_id": "t1005"}])
        contents: list[Any] = [{"_id": f"t{number}", "input": number} for number in range(1010)]
        contents[7] = {"_id": "t6", "input": "again"}
        contents[1008] = {"_id": "t3", "input": "of the bulk before"}
        if odd:
            contents[9] = {"_id": "t9", "lock": 99}
            contents[8] = {"_id": "t8", "_odd": 1}
        report = await client.upload(iter(contents))
        told = {reject.position: (reject.id, reject.reason) for reject in report.rejects}
        assert {position: identifier for position, (identifier, reason) in told.items() if "already" in reason} == {
            5: "t5",
            7: "t6",
            1005: "t1005",
            1008: "t3",
        }
        assert (8 in told) is odd
        assert report.uploaded == 1010 - len(told)
        assert await client.total() == report.uploaded + 2
        (first,) = await client.get(["t6"])
        assert first is not None
        assert first["input"] == 6


async def test_a_content_may_be_changed_once_the_next_is_asked_for(tmp_path: Path) -> None:
    def contents() -> Iterator[dict[str, Any]]:
        content: dict[str, Any] = {"input": [0]}
        for number in range(1500):
            content["input"][0] = number
            yield content

    async with SQLiteClient(tmp_path / "pool.db") as client:
        await client.upload(contents())
        rows = await client.view("todo", include_docs=True)
    assert [row.document["input"] for row in rows if row.document] == [[number] for number in range(1500)]


async def test_the_next_bulk_is_there_before_one_is_written(tmp_path: Path) -> None:
    """Else the thread would wait for it: of three bulks two have been asked for before the first is answered."""
    async with SQLiteClient(tmp_path / "pool.db") as client:
        asked: list[int] = []

        async def contents() -> AsyncIterator[dict[str, Any]]:
            for number in range(3 * MAX_BULK_DOCUMENTS):
                if number % MAX_BULK_DOCUMENTS == 0:
                    asked.append(client.traffic.requests - before)
                yield {"input": number}

        before = client.traffic.requests
        release, thread = asyncio.Event(), client._thread
        assert thread is not None
        loop = asyncio.get_running_loop()
        held = asyncio.create_task(
            thread.read(lambda _: asyncio.run_coroutine_threadsafe(release.wait(), loop).result())
        )
        upload = asyncio.create_task(client.upload(contents()))
        while len(asked) < 3:
            await asyncio.sleep(0)
        release.set()
        await held
        assert (await upload).uploaded == 3 * MAX_BULK_DOCUMENTS
        assert asked == [0, 1, 2]


async def test_the_log_is_carried_over_before_it_is_large(tmp_path: Path) -> None:
    """Carried over seldom, since a page that is written again meanwhile is carried once; but not at the end alone."""
    async with SQLiteClient(tmp_path / "pool.db") as client:
        await client.upload({"input": "x" * 1_000} for _ in range(20_000))
        pool, log = ((tmp_path / name).stat().st_size for name in ("pool.db", "pool.db-wal"))
    assert 8_000_000 < log < 24_000_000
    assert pool > 8_000_000
