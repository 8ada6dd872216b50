"""A token that somebody else wrote with bad intent, past every check of ours, harms neither pilot nor other tokens."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import pytest

import apicas
from apicas._documents import encode
from apicas.clients.base import PoolClient
from apicas.clients.bulks import BulkRefusedError, EncodedDocument
from apicas.clients.memory import MemoryClient
from apicas.clients.sqlite import SQLiteClient
from apicas.exceptions import InvalidTokenError
from apicas.testing import unix_time
from apicas.tokens import Token, TokenState
from apicas.views import STATES
from tests.couchdb import SERVERS, server
from tests.runtime.virtual import pilot, virtual

GOOD = 5
TODO = {"type": "token", "lock": 0, "done": 0, "exit_code": "", "scrub_count": 0, "hostname": ""}
ANNEX = {"generation": 1, "claim": "c", "lock": 0, "lease": 60}


def body(text: str = "1", **fields: Any) -> str:
    """A document as it stands in a store, without its id, and with one field in JSON of its own."""
    own = encode({**TODO, **fields})[:-1].decode()
    return f'{own},"input":{text}}}'


def nested(levels: int, opening: str = "[", closing: str = "]") -> str:
    return opening * levels + closing * levels


def annex(**fields: Any) -> dict[str, Any]:
    return {"apicas": {**ANNEX, **fields}}


HOSTILE: dict[str, str] = {
    "deep list": body(nested(10_000)),
    "deep object": body('{"a":' * 10_000 + "1" + "}" * 10_000),
    "deep for a stack": body(nested(2_000)),
    "as deep as a stack": body(nested(950)),
    "surrogate": body('"\\ud800"'),
    "direction": body('"\\u202e\\u200b\\u2066"'),
    "marks": body(f'"a{chr(0x301) * 10_000}"'),
    "prototype": body('{"__proto__":{"a":1},"constructor":{"prototype":1},"__class__":"x","__dict__":{},"toString":1}'),
    "prototype above": body("1", constructor=1, toString=1, hasOwnProperty=1),
    "twice": '{"lock":5,"lock":0,' + body()[1:],
    "huge integer": body("1" * 200),
    "huge number": body("1e308"),
    "controls": body('"\\u001b]52;c;x\\u0007\\u009b2J\\u0000"'),
    "annex list": body(apicas=[1, 2]),
    "annex text": body(apicas="x" * 200_000),
    "annex number": body(apicas=1e308),
    "annex null": body(apicas=None),
    "history long": body(**annex(history=[{"x": 1}] * 2_000)),
    "history odd": body(**annex(history={"a": 1})),
    "history text": body(**annex(history="x" * 100_000)),
    "history of lists": body(**annex(history=[[[1]], "x", None, 5])),
    "generation negative": body(**annex(generation=-5)),
    "generation huge": body(**annex(generation=1e308)),
    "generation text": body(**annex(generation="x")),
    "generation at its end": body(**annex(generation=2**53)),
    "not_before negative": body(**annex(not_before=-1e308)),
    "not_before text": body(**annex(not_before="tomorrow")),
    "lease negative": body(**annex(lease=-5)),
    "lease huge": body(**annex(lease=1e308)),
    "lease text": body(**annex(lease=[])),
    "crashes huge": body(**annex(crashes=10**200, releases=-1)),
    "claim odd": body(**annex(claim={"a": 1}, owner=[1], pilot=5)),
    "suspect": body(**annex(suspect="yes", taken=5)),
    "error text": body(error="x" * 200_000),
    "error object": body(error={"a": 1}),
    "errors many": body(error=[{"time": 1, "message": "x", "exception": ""}] * 2_000),
    "hostname": body(hostname="\x1b]0;owned\x07"),
    "scrub count": body(scrub_count=1e308),
    "scrub count negative": body(scrub_count=-(10**200)),
    "job ids": body(slurm_job_id={"a": [1]}, wms_job_id=5),
    "odd fields": body("1", **{"": 1, "a.b": 2, "\x00": 3, "$x": 4, "length": -1}),
}

# They can be read, and no store of ours would take them back.
UNWRITABLE = {"deep list", "deep object", "deep for a stack", "as deep as a stack", "surrogate"}


@asynccontextmanager
async def opened(kind: str, request: pytest.FixtureRequest, directory: Path) -> AsyncIterator[PoolClient]:
    if kind == "memory":
        async with MemoryClient() as client:
            yield client
    elif kind == "sqlite":
        async with SQLiteClient(directory / "pool.db") as client:
            yield client
    else:
        couch = server(request.config, kind)
        with couch.database() as name:
            async with couch.client(name) as client:
                await client.setup()
                yield client


async def plant(client: PoolClient, name: str, content: str, directory: Path) -> bool:
    """Store a document past our checks; whether the store could be made to take it."""
    raw = f'{{"_id":{encode(name).decode()},{content[1:]}'
    if isinstance(client, MemoryClient):
        await client.upload([{"_id": name}])
        client._pool.documents[name].body = raw.encode()
    elif isinstance(client, SQLiteClient):
        await client.upload([{"_id": name}])
        with closing(sqlite3.connect(directory / "pool.db")) as connection, connection:
            connection.execute("UPDATE tokens SET body = ? WHERE id = ?", (raw, name))
    else:
        try:
            (result,) = await client._write([EncodedDocument({"_id": name}, raw.encode())])
        except BulkRefusedError:
            return False
        return result.written
    return True


async def work(client: PoolClient, process: Any = None, **options: Any) -> apicas.Report:
    async def echo(token: Token) -> Any:
        return token.input

    options = {"workers": 3, "handle_signals": False, "linger": False, **options}
    return await apicas.run(process or echo, client, **options)


@asynccontextmanager
async def hostile_pool(
    kind: str, request: pytest.FixtureRequest, directory: Path
) -> AsyncIterator[tuple[PoolClient, set[str]]]:
    """A pool with all of them, and good ones; and which of them the store took."""
    async with opened(kind, request, directory) as client:
        planted = {name for name, content in HOSTILE.items() if await plant(client, name, content, directory)}
        await client.upload([{"_id": f"good{number}"} for number in range(GOOD)])
        yield client, planted


async def states(client: PoolClient) -> dict[str, str]:
    return {str(row.id): state for state in STATES for row in await client.view(state)}


@pytest.mark.parametrize("kind", ["memory", "sqlite", *SERVERS])
async def test_a_pilot_outlives_them_all(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Each is worked like any other, or stays as it is if no store would take it back; those beside them are done."""
    async with hostile_pool(kind, request, tmp_path) as (client, planted):
        assert len(planted) >= len(HOSTILE) - 3
        report = await work(client)
        found = await states(client)
    assert {name for name, state in found.items() if state == "done"} == set(found) - UNWRITABLE
    assert {name for name, state in found.items() if state == "todo"} == UNWRITABLE & planted
    assert report.done == GOOD + len(planted - UNWRITABLE)


