"""The doorbell: wakes an idle pilot when a token may have come, so that it need not ask for it all the time.

It follows the store's arrivals in a task of its own, from the first wait until nobody has waited for a while. It is a
help: whoever waits looks now and then without it, and as often as ever where the store tells nothing.

The order that loses no token: the feed stands first, and rings; then the views are looked at once more.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from random import Random
from typing import Final

import anyio

from apicas.clients.port import Arrival, Client
from apicas.exceptions import AccessDeniedError, PoolError, PoolUnavailableError
from apicas.policies.retries import Backoff

log = logging.getLogger("apicas")

KEPT_OPEN: Final = 10.0
"""Seconds for which a feed is kept that nobody waits for: the next wait is often soon."""
MAX_UNHEARD: Final = 50
"""Arrivals that nobody waits for, after which the feed is closed: a busy pilot has no use for a big upload's."""
STEADY: Final = 60.0
"""Seconds after which a feed that breaks counts as one that had been good. A proxy may cut each after less."""
DOUBTFUL: Final = 3
"""Feeds in a row that broke, after which the pilot looks for itself again."""
AGAIN: Final = Backoff(first=1.0, most=300.0)
"""Before a feed that broke is opened again."""
REFUSED: Final = 900.0
"""Seconds after which one that was refused is asked for again: a pool that was too busy to be followed may be quiet."""


@dataclass(frozen=True, slots=True)
class Spacing:
    """How long pilots that one arrival wakes wait before they look: up to so many seconds, by chance.

    It grows by a step with each look in vain, and halves with each that is not. With n idle pilots one look in n finds
    something, so it comes to rest at some 2 n steps: the first of them looks after about one step, however many there
    are, and the store is asked once per step.

    Args:
        step: seconds; about what a look costs the store.
    """

    step: float
    seconds: float = 0.0

    @classmethod
    def of(cls, step: float) -> Spacing:
        """What a pilot begins with: it knows nothing of others."""
        return cls(step, 2 * step)

    @property
    def most(self) -> float:
        """Its bound: of a thousand pilots each step still wakes but a few."""
        return 40 * self.step

    def after(self, *, found: bool) -> Spacing:
        """The spacing for the next arrival."""
        return replace(self, seconds=self.seconds / 2 if found else min(self.most, self.seconds + self.step))

    def delay(self, rng: Random) -> float:
        """Seconds to wait."""
        return self.seconds * rng.random()


class Doorbell:
    """Waits for arrivals.

    Args:
        client: the pool, open.
        views: those that are claimed from.
        rng: the dice.
    """

    def __init__(self, client: Client, views: Sequence[str], rng: Random) -> None:
        self._client = client
        self._views = views
        self._rng = rng
        self._rung = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._scope = anyio.CancelScope()
        self._alive = False
        self._refused_until = 0.0
        self._unheard = 0
        self._came = False
        self._begun = 0.0
        self._spacing = Spacing.of(client.wake_spacing)
        self.woken = False
        """Whether an arrival has ended the last wait, and nothing was found since."""

    @property
    def works(self) -> bool:
        """Whether the feed is known to stand, so that looks may be rare."""
        return self._alive

    def ring(self) -> None:
        """End the present wait, or the next one."""
        self._rung.set()

    def found(self) -> None:
        """Say that the last look found a token."""
        if self.woken:
            self._spacing = self._spacing.after(found=True)
        self.woken = False

    def spread(self) -> float:
        """Seconds to keep apart from others who wake up at the same time."""
        return self._spacing.delay(self._rng)

    async def wait(self, seconds: float) -> bool:
        """Wait until a token may have come, or somebody rings; at most so many seconds. Answers whether one did."""
        if self.woken:
            self._spacing = self._spacing.after(found=False)
        self.woken = False
        self._listen()
        try:
            with anyio.move_on_after(seconds):
                await self._rung.wait()
        finally:
            self._scope.deadline = anyio.current_time() + KEPT_OPEN
        if self._came:
            self.woken = True
            await anyio.sleep(self.spread())
        # Asked here: it may have rung in the moment in which the time was over. What comes from here on rings again.
        rung = self._rung.is_set()
        self._came = False
        self._rung.clear()
        return rung

    def _listen(self) -> None:
        """Have the feed followed, and not closed while somebody waits."""
        self._unheard = 0
        self._scope.deadline = math.inf
        follows = self._task is not None and not self._task.done() and not self._scope.cancel_called
        if follows or anyio.current_time() < self._refused_until:
            return
        if self._task is not None and self._task.done():
            _check(self._task)
        self._scope = anyio.CancelScope()
        self._task = asyncio.create_task(self._follow(self._scope), name="apicas arrivals")

    async def aclose(self) -> None:
        """Stop following. May be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])
            _check(task)

    async def _follow(self, scope: anyio.CancelScope) -> None:
        """Follow the feed, one after another as they break, until it is refused or the scope is cancelled."""
        broken = 0
        with scope:
            while await self._was_broken(scope):
                # A proxy may break each after some seconds.
                steady = anyio.current_time() - self._begun > STEADY
                broken = 1 if steady else broken + 1
                if broken >= DOUBTFUL:
                    self.ring()  # whoever waits meant to be told, and looks for himself now
                await anyio.sleep(AGAIN.delay(broken - 1, self._rng))
            self.ring()

    async def _was_broken(self, scope: anyio.CancelScope) -> bool:
        """Follow one feed to its end; False where another one would be refused as well."""
        self._begun = anyio.current_time()
        try:
            await self._follow_one(scope)
        except PoolUnavailableError as error:
            log.debug("arrivals: %s", error)
        except PoolError as error:
            log.debug("arrivals are not told, the pilot looks for itself: %s", error)
            final = isinstance(error, AccessDeniedError)  # a server may lock out who asks again
            self._refused_until = math.inf if final else anyio.current_time() + REFUSED
            return False
        finally:
            if scope is self._scope:
                self._alive = False
        return True

    async def _follow_one(self, scope: anyio.CancelScope) -> None:
        stands = False
        async with aclosing(self._client.arrivals(self._views)) as feed:  # type: ignore[type-var]  # adapters return generators
            async for arrival in feed:
                if arrival is Arrival.NONE:
                    self._alive = True
                    continue
                self._unheard += self._rung.is_set()
                if self._unheard > MAX_UNHEARD:
                    scope.cancel()
                self._came, stands = self._came or stands, True
                self.ring()


def _check(task: asyncio.Task[None]) -> None:
    """Raise what ended a task that nobody has cancelled."""
    if not task.cancelled():
        task.result()
