"""Every moment: a small run cancelled at each step of the loop, and one whose k-th request fails, for each k."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio
import pytest
from typing_extensions import override

import apicas
from apicas._documents import Document
from apicas.clients.port import SaveResult, SaveStatus, ViewQuery, ViewRow
from apicas.exceptions import PoolUnavailableError
from apicas.testing import Faults, FaultyClient, unix_time
from apicas.testing.virtual import VirtualTimeLoop
from apicas.tokens import Token, claim_of
from tests.runtime.virtual import LEASE, pilot, virtual

TOKENS = 3


class FarClient(FaultyClient):
    """A pool whose requests take time on the way there and on the way back: a cancel may fall before or after it."""

    async def _travel(self) -> None:
        await anyio.sleep(0.01)

    @override
    def fork(self) -> FarClient:
        fork = FarClient(self.faults, now=self._now)
        fork._pool = self._pool
        return fork

    @override
    async def get(self, ids: Sequence[str]) -> list[Document | None]:
        await self._travel()
        found = await super().get(ids)
        await self._travel()
        return found

    @override
    async def query(self, view: str, query: ViewQuery) -> list[ViewRow]:
        await self._travel()
        rows = await super().query(view, query)
        await self._travel()
        return rows

    @override
    async def sample(self, view: str, limit: int, place: float, *, fresh: bool = False) -> list[Document]:
        await self._travel()
        documents = await super().sample(view, limit, place, fresh=fresh)
        await self._travel()
        return documents

    @override
    async def save(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        await self._travel()
        results = await super().save(documents)
        await self._travel()
        return results


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


async def _process(token: Token) -> str:
    await anyio.sleep(0.03)
    if token["_id"] == "t1" and not token.scrub_count:
        raise apicas.Retry("once more")
    return "worked"


class _Actor(apicas.RunActor):
    process_token = staticmethod(_process)


async def _own(client: FaultyClient, reports: list[apicas.Report]) -> None:
    """The pilot enters the iterator."""
    reports.append(await _Actor(pilot(client, lock_timeout=LEASE)).run(workers=2))


async def _entered(client: FaultyClient, reports: list[apicas.Report]) -> None:
    """The user has entered it."""
    async with pilot(client, lock_timeout=LEASE) as tokens:
        reports.append(await _Actor(tokens).run(workers=2))


async def _by_hand(client: FaultyClient, _reports: list[apicas.Report]) -> None:
    """No actor: `async for` and `async with`."""
    async with pilot(client, lock_timeout=LEASE) as tokens:
        async for token in tokens:
            async with token:
                token["output"] = await _process(token)


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


# One request fails. -------------------------------------------------------------------------------------------------


class _Failing(FarClient):
    """A pool in which the k-th request of all fails, once.

    Args:
        number: which; counted over a client and its forks.
        how: `down` (refused), `after` (carried out, and then the connection breaks), `answer` (carried out, answered
            with unknown), `request` (not carried out, answered with unknown).
    """

    def __init__(self, number: int, how: str, count: list[int] | None = None, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.number, self.how = number, how
        self.count = [0] if count is None else count
        self.written: dict[str, int] = {}

    @override
    def fork(self) -> _Failing:
        fork = _Failing(self.number, self.how, self.count, faults=self.faults, now=self._now)
        fork._pool, fork.written = self._pool, self.written
        return fork

    async def _once(self, request: Callable[[], Awaitable[Any]], rows: int | None = None) -> Any:
        number, self.count[0] = self.count[0], self.count[0] + 1
        if number != self.number:
            return await request()
        if self.how == "down" or (self.how == "request" and rows is None):
            raise PoolUnavailableError("told to")
        if self.how != "request":
            await request()
        if self.how == "after" or rows is None:
            raise PoolUnavailableError("told to, afterwards")
        return [SaveResult(SaveStatus.UNKNOWN)] * rows

    @override
    async def get(self, ids: Sequence[str]) -> Any:
        return await self._once(lambda: FarClient.get(self, ids))

    @override
    async def query(self, view: str, query: ViewQuery) -> Any:
        return await self._once(lambda: FarClient.query(self, view, query))

    @override
    async def sample(self, view: str, limit: int, place: float, *, fresh: bool = False) -> Any:
        return await self._once(lambda: FarClient.sample(self, view, limit, place, fresh=fresh))

    @override
    async def save(self, documents: Sequence[Mapping[str, Any]]) -> Any:
        return await self._once(lambda: self._counted(documents), len(documents))

    async def _counted(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        results = await FarClient.save(self, documents)
        for document, result in zip(documents, results, strict=True):
            if result.written and document.get("done"):
                self.written[document["_id"]] = self.written.get(document["_id"], 0) + 1
        return results


async def _run_and_fail(number: int, how: str) -> bool:
    """Whether there was a request of that number; what is left is checked."""
    good = FarClient(Faults(), now=unix_time)
    await good.upload([{"_id": f"t{n}"} for n in range(TOKENS)])
    client = _Failing(number, how, now=unix_time)
    client._pool = good._pool
    worked: dict[str, int] = {}

    async def process(token: Token) -> str:
        worked[token.id] = worked.get(token.id, 0) + 1
        await anyio.sleep(LEASE / 2 if token.id == "t2" else 0.03)
        return "worked"

    class Actor(apicas.RunActor):
        process_token = staticmethod(process)

    start = unix_time()
    try:
        with anyio.fail_after(20 * LEASE):
            report = await Actor(pilot(client)).run(workers=2)
    except PoolUnavailableError:
        assert not worked  # the first request of all: the address may be wrong
        assert (await good.counts())["todo"] == TOKENS
        return True
    hit = client.count[0] > number
    assert (await good.counts())["done"] == TOKENS
    assert client.written == {f"t{n}": 1 for n in range(TOKENS)}
    assert worked == {f"t{n}": 1 for n in range(TOKENS)}
    assert (report.done, report.failed, report.scrubbed, report.lost, report.held) == (TOKENS, 0, 0, 0, 0)
    assert report.claimed == TOKENS + report.released
    assert unix_time() - start < LEASE
    for n in range(TOKENS):
        assert (await good.fetch(f"t{n}")).crashes == 0
    return hit


@pytest.mark.parametrize("how", ["down", "after", "answer", "request"])
@virtual
async def test_whichever_request_fails_every_token_is_done_once(how: str) -> None:
    """Refused, lost on the way there, or on the way back: none is lost, none is done twice, none waits for a lease."""
    failures: dict[int, str] = {}
    number = 0
    while True:
        try:
            if not await _run_and_fail(number, how):
                break
        except Exception as error:  # noqa: BLE001 - as above
            failures[number] = f"{type(error).__name__}: {error}"[:300]
        number += 1
        assert number < 300
    assert not failures, f"{len(failures)} of {number} requests: {failures}"
    assert number > 10
