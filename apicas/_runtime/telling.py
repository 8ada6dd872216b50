"""Tells observers what happens in a pilot. A pilot that has none makes no teller, and pays nothing.

What the keeper and the pilot know of a token comes together here: when its work began and in which slot, how long that
took, and, once the store has the outcome, how it ended.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from apicas._documents import Document
from apicas._runtime.keeping.keeper import Keeper
from apicas._runtime.keeping.leases import Lease
from apicas._runtime.keeping.outcomes import Crashed as HasCrashed
from apicas._runtime.keeping.outcomes import Raised, Returned, Verdict, describe, storable
from apicas._runtime.keeping.settlements import Ending
from apicas.events import (
    Claimed,
    Crashed,
    Done,
    Draining,
    Ended,
    Event,
    Failed,
    Lost,
    Observer,
    PilotEnded,
    PilotStarted,
    Progressed,
    Reclaimed,
    Released,
    Scrubbed,
    Started,
)
from apicas.exceptions import CommandError, Decision, Fail
from apicas.tokens import Token, annex, attempt_of

log = logging.getLogger("apicas.events")

PROGRESS_TIME: Final = 1.0
"""Seconds between two events about the progress of one token."""
MAX_REASON: Final = 500
"""Characters of a reason."""
_ENDED: Final[Mapping[Ending, type[Ended]]] = {
    Ending.DONE: Done,
    Ending.FAILED: Failed,
    Ending.SCRUBBED: Scrubbed,
    Ending.CRASHED: Crashed,
    Ending.RELEASED: Released,
    Ending.LOST: Lost,
}


@dataclass(slots=True)
class _Turn:
    """The work on one token."""

    worker: int
    began: float
    """Unix seconds."""
    since: float
    """Monotonic seconds."""
    seconds: float | None = None
    """How long it took; None while it goes on."""


class Teller:
    """Tells what happens in one pilot.

    Args:
        keeper: of the pilot.
        observers: who is told.
        workers: how many tokens are usually worked at once.
    """

    def __init__(self, keeper: Keeper, observers: Sequence[Observer], workers: int) -> None:
        self._keeper = keeper
        self._observers = list(observers)
        self._broken: set[int] = set()
        self._pilot = keeper.environment.owner.pilot
        self._workers = workers
        self._turns: dict[Lease, _Turn] = {}
        self._free: list[int] = []
        """Slots below the highest that was used, as a heap."""
        self._slots = 0
        self._told: dict[Lease, tuple[float, Document | None]] = {}
        """When the progress of a token was told last, and what is to be told after that."""
        self._loop = asyncio.get_running_loop()

    def tell(self, event: Event) -> None:
        """Tell all observers; what fails in one is said once, and hurts nobody."""
        for place, observer in enumerate(self._observers):
            try:
                observer(event)
            except Exception:
                if place not in self._broken:
                    self._broken.add(place)
                    log.exception("an observer has failed; what it fails at from now on is not said")

    def open(self) -> None:
        """Begin."""
        keeper = self._keeper
        keeper.settling, keeper.on_reclaimed, keeper.on_reached = self.settling, self.reclaimed, self.reached
        self.tell(
            PilotStarted(
                time=self._now(),
                pilot=self._pilot,
                hostname=keeper.environment.owner.hostname,
                workers=self._workers,
            )
        )

    def close(self, reason: str, seconds: float) -> None:
        """End; what the keeper still does is not told."""
        keeper = self._keeper
        keeper.settling = keeper.on_reclaimed = keeper.on_reached = None
        self.tell(PilotEnded(time=self._now(), pilot=self._pilot, reason=reason, seconds=seconds))

    def _now(self) -> float:
        return self._keeper.client.time()

    # What the pilot does. ---------------------------------------------------------------------------------------------

    def draining(self, reason: str) -> None:
        """The pilot ends soon."""
        self.tell(Draining(time=self._now(), pilot=self._pilot, reason=reason))

    def claimed(self, tokens: Sequence[Token]) -> None:
        """The pilot has claimed tokens."""
        now = self._now()
        for token in tokens:
            self.tell(Claimed(time=now, pilot=self._pilot, token=token.id, attempt=attempt_of(token.lease.stored)))

    def began(self, token: Token) -> None:
        """A worker begins with a token."""
        if self._free:
            worker = heapq.heappop(self._free)
        else:
            worker, self._slots = self._slots, self._slots + 1
        turn = self._turns[token.lease] = _Turn(worker, self._now(), self._keeper.environment.monotonic())
        attempt = attempt_of(token.lease.stored)
        self.tell(Started(time=turn.began, pilot=self._pilot, token=token.id, attempt=attempt, worker=worker))

    def ended(self, token: Token) -> None:
        """A worker is through with a token, whatever became of it."""
        turn = self._turns.get(token.lease)
        if turn is not None and turn.seconds is None:
            turn.seconds = self._keeper.environment.monotonic() - turn.since
            heapq.heappush(self._free, turn.worker)

    # What the keeper does. --------------------------------------------------------------------------------------------

    def settling(
        self, token: Token[Any], lease: Lease, verdict: Verdict, count: Callable[[Ending], None]
    ) -> Callable[[Ending], None]:
        """What is to be called instead of `count` once the outcome of a token is in the store, or it is lost."""
        attempt = attempt_of(lease.stored)
        return partial(self._settled, attempt, *why(token, verdict), lease, count)

    def _settled(
        self,
        attempt: int,
        reason: str,
        exit_code: int | None,
        lease: Lease,
        count: Callable[[Ending], None],
        ending: Ending,
    ) -> None:
        turn = self._turns.pop(lease, None)
        self._told.pop(lease, None)
        count(ending)
        event = _ENDED[ending](
            time=self._now(),
            pilot=self._pilot,
            token=lease.token_id,
            attempt=attempt,
            worker=None if turn is None else turn.worker,
            began=None if turn is None else turn.began,
            seconds=0.0 if turn is None else turn.seconds or 0.0,
            reason="" if ending is Ending.DONE else reason,
            exit_code=None if ending is Ending.DONE else exit_code,
        )
        self.tell(event)

    def reclaimed(self, owners: Sequence[tuple[Document, str]]) -> None:
        """The reaper has taken tokens from owners that are gone."""
        now = self._now()
        for document, owner in owners:
            # Its generation is one further: it is back in todo.
            attempt = attempt_of(document)
            self.tell(Reclaimed(time=now, pilot=self._pilot, token=document["_id"], attempt=attempt, owner=owner))

    def reached(self, lease: Lease, progress: Document) -> None:
        """The work on a token has told how far it is; from any thread."""
        with suppress(RuntimeError):  # the loop is closed: a thread has survived it
            self._loop.call_soon_threadsafe(self._reached, lease, progress)

    def _reached(self, lease: Lease, progress: Document) -> None:
        if lease not in self._turns or lease.handed_in:
            return
        now = self._keeper.environment.monotonic()
        before = self._told.get(lease)
        if before is not None and now - before[0] < PROGRESS_TIME:
            if before[1] is None:
                self._loop.call_later(before[0] + PROGRESS_TIME - now, self._tell_later, lease)
            self._told[lease] = before[0], progress
            return
        self._told[lease] = now, None
        self.tell(
            Progressed(
                time=self._now(),
                pilot=self._pilot,
                token=lease.token_id,
                attempt=attempt_of(lease.stored),
                fraction=progress["fraction"],
                message=progress.get("message", ""),
            )
        )

    def _tell_later(self, lease: Lease) -> None:
        _, progress = self._told.pop(lease, (0.0, None))
        if progress is not None and self._keeper.on_reached is not None:
            self._reached(lease, progress)


def why(token: Token[Any], verdict: Verdict) -> tuple[str, int | None]:
    """Why a token did not end well, and the exit code of its command; an empty text where nothing is known."""
    match verdict:
        case HasCrashed(reason):
            return reason[:MAX_REASON], None
        case Raised(error):
            text = storable(str(error)) if isinstance(error, Decision) else describe(error)
            return text[:MAX_REASON], error.exit_code if isinstance(error, (CommandError, Fail)) else None
        case Returned():
            return _said_in(token), None
    return "", None


def _said_in(token: Token[Any]) -> str:
    """The reason that the user's code left in a token that it did not let end well."""
    document = token.peek()
    errors = document.get("error")
    last = errors[-1] if isinstance(errors, list) and errors else None
    if isinstance(last, dict) and isinstance(last.get("message"), str) and annex(document):
        return str(last["message"])[:MAX_REASON]
    code = document.get("exit_code")
    return "" if code in {"", None} else f"exit code {str(code)[:100]}"
