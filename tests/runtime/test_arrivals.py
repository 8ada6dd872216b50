"""Arrivals: an idle pilot is woken, asks for little, and finds every token also where nobody tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from random import Random
from typing import Any

import anyio
import pytest
from typing_extensions import override

from apicas._runtime.keeping.doorbell import KEPT_OPEN, MAX_UNHEARD, REFUSED, Doorbell, Spacing
from apicas.clients.memory import MemoryClient
from apicas.clients.port import Arrival
from apicas.exceptions import PoolError, PoolUnavailableError
from apicas.iterators import BasicViewIterator, EndlessViewIterator
from apicas.iterators.iterator import IDLE_POLL
from apicas.iterators.views import SAFETY_LOOK
from apicas.modifiers import BasicTokenModifier
from apicas.testing import FaultyClient, run_virtual, unix_time, virtual_environment
from apicas.tokens import Token
from tests.runtime.acting import acting
from tests.runtime.virtual import LEASE, make_pool, pilot, virtual

HOUR = 3600.0


def idle_pilot(client: FaultyClient, name: str = "idle", **keywords: Any) -> EndlessViewIterator:
    """An endless iterator over this very client, so that what it asks can be counted."""
    environment = virtual_environment(name, seed=sum(name.encode()))
    keywords.setdefault("lock_timeout", 900.0)
    return EndlessViewIterator(BasicViewIterator(client, BasicTokenModifier(), environment=environment, **keywords))


class Work:
    """Notes when each token is begun."""

    def __init__(self) -> None:
        self.begun: dict[str, float] = {}

    async def __call__(self, token: Token) -> None:
        self.begun[token.id] = anyio.current_time()


async def start_times(client: FaultyClient, waits: Sequence[float], **keywords: Any) -> list[float]:
    """How long each of some tokens waits for an idle pilot, in virtual seconds."""
    work = Work()
    lags = []
    async with anyio.create_task_group() as group:
        tokens = idle_pilot(client, **keywords)
        group.start_soon(lambda: acting(tokens, work).run(workers=4))
        for number, wait in enumerate(waits):
            await anyio.sleep(wait)
            before = anyio.current_time()
            await client.rival().upload([{"_id": f"t{number}"}])
            while f"t{number}" not in work.begun:
                await anyio.sleep(0.01)
            lags.append(work.begun[f"t{number}"] - before)
        tokens.stop()
    return lags


@virtual
async def test_an_idle_pilot_starts_a_token_at_once() -> None:
    """It is woken, and need not look."""
    assert max(await start_times(make_pool(), [100.0, 7.0, 1000.0, 0.5, 60.0])) < 0.05


@virtual
async def test_an_idle_hour_costs_less_than_two_requests_a_minute() -> None:
    """At default settings, with all that runs in a pilot."""
    client = make_pool()
    async with idle_pilot(client) as tokens:
        with anyio.move_on_after(60):  # the feed is opened, and found to work
            await tokens.more()
            assert not await tokens.claim()
            await tokens.more()
        client.requests.clear()
        async with anyio.create_task_group() as group:

            async def claim_for_ever() -> None:
                while True:
                    assert not await tokens.claim(4)
                    await tokens.more()

            group.start_soon(claim_for_ever)
            await anyio.sleep(10 * HOUR)
            group.cancel_scope.cancel()
    assert len(client.requests) / 600 < 1.0
    assert "sample" in client.requests  # it still looks now and then


@virtual
async def test_beats_claims_and_outcomes_of_others_wake_nobody() -> None:
    """A rival holds tokens for an hour, beats them, and commits: the idle pilot looks as rarely as ever."""
    client = make_pool()
    await client.upload([{"_id": f"t{n}"} for n in range(8)])
    async with anyio.create_task_group() as group:

        async def hold(_token: Token) -> None:
            await anyio.sleep(HOUR)

        group.start_soon(lambda: acting(pilot(client, "holder", lock_timeout=20), hold).run(workers=8))
        await anyio.sleep(1)
        writes_before = client._pool.sequence
        idle = idle_pilot(client)
        group.start_soon(lambda: acting(idle, Work()).run(workers=4))
        await anyio.sleep(HOUR)
        assert client._pool.sequence - writes_before > 1000  # there were beats
        assert client.requests.count("sample") < HOUR / SAFETY_LOOK * 1.2 + 5
        idle.stop()


@virtual
async def test_a_feed_that_tells_nothing_delays_a_token_and_no_more() -> None:
    """Where arrivals are dropped, a look now and then finds them."""
    client = make_pool()
    client.faults.deaf = True
    lags = await start_times(client, [100.0, 300.0, 5.0])
    assert max(lags) <= SAFETY_LOOK * 1.1 + 1
    assert max(lags) > IDLE_POLL  # it was not told: else this would show nothing


class Untold(FaultyClient):
    """A pool that does not tell of arrivals."""

    @override
    async def arrivals(self, views: Sequence[str]) -> AsyncIterator[Arrival]:
        self.requests.append("arrivals")
        async with aclosing(super(MemoryClient, self).arrivals(views)) as feed:  # type: ignore[type-var]
            async for arrival in feed:
                yield arrival


@virtual
async def test_without_a_feed_a_pilot_looks_for_itself() -> None:
    """As often as PiCaS does, and it asks for the feed once in a while."""
    client = Untold(now=unix_time)
    lags = await start_times(client, [100.0, 300.0, 5.0])
    assert max(lags) <= IDLE_POLL * 1.1 + 1
    assert client.requests.count("arrivals") == 1
    with anyio.move_on_after(REFUSED * 1.5):
        await acting(idle_pilot(client), Work()).run(workers=1)
    assert client.requests.count("arrivals") == 3


class Late(FaultyClient):
    """A pool to which a token comes in the moment in which somebody asks for the feed, before it stands."""

    @override
    async def arrivals(self, views: Sequence[str]) -> AsyncIterator[Arrival]:
        if not self._pool.documents:
            await self.rival().upload([{"_id": "early"}])
        async with aclosing(super().arrivals(views)) as feed:  # type: ignore[type-var]
            async for arrival in feed:
                yield arrival


@virtual
async def test_what_comes_before_the_feed_stands_is_found() -> None:
    """Once it stands, the views are looked at once more."""
    client = Late(now=unix_time)
    work = Work()
    with anyio.move_on_after(5):
        await acting(idle_pilot(client), work).run(workers=1)
    assert work.begun["early"] < 0.2


@virtual
async def test_a_pool_that_comes_back_is_noticed() -> None:
    """While it is away the pilot asks ever more rarely for the feed; then a token starts soon again."""
    client = make_pool()
    async with anyio.create_task_group() as group:
        work = Work()
        idle = idle_pilot(client)
        group.start_soon(lambda: acting(idle, work).run(workers=1))
        await anyio.sleep(100)
        client.faults.away = True
        await client.rival().upload([{"_id": "t"}])  # it is told, asks, and finds the pool away
        await anyio.sleep(HOUR)
        assert client.requests.count("arrivals") < 30
        client.faults.away = False
        back = anyio.current_time()
        await anyio.sleep(IDLE_POLL * 2)
        assert work.begun["t"] - back < IDLE_POLL * 1.1
        idle.stop()


@virtual
async def test_stop_ends_the_wait_at_once() -> None:
    """Whoever waits for hours for a token does not wait for an hour for the end."""
    async with idle_pilot(make_pool()) as tokens, anyio.create_task_group() as group:

        async def wait() -> None:
            while await tokens.more():
                assert not await tokens.claim()

        group.start_soon(wait)
        await anyio.sleep(HOUR + 1)
        before = anyio.current_time()
        tokens.stop()
        group.cancel_scope.deadline = before + 60
    assert anyio.current_time() - before < 0.1


@virtual
async def test_a_callback_is_asked_as_often_as_ever() -> None:
    """An endless iterator ends soon after its callback says so, and the store is not asked for that."""
    client = make_pool()
    inner = BasicViewIterator(client, BasicTokenModifier(), environment=virtual_environment(), lock_timeout=900.0)
    async with EndlessViewIterator(inner, stop_callback=lambda: anyio.current_time() > HOUR) as tokens:
        while await tokens.more():
            assert not await tokens.claim()
    assert HOUR <= anyio.current_time() <= HOUR + IDLE_POLL * 1.1
    assert client.requests.count("sample") < HOUR / SAFETY_LOOK * 1.2 + 5


@virtual
async def test_a_token_that_waits_for_its_time_is_begun_then() -> None:
    """An endless iterator sleeps until its `not_before`, though nobody tells of it then."""
    client = make_pool()
    work = Work()
    idle = idle_pilot(client)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: acting(idle, work).run(workers=1))
        await anyio.sleep(50)
        waiting = {"_id": "w", "type": "token", "lock": 0, "done": 0, "apicas": {"not_before": unix_time() + 70}}
        await client.rival().save([waiting])
        await anyio.sleep(100)
        idle.stop()
    assert 120 <= work.begun["w"] < 120.5


@virtual
async def test_a_lingering_pilot_asks_little_and_still_ends() -> None:
    """It waits for what another holds without looking at the views each time, and works what comes back."""
    client = make_pool()
    await client.upload([{"_id": "held"}])
    work = Work()
    async with anyio.create_task_group() as group:

        async def fail_late(token: Token) -> None:
            await anyio.sleep(100)
            client.faults.away = False
            raise ValueError(token.id)

        first = pilot(client, "first", max_scrub=5, retry_delay=0, lock_timeout=900.0)
        group.start_soon(lambda: acting(first, fail_late).run(workers=1, max_tokens=1))
        await anyio.sleep(1)
        lingering = BasicViewIterator(
            client, BasicTokenModifier(), environment=virtual_environment("second"), lock_timeout=900.0
        )
        report = await acting(lingering, work).run(workers=1)
    assert report.done == 1
    assert 100 <= work.begun["held"] < 100.2
    assert client.requests.count("sample") < 12


@pytest.mark.parametrize("pilots", [2, 10, 100])
def test_pilots_that_one_token_wakes_keep_apart(pilots: int) -> None:
    """They learn how many they are: the first looks soon, and not all at once; one alone waits for next to nothing."""
    rng = Random(pilots)
    spacings = [Spacing.of(0.025) for _ in range(pilots)]
    firsts, crowds = [], []
    for _ in range(40 * pilots):
        looks = [one.delay(rng) for one in spacings]
        winner = min(range(pilots), key=looks.__getitem__)
        spacings = [one.after(found=number == winner) for number, one in enumerate(spacings)]
        firsts.append(looks[winner])
        crowds.append(sum(look - looks[winner] < 0.025 for look in looks))
    settled = firsts[len(firsts) // 2 :]
    assert sum(settled) / len(settled) < 0.1
    assert sum(crowds[len(crowds) // 2 :]) / len(settled) < max(2.5, pilots / 20)
    alone = Spacing.of(0.025)
    for _ in range(10):
        alone = alone.after(found=True)
    assert alone.seconds < 0.001


@virtual
async def test_a_busy_pilot_closes_the_feed() -> None:
    """One that nobody waits for is closed after a while, or after some arrivals; the next wait opens another."""
    client = make_pool()
    listeners = client._pool.listeners
    bell = Doorbell(client, ["Monitor/todo"], Random(0))
    assert await bell.wait(10)
    assert len(listeners) == 1
    await anyio.sleep(KEPT_OPEN * 1.1)
    assert not listeners
    assert not bell.works
    assert await bell.wait(10)
    for number in range(MAX_UNHEARD + 5):
        await client.upload([{"_id": f"t{number}"}])
        await anyio.sleep(0.001)
    assert not listeners
    assert await bell.wait(10)
    await bell.aclose()
    await bell.aclose()
    assert not listeners


@pytest.mark.parametrize("first", ["the ring", "the end of the time"])
def test_a_ring_at_the_last_moment_is_heard(first: str) -> None:
    """Both come due at once, in either order: whoever waits is told now, or by the next wait."""

    async def main() -> None:
        client = make_pool()
        bell = Doorbell(client, ["Monitor/todo"], Random(0))
        assert await bell.wait(1)
        at = anyio.current_time() + 5.0
        loop = asyncio.get_running_loop()
        if first == "the ring":
            loop.call_at(at, bell.ring)
        else:
            loop.call_at(at, lambda: loop.call_soon(bell.ring))
        heard = await bell.wait(5.0)
        again = await bell.wait(50.0) if not heard else False
        assert heard or again
        await bell.aclose()

    run_virtual(main)


class Broken(FaultyClient):
    """A pool whose feed breaks soon after it stands, each time, as under a proxy that cuts what is idle."""

    @override
    async def arrivals(self, views: Sequence[str]) -> AsyncIterator[Arrival]:
        self.requests.append("arrivals")
        yield Arrival.POSSIBLE
        yield Arrival.NONE
        await anyio.sleep(5)
        raise PoolUnavailableError("cut")


@virtual
async def test_a_feed_that_breaks_each_time_is_asked_for_ever_more_rarely() -> None:
    """It would cost more than it saves. Tokens are found by looking."""
    client = Broken(now=unix_time)
    lags = await start_times(client, [HOUR, 100.0, 20.0])
    assert max(lags) <= IDLE_POLL * 1.1 + 6
    assert client.requests.count("arrivals") < 40


class Mistaken(FaultyClient):
    """A pool whose feed has a bug."""

    @override
    async def arrivals(self, views: Sequence[str]) -> AsyncIterator[Arrival]:
        yield Arrival.POSSIBLE
        raise ZeroDivisionError


@virtual
async def test_a_bug_in_a_feed_is_not_hidden() -> None:
    """It ends the run, as a bug in any other part does."""
    with pytest.raises(ZeroDivisionError):
        await acting(idle_pilot(Mistaken(now=unix_time)), Work()).run(workers=1, max_total_time=LEASE)


async def test_a_client_that_cannot_tell_says_so() -> None:
    """One of a third party need not have it."""
    async with MemoryClient() as client:
        with pytest.raises(PoolError, match="does not tell"):
            await anext(super(MemoryClient, client).arrivals(["Monitor/todo"]))
