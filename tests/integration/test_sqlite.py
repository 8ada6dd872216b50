"""What the SQLite client promises beyond the port: the file, its thread, its indexes, its limits."""

from __future__ import annotations

import gc
import logging
import sqlite3
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from apicas.clients.port import SaveStatus, ViewQuery
from apicas.clients.sqlite import SQLiteClient, schema
from apicas.clients.sqlite import client as client_module
from apicas.clients.sqlite import feed as feed_module
from apicas.clients.sqlite.attachments import CHUNK, STAGED_LIFE
from apicas.clients.sqlite.failures import translate
from apicas.clients.sqlite.file_systems import network_file_system
from apicas.clients.sqlite.thread import ConnectionThread
from apicas.exceptions import (
    ConfigError,
    PoolError,
    PoolNotFoundError,
    PoolUnavailableError,
    TokenNotFoundError,
)
from apicas.tokens import Token, TokenState
from apicas.views import View, field

LOCK = {"lock": 1_700_000_000}


def thread_of(client: SQLiteClient) -> ConnectionThread:
    assert client._thread is not None
    return client._thread


async def execute(client: SQLiteClient, statement: str) -> list[Any]:
    """Run one statement on a client's connection."""
    rows: list[Any] = await thread_of(client).read(lambda connection: connection.execute(statement).fetchall())
    return rows


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def upload(client: SQLiteClient, number: int) -> None:
    await client.upload({"_id": f"t{index:05}"} for index in range(number))


# The file. --------------------------------------------------------------------------------------------------------


async def test_open_makes_the_pool_and_setup_tells_it_once(tmp_path: Path) -> None:
    async with SQLiteClient(tmp_path / "pool.db") as client:
        assert (await client.setup()).created
        assert not (await client.setup()).created
        assert await execute(client, "PRAGMA journal_mode") == [("wal",)]
    async with SQLiteClient(tmp_path / "pool.db") as client:
        assert not (await client.setup()).created
    assert files(tmp_path) == ["pool.db"]


async def test_a_path_may_begin_at_home_and_hold_any_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    async with SQLiteClient("~/a pool?mode=ro#%41.db") as client:
        assert client.address == "sqlite:///~/a pool?mode=ro#%41.db"
    assert files(tmp_path) == ["a pool?mode=ro#%41.db"]


