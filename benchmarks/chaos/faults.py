"""The faults: each a script that runs beside the pilots and notes what it did when."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.pilots import Crew
from benchmarks.chaos.relay import Relay
from benchmarks.chaos.servers import Server

FIRST: Final = 0.2
"""The share of tokens after which faults begin: what comes before shows the speed without them."""
LAST: Final = 0.7
"""The share after which none begins: what comes then shows the speed afterwards."""
STOP_LEASES: Final = 2.5
"""How long a pilot is stopped, in leases: the others take its tokens within two leases and a sweep."""
STORM_LEASES: Final = 1.6
"""The same where it has to be quick: after a lease and a sweep, if no look at the locks comes late."""
AWAY_LEASES: Final = 1.6
"""How long a server or the way to it is away once, in leases: nobody may take anything."""
OUTAGE: Final = 3.0
"""Seconds for which a killed server stays away."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: what, and from when to when."""

    what: str
    begun: float
    ended: float


class Disk(Protocol):
    """A disk that can be filled."""

    how: str

    def fill(self) -> None:
        """Leave no room."""
        ...

    def clear(self) -> None:
        """Make room again."""
        ...


@dataclass(slots=True)
class Field:
    """What faults are done to."""

    crew: Crew
    ledger: Ledger
    rng: random.Random
    tokens: int
    lease: float
    every: float
    server: Server | None = None
    relay: Relay | None = None
    disk: Disk | None = None
    faults: list[Fault] = field(default_factory=list)

    @property
    def progress(self) -> float:
        """The share of the tokens that were worked."""
        return len(self.ledger.ended) / self.tokens

    async def until(self, share: float) -> None:
        """Wait until this share of the tokens was worked."""
        while self.progress < share:  # noqa: ASYNC110 - the pilots write files, nobody tells
            await asyncio.sleep(0.05)

    async def pause(self) -> None:
        """Wait until the next fault, and until there is somebody to do it to."""
        await asyncio.sleep(self.every * self.rng.uniform(0.7, 1.3))
        while not self.crew.working() and self.progress < LAST:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def fault(self, what: str) -> AsyncIterator[None]:
        """Note a fault that lasts as long as the block."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.faults.append(Fault(what, begun, time.monotonic()))


Script = Callable[[Field], Awaitable[None]]


async def quiet(_: Field) -> None:
    """Do nothing."""


async def kill(field: Field) -> None:
    """SIGKILL one pilot after the other."""
    await field.until(FIRST)
    while field.progress < LAST:
        for victim in field.crew.choose(1):
            async with field.fault("SIGKILL"):
                field.crew.kill(victim)
        await field.pause()


async def stop(field: Field) -> None:
    """SIGSTOP a quarter of the pilots for longer than their lease, then SIGCONT."""
    await field.until(FIRST)
    while field.progress < LAST:
        victims = field.crew.choose(max(1, len(field.crew.working()) // 4))
        async with field.fault("SIGSTOP"), asyncio.TaskGroup() as group:
            for victim in victims:
                group.create_task(field.crew.stop(victim, STOP_LEASES * field.lease))
        await field.pause()


async def term(field: Field) -> None:
    """SIGTERM to all pilots at once, again and again; each third time twice, which cuts what they work."""
    await field.until(FIRST)
    storms = 0
    while field.progress < LAST:
        storms += 1
        async with field.fault("SIGTERM"):
            victims = field.crew.working()
            for victim in victims:
                field.crew.terminate(victim)
            if storms % 3 == 0:
                await asyncio.sleep(0.02)
                for victim in victims:
                    field.crew.terminate(victim)
        await field.pause()


async def storm(field: Field) -> None:
    """SIGKILL, SIGTERM and SIGSTOP past the lease, to different pilots at about the same time."""
    await field.until(FIRST)
    victims = field.crew.choose(3)
    async with field.fault("SIGSTOP"), asyncio.TaskGroup() as group:
        for victim in victims[:1]:
            group.create_task(field.crew.stop(victim, STORM_LEASES * field.lease))
        for victim in victims[1:2]:
            async with field.fault("SIGKILL"):
                field.crew.kill(victim)
        for victim in victims[2:]:
            async with field.fault("SIGTERM"):
                field.crew.terminate(victim)


async def server(field: Field) -> None:
    """SIGKILL the server; start it again some seconds later."""
    if field.server is None:
        raise RuntimeError("no server to kill")
    for share in (FIRST, (FIRST + LAST) / 2, LAST):
        await field.until(share)
        async with field.fault("server killed"):
            field.server.signal(signal.SIGKILL)
            try:
                await asyncio.sleep(OUTAGE)
            finally:
                await field.server.start()


async def hang(field: Field) -> None:
    """SIGSTOP the server for a while, once for longer than the lease, then SIGCONT."""
    if field.server is None:
        raise RuntimeError("no server to stop")
    for share, seconds in ((FIRST, OUTAGE), ((FIRST + LAST) / 2, AWAY_LEASES * field.lease)):
        await field.until(share)
        async with field.fault("server hangs"):
            field.server.signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                field.server.signal(signal.SIGCONT)


async def cut(field: Field) -> None:
    """Cut all connections and stay away, once for longer than the lease; refuse new ones, or take them in silence."""
    if field.relay is None:
        raise RuntimeError("no relay to cut")
    await field.until(FIRST)
    lengths = [AWAY_LEASES * field.lease]
    while field.progress < LAST:
        seconds = lengths.pop() if lengths else field.rng.uniform(0, OUTAGE)
        async with field.fault("cut"):
            await field.relay.away(seconds, silent=field.rng.random() < 0.5)
        await field.pause()


async def disk(field: Field) -> None:
    """Fill the disk, and make room again some seconds later."""
    if field.disk is None:
        raise RuntimeError("no disk to fill")
    for share in (FIRST, (FIRST + LAST) / 2):
        await field.until(share)
        async with field.fault("disk full"):
            field.disk.fill()
            try:
                await (asyncio.sleep(OUTAGE) if field.relay is None else field.relay.away(OUTAGE, silent=False))
            finally:
                field.disk.clear()


SCRIPTS: Final[dict[str, Script]] = {
    "baseline": quiet,
    "kill": kill,
    "stop": stop,
    "term": term,
    "storm": storm,
    "server": server,
    "hang": hang,
    "cut": cut,
    "disk": disk,
    "memory": quiet,
}
"""The rows of the table. In `memory` the tokens are the fault: some eat memory, one kills its pilot."""
