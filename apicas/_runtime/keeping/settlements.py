"""Settlements: outcomes on their way into the store, and how a token leaves its pilot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Final

import msgspec

from apicas._documents import Document
from apicas._runtime.keeping.leases import Lease
from apicas.clients.port import SaveStatus


class Ending(Enum):
    """How a token left this pilot."""

    DONE = "done"
    FAILED = "failed"
    """Ended in error."""
    SCRUBBED = "scrubbed"
    """Failed, and sent back to todo."""
    CRASHED = "crashed"
    """Its process died; sent back to todo, and charged."""
    RELEASED = "released"
    """Handed back unfinished, uncharged."""
    LOST = "lost"
    """Somebody else had taken it: nothing was written."""


FINISHED: Final = frozenset({Ending.DONE, Ending.FAILED, Ending.SCRUBBED})
"""Endings of which the result is never lost; of the others the token tells all there is."""


class Outcome(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What is to be written for a token."""

    document: Document
    ending: Ending


class Settlement(msgspec.Struct, eq=False):
    """An outcome on its way into the store."""

    lease: Lease
    outcome: Outcome
    settled: Callable[[Ending], None] | None = None
    """Called when it is written, or known to be lost."""
    ran: float = 0.0
    """Seconds of work."""
    ending: Ending | None = None
    """What became of it; None while nobody knows, and for ever where nobody will write it any more."""
    _over: asyncio.Event | None = None
    fallen_back: bool = False
    kept: bool = False
    """Whether the outbox has it."""
    touched: bool = False
    """Whether the outbox may have it, or a part of it."""
    over: Document | None = None
    """What it is to be written over, where that is not the document of the lease: the lease is lost."""
    doubtful: bool = False
    """Whether a replicated store may have it in a minority of the replicas only."""
    unconfirmed: Document | None = None
    """The outcome as it was found there: written once more, so that a plain answer says that a majority has it."""
    answer: SaveStatus | None = None
    """What became of the last attempt to write it."""
    in_doubt: bool = False
    """Whether the answer to an attempt got lost: it may have been written, whatever is there now."""

    @property
    def is_finished(self) -> bool:
        """Whether it is the result of work that came to its end."""
        return self.outcome.ending in FINISHED

    async def wait(self) -> None:
        """Wait until it is written, or known to be lost, or nobody will write it any more."""
        if self.ending is None:
            self._over = self._over or asyncio.Event()  # hardly anybody waits, and each token has a settlement
            await self._over.wait()

    def finish(self, ending: Ending) -> None:
        """Tell whoever waits."""
        self.ending = ending
        if self.settled is not None:
            self.settled(ending)
        if self._over is not None:
            self._over.set()

    def abandon(self) -> None:
        """Let nobody wait any longer, now or later."""
        self._over = self._over or asyncio.Event()
        self._over.set()