def _text(path: Path) -> None:
    path.write_text("This is a file that somebody made for another purpose. " * 50)


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE tokens (id)")


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_text, "no apicas pool, and no SQLite database"),
        (_foreign, "is an SQLite database, but no apicas pool"),
        (_newer, "newer apicas"),
        (Path.mkdir, "is a directory"),
    ],
)
async def test_what_is_no_pool_is_left_as_it_is(make: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(ConfigError, match=reason) as caught:
        await SQLiteClient(path).open()
    assert "\n" not in str(caught.value)
    assert before is None or path.read_bytes() == before
    assert files(tmp_path) == ["file"]


async def test_a_pool_is_not_made_where_that_is_not_wanted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no directory"):
        await SQLiteClient(tmp_path / "missing" / "pool.db").open()
    path = tmp_path / "pool.db"
    with pytest.raises(PoolNotFoundError, match="apicas init"):
        await SQLiteClient(path, create=False).open()
    assert not path.exists()
    path.touch()
    with pytest.raises(PoolNotFoundError, match="apicas init"):
        await SQLiteClient(path, create=False).open()
    assert not path.stat().st_size


async def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "pool.db"
    async with SQLiteClient(path) as client:
        await upload(client, 500)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(PoolError, match="damaged") as caught:
        await SQLiteClient(path).open()
    assert isinstance(caught.value.__cause__, sqlite3.Error)


async def test_a_full_disk_can_be_survived(tmp_path: Path) -> None:
    """The write that does not fit leaves nothing behind, and the next one works as soon as there is space."""
    async with SQLiteClient(tmp_path / "pool.db") as client:
        ((pages,),) = await execute(client, "PRAGMA page_count")
        await execute(client, f"PRAGMA max_page_count = {pages + 5}")
        with pytest.raises(PoolUnavailableError, match="no space") as caught:
            await upload(client, 1000)
        assert isinstance(caught.value.__cause__, sqlite3.Error)
        assert await client.total() == 0
        await execute(client, "PRAGMA max_page_count = 1000000")
        await upload(client, 1000)
        assert await client.total() == 1000


async def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    async with SQLiteClient(tmp_path / "pool.db") as client:
        await execute(client, "PRAGMA query_only = 1")
        with pytest.raises(PoolError, match="no permission"):
            await upload(client, 1)


async def test_the_file_may_be_held_for_a_while_but_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "pool.db"
    async with SQLiteClient(path) as client:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            thread_of(client)._patience = 0.05
            with pytest.raises(PoolUnavailableError, match="busy") as caught:
                await upload(client, 1)
            assert isinstance(caught.value.__cause__, sqlite3.Error)
            assert await client.total() == 0  # reading waits for nobody
            thread_of(client)._patience = 30
            async with anyio.create_task_group() as group:
                group.start_soon(upload, client, 1)
                await thread_starts(client)
                other.execute("COMMIT")
        assert await client.total() == 1


async def thread_starts(client: SQLiteClient) -> None:
    """Wait until the thread has taken what was asked of it."""
    await anyio.lowlevel.checkpoint()
    while not thread_of(client)._jobs.empty():
        await anyio.lowlevel.checkpoint()


# The thread. ------------------------------------------------------------------------------------------------------


async def test_a_client_is_opened_first_and_may_be_opened_again(tmp_path: Path) -> None:
    client = SQLiteClient(tmp_path / "pool.db")
    with pytest.raises(PoolError, match="not open"):
        await client.total()
    for _ in range(2):
        await client.open()
        await client.open()
        assert await client.total() == 0
        thread = thread_of(client)
        await client.aclose()
        await client.aclose()
        assert not thread._thread.is_alive()
        with pytest.raises(PoolError, match="closed"):
            await thread.opened()


async def test_a_failed_opening_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ConfigError):
        await SQLiteClient(tmp_path).open()
    assert threading.active_count() == before


async def test_a_forgotten_client_is_closed(tmp_path: Path) -> None:
    client = SQLiteClient(tmp_path / "pool.db")
    await client.open()
    thread = thread_of(client)
    del client
    gc.collect()
    await thread.stopped()
    assert not thread._thread.is_alive()


async def test_a_cancelled_write_is_done_whole(tmp_path: Path) -> None:
    """Whenever a save is cancelled, it is done or not begun, and the client goes on working."""
    async with SQLiteClient(tmp_path / "pool.db") as client:
        await upload(client, 200)
        ids = [f"t{index:05}" for index in range(200)]
        for number in range(30):
            documents = [document for document in await client.get(ids) if document]
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(client.save, [{**document, "n": number} for document in documents])
                    for _ in range(number % 5):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
            seen = {document.get("n") for document in await client.get(ids) if document}
            assert len(seen) == 1


async def test_many_forks_write_at_once(tmp_path: Path) -> None:
    """Forks in one loop, and in threads with loops of their own, lose no update."""
    async with SQLiteClient(tmp_path / "pool.db") as client:
        await client.upload([{"_id": "t", "n": 0}])

        async def increment() -> None:
            async with client.fork() as fork:
                for _ in range(3):
                    await settle(fork)

        async def settle(fork: SQLiteClient) -> None:
            while True:
                token = await fork.fetch("t")
                (result,) = await fork.save([{**token, "n": token["n"] + 1}])
                if result.written:
                    return

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(increment)
                group.start_soon(anyio.to_thread.run_sync, anyio.run, increment)
        assert (await client.fetch("t"))["n"] == 48


