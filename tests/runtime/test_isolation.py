"""Tokens in processes of their own: what comes back, and that nothing stays behind."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

import apicas
from apicas._runtime.environment import real_environment
from apicas._runtime.isolation.isolated import _frame
from apicas._runtime.options import RunOptions
from apicas._runtime.pilot import Pilot
from apicas.actors import run_pilot, work_maker
from apicas.exceptions import ConfigError
from apicas.iterators import BasicViewIterator
from apicas.modifiers import Claim, Owner
from apicas.testing import FaultyClient
from apicas.tokens import Token
from tests.runtime import isolated_work
from tests.runtime.processes import Fifo, children, linux_only, lives, only_new_children
from tests.runtime.test_heartbeat_thread import HandClock

ROOT = Path(__file__).resolve().parents[2]
pytestmark = linux_only


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with only_new_children():
        yield
        assert not children()


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    pipe = Fifo(tmp_path / "pipe")
    yield pipe
    pipe.close()


async def worked(work: Any, content: dict[str, Any], **options: Any) -> Token:
    """A token after work in a process of its own."""
    client = FaultyClient()
    await client.upload([{"_id": "t", "input": content}])
    async with BasicViewIterator(client, retry_delay=0, linger=False) as tokens:
        await run_pilot(
            tokens, work_maker(work, tokens), RunOptions(workers=1, executor="process", max_tokens=1, **options)
        )
    return await client.fetch("t")


async def test_output_changes_and_attachments_come_back() -> None:
    token = await worked(isolated_work.answers, {"end": "output"})
    assert token.state == "done"
    assert token.output["process"] == token.output["session"] != os.getpid()
    assert (token.output["points"], token["note"], list(token.attachments)) == ([1, 2], "changed", ["log.txt"])


@pytest.mark.parametrize(
    ("end", "state", "exit_code", "message"),
    [
        ("retry", "todo", "", "once more"),
        ("fail", "error", 7, "never"),
        ("release", "todo", "", None),
        ("command", "error", 9, "exit code 9"),
        ("error", "error", 1, "LookupError: no such galaxy \\udc80"),
        ("nan", "error", 1, "InvalidTokenError: the outcome cannot be stored: note is nan, which is no JSON"),
        ("exit", "error", 1, "SystemExit: 5"),
        ("twice", "error", 1, "in a group"),
    ],
)
async def test_what_is_raised_means_the_same(end: str, state: str, exit_code: Any, message: str | None) -> None:
    token = await worked(isolated_work.answers, {"end": end})
    assert (token.state, token.exit_code) == (state, exit_code)
    assert len(token.errors) == (message is not None)
    assert message is None or message in token.errors[0]["message"]
    assert token.crashes == 0
    if end == "error":
        assert token["note"] == "changed before"
        assert "isolated_work.py" in token.errors[0]["exception"]
        assert "_runtime" not in token.errors[0]["exception"]
    if end == "release":
        assert (token.releases, token.scrub_count) == (1, 0)


async def test_a_plain_function_runs_in_a_thread_there_too() -> None:
    token = await worked(isolated_work.plain, {})
    assert token.output != "MainThread"


async def test_an_actor_goes_there_as_it_was_before_prepare_env() -> None:
    """With all its hooks, in their order, and without the client; its modifier knows the store's time."""
    token = await worked(isolated_work.Actor, {})
    assert token.state == "done"
    assert token.output["calls"] == ["made", "prepare_env", "prepare_run"]
    assert token["cleaned"] is True
    assert token.output["process"] != os.getpid()


async def test_what_stays_with_the_pilot_says_so() -> None:
    token = await worked(isolated_work.Actor, {"left behind": True})
    assert "the client stays with the pilot" in token.errors[0]["message"]


async def test_work_that_cannot_be_prepared_there_runs_in_the_pilot(caplog: pytest.LogCaptureFixture) -> None:
    token = await worked(isolated_work.Unprepared, {})
    assert token.output == os.getpid()
    assert "FileExistsError" in caplog.text
    assert caplog.text.count("it runs in the pilot") == 1


async def test_a_process_that_dies_before_it_is_ready_is_no_fault_of_the_tokens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    token = await worked(isolated_work.Fragile, {})
    assert (token.output, token.crashes) == (os.getpid(), 0)
    assert "killed by SIGSEGV before it was ready; it runs in the pilot" in caplog.text


