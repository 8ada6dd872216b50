"""Pilots whose clocks are an hour off, on a server: locks have its time, and only the dead are reclaimed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from apicas._runtime.environment import real_environment
from apicas.iterators import BasicViewIterator
from tests.couchdb import SERVERS, Server, server
from tests.runtime.test_heartbeat_thread import HandClock

HOUR = 3600.0
LEASE = 10.0


@pytest.fixture(params=SERVERS)
def couch(request: pytest.FixtureRequest) -> Server:
    return server(request.config, request.param)


@pytest.fixture
def database(couch: Server) -> Iterator[str]:
    with couch.database() as name:
        yield name


class Skewed:
    """A process's clock, which is wrong and may jump."""

    def __init__(self, offset: float) -> None:
        self.offset = offset

    def __call__(self) -> float:
        return time.time() + self.offset


@pytest.mark.parametrize(("ours", "theirs", "jump"), [(-HOUR, HOUR, 0), (HOUR, -HOUR, 0), (0, 0, HOUR), (0, 0, -HOUR)])
async def test_a_skewed_clock_takes_nothing_from_the_living(
    couch: Server, database: str, ours: float, theirs: float, jump: float
) -> None:
    """One pilot holds a token and beats, the other looks; then the first beats no more. Turned by hand, so at once."""
    clock, mine, others = HandClock(), Skewed(ours), Skewed(theirs)
    # No beat comes by itself: the heartbeat's thread would run by our time.
    still = replace(real_environment(), monotonic=HandClock(), owner_is_gone=lambda _document: False)
    watching = replace(real_environment(), monotonic=clock, owner_is_gone=lambda _document: False)
    async with couch.client(database, now=mine) as client, couch.client(database, now=others) as rival:
        await client.setup()
        await client.upload([{"_id": "t"}])
        async with (
            BasicViewIterator(client, environment=still, lock_timeout=LEASE) as own,
            BasicViewIterator(rival, environment=watching, lock_timeout=LEASE) as other,
        ):
            (token,) = await own.claim(1)
            assert abs(token["lock"] - time.time()) < 60
            for beat in range(8):
                clock.now += LEASE / 4
                if beat == 4:
                    mine.offset += jump
                    others.offset += jump
                await client.edit("t", lambda token: own.modifier.refresh(token, client.time()))
                assert abs((await client.fetch("t"))["lock"] - time.time()) < 60
                assert (await other.keeper.sweep()).reclaimed == 0
            looks = 0
            while not (await other.keeper.sweep()).reclaimed:
                clock.now += LEASE / 4
                looks += 1
                assert looks <= 5, "a lease of silence, and it is not reclaimed"
            assert looks >= 4
            assert (await client.fetch("t")).state == "todo"
