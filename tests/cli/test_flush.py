"""`apicas flush`, and where the outbox is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import apicas as library
from apicas._documents import Document, decode
from apicas._runtime.outbox.disk import DiskOutbox, default_directory
from apicas._runtime.outbox.entries import Entry
from apicas.cli import opening
from apicas.modifiers import BasicTokenModifier, Claim, Owner
from apicas.tokens import claim_of
from tests.cli.program import Program

POOL = "sqlite:///apicas.db"
NOW = 1_700_000_000.0


def leave(tokens: int, changed: Callable[[Document], Document] | None = None, root: Path | None = None) -> None:
    """Leave results of tokens in the outbox of the pool here, as a pilot that is gone; then change the tokens."""
    asyncio.run(_leave(tokens, changed, root or default_directory()))


async def _leave(tokens: int, changed: Callable[[Document], Document] | None, root: Path) -> None:
    modifier = BasicTokenModifier()
    owner = Owner(pilot="gone", hostname="node", process="e15e.1.1")
    async with library.connect(POOL) as client:
        await client.setup()
        await client.upload([{"_id": f"t{number}\x1b[2J"} for number in range(tokens)])
        entries = []
        for number, document in enumerate(await client.sample("todo", tokens, 0.0)):
            claimed = modifier.lock(document, Claim(claim_id=f"c{number}", owner=owner, now=NOW, lease=60.0))
            (result,) = await client.save([claimed])
            stored = {**claimed, "_rev": result.rev}
            entries.append(_entry(stored, modifier.close({**stored, "output": "late"}, NOW)))
            if changed is not None:
                await client.save([changed(stored)])
        await DiskOutbox(root, POOL).put(entries)


def _entry(stored: Document, outcome: Document) -> Entry:
    return Entry(
        pool=POOL,
        token=stored["_id"],
        claim=str(claim_of(stored)),
        stored=stored,
        base=stored,
        outcome=outcome,
        ending="done",
        time=NOW,
        hostname="node",
        pilot="gone",
        process="e15e.1.1",
    )


def reset(document: Document) -> Document:
    return BasicTokenModifier().reset(document, NOW)


def test_there_is_mostly_nothing_to_do(apicas: Program, state_home: Path) -> None:
    result = apicas("flush", "--pool", POOL)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"nothing waits in {state_home}")
    assert apicas("flush", "--list").out == result.out
    assert list(state_home.iterdir()) == []


def test_what_waits_is_listed_and_written(apicas: Program) -> None:
    leave(2)
    listed = apicas("flush", "--list")
    head, *rows = listed.out.splitlines()
    assert head.split() == ["token", "ending", "when", "node", "state", "file"]
    assert [row.split()[0] for row in rows] == [r"t0\x1b[2J", r"t1\x1b[2J"]
    assert all(row.endswith(".json") and "done" in row and "waits" in row for row in rows)
    assert apicas.status() == {"todo": 0, "locked": 2, "done": 0, "error": 0, "total": 2}
    result = apicas("flush")
    assert (result.code, result.out, result.err) == (0, "2 results written, 0 were in the pool already\n", "")
    assert apicas.status() == {"todo": 0, "locked": 0, "done": 2, "error": 0, "total": 2}
    assert apicas("flush").out.startswith("nothing waits")


def test_what_is_lost_is_listed_and_deleted_when_asked(apicas: Program) -> None:
    """The exit code says that not all was written; once more there is nothing to do."""
    leave(1, reset)
    result = apicas("flush")
    assert result.code == 1
    _, row = result.out.splitlines()
    assert "lost: somebody else has taken it" in row
    assert "--list" in result.err
    place = Path(row.split()[-1])
    assert decode(place.read_bytes())["outcome"]["output"] == "late"
    assert apicas("flush").code == 0
    assert str(place) in apicas("flush", "--list").out
    assert apicas("flush", "--discard-lost").code == 2, "there is nobody to ask"
    assert place.exists()
    assert apicas("flush", "--discard-lost", "--yes").out == "1 lost result deleted\n"
    assert not place.exists()
    assert apicas("flush", "--discard-lost").out.startswith("nothing is lost")


def test_the_same_for_programs(apicas: Program) -> None:
    leave(1)
    waiting = decode(apicas("flush", "--list", "--json").out)
    assert [each["token"] for each in waiting["waiting"]] == ["t0\x1b[2J"]
    assert waiting["lost"] == []
    written = decode(apicas("flush", "--json").out)
    assert (written["written"], written["waiting"], written["lost"]) == (["t0\x1b[2J"], 0, [])


@pytest.mark.parametrize("how", ["option", "environment", "file"])
def test_the_outbox_is_where_somebody_says(apicas: Program, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    arguments: list[str] = []
    if how == "option":
        arguments = ["--outbox", "box"]
    elif how == "environment":
        monkeypatch.setenv("APICAS_OUTBOX", "box")
    else:
        apicas.write("apicas.toml", 'outbox = "box"\n')
    leave(1, root=apicas.directory / "box")
    assert apicas("flush", *arguments).out.startswith("1 result written")


def test_a_pilot_writes_what_another_left(apicas: Program) -> None:
    """Before it may take the token itself, though the owner's process is gone."""
    leave(1)
    apicas.write("again.py", "def work(token):\n    return 'again'\n")
    result = apicas("run", "again.py:work", "--workers", "1")
    assert result.code == 0, result.err
    assert result.out.startswith("0 done")
    assert apicas.status()["done"] == 1


@pytest.mark.parametrize("command", [("flush",), ("run", "again.py:work")])
def test_an_unsafe_directory_is_refused(apicas: Program, command: tuple[str, ...]) -> None:
    """By a pilot at the start, where somebody named it."""
    apicas.write("again.py", "def work(token):\n    return 'again'\n")
    leave(1, reset)
    box = Path(DiskOutbox(apicas.directory / "box", POOL).place)
    box.mkdir(parents=True)
    box.chmod(0o777)
    result = apicas(*command, "--outbox", "box")
    assert result.code == 2
    assert "chmod 700" in result.error


def test_a_server_that_is_away(apicas: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """All stays where it is."""
    monkeypatch.setattr(opening, "PATIENCE", 0.0)
    address = "http://127.0.0.1:9/pool"
    box = DiskOutbox(default_directory(), address)
    stored: Any = {"_id": "t", "_rev": "1-a", "apicas": {"claim": "c"}}
    asyncio.run(box.put([_entry(stored, stored)]))
    assert apicas("flush", "--pool", address, "--list").code == 0
    assert apicas("flush", "--pool", address).code == 3
    assert "waits" in apicas("flush", "--pool", address, "--list").out


def test_a_pool_in_memory_has_no_outbox(apicas: Program) -> None:
    assert apicas("flush", "--pool", "memory:").out.startswith("memory: has no outbox")
