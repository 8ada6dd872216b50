"""Lost leases, lost answers, and a store that is away: every token is done once, and no result is lost."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio
import pytest
from typing_extensions import override

import apicas
from apicas._documents import encode
from apicas._runtime.keeping.leases import Lease, Leases
from apicas.clients.port import SaveResult, SaveStatus, ViewQuery
from apicas.events import Event, Lost, TokenEvent
from apicas.exceptions import AccessDeniedError, LeaseLostError, PoolUnavailableError
from apicas.iterators import BasicViewIterator
from apicas.modifiers import BasicTokenModifier, Claim, Owner
from apicas.testing import Faults, FaultyClient, run_virtual, unix_time, virtual_environment
from apicas.tokens import Token
from tests.runtime.acting import TOKENS, FarClient, acting, filled, returns, work
from tests.runtime.virtual import LEASE, make_pool, pilot, virtual


@virtual
async def test_a_lost_token_is_stopped_and_counted() -> None:
    """Its work is cancelled at the next beat, and its slot goes to the next token."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    cancelled: list[str] = []
    started = anyio.Event()

    async def process(token: Token) -> None:
        started.set()
        try:
            await anyio.sleep(10 * LEASE)
        except BaseException:
            cancelled.append(token.id)
            raise

    async with anyio.create_task_group() as group:

        async def run() -> None:
            report = await work(client, process, max_tokens=1)
            assert (report.lost, report.done) == (1, 0)

        group.start_soon(run)
        await started.wait()
        await client.rival().delete([(await client.fetch("t")).document])
    assert cancelled == ["t"]


