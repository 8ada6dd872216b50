"""Iterators that claim from views themselves: the first that has a token, until there are no more."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import anyio
from typing_extensions import Unpack, override

from apicas._runtime.environment import Environment
from apicas._runtime.keeping.claims import Claimed
from apicas._runtime.keeping.doorbell import Doorbell
from apicas._runtime.keeping.keeper import Keeper, KeeperOptions
from apicas._runtime.keeping.reaper import LOCKED_VIEW, Sweep
from apicas._spelling import unknown_options
from apicas.clients.port import Client
from apicas.exceptions import ConfigError, PoolError, PoolUnavailableError
from apicas.iterators.iterator import IDLE_POLL, IteratorKeywords, ViewIterator
from apicas.modifiers import BasicTokenModifier, TokenModifier
from apicas.policies.claiming import linger_pause
from apicas.policies.retries import Backoff, jittered
from apicas.tokens import Token, TokenState
from apicas.views import full_name

log = logging.getLogger("apicas")

SAFETY_LOOK = 120.0
"""Seconds between looks at an empty pool that tells of arrivals: for one that was not told, or whose type is odd."""
ECHO = 1.0
"""Seconds after a vain look for what arrived on a cluster until the next: the view's replica may have been behind."""


class _OwnViewIterator(ViewIterator):
    """An iterator that claims from views itself: the first that has a token."""

    overlaps = True

    def __init__(
        self, client: Client, modifier: TokenModifier | None, views: Sequence[str], keywords: IteratorKeywords
    ) -> None:
        super().__init__()
        if not views:
            raise ConfigError("an iterator needs at least one view")
        if isinstance(client, str):
            raise ConfigError("an iterator takes an open client: async with apicas.connect(address) as client")
        if unknown := keywords.keys() - IteratorKeywords.__annotations__.keys():
            raise TypeError(unknown_options(type(self).__name__, unknown, IteratorKeywords.__annotations__))
        self.client = client
        self.modifier = modifier or BasicTokenModifier()
        self.views = tuple(full_name(view) for view in views)
        options: dict[str, Any] = dict(keywords)
        self._in_order = options.pop("in_order", False)
        self._linger = options.pop("linger", True)
        self._environment: Environment | None = options.pop("environment", None)
        self._options = KeeperOptions(**options)
        self._keeper: Keeper | None = None
        self._entered = False
        self._next_at: float | None = None
        """Store time at which a waiting token may be claimed, as the last look at the views has it."""
        self._backoff = Backoff(first=0.05, most=IDLE_POLL)
        self._idle = 0
        self._seen_quiet = False
        self._reached = False
        self._doorbell: Doorbell | None = None
        self._look_at: float | None = None
        """Loop seconds: when to look again, whether or not something comes; None until somebody waits for it."""

    @property
    @override
    def keeper(self) -> Keeper:
        if self._keeper is None:
            raise RuntimeError(
                "enter the iterator first: `async with iterator:`; it keeps the locks of its tokens fresh"
            )
        return self._keeper

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("this iterator has been entered already: two at once need one each, or an entered one")
        self._entered = True
        try:
            keeper = Keeper(self.client, self.modifier, self._options, self._environment)
            await keeper.__aenter__()
        except BaseException:
            self._entered = False
            raise
        keeper.claimer.candidates.in_order = self._in_order
        # Tokens of type task are in none of Monitor's views: where one of the user's lists them, so does its sister.
        keeper.reap_also([f"{view.split('/')[0]}/{TokenState.LOCKED}" for view in self.views])
        self._keeper = keeper
        self._doorbell = Doorbell(self.client, self.views, keeper.environment.rng)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        keeper, self._keeper = self.keeper, None
        doorbell, self._doorbell = self._bell, None
        try:
            try:
                await doorbell.aclose()
            finally:
                handled = await keeper.__aexit__(kind, error, traceback)
            return handled
        finally:
            self._entered = False

    @property
    def _bell(self) -> Doorbell:
        assert self._doorbell is not None  # noqa: S101 - there is one with every keeper
        return self._doorbell

    @override
    def stop(self) -> None:
        super().stop()
        if self._doorbell is not None:
            self._doorbell.ring()

    @override
    async def claim(self, wanted: int = 1) -> list[Token]:
        self._next_at = None
        self._look_at = None
        for view in self.views:
            tokens = await self._claim_from(view, wanted)
            if tokens:  # perhaps fewer than wanted, but the next claim must ask this view first again
                self._bell.found()
                self._idle = 0
                self._seen_quiet = False
                return tokens
        return []

    async def _claim_from(self, view: str, wanted: int) -> list[Token]:
        """Claim from one view, through contention, until something is won or a fresh look finds nothing."""
        keeper, attempt = self.keeper, 0
        while not self._stopped:
            tokens, claimed = await self._try_claim(view, wanted)
            if tokens:
                return tokens
            if not claimed.contended:
                self._note_waiting(claimed)
                return []
            # Rivals were faster: let them get on.
            await self._sleep(keeper.claimer.backoff.delay(attempt, keeper.environment.rng))
            attempt += 1
        return []

    async def _try_claim(self, view: str, wanted: int) -> tuple[list[Token], Claimed]:
        """Try once; while a store that has answered before is away, as often as it takes."""
        attempt = 0
        while not self._stopped:
            try:
                answer = await self.keeper.claim(view, wanted)
            except PoolUnavailableError as error:
                if not self._reached:
                    raise  # nothing is held yet, and the address may be wrong
                if attempt == 0:
                    log.warning("the pool is away, claims wait: %s", error)
                await self._sleep(self._backoff.delay(attempt, self.keeper.environment.rng))
                attempt += 1
            else:
                self._reached = True
                return answer
        return [], Claimed()

    def _note_waiting(self, claimed: Claimed) -> None:
        times = [at for at in (self._next_at, claimed.next_at) if at is not None]
        self._next_at = min(times, default=None)

    @override
    async def more(self) -> bool:
        if self._stopped:
            return False
        if self._next_at is not None:
            await self.wait_for_work(math.inf)
            return not self._stopped
        if not self._linger:
            return False
        while (sweep := await self._sweep()) is None or sweep.reclaimed or sweep.unaccounted:
            # A token of another pilot may yet come back: none has been seen that keeps it alive.
            self._seen_quiet = False
            looked = 0 if sweep is None else sweep.looked
            if (sweep is not None and sweep.reclaimed) or await self._linger_on(looked) or self._stopped:
                return not self._stopped
        # A token may have come back between the look at the view and this one at the locks, also by our own reaper.
        # So the end needs an empty view after nobody was seen to hold anything.
        seen_before, self._seen_quiet = self._seen_quiet, not self._seen_quiet
        return not seen_before and not self._stopped

    async def _linger_on(self, looked: int) -> bool:
        """Wait until it is time to look at the locks again; answers whether it is time to look at the views too.

        Many locks are not looked at often, but counted: where half of them are gone, the rest may be soon.
        """
        rng = self.keeper.environment.rng
        backoff = self._backoff.delay(self._idle, rng)
        left = linger_pause(backoff, looked, jittered(self.keeper.times.sweep, rng))
        while True:
            pause = min(left, backoff) if self._bell.works else left
            if await self.wait_for_work(pause) or not self._bell.works:
                return True
            left -= pause
            if left <= 0 or self._stopped or 2 * await self._locked() <= looked:
                return False
            backoff = self._backoff.delay(self._idle, rng)

    async def _locked(self) -> float:
        """How many tokens are locked; infinity where there is no answer."""
        try:
            return (await self.client.counts((LOCKED_VIEW,)))[LOCKED_VIEW]
        except PoolError:
            return math.inf

    async def _sweep(self) -> Sweep | None:
        """Look at what others hold; None where there is no answer: one will come, or the next claim says none does."""
        try:
            return await self.keeper.sweep()
        except PoolError:
            return None

    @override
    async def wait_for_work(self, longest: float) -> bool:
        now = anyio.current_time()
        if self._look_at is None:
            self._look_at = now + self._pause()
        self._idle += 1
        left = max(0.0, self._look_at - now)
        return await self._bell.wait(min(left, longest)) or left <= longest

    def _pause(self) -> float:
        """Seconds until the views are looked at again if nothing is said to have come."""
        bell, rng = self._bell, self.keeper.environment.rng
        most = jittered(SAFETY_LOOK if bell.works else IDLE_POLL, rng)
        if self._next_at is not None:  # somebody may push or scrub meanwhile, so not asleep for ever
            return min(max(self._next_at - self.client.time(), 0.01) + bell.spread(), most)
        if bell.woken and self.client.replicated:
            return jittered(ECHO, rng)
        return most if bell.works else self._backoff.delay(self._idle, rng)