# Documents. -------------------------------------------------------------------------------------------------------


async def test_one_document_twice_in_a_bulk_is_written_once(tmp_path: Path) -> None:
    async with SQLiteClient(tmp_path / "pool.db") as client:
        new = {"_id": "t", "type": "token", "lock": 0, "done": 0}
        results = await client.save([{**new, "n": 1}, {**new, "n": 2}])
        assert [result.written for result in results] == [True, False]
        (stored,) = await client.get(["t"])
        assert stored is not None
        results = await client.save([{**stored, "n": number} for number in range(3)])
        assert sum(result.written for result in results) == 1
        (winner,) = [number for number, result in enumerate(results) if result.written]
        (stored,) = await client.get(["t"])
        assert stored is not None
        assert (stored["n"], stored["_rev"]) == (winner, results[winner].rev)
        results = await client.delete([stored, stored])
        assert [result.written for result in results] == [True, False]


async def test_a_bulk_does_not_bring_back_what_is_gone(tmp_path: Path) -> None:
    async with SQLiteClient(tmp_path / "pool.db") as client:
        await upload(client, 4)
        documents = [document for document in await client.get([f"t{index:05}" for index in range(4)]) if document]
        await client.delete(documents[1:3])
        seen = await execute(client, "SELECT id, seq FROM tombstones")
        for _ in range(2):  # the second time nothing was gone between: what is remembered of the first does no harm
            locked = [document | LOCK for document in documents]
            results = await client.save([*locked, documents[1]])
            written = [result.status is SaveStatus.WRITTEN for result in results]
            assert written == [True, False, False, True, False]
            for document, result in zip(documents, results, strict=False):
                document["_rev"] = result.rev or document["_rev"]
        assert await client.total() == 2
        assert (await client.counts())["locked"] == 2
        assert await execute(client, "SELECT id, seq FROM tombstones") == seen
        assert await execute(client, "SELECT count(*) FROM tokens WHERE number < 0 OR spot != abs(spot)") == [(0,)]


async def test_bulks_of_every_size_are_written(tmp_path: Path) -> None:
    """Rows go into statements of a few sizes; none is left over, and each gets its own answer."""
    async with SQLiteClient(tmp_path / "pool.db") as client:
        for size in (1, 3, 4, 5, 63, 257, 341, 1000):
            new = [{"_id": f"{size}-{index}", "type": "token", "lock": 0, "done": 0} for index in range(size)]
            assert all(result.written for result in await client.save(new))
            documents = [d for d in await client.get([str(document["_id"]) for document in new]) if d is not None]
            assert len(documents) == size
            stale = documents[size // 2]["_id"]
            await client.edit(stale, lambda token: token.update(changed=True))
            results = await client.save([{**document, **LOCK} for document in documents])
            lost = [document["_id"] for document, result in zip(documents, results, strict=True) if not result.written]
            assert lost == [stale]
        found = await client.counts()
        assert (found["todo"], found["locked"]) == (8, 1 + 3 + 4 + 5 + 63 + 257 + 341 + 1000 - 8)


async def test_a_long_view_is_read_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_PAGE", 3)
    monkeypatch.setattr(client_module, "_PAGE_OF_DOCUMENTS", 2)
    async with SQLiteClient(tmp_path / "pool.db") as client:
        await upload(client, 12)
        ids = [f"t{index:05}" for index in range(12)]
        for with_documents in (False, True):
            for down in (False, True):
                order = ids[::-1] if down else ids
                for limit in (None, 0, 1, 2, 3, 6, 7, 12, 20):
                    query = ViewQuery(limit=limit, descending=down, include_docs=with_documents)
                    rows = await client.query("todo", query)
                    assert [row.id for row in rows] == order[:limit]
                    assert [row.document and row.document["_id"] for row in rows] == [
                        row.id if with_documents else None for row in rows
                    ]
                query = ViewQuery(start_key=order[2], end_key=order[9], descending=down, include_docs=with_documents)
                assert [row.id for row in await client.query("todo", query)] == order[2:10]
        assert [document and document["_id"] for document in await client.get(ids)] == ids


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({"start_key": None}, 3),
        ({"start_key": 5}, 3),
        ({"start_key": []}, 0),
        ({"end_key": {}}, 3),
        ({"end_key": None}, 0),
        ({"start_key": {}, "descending": True}, 3),
        ({"end_key": None, "descending": True}, 3),
        ({"start_key": 5, "descending": True}, 0),
    ],
)
async def test_keys_of_other_types_sort_as_in_couchdb(options: dict[str, Any], number: int, tmp_path: Path) -> None:
    async with SQLiteClient(tmp_path / "pool.db") as client:
        await upload(client, 3)
        assert len(await client.view("todo", **options)) == number


