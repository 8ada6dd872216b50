"""Every moment: a small run cancelled at each step of the loop, and one whose k-th request fails, for each k."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio
import pytest
from typing_extensions import override

import apicas
from apicas._documents import Document, encode
from apicas._runtime.hooks import Work
from apicas._runtime.leases import Lease, Leases
from apicas._runtime.pilot import Pilot, RunOptions
from apicas.clients.port import SaveResult, SaveStatus, ViewQuery, ViewRow
from apicas.exceptions import LeaseLostError, PoolUnavailableError
from apicas.iterators import BasicViewIterator, EndlessViewIterator, PrioritizedViewIterator
from apicas.modifiers import BasicTokenModifier
from apicas.testing import Faults, FaultyClient, unix_time, virtual_environment
from apicas.testing.virtual import VirtualTimeLoop
from apicas.tokens import Token, TokenState, claim_of
from apicas.views import View, field
from tests.runtime.virtual import LEASE, make_pool, pilot, virtual

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
    async def sample(
        self, view: str, limit: int, place: float, *, window: int = 0, fresh: bool = False
    ) -> list[Document]:
        await self._travel()
        documents = await super().sample(view, limit, place, window=window, fresh=fresh)
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
    async def sample(self, view: str, limit: int, place: float, *, window: int = 0, fresh: bool = False) -> Any:
        return await self._once(lambda: FarClient.sample(self, view, limit, place, window=window, fresh=fresh))

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


# What user code may do to a pilot. ----------------------------------------------------------------------------------


def _actor(tokens: Any, process: Any, **hooks: Any) -> apicas.RunActor:
    return type("Actor", (apicas.RunActor,), {"process_token": staticmethod(process), **hooks})(tokens)  # type: ignore[no-any-return]


async def _pool(tokens: int = 3) -> FaultyClient:
    client = make_pool()
    await client.upload([{"_id": f"t{n}"} for n in range(tokens)])
    return client


async def _await_a_cancelled_task() -> None:
    task = asyncio.create_task(asyncio.sleep(1000))
    await asyncio.sleep(0)
    task.cancel()
    await task


async def _exit() -> None:
    raise SystemExit(3)


class _Odd(BaseException):
    """What pytest.fail and others raise."""


async def _raise_odd() -> None:
    raise _Odd("odd")


async def _raise_odd_in_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(_raise_odd)


@pytest.mark.parametrize("hook", ["prepare_run", "process_token", "cleanup_run"])
@pytest.mark.parametrize("bad", [_await_a_cancelled_task, _exit, _raise_odd, _raise_odd_in_group])
@virtual
async def test_whatever_a_hook_raises_ends_its_token_alone(bad: Any, hook: str) -> None:
    """A task of the user's that was cancelled, sys.exit(), a BaseException: a failure; the pilot goes on."""
    client = await _pool()

    async def run(token: Token) -> None:
        if token.id == "t0":
            await bad()

    async def nothing(_token: Token) -> None:
        pass

    hooks = {name: staticmethod(run if name == hook else nothing) for name in ("prepare_run", "cleanup_run")}
    report = await _actor(pilot(client), run if hook == "process_token" else nothing, **hooks).run(workers=2)
    assert (report.done, report.failed) == (2, 1)
    assert (await client.fetch("t0")).errors[0]["message"]


async def test_an_exit_in_a_thread_ends_its_token_alone() -> None:
    """A plain function that calls sys.exit(), as scripts do."""
    client = FaultyClient()
    await client.upload([{"_id": f"t{n}"} for n in range(3)])

    def process(token: Token) -> None:
        if token.id == "t0":
            raise SystemExit(3)

    report = await _actor(BasicViewIterator(client), process).run(workers=2)
    assert (report.done, report.failed) == (2, 1)


