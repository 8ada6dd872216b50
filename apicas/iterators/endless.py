"""An iterator that waits for work instead of ending."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from typing_extensions import override

from apicas._runtime.keeping.keeper import Keeper
from apicas.iterators.iterator import IDLE_POLL, ViewIterator
from apicas.policies.retries import Backoff
from apicas.tokens import Token


class EndlessViewIterator(ViewIterator):
    """Hands out what another iterator claims, and waits for work instead of ending.

    Args:
        iterator: the iterator that claims.
        poll: most seconds between looks at a pool that has been empty for a while. Left out, they are rare where the
            store tells of arrivals, and else ten seconds apart.
        stop_callback: asked before each wait; an end comes when it says True. Plain or async.
        stop_arguments: what it is called with.
    """

    def __init__(
        self,
        iterator: ViewIterator,
        poll: float | None = None,
        stop_callback: Callable[..., Any] | None = None,
        **stop_arguments: Any,
    ) -> None:
        super().__init__()
        self.iterator = iterator
        self.modifier = iterator.modifier
        self.overlaps = iterator.overlaps
        self.stop_callback = stop_callback
        self.stop_arguments = stop_arguments
        self._backoff = None if poll is None else Backoff(first=0.1, most=poll)
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
        while not await self._is_over():
            if await self._wait():
                return not self.stopped
        self.stop()
        return False

    async def _wait(self) -> bool:
        """Wait until it is time to claim, or to ask the callback once more; answers whether it is time to claim."""
        if self._backoff is None:
            return await self.iterator.wait_for_work(math.inf if self.stop_callback is None else IDLE_POLL)
        await self.iterator.wait_for_work(self._backoff.delay(self._idle, self.keeper.environment.rng))
        self._idle += 1
        return True

    @override
    async def wait_for_work(self, longest: float) -> bool:
        return await self.iterator.wait_for_work(longest)

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
