"""Iterators: claim tokens, one at a time with `async for`, or many with `claim(n)`.

An iterator is an async context manager: inside it, what it hands out is kept fresh by a heartbeat, and stale locks of
others are reclaimed. Contention never ends it. It ends when a fresh view is empty, nothing waits for its time, and
every token that another pilot holds has been seen to be kept alive, was finished, or was reclaimed (lingering).

    async with BasicViewIterator(client, BasicTokenModifier()) as tokens:
        async for token in tokens:
            async with token:
                token["output"] = await work(token["input"])
"""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import anyio
from typing_extensions import TypedDict, Unpack, override

from apicas._runtime.claims import Claimed
from apicas._runtime.environment import Environment
from apicas._runtime.keeper import Keeper, KeeperOptions, OnLostContact
from apicas._runtime.outbox import OutboxSetting
from apicas.clients.port import Client
from apicas.exceptions import ConfigError, PoolError, PoolUnavailableError
from apicas.modifiers import BasicTokenModifier, TokenModifier
from apicas.policies import Backoff, jittered
from apicas.tokens import Token
from apicas.views import full_name

log = logging.getLogger("apicas")

IDLE_POLL = 10.0
"""Seconds between looks at a pool that has been empty for a while; PiCaS's default."""


class IteratorKeywords(TypedDict, total=False):
    """How an iterator keeps its tokens: the fields of KeeperOptions, and `linger`."""

    lock_timeout: float | None
    foreign_lock_timeout: float | None
    max_crashes: int
    max_scrub: int
    retry_delay: float
    on_lost_contact: OnLostContact
    farewell: float
    outbox: OutboxSetting
    linger: bool
    environment: Environment | None


@dataclass(slots=True)
class _Waiting:
    """What the last look at the views said about the time to come."""

    next_at: float | None = None
    """Store time at which a waiting token may be claimed."""


class ViewIterator(ABC):
    """What all iterators are: a context manager, an async iterator, and `claim(n)`."""

    def __init__(self) -> None:
        self._stopped = False
        self._stop_event = anyio.Event()

    modifier: TokenModifier
    """Changes the tokens that this iterator hands out."""

    @property
    @abstractmethod
    def keeper(self) -> Keeper:
        """What keeps the tokens that this iterator hands out.

        Raises:
            RuntimeError: the iterator has not been entered.
        """

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None: ...

    @abstractmethod
    async def claim(self, wanted: int = 1) -> list[Token]:
        """Claim up to `wanted` tokens at once.

        Returns:
            No token only if there is none to be had for certain: a fresh view said so.
        """

    @abstractmethod
    async def more(self) -> bool:
        """Wait until there may be something to claim again; False at the end."""

    def stop(self) -> None:
        """Hand out nothing from now on."""
        self._stopped = True
        self._stop_event.set()

    def resume(self) -> None:
        """Take `stop` back."""
        self._stopped = False
        self._stop_event = anyio.Event()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def __aiter__(self) -> AsyncIterator[Token]:
        return self

    async def __anext__(self) -> Token:
        while True:
            tokens = await self.claim(1)
            if tokens:
                return tokens[0]
            if not await self.more():
                raise StopAsyncIteration

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not beyond `stop`."""
        with anyio.move_on_after(seconds):
            await self._stop_event.wait()


class _OwnViewIterator(ViewIterator):
    """An iterator that claims from views itself: the first that has a token."""

    def __init__(
        self, client: Client, modifier: TokenModifier | None, views: Sequence[str], keywords: IteratorKeywords
    ) -> None:
        super().__init__()
        if not views:
            raise ConfigError("an iterator needs at least one view")
        self.client = client
        self.modifier = modifier or BasicTokenModifier()
        self.views = tuple(full_name(view) for view in views)
        options: dict[str, Any] = dict(keywords)
        self._linger = options.pop("linger", True)
        self._environment: Environment | None = options.pop("environment", None)
        self._options = KeeperOptions(**options)
        self._keeper: Keeper | None = None
        self._entered = False
        self._waiting = _Waiting()
        self._backoff = Backoff(first=0.05, most=IDLE_POLL)
        self._idle = 0
        self._seen_quiet = False
        self._reached = False

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
        self._keeper = keeper
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        keeper, self._keeper = self.keeper, None
        try:
            return await keeper.__aexit__(kind, error, traceback)
        finally:
            self._entered = False

    @override
    async def claim(self, wanted: int = 1) -> list[Token]:
        self._waiting = _Waiting()
        for view in self.views:
            tokens = await self._claim_from(view, wanted)
            if tokens:  # perhaps fewer than wanted, but the next claim must ask this view first again
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
        times = [at for at in (self._waiting.next_at, claimed.next_at) if at is not None]
        self._waiting.next_at = min(times, default=None)

    @override
    async def more(self) -> bool:
        if self._stopped:
            return False
        keeper = self.keeper
        pause = self._backoff.delay(self._idle, keeper.environment.rng)
        self._idle += 1
        if self._waiting.next_at is not None:  # somebody may push or scrub meanwhile, so not asleep for ever
            await self._sleep(min(max(self._waiting.next_at - self.client.time(), 0.01), IDLE_POLL))
            return not self._stopped
        if not self._linger:
            return False
        if not await self._others_hold_work():
            # A token may have come back between the look at the view and this one at the locks, also by our own reaper.
            # So the end needs an empty view after nobody was seen to hold anything.
            seen_before, self._seen_quiet = self._seen_quiet, not self._seen_quiet
            return not seen_before and not self._stopped
        self._seen_quiet = False
        await self._sleep(min(pause, jittered(keeper.times.sweep, keeper.environment.rng)))
        return not self._stopped

    async def _others_hold_work(self) -> bool:
        """Whether a token of another pilot may yet come back: none has been seen that keeps it alive."""
        try:
            sweep = await self.keeper.sweep()
        except PoolError:
            return True  # an answer will come, or the next claim says that none does
        return bool(sweep.reclaimed or sweep.unaccounted)


class BasicViewIterator(_OwnViewIterator):
    """Claims the tokens of a view until there are no more.

    Args:
        client: the pool, open.
        modifier: changes tokens; a BasicTokenModifier where it is left out.
        view: `Monitor/todo`, or a view of the user's that lists tokens in todo.
        keywords: `lock_timeout` (the lease in seconds), `foreign_lock_timeout`, `max_crashes`, `max_scrub`,
            `retry_delay`, `farewell`, `outbox`: see KeeperOptions; `linger=False` to end as soon as the view is empty.
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