async def test_an_answer_too_long_for_one_text_is_read_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_LARGEST_ANSWER", 0)
    async with SQLiteClient(tmp_path / "pool.db", max_document_bytes=100_000) as client:
        await client.upload({"_id": f"t{index}", "input": "x" * 90_000} for index in range(9))
        assert len(await client.sample("todo", 9, 0.5)) == 9
        assert [row.id for row in await client.view("todo", include_docs=True)] == [f"t{index}" for index in range(9)]
        assert all(await client.get(["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8"]))


async def test_a_document_asked_for_twice_is_not_shared(tmp_path: Path) -> None:
    async with SQLiteClient(tmp_path / "pool.db") as client:
        await upload(client, 1)
        first, second, *_ = await client.get(["t00000", "t00000", "no\x00such", "\ud800"])
        assert first == second
        assert first is not second


async def test_sample_begins_in_different_places(tmp_path: Path) -> None:
    """Pilots that begin in different places mostly get different tokens, even of one upload in the order of ids."""
    async with SQLiteClient(tmp_path / "pool.db") as client:
        await upload(client, 5000)
        windows = [await client.sample("todo", 20, place / 20) for place in range(20)]
        distinct = {document["_id"] for window in windows for document in window}
        assert len(distinct) >= 10 * 20
        await client.save([{**document, **LOCK} for window in windows[:1] for document in window])
        assert len(await client.sample("locked", 50, 0.5)) == 20


# Views. -----------------------------------------------------------------------------------------------------------


async def test_every_statement_uses_an_index(tmp_path: Path) -> None:
    """No operation walks through the tokens, or sorts: a claim from a million costs what one from a thousand does."""
    seen: list[str] = []
    async with SQLiteClient(tmp_path / "pool.db") as client:
        await upload(client, 100)
        await client.add_view(View("Big/todo", TokenState.TODO, (field("cores") >= 4) | ~(field("a?", "b") == "it's")))
        await client.add_view(View("Big/done", TokenState.DONE, field("cores") >= 4))
        await client.add_view(View("Plain/todo", TokenState.TODO))
        await thread_of(client).read(lambda connection: connection.set_trace_callback(seen.append))
        for view in ("todo", "locked", "Big/todo", "Big/done", "Plain/todo"):
            await client.sample(view, 200, 0.5)
            await client.counts([view])
            for down in (False, True):
                options = ViewQuery(limit=5, start_key="t", end_key="t", descending=down, include_docs=down)
                await client.query(view, options)
                await client.query(view, ViewQuery(limit=5, descending=down))
        await client.counts()
        await client.total()
        documents = await client.sample("todo", 50, 0)
        await client.save([{**document, **LOCK} for document in documents] * 2)
        await client.delete(await client.sample("locked", 5, 0))
        await client.upload([{"_id": "new"}, {"_id": "new"}])
        await client.put_attachment("new", str((await client.fetch("new")).rev), "log", b"x")
        await client.get_attachment("new", "log")
        await client.edit("new", lambda token: token.pop("_attachments"))
        async with aclosing(client.changes("0")) as feed:  # type: ignore[type-var]  # an async generator
            await anext(feed)
        await thread_of(client).read(lambda connection: connection.set_trace_callback(None))
        planned = [statement for statement in seen if not statement.startswith(("BEGIN", "COMMIT", "PRAGMA", "--"))]
        assert len(planned) > 40
        for statement in dict.fromkeys(planned):
            for step in [row[3] for row in await execute(client, f"EXPLAIN QUERY PLAN {statement}")]:
                # Counting reads an index from end to end; so does a page of a view that is an index of its own.
                counts = statement.startswith("SELECT count(*) FROM") or "GROUP BY state" in statement
                own = step.startswith(("SCAN tokens USING INDEX view_", "SCAN tokens USING COVERING INDEX view_"))
                assert counts or own or not step.startswith("SCAN tokens"), (step, statement)
                # The feed merges two pages of changes.
                assert "TEMP B-TREE" not in step or "FROM tombstones WHERE" in statement, (step, statement)


