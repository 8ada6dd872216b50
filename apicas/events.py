"""What goes on in a pilot, as typed objects: see docs/observability.md.

An observer is any callable that takes an event. It is called on the pilot's loop, in the order in which things happen,
and has to be quick. An exception in it is logged once and hurts nobody.

    def show(event: Event) -> None:
        if isinstance(event, Failed):
            print(event.token, event.reason)

    await apicas.run(work, pool, observers=[show])
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar, Final, TypeAlias

import msgspec

__all__ = [
    "SCHEMA",
    "Claimed",
    "Crashed",
    "Done",
    "Draining",
    "Ended",
    "Event",
    "EventsDropped",
    "Failed",
    "Lost",
    "Observer",
    "PilotEnded",
    "PilotStarted",
    "Progressed",
    "Reclaimed",
    "Released",
    "Scrubbed",
    "Started",
    "TokenEvent",
    "as_record",
]

SCHEMA: Final = 1
"""The version of the lines in an event file. New fields and new events may come without a new one."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something has happened in a pilot."""

    kind: ClassVar[str] = ""
    """What the event is called in an event file."""

    time: float
    """Unix seconds, by the clock of the pool."""
    pilot: str
    """The pilot's id, as it stands in the tokens that it holds."""


class PilotStarted(Event, frozen=True, kw_only=True):
    """A pilot begins to claim."""

    kind: ClassVar[str] = "pilot_started"

    hostname: str = ""
    workers: int = 0
    """Tokens that are usually worked at once."""


class PilotEnded(Event, frozen=True, kw_only=True):
    """A pilot has ended in order; all its tokens are written or handed back, or wait in the outbox."""

    kind: ClassVar[str] = "pilot_ended"

    reason: str = ""
    seconds: float = 0.0


class Draining(Event, frozen=True, kw_only=True):
    """A pilot ends soon: what runs gets the grace period to finish."""

    kind: ClassVar[str] = "draining"

    reason: str = ""


class EventsDropped(Event, frozen=True, kw_only=True):
    """Stands in an event file in the place of events that could not be written."""

    kind: ClassVar[str] = "events_dropped"

    count: int = 0


class TokenEvent(Event, frozen=True, kw_only=True):
    """Something has happened to a token."""

    token: str
    attempt: int = 0
    """Which attempt at the token this is; the first is 1."""


class Claimed(TokenEvent, frozen=True, kw_only=True):
    """The pilot holds the token now."""

    kind: ClassVar[str] = "claimed"


class Started(TokenEvent, frozen=True, kw_only=True):
    """The work on the token begins."""

    kind: ClassVar[str] = "started"

    worker: int = 0
    """The slot in which it runs: the lowest number, from 0 on, that was free."""


class Progressed(TokenEvent, frozen=True, kw_only=True):
    """The work has told how far it is; of what it tells more often than once a second, the last counts."""

    kind: ClassVar[str] = "progressed"

    fraction: float = 0.0
    message: str = ""


class Ended(TokenEvent, frozen=True, kw_only=True):
    """The token has left the pilot, and the pool knows it."""

    worker: int | None = None
    """The slot in which it ran; None if it never began."""
    began: float | None = None
    """Unix seconds at which the work began."""
    seconds: float = 0.0
    """How long the work took. Writing the outcome, which comes after it, is not counted."""
    reason: str = ""
    """Why it did not end well; at most 500 characters."""
    exit_code: int | None = None
    """The exit code of the command, where one failed."""


class Done(Ended, frozen=True, kw_only=True):
    """The work has succeeded."""

    kind: ClassVar[str] = "done"


class Failed(Ended, frozen=True, kw_only=True):
    """The token ended in error."""

    kind: ClassVar[str] = "failed"


class Scrubbed(Ended, frozen=True, kw_only=True):
    """The work failed, and the token is tried again."""

    kind: ClassVar[str] = "scrubbed"


class Crashed(Ended, frozen=True, kw_only=True):
    """The process of the token died, and it is tried again."""

    kind: ClassVar[str] = "crashed"


class Released(Ended, frozen=True, kw_only=True):
    """The token was handed back unfinished, uncounted."""

    kind: ClassVar[str] = "released"


class Lost(Ended, frozen=True, kw_only=True):
    """Somebody else had taken the token; nothing was written."""

    kind: ClassVar[str] = "lost"


class Reclaimed(TokenEvent, frozen=True, kw_only=True):
    """This pilot has taken the token from an owner that is gone, and put it back into the pool."""

    kind: ClassVar[str] = "reclaimed"

    owner: str = ""
    """The pilot that had it, and its host."""


Observer: TypeAlias = Callable[[Event], object]


def as_record(event: Event) -> dict[str, Any]:
    """An event as it stands in a line of an event file: without what there is nothing to say of."""
    record: dict[str, Any] = {"schema": SCHEMA, "event": event.kind}
    for name in _fields(type(event)):
        value = getattr(event, name)
        if value is not None and value != "":
            record[name] = value
    return record


@cache
def _fields(kind: type[Event]) -> tuple[str, ...]:
    names = (name for base in reversed(kind.__mro__) for name in vars(base).get("__annotations__", ()))
    return tuple(name for name in dict.fromkeys(names) if name != "kind")