async def test_a_token_waits_where_there_is_no_room_for_a_process(caplog: pytest.LogCaptureFixture) -> None:
    """In the pilot it might be the next to need too much memory."""
    token = await worked(isolated_work.OutOfMemory, {})
    assert (token.state, token.output, token.crashes, token.releases) == ("todo", {}, 0, 1)
    assert "a process for it was ended before it was ready" in caplog.text


async def test_work_that_cannot_be_sent_is_refused_for_process_mode() -> None:
    with pytest.raises(ConfigError, match=r"cannot be sent to one: .*lambda"):
        await worked(lambda token: 1, {})


class Locked(apicas.RunActor):
    """Has a state that cannot be pickled."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.lock = threading.Lock()

    async def process_token(self, token: Token) -> int:
        return os.getpid()


async def test_a_suspect_that_cannot_be_sent_runs_in_the_pilot(caplog: pytest.LogCaptureFixture) -> None:
    """Said once for all of them, with the reason."""
    client = FaultyClient()
    await client.upload([{"_id": f"t{n}"} for n in range(3)])
    await make_suspects(client)
    async with BasicViewIterator(client) as tokens:
        report = await Locked(tokens).run(workers=3)
    assert report.done == 3
    assert caplog.text.count("cannot pickle '_thread.lock' object; it runs in the pilot") == 1


async def make_suspects(client: FaultyClient, crashes: int = 0) -> None:
    """As if a pilot had vanished under every token."""
    modifier, owner = apicas.BasicTokenModifier(), Owner(pilot="gone", hostname="node")
    for row in await client.view("todo", include_docs=True):
        document = dict(row.document or {})
        for number in range(crashes + 1):
            claim = Claim(claim_id=f"c{number}", owner=owner, now=client.time(), lease=60.0)
            modifier.reclaim(modifier.lock(document, claim), client.time())
        (result,) = await client.save([document])
        assert result.written


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (isolated_work.garbage, "its process answers no more"),
        (isolated_work.no_answer, "its process exited with code 1 without an answer"),
        (isolated_work.segfault, "its process was killed by SIGSEGV"),
    ],
)
async def test_a_process_that_gives_no_answer_is_a_crash(work: Any, reason: str) -> None:
    token = await worked(work, {})
    assert (token.state, token.crashes, token.scrub_count) == ("todo", 1, 0)
    assert token.errors[0]["message"] == reason
    if work is isolated_work.segfault:
        assert "isolated_work.py" in token.errors[0]["exception"]


async def test_a_time_limit_ends_the_process(fifo: Fifo) -> None:
    """The work is cancelled there, and what it wrote until then comes back. The limit counts from its begin."""
    token = await worked(isolated_work.hang, {"pipe": str(fifo.path)}, max_token_time=0.05)
    assert not lives(int(await fifo.line()))
    assert (token.state, token["note"]) == ("error", "cancelled")
    assert "time limit" in token.errors[0]["message"]


async def test_a_process_that_is_deaf_to_term_is_killed(fifo: Fifo) -> None:
    token = await worked(isolated_work.block_for_ever, {"pipe": str(fifo.path)}, max_token_time=0.05, grace=0.2)
    assert not lives(int(await fifo.line()))
    assert token.state == "error"


class Holding:
    """A pilot that works one token in a process, until something ends that."""

    def __init__(self, work: Any, fifo: Fifo) -> None:
        self.client = FaultyClient()
        self.fifo = fifo
        self.work = work
        self.report: apicas.Report | None = None
        self.clock = HandClock()

    async def run(self, act: Any) -> Token:
        """Run until the token has begun, do something to the pilot, and let it come to its end."""
        await self.client.upload([{"_id": "t", "input": {"pipe": str(self.fifo.path)}}])
        environment = replace(real_environment(), monotonic=self.clock)
        async with BasicViewIterator(self.client, environment=environment, linger=False, lock_timeout=10.0) as tokens:
            make_work = work_maker(self.work, tokens)
            pilot = Pilot(tokens, make_work(1), RunOptions(executor="process", grace=0.3, max_tokens=1), 1)
            async with anyio.create_task_group() as group:

                async def run() -> None:
                    self.report = await pilot.run()

                group.start_soon(run)
                self.processes = [int(word) for word in (await self.fifo.line()).split()]
                await act(pilot, group.cancel_scope)
        return await self.client.fetch("t")


async def drain(pilot: Pilot, scope: anyio.CancelScope) -> None:
    pilot.drain("a signal")


async def cut(pilot: Pilot, scope: anyio.CancelScope) -> None:
    pilot.drain("a signal")
    pilot.cut()


async def cancel(pilot: Pilot, scope: anyio.CancelScope) -> None:
    scope.cancel()


@pytest.mark.parametrize("act", [drain, cut, cancel])
async def test_the_end_of_the_pilot_is_the_end_of_the_process(fifo: Fifo, act: Any) -> None:
    """With all that the work started; its token goes back uncharged."""
    holding = Holding(isolated_work.hang_with_a_child, fifo)
    token = await holding.run(act)
    assert len(holding.processes) == 2
    assert not any(map(lives, holding.processes))
    assert (token.state, token.releases, token.crashes) == ("todo", 1, 0)


async def test_a_lost_lease_ends_the_process(fifo: Fifo) -> None:
    holding = Holding(isolated_work.hang, fifo)

    async def take_it(pilot: Pilot, scope: anyio.CancelScope) -> None:
        await holding.client.edit("t", lambda token: apicas.BasicTokenModifier().reset(token, holding.client.time()))
        holding.clock.now += 5.0  # a beat is due, and finds out

    token = await holding.run(take_it)
    assert not any(map(lives, holding.processes))
    assert holding.report is not None
    assert (holding.report.lost, token.state, token.get("note")) == (1, "todo", None)


PILOT = """
import asyncio, sys
import apicas
from tests.runtime import isolated_work
if __name__ == "__main__":
    asyncio.run(apicas.run(getattr(isolated_work, sys.argv[1]), "sqlite:///pool.db", executor="process"))