async def test_a_user_view_is_claimed_from_by_its_own_index(tmp_path: Path) -> None:
    """Also after it was replaced, by another client, with another condition."""
    async with SQLiteClient(tmp_path / "pool.db") as client, SQLiteClient(tmp_path / "pool.db") as other:
        await client.upload({"_id": f"t{index}", "cores": index, "text": "it's ?"} for index in range(20))
        for least in (5, 10, 2**70):
            await other.add_view(
                View("Big/todo", TokenState.TODO, (field("cores") >= least) & (field("text") == "it's ?"))
            )
            expected = {f"t{index}" for index in range(20) if index >= least}
            assert {row.id for row in await client.view("Big/todo")} == expected
            assert {document["_id"] for document in await client.sample("Big/todo", 50, 0.5)} == expected
            assert await client.counts(["Big/todo"]) == {"Big/todo": len(expected)}
        indexes = await execute(client, "SELECT name FROM sqlite_master WHERE name LIKE 'view!_%' ESCAPE '!'")
        assert len(indexes) == 2


async def test_a_view_that_cannot_be_is_refused(tmp_path: Path) -> None:
    async with SQLiteClient(tmp_path / "pool.db") as client:
        await client.add_view(View("todo", TokenState.TODO))  # is there
        with pytest.raises(ConfigError, match="NUL"):
            await client.add_view(View("Some/todo", TokenState.TODO, field("a") == "\x00"))
        assert not await client.is_view_nonempty("Some/todo")


# Attachments. -----------------------------------------------------------------------------------------------------


