"""Tokens that are worked one after the other at one desk: what happens to one of them happens to no other."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import anyio
import pytest

import apicas
from apicas._runtime.executor import Executor, ExecutorOptions
from apicas._runtime.hooks import Work
from apicas._runtime.keeping.leases import Lease
from apicas._runtime.keeping.outcomes import Cut, Returned, Verdict
from apicas.testing import Faults, run_virtual, unix_time
from apicas.tokens import Token, claim_of
from tests.runtime.acting import FarClient, acting, filled, work
from tests.runtime.virtual import make_pool, pilot, virtual


class Losing:
    """A keeper whose leases a test loses."""

    held = 1

    def __init__(self) -> None:
        self.on_lost: dict[str, Any] = {}

    def begin(self, token: Token, on_lost: Any) -> bool:
        self.on_lost[token.id] = on_lost
        return True

    def lose(self, identifier: str) -> None:
        """Say that a token is lost."""
        self.on_lost[identifier]()

    def stop_beating(self, token: Token) -> None:
        raise AssertionError(token)

    async def wait_until_written(self) -> None:
        raise AssertionError


async def _sleep(token: Token) -> str:
    await anyio.sleep(1)
    return token.id


def _executor(keeper: Losing, process: Any = _sleep, **hooks: Any) -> Executor:
    nothing: dict[str, Any] = dict.fromkeys(("prepare_env", "cleanup_env", "prepare", "cleanup"))
    made = Work(process=process, **nothing | hooks)
    return Executor(made, keeper, ExecutorOptions())


FIRST, SECOND = Token({"_id": "first"}), Token({"_id": "second"})


@virtual
async def test_a_lease_that_is_lost_after_its_token_has_ended_leaves_the_next_one_alone() -> None:
    keeper = Losing()
    executor = _executor(keeper)
    with executor.desk() as desk:
        assert await desk.work(FIRST) == Returned("first")
        asyncio.get_running_loop().call_later(0.5, keeper.lose, "first")
        assert await desk.work(SECOND) == Returned("second")
        assert not desk.is_cut
    assert executor.running == 0


@virtual
async def test_a_lease_that_is_lost_while_its_token_is_worked_cuts_it_and_closes_the_desk() -> None:
    keeper = Losing()
    executor = _executor(keeper)
    verdicts: list[Verdict] = []
    with executor.desk() as desk:
        verdicts.append(await desk.work(FIRST))
        asyncio.get_running_loop().call_later(0.5, keeper.lose, "second")
        verdicts.append(await desk.work(SECOND))
    assert desk.is_cut
    assert verdicts == [Returned("first")]
    assert executor.running == 0
    await anyio.sleep(1)  # the worker itself is not cancelled
    assert await executor.run(FIRST) == Returned("first")


@virtual
async def test_a_lease_that_is_lost_as_its_work_ends_is_no_cut_of_the_next() -> None:
    keeper = Losing()

    async def process(token: Token) -> str:
        if token.id == "first":
            keeper.lose("first")  # and it ends before it waits for anything
        return await _sleep(token) if token.id == "second" else token.id

    executor = _executor(keeper, process)
    with executor.desk() as desk:
        assert await desk.work(FIRST) == Returned("first")
    assert desk.is_cut
    with executor.desk() as desk:
        assert await desk.work(SECOND) == Returned("second")
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


@virtual
async def test_a_token_with_a_scope_of_its_own_is_cut_alone() -> None:
    keeper, cleaned = Losing(), list[str]()

    async def cleanup(token: Token) -> None:
        cleaned.append(token.id)

    executor = _executor(keeper, cleanup=cleanup)
    with executor.desk() as desk:
        asyncio.get_running_loop().call_later(0.5, keeper.lose, "first")
        assert await desk.work(FIRST) == Cut()
        asyncio.get_running_loop().call_later(0.5, keeper.lose, "first")
        assert await desk.work(SECOND) == Returned("second")
        assert not desk.is_cut
    assert cleaned == ["first", "second"]


@virtual
async def test_all_work_that_is_cut_is_cut_once() -> None:
    executor = _executor(Losing())
    verdicts: dict[str, list[Verdict]] = {}

    async def worker(token: Token) -> None:
        first = await executor.run(token)
        await anyio.sleep(1)
        verdicts[token.id] = [first, await executor.run(token)]

    async with anyio.create_task_group() as group:
        group.start_soon(worker, FIRST)
        group.start_soon(worker, SECOND)
        await anyio.sleep(0.5)
        assert executor.running == 2
        executor.cancel()
    assert verdicts == {name: [Cut(), Returned(name)] for name in ("first", "second")}
    assert executor.running == 0


@virtual
async def test_a_cancellation_of_the_users_own_is_still_theirs_after_a_time_limit_at_the_same_desk() -> None:
    async def process(token: Token) -> None:
        if token["n"] == 0:
            await anyio.sleep(10)
        task = asyncio.ensure_future(anyio.sleep(10))
        task.cancel()
        await task

    client = make_pool()
    await client.upload([{"_id": f"t{n}", "n": n % 2} for n in range(6)])
    report = await work(client, process, workers=1, max_token_time=1.0)
    assert (report.failed, report.released) == (6, 0)


@virtual
async def test_a_token_that_somebody_took_does_not_cut_those_that_are_worked_after_it() -> None:
    """In a pilot: the loss is noticed by the write of the outcome, when the worker has the next token."""
    client = await filled(20)

    async def process(token: Token) -> str:
        if token.id == "t3":  # a person takes it away
            await client.edit("t3", lambda taken: taken.update(lock=1, apicas={}))
        await anyio.sleep(0.01)
        return "worked"

    async with pilot(client, outbox=False) as tokens:
        report = await acting(tokens, process).run(workers=1, handle_signals=False, max_tokens=20)
    assert (report.done, report.lost, report.released) == (19, 1, 0)


@contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _alive() -> Counter[type]:
    return Counter(type(one) for one in gc.get_objects() if isinstance(one, (Token, Lease)))


@pytest.mark.parametrize("error", [None, ValueError("wrong"), apicas.Release("later")])
def test_a_token_that_is_written_is_gone_without_a_garbage_collection(error: Exception | None) -> None:
    async def process(token: Token) -> object:
        if error is not None:
            raise error.with_traceback(None)
        return token.input

    async def main() -> None:
        client = make_pool()
        await client.upload([{"_id": f"t{n}", "input": {"n": n}} for n in range(20)])
        with _no_collection():
            before = _alive()
            await work(client, process, workers=3, max_tokens=20)
            if error is not None:
                error.__traceback__ = None
            assert _alive() == before

    run_virtual(main)


@pytest.mark.parametrize("seed", range(20))
def test_no_more_tokens_are_begun_than_were_asked_for_however_claims_overlap(seed: int) -> None:
    async def main() -> None:
        dice = Random(seed)
        client = FarClient(Faults(), now=unix_time)
        await client.upload([{"_id": f"t{n}"} for n in range(60)])
        most, begun, at_once, now = dice.randrange(1, 50), Counter[str](), 0, 0

        async def process(token: Token) -> None:
            nonlocal at_once, now
            begun[token.id] += 1
            now += 1
            at_once = max(at_once, now)
            await anyio.sleep(dice.choice([0, 0, 0.001, 0.02]))
            now -= 1

        workers = dice.randrange(1, 9)
        async with pilot(client) as tokens:
            options: dict[str, Any] = {"max_tokens": most, "claim_ahead": dice.choice([None, 0, 3, 100])}
            report = await acting(tokens, process).run(handle_signals=False, workers=workers, **options)
        assert report.done == most == begun.total() == len(begun)
        assert at_once <= workers
        left = [await client.fetch(f"t{n}") for n in range(60)]
        assert [token.id for token in left if claim_of(token) is not None] == []

    run_virtual(main)


@pytest.mark.parametrize("seed", range(20))
def test_every_token_is_worked_once_however_claims_overlap(seed: int) -> None:
    async def main() -> None:
        dice = Random(seed)
        client = FarClient(Faults(), now=unix_time)
        await client.upload([{"_id": f"t{n}"} for n in range(80)])
        begun = Counter[str]()

        async def process(token: Token) -> None:
            begun[token.id] += 1
            await anyio.sleep(dice.choice([0, 0, 0.001, 0.02]))

        async def one(name: str) -> apicas.Report:
            async with pilot(client, name) as tokens:
                return await acting(tokens, process).run(
                    handle_signals=False, workers=dice.randrange(1, 9), claim_ahead=dice.choice([None, 0, 3])
                )

        reports = await asyncio.gather(one("one"), one("two"))
        assert sum(report.done for report in reports) == 80 == begun.total() == len(begun)
        assert all(report.reason == "no more tokens" for report in reports)
        assert [report.running for report in reports] == [0, 0]

    run_virtual(main)
