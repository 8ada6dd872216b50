"""A run that is cancelled, at any moment, leaves nothing locked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

import apicas
from apicas.testing import Faults, FaultyClient, unix_time
from apicas.testing.virtual import VirtualTimeLoop
from apicas.tokens import Token, claim_of
from tests.runtime.acting import TOKENS, FarClient, RetryingActor, acting, filled, retried_once, work
from tests.runtime.virtual import LEASE, make_pool, pilot, virtual


class SteppingLoop(VirtualTimeLoop):
    """Calls something back at one of its steps."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step
        self.at_step: Callable[[], object] | None = None
        self._run = self._jumping.select
        self._jumping.select = self._select  # type: ignore[method-assign]

    def _select(self, timeout: float | None = None) -> Any:
        if self.at_step is not None:
            self.left -= 1
            if self.left < 0:
                callback, self.at_step = self.at_step, None
                self.call_soon(callback)
                timeout = 0
        return self._run(timeout)


async def _own(client: FaultyClient, reports: list[apicas.Report]) -> None:
    """The pilot enters the iterator."""
    reports.append(await RetryingActor(pilot(client, lock_timeout=LEASE)).run(workers=2))


async def _entered(client: FaultyClient, reports: list[apicas.Report]) -> None:
    """The user has entered it."""
    async with pilot(client, lock_timeout=LEASE) as tokens:
        reports.append(await RetryingActor(tokens).run(workers=2))


async def _by_hand(client: FaultyClient, _reports: list[apicas.Report]) -> None:
    """No actor: `async for` and `async with`."""
    async with pilot(client, lock_timeout=LEASE) as tokens:
        async for token in tokens:
            async with token:
                token["output"] = await retried_once(token)


def _cancel_task(task: asyncio.Task[None], _scope: anyio.CancelScope) -> None:
    task.cancel()


def _cancel_scope(_task: asyncio.Task[None], scope: anyio.CancelScope) -> None:
    scope.cancel()


def _run_and_cancel(
    step: int,
    main: Callable[[FaultyClient, list[apicas.Report]], Awaitable[None]],
    cancel: Callable[[asyncio.Task[None], anyio.CancelScope], None],
) -> bool:
    """Whether the run was still going on at that step; what is left is checked."""
    hit = False

    async def call() -> None:
        nonlocal hit
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SteppingLoop)
        client = FarClient(Faults(), now=unix_time)
        await client.upload([{"_id": f"t{n}"} for n in range(TOKENS)])
        reports: list[apicas.Report] = []
        scope = anyio.CancelScope()

        async def run() -> None:
            with scope:
                await main(client, reports)

        task = asyncio.create_task(run())

        def now() -> None:
            nonlocal hit
            hit = not task.done()
            cancel(task, scope)

        loop.at_step = now
        start = unix_time()
        await asyncio.wait([task])
        assert unix_time() - start < LEASE
        if not task.cancelled():
            assert task.exception() is None
        counts = await client.counts()
        assert counts["locked"] == 0, counts
        assert sum(counts.values()) == TOKENS
        for row in [row for state in counts for row in await client.view(state, include_docs=True)]:
            assert row.document is not None
            assert claim_of(row.document) is None
            assert Token(row.document).crashes == 0
        for report in reports:
            ended = report.done + report.failed + report.scrubbed + report.released + report.lost
            assert (report.claimed, report.held, report.lost) == (ended, 0, 0)
            assert report.done == counts["done"]
        if not hit:
            assert counts["done"] == TOKENS

    with asyncio.Runner(loop_factory=lambda: SteppingLoop(step)) as runner:
        runner.run(call())
    return hit


@pytest.mark.parametrize("cancel", [_cancel_task, _cancel_scope], ids=["task", "scope"])
@pytest.mark.parametrize("main", [_own, _entered, _by_hand], ids=["own", "entered", "by-hand"])
def test_a_run_that_is_cancelled_at_any_step_leaves_nothing_locked(main: Any, cancel: Any) -> None:
    """It ends, every token is in todo or done, and no claim is left in one."""
    failures: dict[int, str] = {}
    step = 0
    while True:
        try:
            if not _run_and_cancel(step, main, cancel):
                break
        except Exception as error:  # noqa: BLE001 - all steps are looked at, and the failing ones named together
            failures[step] = f"{type(error).__name__}: {error}"[:200]
        step += 1
        assert step < 2000
    assert not failures, f"{len(failures)} of {step} steps: {failures}"
    assert step > 50


@virtual
async def test_cancelling_run_hands_back_what_runs() -> None:
    """An embedding service that cancels its task finds every token back in todo."""
    client = make_pool()
    await client.upload([{} for _ in range(6)])

    async def process(token: Token) -> None:
        await anyio.sleep(1000)

    with anyio.move_on_after(50):
        await work(client, process, workers=3)
    assert await client.counts() == {"todo": 6, "locked": 0, "done": 0, "error": 0}


@virtual
async def test_a_run_that_was_cancelled_keeps_nothing_of_an_open_iterator() -> None:
    """The user's iterator stays open: what ran and what waited goes back now, not when it closes."""
    client = await filled(6)

    async def process(_token: Token) -> None:
        await anyio.sleep(1000)

    async with pilot(client) as tokens:
        with anyio.move_on_after(5):
            await acting(tokens, process).run(workers=2)
        await tokens.keeper.wait_until_written()
        assert tokens.keeper.held == 0
        assert (await client.counts())["todo"] == 6


@virtual
async def test_cleanup_run_comes_after_a_cancellation_from_outside() -> None:
    """As the documentation says: after each token, also after a cancellation."""
    client = await filled(1)
    calls: list[str] = []

    async def process(_token: Token) -> None:
        await anyio.sleep(1000)

    async def cleanup_run(_self: Any, token: Token) -> None:
        await anyio.sleep(0.1)
        calls.append(token.id)

    for number in range(2):
        with anyio.move_on_after(5):
            await acting(pilot(client), process, cleanup_run=cleanup_run).run(workers=1)
        assert calls == ["t0"] * (number + 1)
        assert (await client.counts())["todo"] == 1


@virtual
async def test_an_error_of_a_run_is_plain_also_inside_the_iterator() -> None:
    """The user who has entered the iterator catches what was raised, no group."""
    client = await filled()

    def stop() -> bool:
        raise ZeroDivisionError("a bug in stop_function")

    async with pilot(client) as tokens:
        with pytest.raises(ZeroDivisionError):
            await acting(tokens, retried_once).run(workers=2, stop_function=stop)


@virtual
async def test_a_group_of_the_users_passes_an_iterator_unchanged() -> None:
    """What is raised in the body comes out as it is."""
    client = await filled()
    for errors in ([ValueError("a")], [ValueError("a"), KeyError("b")]):
        mine = ExceptionGroup("mine", errors)
        with pytest.raises(ExceptionGroup) as caught:
            async with pilot(client):
                raise mine
        assert caught.value is mine
