"""What this pilot holds: one lease per claimed token, as the store knows it.

The heartbeat works on the same leases from a thread of its own, so the table is guarded by a lock, held for moments
only. Writes to one token are serialised: a lease is being beaten, or being settled, never both.

A stored document is never changed in place: the heartbeat and a merge both start from it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from apicas._documents import Document
from apicas._runtime.attempts.logs import AttemptLog
from apicas._runtime.attempts.notes import Notes
from apicas._runtime.attempts.scribe import Scribe
from apicas.policies.leases import contact_is_lost


class Phase(Enum):
    """Where a lease is in its life."""

    HELD = "held"
    SETTLING = "settling"
    """Its outcome is on the way to the store, or waits to be."""
    ENDED = "ended"
    LOST = "lost"
    """Somebody else has the token: nothing is written to it any more."""


@dataclass(slots=True, eq=False)
class Lease:
    """One claimed token."""

    token_id: str
    claim_id: str
    stored: Document
    """The document as this pilot last wrote it, or as somebody edited it since, with its revision."""
    base: Document
    """The document that the user's copy was made from."""
    refreshed: float
    """Monotonic seconds: when the write that the store's lock is of was sent."""
    began: float
    """Monotonic seconds: when the work on it began; until that is known, when it was claimed."""
    phase: Phase = Phase.HELD
    beating: bool = False
    beats: bool = True
    """Whether the heartbeat refreshes it; not past its time limit."""
    handed_in: bool = False
    """Whether its outcome has been handed in; the first one counts."""
    on_lost: Callable[[], None] | None = None
    """Called once, in the loop that claimed it, when the lease is lost while the token is being worked."""
    home: Leases | None = field(default=None, repr=False)
    notes: Notes | None = None
    """What is known of the attempt; None while nothing is."""
    _idle: Callable[[], object] | None = field(default=None, repr=False)

    def note(self) -> Notes:
        """What is known of the attempt, to add to it; from any thread."""
        if self.notes is None:
            with _noting:
                self.notes = self.notes or Notes()
        return self.notes

    @property
    def attaches(self) -> bool:
        """Whether the output of its processes goes into the token, and not into files."""
        return self.home is None or self.home.scribe is None or not self.home.scribe.keeps_logs

    def reached(self, progress: Document) -> None:
        """Note how far the work is, for the next beat."""
        self.note().progress = progress
        if self.home is not None and self.home.on_reached is not None:
            self.home.on_reached(self, progress)

    def record(self, line: str) -> None:
        """Put a line into the log of the attempt, from any thread."""
        notes = self.note()
        if notes.log is None:
            with _noting:
                notes.log = notes.log or AttemptLog(is_own=True)
            self.progress_path()  # so that it can be followed
        notes.log.stderr.add(line.encode("utf-8", "backslashreplace"))

    def progress_path(self) -> str | None:
        """Where its commands can tell how far they are; None where they cannot."""
        scribe = None if self.home is None else self.home.scribe
        return None if scribe is None else scribe.progress_path(self)


_noting: Final = threading.Lock()
"""Two threads of one piece of work make the same notes."""


class Leases:
    """The leases of one pilot."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._leases: dict[str, Lease] = {}
        self.scribe: Scribe | None = None
        """Looks after the files of attempts; None where there are none."""
        self.on_reached: Callable[[Lease, Document], None] | None = None
        """Called, from any thread, when work tells how far it is; None where nobody wants to know."""
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, token_id: object) -> bool:
        return token_id in self._leases

    def __iter__(self) -> Iterator[Lease]:
        with self._guard:
            return iter(list(self._leases.values()))

    def attach(self) -> None:
        """Belong to the running loop: where `on_lost` is called."""
        self._loop = asyncio.get_running_loop()

    def add(self, leases: Iterable[Lease]) -> None:
        """Remember new leases."""
        with self._guard:
            for lease in leases:
                lease.home = self
                self._leases[lease.token_id] = lease

    def watch(self, lease: Lease, callback: Callable[[], None]) -> bool:
        """Have a function called in this loop when the lease is lost; False where it is not held any more."""
        with self._guard:
            if lease.phase is not Phase.HELD:
                return False
            lease.on_lost = callback
            return True

    def take_due(self, now: float, age: float) -> list[Lease]:
        """Begin to beat every lease whose lock was written `age` seconds ago, or longer. End each with `beaten`."""
        with self._guard:
            due = [
                lease
                for lease in self._leases.values()
                if lease.phase is Phase.HELD and lease.beats and not lease.beating and now - lease.refreshed >= age
            ]
            for lease in due:
                lease.beating = True
            return due

    def beaten(self, lease: Lease, *, stored: Document | None = None, refreshed: float | None = None) -> None:
        """End the beat of a lease.

        Args:
            lease: begun with `take_due`.
            stored: the document as it is in the store now; None where nothing is known to have changed.
            refreshed: monotonic seconds at which the successful write was sent; None where there was none.
        """
        with self._guard:
            lease.beating = False
            if stored is not None:
                lease.stored = stored
            if refreshed is not None:
                lease.refreshed = refreshed
            idle, lease._idle = lease._idle, None  # noqa: SLF001 - the lease is this table's own
        if idle is not None:
            idle()

    def settle_at_once(self, leases: Iterable[Lease]) -> None:
        """Keep the heartbeat off those of some leases that are held and not being beaten."""
        with self._guard:
            for lease in leases:
                if lease.phase is Phase.HELD and not lease.beating:
                    lease.phase = Phase.SETTLING

    async def begin_settling(self, lease: Lease) -> bool:
        """Keep the heartbeat off a lease from now on, once its present beat is through; False where it is lost."""
        beat_ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        with self._guard:
            if lease.phase not in {Phase.HELD, Phase.SETTLING}:
                return False
            lease.phase = Phase.SETTLING
            if not lease.beating:  # it may still be, where the wait for its end was cancelled
                return True
            lease._idle = lambda: loop.call_soon_threadsafe(beat_ended.set)  # noqa: SLF001 - as above
        await beat_ended.wait()
        return lease.phase is Phase.SETTLING

    def end(self, leases: Iterable[Lease]) -> None:
        """Forget leases whose outcome is written."""
        with self._guard:
            for lease in leases:
                lease.phase = Phase.ENDED
                self._drop(lease)

    def out_of_contact(self, now: float, lease_time: float) -> list[Lease]:
        """What is being worked though none of its beats has arrived for a whole lease."""
        with self._guard:
            return [
                lease
                for lease in self._leases.values()
                if lease.phase is Phase.HELD
                and not lease.handed_in
                and lease.beats
                and contact_is_lost(lease.refreshed, now, lease_time)
            ]

    def lose(self, lease: Lease) -> None:
        """Forget a lease that somebody else took, and tell whoever works on the token."""
        with self._guard:
            if lease.phase in {Phase.ENDED, Phase.LOST}:
                return
            lease.phase = Phase.LOST
            callback, loop = lease.on_lost, self._loop
            self._drop(lease)
        if callback is not None and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(callback)

    def _drop(self, lease: Lease) -> None:
        lease.home = None
        lease.on_lost = None  # it knows the token, which knows the lease: both would wait for the garbage collector
        if self._leases.get(lease.token_id) is lease:
            del self._leases[lease.token_id]
