"""Processes for tokens: kept between two of them, fresh where blame is at stake, and none left behind."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import wait_all_tasks_blocked

import apicas
from apicas._node.inventory import Allocation
from apicas._runtime.isolation import process as isolated_process
from apicas._runtime.isolation.isolation import Isolation
from apicas._runtime.isolation.pool import ProcessPool
from apicas._runtime.isolation.process import IsolatedProcess
from apicas._runtime.keeping.outcomes import Raised, Returned, Verdict
from apicas._runtime.options import RunOptions
from apicas._runtime.pilot import Pilot
from apicas._runtime.processes.allotment import running_allocation
from apicas.actors import run_pilot, work_maker
from apicas.exceptions import TokenTimeoutError
from apicas.iterators import BasicViewIterator
from apicas.testing import FaultyClient
from apicas.tokens import Token, annex
from tests.runtime import isolated_work
from tests.runtime.processes import Fifo, children, linux_only, lives, only_new_children
from tests.runtime.test_isolation import PILOT, ROOT, make_suspects

pytestmark = linux_only


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with only_new_children():
        yield
        assert not children()


async def run(client: FaultyClient, work: Any, **options: Any) -> apicas.Report:
    """Work the pool, each token in a process of its own."""
    chosen: dict[str, Any] = {"workers": 1, "executor": "process", **options}
    async with BasicViewIterator(client, retry_delay=0, linger=False) as tokens:
        return await run_pilot(tokens, work_maker(work, tokens), RunOptions(**chosen))


async def tokens_of(client: FaultyClient) -> dict[str, Token]:
    rows = [row for state in ("todo", "done", "error") for row in await client.view(state)]
    return {str(row.id): await client.fetch(str(row.id)) for row in rows}


def cleaned_in(directory: Path) -> set[int]:
    """Where cleanup_env ran: also in the pilot, after its own prepare_env."""
    return {int(path.suffix[1:]) for path in directory.glob("cleaned.*")}


async def loaded(*names: str) -> FaultyClient:
    client = FaultyClient()
    await client.upload([{"_id": name} for name in names])
    return client


# A pilot's. -----------------------------------------------------------------------------------------------------------


async def test_tokens_in_turn_share_a_process(tmp_path: Path) -> None:
    """It is prepared once, and cleans up once: when it is let go."""
    client = await loaded("a", "b", "c")
    await run(client, isolated_work.Counted)
    outputs = [token.output for token in (await tokens_of(client)).values()]
    (process,) = {output["process"] for output in outputs}
    assert sorted(output["worked"] for output in outputs) == [1, 2, 3]
    assert {output["prepared"] for output in outputs} == {1}
    assert cleaned_in(tmp_path) == {process, os.getpid()}


async def test_a_charged_token_shares_its_process_with_none() -> None:
    """Nor do fresh processes make more of them than there are workers."""
    client = await loaded("charged 0", "charged 1", "charged 2")
    await make_suspects(client, crashes=1)
    await client.upload([{"_id": f"free {number}"} for number in range(4)])
    await run(client, isolated_work.Counted, workers=2)
    tokens = await tokens_of(client)
    assert {token.state for token in tokens.values()} == {"done"}
    where = {name: token.output["process"] for name, token in tokens.items()}
    assert all(list(where.values()).count(where[name]) == 1 for name in where if name.startswith("charged"))
    assert max(token.output["siblings"] for token in tokens.values()) <= 2


async def test_a_crash_ends_one_process_only() -> None:
    client = FaultyClient()
    await client.upload([{"_id": name, "input": {"crash": name == "bad"}} for name in ("good", "bad")])
    await run(client, isolated_work.crash_or_wait_for_it, workers=2, max_tokens=2)
    tokens = await tokens_of(client)
    assert (tokens["bad"].state, tokens["bad"].crashes) == ("todo", 1)
    assert (tokens["good"].state, tokens["good"].crashes) == ("done", 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_death_of_an_idle_process_charges_nobody(number: signal.Signals) -> None:
    client = await loaded("a", "b", "c")
    killed: list[int] = []

    async def kill_the_idle_one() -> bool:
        (process,) = children()
        os.kill(process, number)
        while lives(process):
            await anyio.sleep(0.005)
        killed.append(process)
        return False

    report = await run(client, isolated_work.Counted, stop_function=kill_the_idle_one)
    assert (report.done, report.crashed, report.released) == (3, 0, 0)
    assert {token.output["process"] for token in (await tokens_of(client)).values()} == set(killed)
    assert len(killed) == 3


async def test_after_a_time_limit_the_next_token_gets_a_fresh_process(fifo: Fifo) -> None:
    client = FaultyClient()
    await client.upload([{"_id": name, "input": {"pipe": str(fifo.path)}} for name in ("a", "b")])
    report = await run(client, isolated_work.hang, max_token_time=0.05)
    assert report.failed == 2
    assert await fifo.line() != await fifo.line()


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    pipe = Fifo(tmp_path / "pipe")
    yield pipe
    pipe.close()


def drain(pilot: Pilot, scope: anyio.CancelScope) -> None:
    pilot.drain("a signal")


def cut(pilot: Pilot, scope: anyio.CancelScope) -> None:
    pilot.drain("a signal")
    pilot.cut()


def cancel(pilot: Pilot, scope: anyio.CancelScope) -> None:
    scope.cancel()


def fail(pilot: Pilot, scope: anyio.CancelScope) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("act", [drain, cut, cancel, fail])
async def test_an_idle_process_cleans_up_at_the_end_of_the_pilot(act: Any, tmp_path: Path) -> None:
    """However it ends. That nothing is left the fixture checks."""
    client = await loaded("a")
    idle: set[int] = set()
    async with BasicViewIterator(client, linger=False) as tokens:
        with anyio.CancelScope() as scope:

            def end_it() -> None:
                idle.update(children())
                act(pilot, scope)

            options = RunOptions(executor="process", stop_function=end_it)
            pilot = Pilot(tokens, work_maker(isolated_work.Counted, tokens)(1), options, 1)
            try:
                await pilot.run()
            except ZeroDivisionError:
                assert act is fail
    (process,) = idle
    assert not lives(process)
    if act is not cut:  # which leaves a second
        assert process in cleaned_in(tmp_path)


async def test_a_killed_pilot_takes_its_idle_process_with_it(fifo: Fifo, tmp_path: Path) -> None:
    async with apicas.connect("sqlite:///pool.db") as client:
        await client.upload([{"_id": "t", "input": {"pipe": str(fifo.path)}}])
        (tmp_path / "pilot.py").write_text(PILOT.replace("executor=", "endless=True, executor="))
        command = [sys.executable, "pilot.py", "say_where"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
        with tempfile.TemporaryFile() as out:
            async with await anyio.open_process(command, env=environment, stdout=out, stderr=None) as pilot:
                try:
                    process = int(await fifo.line())
                    with anyio.fail_after(30):
                        while (await client.fetch("t")).state != "done":
                            await anyio.sleep(0.01)
                    assert lives(process)
                    assert await client.get_attachment("t", "stdout.txt") == b"worked t\n"  # printed, and in a buffer
                    assert os.pread(out.fileno(), 100, 0) == b""
                finally:
                    pilot.kill()
        with anyio.fail_after(30):
            while lives(process):
                await anyio.sleep(0.01)


# The pool's own. ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def pool_of(work: Any, most: int = 1, **options: Any) -> AsyncIterator[tuple[ProcessPool, Isolation]]:
    """A pool of one process, or more, without a pilot."""
    client = FaultyClient()
    isolation = Isolation(work_maker(work, BasicViewIterator(client))(1), {"iterator": BasicViewIterator}, client.time)
    isolation.snapshot()
    pool = ProcessPool(isolation, most, cleanup_time=20.0, **options)
    try:
        yield pool, isolation
    finally:
        await pool.close()


async def unlimited(token: Token, work: Callable[[Token], Awaitable[Verdict]]) -> Verdict:
    return await work(token)


async def worked_in(pool: ProcessPool, crashes: int = 0) -> int:
    """The process that a token was worked in."""
    token = Token({"_id": "t", "type": "token", "apicas": {"crashes": crashes}})
    assert await pool.work(token, unlimited) == Returned()
    return int(token.output["process"])


async def test_the_process_of_a_charged_token_is_not_kept() -> None:
    async with pool_of(isolated_work.Counted) as (pool, _):
        await worked_in(pool, crashes=1)
        assert not children()
        await worked_in(pool)
        assert len(children()) == 1


async def test_a_process_that_is_idle_for_too_long_is_let_go(tmp_path: Path) -> None:
    async with pool_of(isolated_work.Counted, idle_time=0.0) as (pool, _), anyio.create_task_group() as group:
        group.start_soon(pool.tend)
        await wait_all_tasks_blocked()
        process = await worked_in(pool)
        with anyio.fail_after(30):
            while children():
                await anyio.sleep(0.005)
        assert cleaned_in(tmp_path) == {process}
        assert await worked_in(pool) != process
        group.cancel_scope.cancel()


async def test_a_process_is_not_let_go_early() -> None:
    async with pool_of(isolated_work.Counted, idle_time=3600.0) as (pool, _), anyio.create_task_group() as group:
        group.start_soon(pool.tend)
        process = await worked_in(pool)
        await wait_all_tasks_blocked()
        assert children() == {process}
        assert await worked_in(pool) == process
        group.cancel_scope.cancel()


async def test_an_idle_process_goes_before_there_are_more_than_are_usual() -> None:
    """One for tokens with more cores is started; the other would be of no use to these."""
    async with pool_of(isolated_work.Counted, most=4, warm=2) as (pool, _):
        for cores in (1, 2, 3):
            allocation = Allocation((("cores", cores),), tuple(range(cores)))
            mark = running_allocation.set(allocation)
            token = Token({"_id": "t", "type": "token"})
            token.allocation = allocation
            assert await pool.work(token, unlimited) == Returned()
            running_allocation.reset(mark)
        assert len(children()) == 2


async def test_a_death_between_the_sending_and_the_taking_is_no_crash() -> None:
    """The process is stopped, so that it cannot say that it took the token, and then killed."""
    async with pool_of(isolated_work.Counted) as (pool, _), anyio.create_task_group() as group:
        stopped = await worked_in(pool)
        os.kill(stopped, signal.SIGSTOP)
        later: list[int] = []

        async def work() -> None:
            later.append(await worked_in(pool))

        group.start_soon(work)
        await wait_all_tasks_blocked()
        assert children() == {stopped}
        os.kill(stopped, signal.SIGKILL)
    assert len(later) == 1
    assert later != [stopped]


async def test_a_process_that_takes_nothing_more_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier token left in it may block it: no fault of the next one's."""
    async with pool_of(isolated_work.Counted) as (pool, isolation):
        deaf = await worked_in(pool)
        os.kill(deaf, signal.SIGSTOP)
        start, limit = isolation.start, isolated_process.TAKE_LIMIT

        def started() -> IsolatedProcess:
            monkeypatch.setattr(isolated_process, "TAKE_LIMIT", limit)
            return start()

        monkeypatch.setattr(isolation, "start", started)
        monkeypatch.setattr(isolated_process, "TAKE_LIMIT", 0.01)
        assert await worked_in(pool) != deaf
        assert not lives(deaf)


