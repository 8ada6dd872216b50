"""`apicas status --watch`: lines on a pipe, a table on a terminal."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from apicas._documents import decode
from apicas.cli.holders import holders
from apicas.cli.watching import Look, Pace, summary
from apicas.clients.memory import MemoryClient
from apicas.exceptions import PoolUnavailableError
from apicas.iterators import BasicViewIterator
from tests.cli.program import Program
from tests.cli.test_commands import fill
from tests.cli.test_pilots import NOW, claimed
from tests.cli.test_terminal import Start, terminal  # noqa: F401 - a fixture


def look(rate: float | None = None, **counts: int) -> Look:
    states = {state: counts.get(state, 0) for state in ("todo", "locked", "done", "error")}
    documents = [claimed("a"), claimed("b", pilot="q", now=NOW - 100)]
    found = holders(documents, now=NOW, default_lease=60.0, owner_is_gone=lambda document: False)
    return Look(datetime(2026, 11, 23, tzinfo=UTC), states, rate, found, NOW)


def test_a_rate_is_that_of_the_last_minute() -> None:
    pace, rates = Pace(), []
    for at, ended in ((0.0, 0), (10.0, 100), *((float(second), 100 + second) for second in range(11, 200))):
        pace.note(at, ended)
        rates.append(pace.rate)
    assert (rates[0], rates[1], rates[-1]) == (None, 10.0, 1.0)


def test_tokens_that_were_reset_are_no_negative_rate() -> None:
    pace = Pace()
    for at, ended in ((0.0, 50), (10.0, 100), (20.0, 20), (30.0, 40)):
        pace.note(at, ended)
    assert pace.rate == 2.0


def test_a_rate_between_two_rare_looks_is_known() -> None:
    pace = Pace()
    for at, ended in ((0.0, 0), (600.0, 600), (1200.0, 1800)):
        pace.note(at, ended)
    assert pace.rate == 2.0


def test_the_time_that_is_left() -> None:
    assert look(2.0, todo=90, locked=10).left == 50.0
    assert look(2.0, done=5).left == 0.0
    assert look(0.0, todo=90).left is None
    assert look(None, todo=90).left is None


def test_a_line_says_it_all() -> None:
    text = summary(look(0.5, todo=90, locked=10, done=1000))
    assert text == "90 todo, 10 locked, 1,000 done, 0 error, 0.5/s, ETA 0:03:20, 1 pilot, 1 stuck"


def test_on_a_pipe_each_look_is_a_line(apicas: Program) -> None:
    fill(apicas, todo=2, done=1, locks=[time.time()])
    process = apicas.start("status", "--watch", "--interval", "0.1")
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert all(", 1 done, 0 error" in line for line in lines)
    assert lines[2].endswith("0.0/s, 0 pilots\n")


def test_as_json_each_look_is_an_object(apicas: Program) -> None:
    fill(apicas, todo=2)
    process = apicas.start("status", "--watch", "--interval", "0.1", "--json")
    assert process.stdout is not None
    first, second = decode(process.stdout.readline()), decode(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert (first["todo"], first["stuck"], "rate" in first) == (2, [], False)
    assert second["rate"] == 0.0
    assert second["time"] > first["time"]


def test_nobody_reading_on_ends_it(apicas: Program) -> None:
    fill(apicas, todo=2)
    process = apicas.start("status", "--watch", "--interval", "0.1")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_on_a_terminal_a_table_moves(apicas: Program, terminal: Start) -> None:  # noqa: F811
    fill(apicas, todo=2, error=1, locks=[1_500_000_000])
    screen = terminal("status", "--watch", "--interval", "0.1")
    screen.read_until("tokens/s")
    assert "sqlite:///apicas.db" in screen.seen
    assert "1 token stuck: token_" in screen.seen
    assert "a node that is not named, 1 token for " in screen.seen
    assert screen.interrupt() == 130
    assert "Traceback" not in screen.seen


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--interval", "1s"), "--interval is for --watch"),
        (("--watch", "--running"), "not with --running"),
        (("--watch", "token"), "no TOKEN"),
        (("--watch", "--interval", "soon"), "no duration"),
    ],
)
def test_what_makes_no_sense_is_refused(apicas: Program, arguments: tuple[str, ...], reason: str) -> None:
    result = apicas("status", *arguments)
    assert (result.code, reason in result.error) == (2, True)


async def test_while_the_server_is_away_the_last_look_is_shown_on() -> None:
    from apicas.cli.watching import _Watch

    class Away:
        default_lease = 60.0
        is_away = False

        async def counts(self) -> dict[str, int]:
            if self.is_away:
                raise PoolUnavailableError("no answer")
            return {"todo": 1}

        def time(self) -> float:
            return NOW

    client: Any = Away()
    watch = _Watch(client)
    assert (await watch.look()).problem == ""
    client.is_away = True
    seen = await watch.look()
    assert (seen.counts["todo"], seen.problem) == (1, "no answer")
    client.is_away = False
    assert (await watch.look()).problem == ""


async def test_pilots_that_begin_are_seen_at_the_next_look() -> None:
    """And not ten seconds later, when those who hold tokens are looked for again."""
    from apicas.cli.watching import _Watch

    async with MemoryClient() as client:
        await client.upload([{"_id": "t"}])
        watch = _Watch(client)
        assert (await watch.look()).found == ()
        async with BasicViewIterator(client) as tokens:
            async for token in tokens:
                (holder,) = (await watch.look()).found
                assert [held["_id"] for held in holder.tokens] == [token.id]
