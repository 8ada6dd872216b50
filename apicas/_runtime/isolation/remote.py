"""What stands for a lease in a process that works tokens for a pilot: what is noted there is told to the pilot."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from apicas._documents import Document
from apicas._runtime.attempts.notes import Notes

PAUSE: Final = 0.5
"""Seconds between two messages: a beat carries one in many seconds."""
_MOMENT: Final = 0.01


class RemoteLease:
    """The lease of a token whose pilot is another process.

    Args:
        say: tells the pilot; from any thread.
        loop: the loop that works the token.
        path: where commands tell their progress.
    """

    def __init__(self, say: Callable[[Document], None], loop: asyncio.AbstractEventLoop, path: str | None) -> None:
        self._say = say
        self._loop = loop
        self._path = path
        self._notes = Notes()
        self._guard = threading.Lock()
        self._latest: Document | None = None
        """What the pilot does not know yet."""
        self._next = 0.0
        """Monotonic seconds before which nothing more is said."""
        self._waits = False
        self._over = False

    attaches: Final = True
    """Whether the output of its commands goes into the token."""

    def note(self) -> Notes:
        """What is known of the attempt here: this process measures itself, so nobody asks."""
        return self._notes

    def progress_path(self) -> str | None:
        """Where its commands can tell how far they are."""
        return self._path

    def reached(self, progress: Document) -> None:
        """Tell the pilot how far the work is: at once, or with what comes later in the same half second.

        Work that blocks the loop tells it from its own thread; what is left to be told then waits for the loop.
        """
        with self._guard:
            self._latest = progress
        if self._tell():
            return
        with self._guard:
            if self._waits:
                return
            self._waits = True
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._tell_later)

    @staticmethod
    def record(line: str) -> None:
        """Put a line into the log of the attempt: what is printed here goes there."""
        sys.stderr.write(line)

    def end(self) -> None:
        """Say no more: the work has come to its end."""
        with self._guard:
            self._over = True

    def _tell_later(self) -> None:
        if not self._tell():
            self._loop.call_later(max(self._next - time.monotonic(), _MOMENT), self._tell_later)

    def _tell(self) -> bool:
        """Tell what is new, if it is time; whether nothing is left to be told."""
        with self._guard:
            if self._over or self._latest is None:
                return True
            now = time.monotonic()
            if now < self._next:
                return False
            told, self._latest, self._waits, self._next = self._latest, None, False, now + PAUSE
            self._say({"reached": told})
        return True
