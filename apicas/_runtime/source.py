"""Where a pilot's tokens come from."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from apicas._runtime.keeping.keeper import Keeper
from apicas.tokens import Token


class TokenSource(Protocol):
    """What a pilot asks of an iterator; see apicas.iterators.ViewIterator."""

    @property
    def keeper(self) -> Keeper:
        """What keeps its tokens; RuntimeError before it is entered."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        ...

    @property
    def overlaps(self) -> bool:
        """Whether `claim` may be called again before it has answered."""
        ...

    async def __aenter__(self) -> object: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None: ...

    async def claim(self, wanted: int = 1) -> list[Token]:
        """Claim up to `wanted` tokens; none only if there is none to be had for certain."""
        ...

    async def more(self) -> bool:
        """Wait until there may be something to claim again; False at the end."""
        ...

    async def wait_for_work(self, longest: float) -> bool:
        """Wait until it is time to claim again, at most so many seconds, and not beyond `stop`."""
        ...

    def stop(self) -> None:
        """Hand out nothing from now on."""
        ...

    def resume(self) -> None:
        """Take `stop` back."""
        ...