@virtual
async def test_a_token_that_another_pilot_took_is_told_as_lost_by_the_first_and_done_by_the_second() -> None:
    """The first is cut off for longer than its lease; when it comes back its work is stopped, and it says so."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    events: list[Event] = []
    started = anyio.Event()

    async def endless(token: Token) -> None:
        started.set()
        await anyio.sleep(100 * LEASE)

    async def quick(token: Token) -> str:
        return "by the second"

    async with anyio.create_task_group() as group:

        async def first() -> None:
            report = await work(client, endless, max_tokens=1, observers=[events.append])
            assert (report.lost, report.done) == (1, 0)

        group.start_soon(first)
        await started.wait()
        client.faults.away = True
        rival = BasicViewIterator(client.rival(), BasicTokenModifier(), environment=virtual_environment("two"))
        async with rival as tokens:
            report = await acting(tokens, quick).run(max_tokens=1, handle_signals=False)
        assert report.done == 1
        client.faults.away = False
    told = [event for event in events if isinstance(event, TokenEvent)]
    assert [event.kind for event in told] == ["claimed", "started", "lost"]
    (lost,) = (event for event in told if isinstance(event, Lost))
    assert (lost.token, lost.attempt) == ("t", 1)
    assert lost.began is not None
    assert lost.seconds > 0
    document = (await client.fetch("t")).document
    assert document["output"] == "by the second"


@virtual
async def test_claims_wait_for_an_absent_store() -> None:
    """A pilot that has begun outlives a restart of the server, however long that takes."""
    client = make_pool()
    await client.upload([{} for _ in range(8)])
    seen: list[str] = []

    async def process(token: Token) -> None:
        seen.append(token.id)
        client.faults.away = len(seen) == 2
        await anyio.sleep(30)

    async def come_back() -> None:
        await anyio.sleep(3600)
        client.faults.away = False

    async with anyio.create_task_group() as group:
        group.start_soon(come_back)
        report = await work(client, process, workers=1)
    assert (report.done, report.lost, len(seen)) == (8, 0, 8)
    assert report.seconds > 3600


@virtual
async def test_outcomes_wait_for_an_absent_store() -> None:
    """The work goes on with what is held; what it came to is written when the store is back."""
    client = make_pool()
    await client.upload([{} for _ in range(8)])

    async def process(token: Token) -> str:
        client.faults.away = True
        await anyio.sleep(30)
        return "kept"

    async def come_back() -> None:
        await anyio.sleep(3600)
        client.faults.away = False

    async with anyio.create_task_group() as group:
        group.start_soon(come_back)
        report = await work(client, process, workers=8, max_tokens=8)
    assert (report.done, report.lost) == (8, 0)
    assert 3600 <= report.seconds <= 3610
    assert {row.document["output"] for row in await client.view("done", include_docs=True) if row.document} == {"kept"}


@virtual
async def test_a_commit_whose_answer_got_lost_is_recognised() -> None:
    """Carried out: not written twice, not called lost. Not carried out: written."""
    client = make_pool()
    await client.upload([{"_id": "a"}, {"_id": "b"}])

    async def process(token: Token) -> str:
        if token.id == "a":
            client.faults.lose_answers = 1
        else:
            client.faults.lose_requests = 1
        return token.id

    report = await work(client, process, workers=1)
    assert (report.done, report.lost) == (2, 0)
    assert (await client.fetch("a"))["_rev"].startswith("3-")
    assert (await client.fetch("b"))["_rev"].startswith("3-")


@virtual
async def test_a_claim_whose_answer_got_lost_is_recognised() -> None:
    """A lock that was written is kept: no token waits a lease for nothing."""
    client = make_pool()
    await client.upload([{"_id": "a"}])
    async with pilot(client) as tokens:
        client.faults.lose_answers = 1
        (token,) = await tokens.claim(1)
        client.faults.lose_requests = 1
        async with token:
            pass
    assert (await client.fetch("a")).generation == 1


@virtual
async def test_refused_access_ends_the_pilot() -> None:
    """At once, with the error itself and no retry."""
    client = make_pool()
    await client.upload([{}])

    async def process(token: Token) -> None:
        def refuse(documents: Any) -> None:
            raise AccessDeniedError("no longer a member")

        client.faults.before_save = refuse

    with pytest.raises(AccessDeniedError):
        await work(client, process)


class RefusingClient(FarClient):
    """Refuses every request that comes after a moment."""

    refuses_after = math.inf

    @override
    def fork(self) -> FarClient:
        fork = RefusingClient(self.faults, now=self._now)
        fork._pool, fork.refuses_after = self._pool, self.refuses_after
        return fork

    @override
    async def _travel(self) -> None:
        await super()._travel()
        if self.time() > self.refuses_after:
            raise AccessDeniedError("no longer a member")


@pytest.mark.parametrize("moment", range(0, 120, 4))
def test_refused_access_is_one_error_though_claims_and_outcomes_are_refused_at_once(moment: int) -> None:
    async def main() -> None:
        client = RefusingClient(Faults(), now=unix_time)
        await client.upload([{"_id": f"t{n}"} for n in range(300)])
        client.refuses_after = client.time() + moment / 1000

        async def process(token: Token) -> None:
            await anyio.sleep(0.001)

        with pytest.raises(AccessDeniedError):
            await work(client, process, workers=5)

    run_virtual(main)


@virtual
async def test_an_absent_store_at_the_start_is_an_error() -> None:
    """Nothing is held: the caller hears of it."""
    client = make_pool()
    client.faults.away = True
    with pytest.raises(PoolUnavailableError):
        await work(client, returns)


@virtual
async def test_a_heartbeat_that_finds_no_pool_at_first_keeps_trying() -> None:
    """The server is restarted in the moment in which the heartbeat connects: no reason to end."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    tries = 0

    class Absent(FaultyClient):
        async def open(self) -> None:
            nonlocal tries
            tries += 1
            if tries < 4:
                raise PoolUnavailableError("not yet")

        def fork(self) -> FaultyClient:
            return self

    absent = Absent(now=unix_time)
    absent._pool = client._pool
    async with BasicViewIterator(absent, environment=virtual_environment()) as tokens:
        (token,) = await tokens.claim(1)
        await anyio.sleep(LEASE)
        assert (await client.fetch("t"))["lock"] > token["lock"]
        async with token:
            pass
    assert tries == 4


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


