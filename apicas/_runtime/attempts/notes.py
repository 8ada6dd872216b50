"""Notes: what a pilot knows of an attempt beside its token: what it took, and how far it is.

They are made when there is something to note, so that a token of which nothing is known costs nothing. The heartbeat
and the threads of the work look at the same notes: each value is replaced whole, and never changed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from apicas._documents import Document

if TYPE_CHECKING:
    from apicas._runtime.attempts.logs import AttemptLog

_DIGITS: Final = 3
"""A millisecond is as exact as anybody wants to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the processes of an attempt took.

    Args:
        cpu_seconds: user and system time of all cores together; None where it is not known.
        peak_memory: bytes at the most, as far as is known; None where nothing is.
        seconds: how long they ran, one after the other; None where it is not known.
    """

    cpu_seconds: float | None = None
    peak_memory: int | None = None
    seconds: float | None = None

    def plus(self, other: Usage) -> Usage:
        """What both took. Memory is taken one after the other, as far as anybody knows."""
        return Usage(
            cpu_seconds=_sum(self.cpu_seconds, other.cpu_seconds),
            peak_memory=max(self.peak_memory or 0, other.peak_memory or 0) or None,
            seconds=_sum(self.seconds, other.seconds),
        )

    def entry(self) -> Document | None:
        """What the token tells of it; None where nothing is known."""
        entry: Document = {}
        for name in ("cpu_seconds", "seconds"):
            value = getattr(self, name)
            if value is not None:
                entry[name] = round(value, _DIGITS)
        if self.peak_memory is not None:
            entry["peak_memory"] = self.peak_memory
        return entry or None


def _sum(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other


class Notes:
    """What is known of one attempt."""

    __slots__ = ("_guard", "directory", "file", "has_complained", "log", "progress", "usage", "workdir")

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self.usage: Usage | None = None
        """What its commands took so far."""
        self.progress: Document | None = None
        """The fraction and the message that it told last."""
        self.file: str | None = None
        """The name of the file in which its commands tell that; None while there was no need for one."""
        self.log: AttemptLog | None = None
        """What its processes print; None where nobody reads it."""
        self.directory: str | None = None
        """Where its output is kept for good; None where it goes into the token."""
        self.workdir: str | None = None
        """Where its work directory is kept; None where it is not."""
        self.has_complained = False
        """Whether it was said that what they tell makes no sense."""

    def took(self, usage: Usage) -> None:
        """Add what one more process took."""
        with self._guard:
            self.usage = usage if self.usage is None else self.usage.plus(usage)

    def entries(self, before: Mapping[str, Any], now: float) -> Document:
        """What a beat writes of it: `progress`, with the time of the first beat that carries it, and `log`.

        Args:
            before: the sub-object that the token has.
            now: unix seconds.
        """
        entries: Document = {} if self.log is None else {"log": self.log.entry()}
        told, known = self.progress, before.get("progress")
        if told is None:
            return entries
        if isinstance(known, dict) and all(known.get(name) == told.get(name) for name in ("fraction", "message")):
            return {**entries, "progress": known}
        return {**entries, "progress": {**told, "time": int(now)}}