@virtual
async def test_a_decision_in_a_task_group_is_one() -> None:
    """Retry, raised in a task of the work, arrives in a group of one; it is what the user asked for all the same."""
    client = await _pool(1)
    attempts: list[int] = []

    async def retry() -> None:
        raise apicas.Retry("later")

    async def process(token: Token) -> None:
        attempts.append(token.scrub_count)
        if len(attempts) == 1:
            async with anyio.create_task_group() as group:
                group.start_soon(retry)

    report = await _actor(pilot(client), process).run(workers=1)
    assert (report.done, report.scrubbed, report.failed) == (1, 1, 0)


@virtual
async def test_an_error_of_a_run_is_plain_also_inside_the_iterator() -> None:
    """The user who has entered the iterator catches what was raised, no group."""
    client = await _pool()

    def stop() -> bool:
        raise ZeroDivisionError("a bug in stop_function")

    async with pilot(client) as tokens:
        with pytest.raises(ZeroDivisionError):
            await _actor(tokens, _process).run(workers=2, stop_function=stop)


@virtual
async def test_a_group_of_the_users_passes_an_iterator_unchanged() -> None:
    """What is raised in the body comes out as it is."""
    client = await _pool()
    for errors in ([ValueError("a")], [ValueError("a"), KeyError("b")]):
        mine = ExceptionGroup("mine", errors)
        with pytest.raises(ExceptionGroup) as caught:
            async with pilot(client):
                raise mine
        assert caught.value is mine


@virtual
async def test_a_run_that_was_cancelled_keeps_nothing_of_an_open_iterator() -> None:
    """The user's iterator stays open: what ran and what waited goes back now, not when it closes."""
    client = await _pool(6)

    async def process(_token: Token) -> None:
        await anyio.sleep(1000)

    async with pilot(client) as tokens:
        with anyio.move_on_after(5):
            await _actor(tokens, process).run(workers=2)
        await tokens.keeper.wait_until_written()
        assert tokens.keeper.held == 0
        assert (await client.counts())["todo"] == 6


@virtual
async def test_cleanup_run_comes_after_a_cancellation_from_outside() -> None:
    """As the documentation says: after each token, also after a cancellation."""
    client = await _pool(1)
    calls: list[str] = []

    async def process(_token: Token) -> None:
        await anyio.sleep(1000)

    async def cleanup_run(_self: Any, token: Token) -> None:
        await anyio.sleep(0.1)
        calls.append(token.id)

    for number in range(2):
        with anyio.move_on_after(5):
            await _actor(pilot(client), process, cleanup_run=cleanup_run).run(workers=1)
        assert calls == ["t0"] * (number + 1)
        assert (await client.counts())["todo"] == 1


@virtual
async def test_an_actor_runs_twice() -> None:
    """The second run finds what was left, or came since; its report is of its own tokens."""
    client = await _pool(4)
    actor = _actor(pilot(client), _process)
    assert (await actor.run(workers=1, max_tokens=1)).done == 1
    assert (await actor.run(workers=1)).done == 3
    await client.upload([{}])
    assert (await actor.run(workers=1)).done == 1


@virtual
async def test_an_actor_runs_twice_in_one_open_iterator() -> None:
    """The same where the user has entered it."""
    client = await _pool(4)
    async with pilot(client) as tokens:
        actor = _actor(tokens, _process)
        assert (await actor.run(workers=1, max_tokens=1)).done == 1
        report = await actor.run(workers=1)
        assert (report.done, report.claimed, report.reason) == (3, report.scrubbed + 3, "no more tokens")
        tokens.stop()
        assert (await actor.run(workers=1)).reason == "the iterator was stopped"


@virtual
async def test_two_runs_at_once_share_an_iterator() -> None:
    """Both end, however long their last outcomes wait for the store."""
    client = await _pool(2)

    async def process(_token: Token) -> None:
        await anyio.sleep(1)
        client.faults.away = True

    async def come_back() -> None:
        await anyio.sleep(100)
        client.faults.away = False

    async with pilot(client) as tokens, anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(lambda: _actor(tokens, process).run(workers=1, max_tokens=1))
        group.start_soon(come_back)
    assert (await client.counts())["done"] == 2


