"""What all iterators are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import anyio
from typing_extensions import TypedDict

from apicas._runtime.environment import Environment
from apicas._runtime.keeping.keeper import Keeper, OnLostContact
from apicas._runtime.outbox.disk import OutboxSetting
from apicas.modifiers import TokenModifier
from apicas.tokens import Token

IDLE_POLL = 10.0
"""Seconds between looks at a pool that has been empty for a while, where the store does not tell of arrivals; PiCaS's
default."""


class IteratorKeywords(TypedDict, total=False):
    """How an iterator claims and keeps its tokens: the fields of KeeperOptions, `in_order` and `linger`."""

    lock_timeout: float | None
    foreign_lock_timeout: float | None
    max_crashes: int
    max_scrub: int
    retry_delay: float
    on_lost_contact: OnLostContact
    farewell: float
    outbox: OutboxSetting
    in_order: bool
    linger: bool
    environment: Environment | None


class ViewIterator(ABC):
    """What all iterators are: a context manager, an async iterator, and `claim(n)`."""

    def __init__(self) -> None:
        self._stopped = False
        self._stop_event = anyio.Event()

    modifier: TokenModifier
    """Changes the tokens that this iterator hands out."""
    overlaps: bool = False
    """Whether `claim` may be called again before it has answered: then a fast pilot hides the way to the store."""

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

    async def wait_for_work(self, longest: float) -> bool:
        """Wait until it is time to claim again, at most so many seconds, and not beyond `stop`.

        Returns:
            Whether it is time; False where only `longest` is over.
        """
        await self._sleep(min(longest, IDLE_POLL))
        return True

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not beyond `stop`."""
        with anyio.move_on_after(seconds):
            await self._stop_event.wait()