async def test_a_large_attachment_is_never_in_memory(tmp_path: Path) -> None:
    size = 30
    piece = b"x" * 500_000

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(size * CHUNK // len(piece)):
            yield piece

    async with SQLiteClient(tmp_path / "pool.db") as client:
        await client.upload([{"_id": "t"}])
        token = await client.fetch("t")
        tracemalloc.start()
        try:
            result = await client.put_attachment("t", str(token.rev), "big", stream())
            length = 0
            async for chunk in client.stream_attachment("t", "big"):
                length += len(chunk)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert result.written
        assert length == (await client.attachments("t"))[0].length == size * CHUNK // len(piece) * len(piece)
        assert peak < 8 * CHUNK


async def test_attachments_come_and_go_with_their_token(tmp_path: Path) -> None:
    """Stubs keep, names left out remove, deleting removes all; no chunk is left over."""
    async with SQLiteClient(tmp_path / "pool.db") as client:
        token = Token({"_id": "t", "type": "token", "lock": 0, "done": 0})
        token.put_attachment("big", b"x" * (2 * CHUNK + 5))
        token.put_attachment("small", b"")
        (result,) = await client.save([token])
        assert result.written
        assert await client.get_attachment("t", "big") == b"x" * (2 * CHUNK + 5)
        assert await client.get_attachment("t", "small") == b""
        plain = {key: value for key, value in (await client.fetch("t")).items() if key != "_attachments"}
        (conflict,) = await client.save([{**plain, "_rev": "7-x"}])
        assert conflict.status is SaveStatus.CONFLICT
        (result,) = await client.save([plain])  # without stubs: the attachments go
        assert result.written
        assert await client.attachments("t") == []
        assert await execute(client, "SELECT count(*) FROM chunks") == [(0,)]
        for name in ("a", "b"):
            result = await client.put_attachment("t", str(result.rev), name, b"x" * CHUNK)
        (stub,) = await client.save([{**plain, "_rev": result.rev, "_attachments": {"c": {"stub": True}}}])
        assert (stub.status, "'c'" in stub.reason) == (SaveStatus.REJECTED, True)
        await client.delete([await client.fetch("t")])
        with pytest.raises(TokenNotFoundError):
            await client.attachments("t")
        assert await execute(client, "SELECT count(*) FROM chunks") == [(0,)]
        assert await execute(client, "SELECT count(*) FROM attachments") == [(0,)]


async def test_an_attachment_replaced_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    """Never a mixture of two files."""
    async with SQLiteClient(tmp_path / "pool.db") as client:
        await client.upload([{"_id": "t"}])
        result = await client.put_attachment("t", str((await client.fetch("t")).rev), "big", b"x" * (3 * CHUNK))
        async with aclosing(client.stream_attachment("t", "big")) as chunks:  # type: ignore[type-var]  # generator
            await anext(chunks)
            await client.put_attachment("t", str(result.rev), "big", b"y" * (3 * CHUNK))
            with pytest.raises(PoolError, match="replaced"):
                await anext(chunks)


async def test_an_upload_that_ends_early_leaves_nothing(tmp_path: Path) -> None:
    """Cancelled, failed or too late: what was staged is dropped."""
    async with SQLiteClient(tmp_path / "pool.db") as client:
        await client.upload([{"_id": "t"}])
        rev = str((await client.fetch("t")).rev)

        async def stream(last: Callable[[], Any]) -> AsyncIterator[bytes]:
            yield b"x" * (3 * CHUNK)
            assert await execute(client, "SELECT count(*) FROM chunks") != [(0,)]
            await last()
            yield b"y"

        async def overtake() -> None:
            await client.edit("t", lambda token: token.update(n=1))

        async def fail() -> None:
            raise OSError("the file went away")

        with anyio.CancelScope() as scope:

            async def cancel() -> None:
                scope.cancel()

            await client.put_attachment("t", rev, "big", stream(cancel))
        assert scope.cancelled_caught
        with pytest.raises(OSError, match="went away"):
            await client.put_attachment("t", rev, "big", stream(fail))
        late = await client.put_attachment("t", rev, "big", stream(overtake))
        assert late.status is SaveStatus.CONFLICT
        assert await execute(client, "SELECT count(*) FROM chunks") == [(0,)]
        assert await execute(client, "SELECT count(*) FROM attachments") == [(0,)]


async def test_an_upload_given_up_meanwhile_is_told(tmp_path: Path) -> None:
    now = [1_700_000_000.0]
    async with SQLiteClient(tmp_path / "pool.db", now=lambda: now[0]) as client:
        await client.upload([{"_id": "t"}])

        async def stream() -> AsyncIterator[bytes]:
            yield b"x" * (2 * CHUNK)
            now[0] += STAGED_LIFE + 1
            async with client.fork():  # clears away what stood still
                yield b"x" * CHUNK

        with pytest.raises(PoolUnavailableError, match="begin it again"):
            await client.put_attachment("t", str((await client.fetch("t")).rev), "big", stream())


# The feed. --------------------------------------------------------------------------------------------------------


async def test_own_writes_wake_the_feed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_POLL", 3600)
    monkeypatch.setattr(feed_module, "_PAGE", 2)
    async with SQLiteClient(tmp_path / "pool.db") as client:
        await upload(client, 5)
        async with aclosing(client.changes("0")) as feed:  # type: ignore[type-var]  # an async generator
            assert [(await anext(feed)).id for _ in range(5)] == [f"t{index:05}" for index in range(5)]
            with anyio.fail_after(20):
                async with anyio.create_task_group() as group:
                    group.start_soon(client.edit, "t00003", lambda token: token.update(n=1))
                    assert (await anext(feed)).id == "t00003"
        with pytest.raises(ConfigError, match="no place"):
            await anext(aiter(client.changes("12-g1AAA")))


# File systems. ----------------------------------------------------------------------------------------------------

MOUNTS = r"""
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:40 / /home rw shared:2 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/me/local rw - xfs /dev/sdb1 rw
32 22 0:42 / /mnt/with\040blank rw - fuse.sshfs me@there: rw
33 22 0:43 / /scratch rw - ext4 /dev/sdc1 rw
34 22 0:44 / /scratch rw master:5 propagate_from:2 - lustre 10.0.0.1@o2ib:/scratch rw
35 22 0:45 / /var/lib/containers rw - fuse.fuse-overlayfs fuse-overlayfs rw
36 nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/tmp/pool.db", None),
        ("/home/me/pool.db", "nfs4"),
        ("/homes/me/pool.db", None),
        ("/home/me/local/pool.db", None),
        ("/home/me/locals/pool.db", "nfs4"),
        ("/mnt/with blank/pool.db", "fuse.sshfs"),
        ("/scratch/pool.db", "lustre"),
        ("/var/lib/containers/pool.db", None),
    ],
)
def test_a_network_file_system_is_told_by_its_mount(path: str, kind: str | None, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert network_file_system(Path(path), mounts) == kind
    assert network_file_system(Path(path), tmp_path / "nothing") is None


async def test_on_a_network_file_system_clients_of_one_process_share(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No shared memory, no log file; forks and further clients by any name work, and one notice is given."""
    path = tmp_path / "pool.db"
    (tmp_path / "link.db").symlink_to(path)
    with caplog.at_level(logging.WARNING, "apicas.sqlite"):
        async with SQLiteClient(path, file_system=lambda _: "nfs4") as client:
            async with (
                client.fork() as fork,
                SQLiteClient(tmp_path / "link.db", file_system=lambda _: "nfs4") as other,
            ):
                assert thread_of(client) is thread_of(fork) is thread_of(other)
                await upload(fork, 10)
                assert await other.total() == 10
                assert set(files(tmp_path)) <= {"pool.db", "link.db", "pool.db-journal"}
                assert await execute(client, "PRAGMA journal_mode") == [("delete",)]
                await anyio.to_thread.run_sync(anyio.run, _use_fork, client)
            assert await client.total() == 10
        assert files(tmp_path) == ["link.db", "pool.db"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is on nfs4: only one process at a time can use this pool"
    ]
    async with SQLiteClient(path) as client:  # moved to a local disk, it is shared as any other
        assert await client.total() == 10
        assert await execute(client, "PRAGMA journal_mode") == [("wal",)]
    async with SQLiteClient(path, file_system=lambda _: "nfs4") as client:
        assert await execute(client, "PRAGMA journal_mode") == [("delete",)]
        assert await client.total() == 10


async def _use_fork(client: SQLiteClient) -> None:
    async with client.fork() as fork:
        assert await fork.total() == 10


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (sqlite3.SQLITE_FULL, "no space is left for the file"),
        (sqlite3.SQLITE_IOERR_SHMSIZE, "no space is left for the file"),
        (sqlite3.SQLITE_IOERR_READ, "the disk failed to read or write the file"),
    ],
)
def test_a_full_disk_is_called_one(code: int, text: str) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    assert text in str(translate(error, "sqlite:///x.db"))
