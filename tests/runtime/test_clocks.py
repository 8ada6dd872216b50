"""No trust in clocks: whatever they say, and however they jump, nothing alive is reclaimed, and everything dead is.

The pool in memory stamps locks with its client's own clock, so here each pilot has one of its own: what CouchDB's
clients, who all ask the server's, are spared. On SQLite all processes share one clock, which may jump.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import anyio
import pytest

from apicas.iterators import BasicViewIterator
from apicas.modifiers import BasicTokenModifier, Claim, Owner
from apicas.policies.leases import LeaseTimes
from apicas.testing import FaultyClient, unix_time, virtual_environment
from apicas.tokens import Token
from tests.runtime.virtual import LEASE, make_pool, virtual

HOUR = 3600.0
Clock = Callable[[], float]


def off_by(seconds: float) -> Clock:
    return lambda: unix_time() + seconds


def jumping(seconds: float, after: float) -> Clock:
    """Right until it jumps, so many seconds after now."""
    begin = unix_time()
    return lambda: unix_time() + (seconds if unix_time() - begin >= after else 0.0)


def with_clock(client: FaultyClient, clock: Clock) -> FaultyClient:
    """A client of the same pool that lives by a clock of its own."""
    fork = FaultyClient(client.faults, now=clock)
    fork._pool = client._pool
    return fork


def pilot(client: FaultyClient, name: str, clock: Clock, lease: float = LEASE) -> BasicViewIterator:
    return BasicViewIterator(
        with_clock(client, clock), lock_timeout=lease, environment=virtual_environment(name, seed=len(name))
    )


def bound(lease: float, sweeper: float) -> float:
    """Seconds after its last beat in which a dead token is back, whatever anybody's clock says.

    Rule (c): a first look within a sweep of the death, then four looks, or more, over a whole lease of the token's. A
    sweep is a quarter of the sweeping pilot's own lease, and a tenth more with its jitter. For equal leases it is
    1.55 leases, and so less than the two leases and a sweep that the design promises.
    """
    sweep = LeaseTimes(lease=sweeper).sweep * 1.1
    return max(lease + 2 * sweep, 4 * sweep)


def by_right_clocks(lease: float, sweeper: float) -> float:
    """The same where the clocks are right: rule (b), with two looks half a lease apart when two leases are over."""
    sweep = LeaseTimes(lease=sweeper).sweep * 1.1
    return min(bound(lease, sweeper), max(2 * lease + sweep, 2 * sweep) + sweep)


OFFSETS = [-HOUR, 0.0, HOUR]


async def keep_alive(mine: BasicViewIterator, rival: BasicViewIterator, client: FaultyClient) -> None:
    """Work a token for three of the longer leases, and twelve of the usual ones: it is done under its first claim."""
    async with mine as own, rival as other:
        (token,) = await own.claim(1)
        await anyio.sleep(max(12 * LEASE, 3 * own.keeper.times.lease, 3 * other.keeper.times.lease))
        assert not await other.claim(1)
        assert (own.keeper.tally.lost, other.keeper.tally.reclaimed) == (0, 0)
        async with token:
            token["output"] = "mine"
    stored = await client.fetch("t")
    assert (stored.state, stored.output, stored.generation) == ("done", "mine", 1)


@pytest.mark.parametrize(("ours", "theirs"), [*product(OFFSETS, OFFSETS)])
@virtual
async def test_clocks_an_hour_off_take_nothing_from_the_living(ours: float, theirs: float) -> None:
    client = make_pool()
    await client.upload([{"_id": "t"}])
    await keep_alive(pilot(client, "a", off_by(ours)), pilot(client, "bb", off_by(theirs)), client)


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
@pytest.mark.parametrize("who", ["owner", "rival", "both"])
@virtual
async def test_clocks_that_jump_take_nothing_from_the_living(who: str, jump: float) -> None:
    """In the middle of the work; both at once is what happens on SQLite."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    right, wrong = off_by(0.0), jumping(jump, 6.3 * LEASE)
    await keep_alive(
        pilot(client, "a", right if who == "rival" else wrong),
        pilot(client, "bb", right if who == "owner" else wrong),
        client,
    )


@pytest.mark.parametrize(("mine", "theirs"), [(10.0, 900.0), (900.0, 10.0), (60.0, 10.0)])
@pytest.mark.parametrize("offset", OFFSETS)
@virtual
async def test_different_leases_take_nothing_from_the_living(mine: float, theirs: float, offset: float) -> None:
    """The token carries its own."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    await keep_alive(pilot(client, "a", off_by(0.0), mine), pilot(client, "bb", off_by(offset), theirs), client)


async def until_back(client: FaultyClient, clock: Clock, sweeper: float) -> float:
    """Seconds until a pilot with that clock has the only token back in todo."""
    begin = unix_time()
    async with pilot(client, "bb", clock, sweeper):
        while (await client.fetch("t")).state == "locked":
            await anyio.sleep(0.25)
            assert unix_time() - begin < 10_000, "never reclaimed"
    return unix_time() - begin - 0.25


@pytest.mark.parametrize(("lease", "sweeper"), [(LEASE, LEASE), (10.0, 900.0), (900.0, 10.0)])
@pytest.mark.parametrize(("ours", "theirs"), [*product(OFFSETS, OFFSETS)])
@virtual
async def test_the_dead_come_back_in_time_whatever_the_clocks_say(
    ours: float, theirs: float, lease: float, sweeper: float
) -> None:
    client = make_pool()
    await client.upload([{"_id": "t"}])
    await die(client, off_by(ours), lease)
    seconds = await until_back(client, off_by(theirs), sweeper)
    assert seconds <= bound(lease, sweeper)
    if ours == theirs:
        assert seconds <= by_right_clocks(lease, sweeper)
    if lease == sweeper:
        assert seconds <= 2 * lease + LeaseTimes(lease=lease).sweep
    assert seconds >= lease / 2


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
@pytest.mark.parametrize("after", [0.0, LEASE / 3, LEASE])
@virtual
async def test_the_dead_come_back_in_time_when_the_clock_jumps(jump: float, after: float) -> None:
    """While they are being watched."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    await die(client, off_by(0.0), LEASE)
    assert LEASE / 2 <= await until_back(client, jumping(jump, after), LEASE) <= bound(LEASE, LEASE)


async def die(client: FaultyClient, clock: Clock, lease: float) -> Token:
    """Claim the only token as a pilot that is gone the moment after."""
    (document,) = await client.sample("todo", 1, 0.0)
    claim = Claim(claim_id="dead", owner=Owner(pilot="dead", hostname="elsewhere"), now=clock(), lease=lease)
    (result,) = await client.save([BasicTokenModifier().lock(document, claim)])
    assert result.written
    return await client.fetch("t")
