"""A loop that stands still: no lease is lost by it, the pilot says whose work it was, and claims nothing meanwhile.

Leases are at least 10 s, so these pilots live fast: their clocks run 40 times as fast as ours.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import anyio
import pytest

import apicas
from apicas._runtime.attempts.current import running_token
from apicas._runtime.environment import Environment, real_environment
from apicas._runtime.keeping.lag import LoopWatch
from apicas._runtime.options import RunOptions
from apicas.actors import run_pilot, work_maker
from apicas.iterators import BasicViewIterator
from apicas.policies.lag import CALM_TIME
from apicas.testing import FaultyClient
from apicas.tokens import Token
from tests.runtime.test_heartbeat_thread import HandClock

SPEED = 40
LEASE = 10.0
"""Fast seconds: a quarter of a real one."""


def fast_time() -> float:
    return time.monotonic() * SPEED


async def fast_sleep(seconds: float) -> None:
    await anyio.sleep(seconds / SPEED)


def fast_environment() -> Environment:
    return replace(real_environment(), monotonic=fast_time, sleep=fast_sleep, owner_is_gone=lambda _document: False)


def fast_pool() -> FaultyClient:
    return FaultyClient(now=lambda: 1_800_000_000 + fast_time())


def a_python_loop(leases: float) -> None:
    until = fast_time() + leases * LEASE
    while fast_time() < until:
        sum(range(100))


def a_sleep(leases: float) -> None:
    time.sleep(leases * LEASE / SPEED)


def a_call_that_holds_the_gil(leases: float) -> None:
    ctypes.PyDLL(None).usleep(int(leases * LEASE / SPEED * 1e6))


async def block_at_once(block: Callable[[float], None], leases: float) -> None:
    block(leases)


async def block_in_a_task(block: Callable[[float], None], leases: float) -> None:
    """In a task of the user's own, that the token started."""
    async with anyio.create_task_group() as group:
        group.start_soon(block_at_once, block, leases)


class Rival:
    """Another pilot's reaper, in a thread of its own, that takes what is stale while the first one stands still."""

    def __init__(self, client: FaultyClient) -> None:
        self._client = client
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: anyio.run(self._run))
        self.reclaimed = 0
        self.sweeps = 0

    async def _run(self) -> None:
        iterator = BasicViewIterator(self._client.fork(), environment=fast_environment(), lock_timeout=LEASE)
        async with iterator as tokens:
            while not self._stop.is_set():
                self.reclaimed += (await tokens.keeper.sweep()).reclaimed
                self.sweeps += 1
                await fast_sleep(LEASE / 4)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()


async def run_blocking(
    client: FaultyClient, how: Any, block: Callable[[float], None], leases: float, tokens: int = 1
) -> apicas.Report:
    await client.upload([{"_id": f"t{n}"} for n in range(tokens)])

    async def work(token: Token) -> str:
        if token.id == "t0":
            await how(block, leases)
        return "kept"

    iterator = BasicViewIterator(client, environment=fast_environment(), lock_timeout=LEASE, linger=False)
    async with iterator as source:
        return await run_pilot(
            source, work_maker(work, source), RunOptions(workers=1, claim_ahead=0, max_tokens=tokens)
        )


@pytest.mark.parametrize("how", [block_at_once, block_in_a_task])
@pytest.mark.parametrize("block", [a_sleep, a_python_loop])
async def test_a_blocked_loop_loses_no_lease_and_is_said(
    how: Any, block: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Ten leases long, while another pilot looks for stale locks."""
    caplog.set_level(logging.WARNING, "apicas")
    client = fast_pool()
    with Rival(client) as rival:
        report = await run_blocking(client, how, block, 10)
    stored = await client.fetch("t0")
    assert (rival.reclaimed, report.done, stored.output, stored.generation) == (0, 1, "kept", 1)
    assert rival.sweeps > 4
    (begin,) = [text for text in caplog.messages if text.startswith("token t0 blocks the event loop")]
    assert "test_lag.py:" in begin  # that line, or one of a function that it calls
    (end,) = [text for text in caplog.messages if text.startswith("token t0 blocked the event loop for ")]
    assert float(end.split()[-2]) > 9 * LEASE
    assert "stood still" not in caplog.text


async def test_work_that_holds_the_gil_for_longer_than_the_lease_loses_it(caplog: pytest.LogCaptureFixture) -> None:
    """It ends cleanly, nothing is written over what came after it, and it is told where such work belongs."""
    caplog.set_level(logging.WARNING, "apicas")
    client = fast_pool()
    modifier = apicas.BasicTokenModifier()

    async def take() -> None:
        await client.fork().edit("t0", lambda token: modifier.reset(token, client.time()))

    def hold(leases: float) -> None:
        # A pilot elsewhere does this while we stand still; here nothing else would run then.
        thief = threading.Thread(target=lambda: anyio.run(take))
        thief.start()
        thief.join()
        a_call_that_holds_the_gil(leases)

    async def hold_and_go_on(block: Callable[[float], None], leases: float) -> None:
        block(leases)
        await anyio.sleep(3600)

    report = await run_blocking(client, hold_and_go_on, hold, 2)  # and does not claim it again: see max_tokens
    stored = await client.fetch("t0")
    assert (report.lost, report.done) == (1, 0)
    assert (stored.state, stored.output) == ("todo", {})
    assert "longer than the lease of 10 s" in caplog.text
    assert 'executor="process"' in caplog.text


async def test_nothing_is_claimed_while_the_loop_lags() -> None:
    """Nor just after: the next claim comes when the loop has been calm for a while."""
    client = fast_pool()
    await client.upload([{"_id": f"t{n}"} for n in range(3)])
    begun: list[float] = []
    ended: list[float] = []

    async def work(token: Token) -> None:
        begun.append(fast_time())
        if len(begun) == 1:
            a_sleep(1)
        ended.append(fast_time())

    async with BasicViewIterator(client, environment=fast_environment(), lock_timeout=LEASE, linger=False) as source:
        report = await run_pilot(source, work_maker(work, source), RunOptions(workers=1, claim_ahead=0))
    assert report.done == 3
    assert begun[1] - ended[0] >= CALM_TIME


async def test_a_loop_that_is_calm_is_not_talked_about(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "apicas")
    clock = HandClock()
    watch = LoopWatch(replace(real_environment(), monotonic=clock), LEASE)
    for _ in range(20):
        clock.now += 0.9
        assert not watch.lags
        watch.look(clock.now)
        watch.finish()
    assert not caplog.messages


async def test_each_block_is_said_once_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "apicas")
    clock = HandClock()
    watch = LoopWatch(replace(real_environment(), monotonic=clock), LEASE)
    running_token.set(Token({"_id": "t7"}))
    for _ in range(2):
        for _ in range(5):
            clock.now += 1.0
            assert watch.lags == (clock.now > 1)
            watch.look(clock.now)
        watch.finish()
        assert watch.lags
    begins = [text for text in caplog.messages if text.startswith("token t7 blocks the event loop, at ")]
    assert len(begins) == 2
    assert all("test_lag.py" in text for text in begins)
    assert [text for text in caplog.messages if "blocked" in text] == ["token t7 blocked the event loop for 4.9 s"] * 2