@pytest.mark.parametrize("kind", ["memory", "sqlite", *SERVERS])
async def test_a_failure_on_one_is_its_own(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    async def fail(token: Token) -> None:
        if not token.id.startswith("good"):
            raise ValueError("\x1b[2J\ud800" + "x" * 3_000)

    async with hostile_pool(kind, request, tmp_path) as (client, planted):
        report = await work(client, fail, max_scrub=1)
        found = await states(client)
    assert {name for name, state in found.items() if state == "done"} == {f"good{number}" for number in range(GOOD)}
    assert {name for name, state in found.items() if state == "todo"} == UNWRITABLE & planted
    assert report.failed == len(planted - UNWRITABLE)


@pytest.mark.parametrize("kind", ["memory", "sqlite", *SERVERS])
async def test_all_that_people_do_to_tokens_goes_on(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    async with hostile_pool(kind, request, tmp_path) as (client, planted):
        assert sum((await client.counts()).values()) == await client.total() == GOOD + len(planted)
        rows = await client.view("todo", include_docs=True)
        assert {row.id for row in rows} == {*planted, *(f"good{number}" for number in range(GOOD))}
        for name in sorted(planted - UNWRITABLE):
            await client.edit(name, lambda token: token.update(mine=1))
        for name in sorted(planted & UNWRITABLE):
            with pytest.raises(InvalidTokenError):
                await client.edit(name, lambda token: token.update(mine=1))
        assert await client.delete_from_view("todo") == GOOD + len(planted)


# Size. ----------------------------------------------------------------------------------------------------------------

MANY = 50_000_000


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_field_of_fifty_megabytes_is_refused_and_harms_nobody_where_it_is_stored(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(kind, request, tmp_path) as client:
        uploaded = await client.upload([{"_id": "big", "input": "x" * MANY}, {"_id": "good0"}])
        assert [(reject.id, reject.reason[:7]) for reject in uploaded.rejects] == [("big", "50,000,")]
        assert await plant(client, "big", body(f'"{"x" * MANY}"'), tmp_path)
        await work(client)
        assert await states(client) == {"big": "todo", "good0": "done"}


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_an_attachment_of_fifty_megabytes_is_no_burden(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(kind, request, tmp_path) as client:
        await client.upload([{"_id": "t"}])
        (found,) = await client.get(["t"])
        assert found is not None
        assert (await client.put_attachment("t", found["_rev"], "log", b"x" * MANY)).written
        assert (await work(client)).done == 1
        assert await states(client) == {"t": "done"}
        assert [info.length for info in await client.attachments("t")] == [MANY]


async def test_an_outcome_that_is_hostile_itself_is_one_error(tmp_path: Path) -> None:
    """What a token's own code leaves behind: too big, too deep, no JSON, in fields of ours."""
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    deep: Any = 1
    for _ in range(10_000):
        deep = [deep]
    outcomes = ["x" * MANY, cyclic, deep, "\ud800", {1: object()}, 10**5000, float("inf"), {"a": b"x" * 100}]

    async def spoil(token: Token) -> Any:
        return outcomes[token.input] if isinstance(token.input, int) else None

    async with MemoryClient() as client:
        await client.upload([{"_id": f"t{number}", "input": number} for number in range(len(outcomes))])
        await client.upload([{"_id": "good0", "input": "x"}])
        await work(client, spoil)
        found = await states(client)
        assert found["good0"] == "done"
        assert "locked" not in found.values()
        assert "todo" not in found.values()


# Locked ones, before the reaper. --------------------------------------------------------------------------------------

LOCKED = {name: content for name, content in HOSTILE.items() if name not in UNWRITABLE and '"apicas"' in content}


@virtual
async def test_a_reaper_outlives_them_and_takes_what_is_stale() -> None:
    """A silent owner's token comes back whatever stands in it."""
    client = MemoryClient(now=unix_time)
    async with client:
        for name, content in LOCKED.items():
            document = {**json.loads(content), "lock": int(unix_time()) - 10_000}
            document["apicas"] = (
                {**ANNEX, **document["apicas"]} if isinstance(document["apicas"], dict) else document["apicas"]
            )
            if isinstance(document["apicas"], dict):
                document["apicas"]["lock"] = document["lock"]
            await plant(client, name, json.dumps(document), Path())
            client._pool.states[name] = TokenState.LOCKED
        async with pilot(client) as tokens:  # type: ignore[arg-type]
            seen = set()
            with anyio.move_on_after(3600):
                async for token in tokens:
                    seen.add(token.id)
                    async with token:
                        pass
        foreign = {name for name in LOCKED if name.startswith(("annex", "claim odd"))}
        assert seen >= set(LOCKED) - foreign