class EndlessViewIterator(ViewIterator):
    """Hands out what another iterator claims, and waits for work instead of ending.

    Args:
        iterator: the iterator that claims.
        poll: seconds between looks at a pool that has been empty for a while.
        stop_callback: asked before each wait; an end comes when it says True. Plain or async.
        stop_arguments: what it is called with.
    """

    def __init__(
        self,
        iterator: ViewIterator,
        poll: float = IDLE_POLL,
        stop_callback: Callable[..., Any] | None = None,
        **stop_arguments: Any,
    ) -> None:
        super().__init__()
        self.iterator = iterator
        self.modifier = iterator.modifier
        self.stop_callback = stop_callback
        self.stop_arguments = stop_arguments
        self._backoff = Backoff(first=0.1, most=poll)
        self._idle = 0

    @property
    @override
    def keeper(self) -> Keeper:
        return self.iterator.keeper

    async def __aenter__(self) -> Self:
        await self.iterator.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self.iterator.__aexit__(kind, error, traceback)

    @override
    async def claim(self, wanted: int = 1) -> list[Token]:
        tokens = await self.iterator.claim(wanted)
        if tokens:
            self._idle = 0
        return tokens

    @override
    async def more(self) -> bool:
        if await self._is_over():
            self.stop()
            return False
        await self._sleep(self._backoff.delay(self._idle, self.keeper.environment.rng))
        self._idle += 1
        return not self._stopped

    async def _is_over(self) -> bool:
        if self.stopped or self.stop_callback is None:
            return self.stopped
        answer = self.stop_callback(**self.stop_arguments)
        return bool(await answer if inspect.isawaitable(answer) else answer)

    @override
    def stop(self) -> None:
        super().stop()
        self.iterator.stop()

    @override
    def resume(self) -> None:
        super().resume()
        self.iterator.resume()

    @property
    @override
    def stopped(self) -> bool:
        return self._stopped or self.iterator.stopped