class BasicViewIterator(_OwnViewIterator):
    """Claims the tokens of a view until there are no more.

    Args:
        client: the pool, open.
        modifier: changes tokens; a BasicTokenModifier where it is left out.
        view: `Monitor/todo`, or a view of the user's that lists tokens in todo.
        keywords: `lock_timeout` (the lease in seconds), `foreign_lock_timeout`, `max_crashes`, `max_scrub`,
            `retry_delay`, `farewell`, `outbox`: see KeeperOptions; `linger=False` to end as soon as the view is empty;
            `in_order=True` to claim the first tokens of the view, by its keys, and not just any. Pilots that all want
            the first ones lose races to each other: have few pilots, or several views (PrioritizedViewIterator).
    """

    def __init__(
        self,
        client: Client,
        modifier: TokenModifier | None = None,
        view: str = "Monitor/todo",
        **keywords: Unpack[IteratorKeywords],
    ) -> None:
        super().__init__(client, modifier, [view], keywords)


class PrioritizedViewIterator(_OwnViewIterator):
    """Claims from several views, in order: from one only what the views before it do not have.

    Args:
        client: the pool, open.
        modifier: changes tokens; a BasicTokenModifier where it is left out.
        views: the views, the most urgent first.
        keywords: as for BasicViewIterator.
    """

    def __init__(
        self,
        client: Client,
        modifier: TokenModifier | None = None,
        views: Sequence[str] = ("Monitor/todo",),
        **keywords: Unpack[IteratorKeywords],
    ) -> None:
        super().__init__(client, modifier, [views] if isinstance(views, str) else views, keywords)
