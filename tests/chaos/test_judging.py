"""The chaos benchmark's own judgement: it must see what breaks a promise, and only that."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

import apicas
from benchmarks.chaos.audit import Audit, Write, judge_writes, sqlite_writes, watch_sqlite
from benchmarks.chaos.judging import Findings, count_stale, judge
from benchmarks.chaos.ledger import Execution, Ledger, Life
from benchmarks.chaos.lines import Lines
from benchmarks.chaos.relay import Relay
from benchmarks.ports import free_port

LEASE = 10.0


def life(name: str, **changes: object) -> Life:
    found = Life(name, name.startswith("picas"), Path(name), 0.0, ended=1000.0, code=0)
    for key, value in changes.items():
        setattr(found, key, value)
    return found


def execution(pilot: str, begun: float, ended: float | None, *, generation: int = 1, error: str = "") -> Execution:
    return Execution(f"{pilot}/{begun}", "t", generation, pilot, begun, ended, error)


def judged(executions: list[Execution], *lives: Life, committed: tuple[str, ...] = ()) -> Findings:
    return judge(executions, {life.name: life for life in lives}, LEASE, committed)


def test_one_execution_is_no_duplicate() -> None:
    """The quiet case."""
    findings = judged([execution("a", 0, 1)], life("a"))
    assert (findings.executions, findings.duplicates, findings.at_once) == (1, 0, [])


def test_two_live_pilots_at_once_are_seen() -> None:
    """Both alive, not stopped, and their times overlap."""
    findings = judged([execution("a", 0, 5), execution("b", 4, 6)], life("a"), life("b"))
    assert len(findings.at_once) == 1
    assert findings.why == {"unexplained": 1}


def test_a_killed_pilot_works_no_longer() -> None:
    """Its execution ends with it; the one after that is explained."""
    findings = judged([execution("a", 0, None), execution("b", 4, 6)], life("a", killed=3.0), life("b"))
    assert (findings.at_once, findings.why) == ([], {"killed": 1})


def test_a_pilot_that_still_lived_when_it_was_worked_again_is_seen() -> None:
    """A reclaim too early."""
    findings = judged([execution("a", 0, None), execution("b", 4, 6)], life("a", killed=5.0), life("b"))
    assert len(findings.at_once) == 1


def test_a_long_stop_ends_an_execution_and_a_short_one_does_not() -> None:
    """A pilot that is stopped for less than half its lease keeps its tokens."""
    attempts = [execution("a", 0, 30), execution("b", 20, 21)]
    assert judged(attempts, life("a", stops=[(5, 30)]), life("b")).at_once == []
    assert len(judged(attempts, life("a", stops=[(5, 8)]), life("b")).at_once) == 1


def test_what_a_woken_pilot_begins_counts_in_full() -> None:
    """It began on a claim that had run out, beside the new owner."""
    attempts = [execution("b", 20, 32, generation=3), execution("a", 31, 33, generation=1)]
    findings = judged(attempts, life("a", stops=[(5, 30)]), life("b"))
    assert len(findings.at_once) == 1
    assert findings.why == {"begun after a stop": 1}


def test_what_was_committed_is_never_worked_again() -> None:
    """A kill explains no execution after the outcome was written."""
    attempts = [execution("a", 0, 1), execution("b", 4, 6)]
    assert judged(attempts, life("a", killed=1.5), life("b")).why == {"killed": 1}
    findings = judged(attempts, life("a", killed=1.5), life("b"), committed=(attempts[0].id,))
    assert findings.why == {"unexplained": 1}


def test_what_picas_does_is_put_down_to_picas() -> None:
    """Its duplicates, and what it works beside ours."""
    attempts = [execution("a", 0, 5), execution("picas0", 1, 2)]
    findings = judged(attempts, life("a"), life("picas0"))
    assert (findings.duplicates, findings.duplicates_by_picas) == (0, 1)
    assert (findings.at_once, findings.beside_picas) == ([], 1)


def test_what_begins_on_a_claim_that_was_taken_away_is_counted() -> None:
    """Reclaimed at 10, so generation 1 is over; the next claim has generation 3."""
    executions = [execution("a", 0, None), execution("a", 31, 33), execution("b", 20, 21, generation=3)]
    assert count_stale(executions, [(10.0, "t"), (10.0, "u")]) == 1


@pytest.mark.parametrize(
    ("writes", "double", "reopened", "unknown"),
    [
        ([Write("done", 1, "x")], 0, 0, 0),
        ([Write("done", 1, "x"), Write("done", 1, "y")], 1, 0, 0),
        ([Write("done", 1, "x"), Write("done", 1, "x")], 1, 0, 0),
        ([Write("done", 1, "x"), Write("todo", 2, "x"), Write("done", 3, "y")], 0, 1, 0),
        ([Write("done", 1, "z")], 0, 0, 1),
        ([Write("error", 1, "{}")], 0, 0, 0),
    ],
)
def test_the_audit_sees_every_outcome(writes: list[Write], double: int, reopened: int, unknown: int) -> None:
    """Two outcomes in one generation, a token that was done and is not, a result of nobody."""
    audit = Audit()
    judge_writes({"t": writes}, {"x", "y"}, set(), audit)
    assert (len(audit.double), len(audit.reopened), len(audit.unknown)) == (double, reopened, unknown)


async def test_a_watched_pool_notes_outcomes(tmp_path: Path) -> None:
    """Each write of a token that is done, in order."""
    pool = tmp_path / "pool.db"
    async with apicas.connect(f"sqlite:///{pool}") as client:
        await client.setup()
        await client.upload([{"_id": "t"}])
        watch_sqlite(pool)
        await apicas.run(lambda token: "first", client, workers=1)
        await client.edit("t", lambda token: token.update(output="second"))
    assert [(write.state, write.generation, write.output) for write in sqlite_writes(pool)["t"]] == [
        ("done", 1, "first"),
        ("done", 1, "second"),
    ]


def test_the_ledger_reads_what_a_pilot_wrote(tmp_path: Path) -> None:
    """Also while it writes: a line without its end waits for the rest."""
    path = tmp_path / "lines"
    lines, ledger = Lines("p0", str(path)), Ledger()
    ledger.follow("p0", path)
    first, second = lines.begin("t", 1, "claim"), lines.begin("u", 2, "claim")
    lines.end(first)
    with path.open("ab", buffering=0) as file:
        file.write(b"X\t1.5\t" + second.encode()[:3])
        ledger.poll()
        assert ledger.ended == {"t"}
        assert ledger.executions[second].ended is None
        file.write(second.encode()[3:] + b"\tCancelledError\n")
    ledger.poll()
    assert (ledger.executions[second].ended, ledger.executions[second].error) == (1.5, "CancelledError")


async def test_the_relay_cuts_and_comes_back() -> None:
    """Bytes go through; a cut ends the connection on both sides; after it they go through again."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async with (
        await asyncio.start_server(echo, "127.0.0.1", 0) as server,
        Relay("127.0.0.1", server.sockets[0].getsockname()[1], free_port()) as relay,
    ):
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            with closing(writer):
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
                await relay.away(0, silent=False)
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await reader.readexactly(1)
    assert relay.cuts >= 2