@virtual
async def test_a_run_does_not_wait_for_a_token_in_the_users_hands() -> None:
    """It waits for its own tokens, which may come back; not for one that its caller holds."""
    client = await _pool(3)
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)
        with anyio.fail_after(10 * LEASE):
            assert (await _actor(tokens, _process).run(workers=1)).done == 2
        async with token:
            pass


@virtual
async def test_a_token_is_settled_once() -> None:
    """Nested, or again later: the first end counts, and nothing is counted as lost."""
    client = await _pool(2)
    async with pilot(client) as tokens:
        first, second = await tokens.claim(2)
        async with first, first:
            pass
        async with first:
            first["output"] = "too late"
        with pytest.raises(KeyError):
            async with second:
                async with second:
                    second["output"] = 2
                raise KeyError
        assert (tokens.keeper.tally.done, tokens.keeper.tally.lost) == (2, 0)


@virtual
async def test_old_work_does_not_settle_a_new_claim_of_its_own_pilot() -> None:
    """A reset token is claimed again by the same pilot, while the work on it goes on: the fence holds here as well."""
    client = await _pool(1)
    async with pilot(client) as tokens:
        (old,) = await tokens.claim(1)
        await client.edit("t0", lambda stored: BasicTokenModifier().reset(stored, unix_time()))
        await anyio.sleep(LEASE / 2)
        (new,) = await tokens.claim(1)
        with pytest.raises(LeaseLostError):
            async with old:
                old["output"] = "old"
        async with new:
            new["output"] = "new"
    assert (await client.fetch("t0")).output == "new"


@virtual
async def test_stopping_the_inner_iterator_ends_an_endless_one() -> None:
    """It would wait for ever for an iterator that hands out nothing any more."""
    inner = pilot(await _pool(3))
    seen: list[str] = []
    with anyio.fail_after(LEASE):
        async with EndlessViewIterator(inner) as tokens:
            async for token in tokens:
                async with token:
                    seen.append(token.id)
                inner.stop()
    assert len(seen) == 1


@virtual
async def test_an_endless_iterator_over_priorities_works_both() -> None:
    """And its stop ends all of them."""
    client = await _pool(4)
    await client.add_view(View("First/todo", TokenState.TODO, field("first") == True))  # noqa: E712
    views = ["First/todo", "Monitor/todo"]
    inner = PrioritizedViewIterator(client.fork(), views=views, environment=virtual_environment())
    report = await _actor(EndlessViewIterator(inner), _process).run(workers=2, max_total_time=60)
    assert report.done == 4


@virtual
async def test_cleanup_env_has_all_the_time_it_takes_after_a_normal_end() -> None:
    """Copying the results away may take longer than the grace period of a signal."""
    client = await _pool(1)
    calls: list[str] = []

    async def cleanup_env(_self: Any) -> None:
        await anyio.sleep(100)
        calls.append("cleaned")

    await _actor(pilot(client), _process, cleanup_env=cleanup_env).run(workers=1, grace=20)
    assert calls == ["cleaned"]


# Beats and outcomes. ------------------------------------------------------------------------------------------------


def _leases() -> tuple[Leases, Lease]:
    leases, document = Leases(), {"_id": "t", "_rev": "2-a"}
    lease = Lease("t", "claim", stored=document, base=document, refreshed=0.0)
    leases.attach()
    leases.add(lease)
    return leases, lease


@virtual
async def test_an_outcome_waits_for_a_beat_also_after_a_cancelled_wait() -> None:
    """The committer is cancelled while a beat is under way; whoever writes next waits for that beat as well."""
    leases, lease = _leases()
    assert leases.take_due(100.0, 10.0) == [lease]
    with anyio.move_on_after(1):
        await leases.begin_settling(lease)
    with anyio.move_on_after(1) as scope:
        await leases.begin_settling(lease)
    assert scope.cancelled_caught
    leases.beaten(lease, stored={"_id": "t", "_rev": "3-b"})
    assert await leases.begin_settling(lease)