"""


@pytest.mark.parametrize("work", ["hang_with_a_child", "wait_in_a_thread"])
async def test_a_killed_pilot_takes_the_process_with_it(fifo: Fifo, tmp_path: Path, work: str) -> None:
    """It hears no more from the pilot. So does a plain function's, which nobody can cancel, after a moment."""
    async with apicas.connect("sqlite:///pool.db") as client:
        await client.upload([{"_id": "t", "input": {"pipe": str(fifo.path)}}])
    (tmp_path / "pilot.py").write_text(PILOT)
    async with await anyio.open_process(
        [sys.executable, "pilot.py", work], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=None, stderr=None
    ) as pilot:
        processes = [int(word) for word in (await fifo.line()).split()]
        assert all(map(lives, processes))
        pilot.kill()
    with anyio.fail_after(30):
        while any(map(lives, processes)):
            await anyio.sleep(0.01)


async def test_the_process_is_the_first_to_go_when_memory_runs_out() -> None:
    token = await worked(isolated_work.standing, {})
    assert token.output == min(1000, isolated_work.oom_score() + 500)


async def test_two_suspects_with_a_charge_share_no_pilot() -> None:
    """Work that cannot be sent, and whose pilots died twice, has the pilot to itself: so nobody else is charged."""
    client = FaultyClient()
    await client.upload([{"_id": f"t{n}"} for n in range(3)])
    await make_suspects(client, crashes=1)
    await client.upload([{"_id": f"u{n}"} for n in range(5)])
    inside: set[str] = set()
    beside: list[set[str]] = []

    async def work(token: Token) -> None:
        inside.add(token.id)
        beside.append(set(inside))
        await anyio.sleep(0.005)
        beside.append(set(inside))
        inside.discard(token.id)

    async with BasicViewIterator(client) as tokens:
        report = await run_pilot(tokens, work_maker(work, tokens), RunOptions(workers=4))
    assert report.done == 8
    assert {frozenset(some) for some in beside if any(name.startswith("t") for name in some)} == {
        frozenset({f"t{n}"}) for n in range(3)
    }
    assert max(map(len, beside)) > 1


def test_a_pilot_that_was_killed_with_an_answer_unread_is_gone() -> None:
    """The kernel then resets the connection instead of ending it; the process must not stay behind."""
    pilot, here = socket.socketpair()
    with here, here.makefile("rb") as sent:
        here.sendall(b"an answer")
        pilot.close()
        assert _frame(sent) is None