def _leases() -> tuple[Leases, Lease]:
    leases, document = Leases(), {"_id": "t", "_rev": "2-a"}
    lease = Lease("t", "claim", stored=document, base=document, refreshed=0.0, began=0.0)
    leases.attach()
    leases.add([lease])
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
    client = await filled(1)
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


@virtual
async def test_nobody_waits_for_an_outcome_that_nobody_will_write() -> None:
    """A task beside the iterator waits for its commit, the store is away, and the iterator is left."""
    client = await filled(1)
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)

        async def settle() -> None:
            async with token:
                client.faults.away = True

        task = asyncio.create_task(settle())
        await anyio.sleep(1)
    with anyio.fail_after(LEASE), pytest.raises(LeaseLostError, match="not written"):
        await task


class Replicated(FaultyClient):
    """Says that it has replicas; `lose_answers` then stands for what a minority of them took."""

    replicated = True
    before_third_save: Callable[[], Awaitable[object]] | None = None

    @override
    async def save(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        if self.before_third_save is not None and self.requests.count("save") == 2:
            act, self.before_third_save = self.before_third_save, None
            await act()
        return await super().save(documents)


@pytest.mark.parametrize("accepted", [1, 3])
@virtual
async def test_an_outcome_that_a_minority_took_is_written_until_a_majority_has_it(accepted: int) -> None:
    """It can be read back at once, but would be lost with the one replica that has it."""
    client = Replicated(Faults(), now=unix_time)
    await client.upload([{"_id": "t"}])
    async with replicated_pilot(client) as tokens:
        (token,) = await tokens.claim()
        client.faults.lose_answers = accepted
        async with token:
            token["output"] = 1
        assert client.faults.lose_answers == 0
    stored = await client.fetch("t")
    assert (stored.state, stored.output) == ("done", 1)
    assert client.requests.count("save") == 1 + accepted + 1  # the claim, what was accepted, and the plain answer


@virtual
async def test_nothing_is_confirmed_over_the_claim_of_another_pilot() -> None:
    """That claim went through a majority, so it says enough."""
    client = Replicated(Faults(), now=unix_time)
    await client.upload([{"_id": "t"}])
    taken = list[Token]()

    async def claim() -> None:
        stored = await client.fetch("t")
        owner = Owner(pilot="two", hostname="node2")
        lock = Claim(claim_id="c2", owner=owner, now=unix_time(), lease=LEASE)
        (result,) = await client.rival().save([BasicTokenModifier().lock(stored, lock)])
        assert result.written
        taken.append(await client.fetch("t"))

    async with replicated_pilot(client) as tokens:
        (token,) = await tokens.claim()
        client.faults.lose_answers = 1
        client.before_third_save = claim
        async with token:
            raise apicas.Retry("again")
        assert tokens.keeper.tally.scrubbed == 1
    assert (await client.fetch("t")).rev == taken[0].rev


def replicated_pilot(client: Replicated) -> BasicViewIterator:
    """A pilot that works over this very client: its fork would not be replicated."""
    return BasicViewIterator(client, BasicTokenModifier(), environment=virtual_environment("one"))


@virtual
@pytest.mark.parametrize("seconds", [5, 2 * LEASE])
async def test_a_held_token_that_is_put_out_of_the_views_is_lost_and_ends_no_pilot(seconds: float) -> None:
    """What is in no view is nobody's to write: not by a beat, nor by a commit. The other tokens go on."""
    client = make_pool()
    await client.upload([{"_id": "a"}, {"_id": "b"}])
    started = anyio.Event()

    async def process(token: Token) -> str:
        started.set()
        await anyio.sleep(seconds)
        return "worked"

    async with anyio.create_task_group() as group:

        async def run() -> None:
            report = await work(client, process, workers=2)
            assert (report.done, report.lost) == (1, 1)

        group.start_soon(run)
        await started.wait()
        (result,) = await client.rival().save([{**(await client.fetch("a")).document, "type": "withdrawn"}])
        assert result.written
    (document,) = await client.get(["a"])
    assert document is not None
    assert document["_rev"] == result.rev