@virtual
async def test_a_result_is_kept_when_the_answer_to_the_last_beat_broke_off() -> None:
    """The beat arrived, its connection broke, and the work ended before the next one: still our own lock."""
    client = await _pool(1)
    async with pilot(client, lock_timeout=LEASE) as tokens:
        (token,) = await tokens.claim(1)

        def break_off(documents: Sequence[Mapping[str, Any]]) -> None:
            (document,) = documents
            client._pool.documents["t0"].body = encode({k: v for k, v in document.items() if k != "_rev"})
            client._pool.documents["t0"].rev = "3-beaten"
            client.faults.before_save = lambda _documents: None
            raise PoolUnavailableError("reset by peer")

        client.faults.before_save = break_off
        with anyio.fail_after(LEASE):
            while (await client.fetch("t0")).rev != "3-beaten":
                await anyio.sleep(0.1)
        async with token:
            token["output"] = "kept"
        assert tokens.keeper.tally.lost == 0
    assert ((await client.fetch("t0")).state, (await client.fetch("t0")).output) == ("done", "kept")


# Doors that stay shut. ----------------------------------------------------------------------------------------------


@virtual
async def test_an_iterator_is_entered_once() -> None:
    """Two runs at once over one that nobody has entered: the second is refused, and does the first no harm."""
    client = await _pool(3)
    actor = _actor(pilot(client), _process)
    async with anyio.create_task_group() as group:

        async def first() -> None:
            assert (await actor.run(workers=1)).done == 3

        group.start_soon(first)
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="entered already"):
            async with actor.iterator:
                pass
    assert (await client.counts())["done"] == 3
    await client.upload([{}])
    assert (await actor.run(workers=1)).done == 1


@virtual
async def test_nobody_waits_for_an_outcome_that_nobody_will_write() -> None:
    """A task beside the iterator waits for its commit, the store is away, and the iterator is left."""
    client = await _pool(1)
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)

        async def settle() -> None:
            async with token:
                client.faults.away = True

        task = asyncio.create_task(settle())
        await anyio.sleep(1)
    with anyio.fail_after(LEASE), pytest.raises(LeaseLostError, match="not written"):
        await task


@pytest.mark.parametrize("where", ["sample", "save", "prepare_env"])
@pytest.mark.parametrize("signals", [1, 2])
@virtual
async def test_a_signal_ends_a_pilot_that_waits_for_an_answer(where: str, signals: int) -> None:
    """A claim without an answer, or a prepare_env that hangs, does not outlast the grace period, or a second signal."""

    class Hanging(FaultyClient):
        async def hang(self, request: str) -> None:
            if request == where:
                await anyio.sleep(100 * LEASE)

        @override
        def fork(self) -> FaultyClient:
            fork = Hanging(self.faults, now=self._now)
            fork._pool = self._pool
            return fork

        @override
        async def sample(
            self, view: str, limit: int, place: float, *, window: int = 0, fresh: bool = False
        ) -> list[Document]:
            await self.hang("sample")
            return await super().sample(view, limit, place, window=window, fresh=fresh)

        @override
        async def save(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
            results = await super().save(documents)
            if documents[0].get("lock"):
                await self.hang("save")
            return results

    async def prepare_env() -> None:
        if where == "prepare_env":
            await anyio.sleep(100 * LEASE)

    client = await _pool(1)
    hanging = Hanging(client.faults, now=unix_time)
    hanging._pool = client._pool
    running = Pilot(pilot(hanging), Work(process=_process, prepare_env=prepare_env), RunOptions(grace=20), 1)
    async with anyio.create_task_group() as group:
        group.start_soon(running.run)
        await anyio.sleep(5)
        start = unix_time()
        running.drain("SIGTERM")
        if signals == 2:
            running.cut()
    assert unix_time() - start <= (30 if signals == 1 else 10)
    assert (await client.counts())["todo"] == 1