async def test_a_time_limit_is_no_fault_of_a_token_that_was_not_taken() -> None:
    """Its lease is beaten no longer by then, so it is not tried again here."""

    async def limited(token: Token, work: Callable[[Token], Awaitable[Verdict]]) -> Verdict:
        with anyio.move_on_after(0.01):
            return await work(token)
        return Raised(TokenTimeoutError("not done in time"))

    async with pool_of(isolated_work.Counted) as (pool, _):
        deaf = await worked_in(pool)
        os.kill(deaf, signal.SIGSTOP)
        with pytest.raises(OSError, match="did not take it"):
            await pool.work(Token({"_id": "t", "type": "token"}), limited)
        assert not lives(deaf)


async def test_a_cancelled_wait_leaves_no_process() -> None:
    """At every point: before it is started, while it gets ready, and while it takes the token."""
    async with pool_of(isolated_work.Counted) as (pool, _):
        for rounds in (0, 1, 2, 3, 5, 8):
            async with anyio.create_task_group() as group:
                group.start_soon(worked_in, pool)
                for _ in range(rounds):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            assert not children()
        stopped = await worked_in(pool)
        os.kill(stopped, signal.SIGSTOP)
        async with anyio.create_task_group() as group:
            group.start_soon(worked_in, pool)
            await wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        assert not children()
        assert await worked_in(pool) != stopped


@pytest.mark.parametrize(
    ("work", "isolated"), [(isolated_work.answers, True), (lambda token: None, False)], ids=["can be sent", "cannot"]
)
async def test_a_claim_says_whether_a_suspect_gets_a_process(work: Any, isolated: bool) -> None:
    """Whoever reclaims the token charges it only where its pilot had none for it."""
    client = FaultyClient()
    await client.upload([{"_id": "t", "input": {"end": "output"}}])
    claims: list[bool] = []
    client.faults.before_save = lambda documents: claims.extend(
        annex(document).get("isolated") is True for document in documents if document["lock"] and not document["done"]
    )
    report = await run(client, work, executor="auto")
    assert (report.done, claims) == (1, [isolated])
