"""The event file of a pilot: JSON lines, written by a thread of its own.

The pilot only puts events into a list. A disk that is slow, full or away costs events, never the pilot: what does not
fit into the list is dropped, and so is what cannot be written; the file says how many that were once it can. A pipe
that nobody reads yet is such a disk.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from apicas.events import Event, EventsDropped, as_record
from apicas.exceptions import ConfigError

log = logging.getLogger("apicas.events")

FLUSH_TIME: Final = 0.5
"""Seconds until an event is in the file."""
PORTION: Final = 2_000
"""Events that are encoded together; so many are not waited with."""
MAX_PENDING: Final = 100_000
"""Events that wait to be written, at most."""
LAST_TIME: Final = 2.0
"""Seconds that the end of a pilot waits for its event file."""
SUFFIX: Final = ".jsonl"
_UNREAD: Final = OSError(errno.ENXIO, "nobody reads this pipe")
_ENCODER: Final = msgspec.json.Encoder()


class EventFile:
    """An observer that writes what it is told.

    Args:
        path: a file, to which is appended; or a directory, as such there or with a slash behind it, in which each pilot
            gets a file of its own.
        pilot: the pilot's id.

    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], pilot: str) -> None:
        self._pilot = pilot
        self.path = event_path(path, pilot)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _opened(self.path)
        except OSError as error:
            raise ConfigError(f"the event file {self.path} cannot be written: {error.strerror or error}") from error
        self._guard = threading.Lock()
        self._pending: list[Event] = []
        self._dropped = 0
        self._is_over = False
        self._is_torn = False
        """Whether the last line was not written to its end."""
        self._has_complained = False
        if self._file is None:
            self._complain(_UNREAD)
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="apicas-events", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        with self._guard:
            if len(self._pending) >= MAX_PENDING:
                self._dropped += 1
                return
            self._pending.append(event)
            is_much = len(self._pending) == PORTION
        if is_much:
            self._wake.set()

    def close(self) -> None:
        """Write what waits, within LAST_TIME."""
        self._is_over = True
        self._wake.set()
        self._thread.join(LAST_TIME)
        with self._guard:
            left = len(self._pending) + self._dropped
        if self._thread.is_alive() or left:
            log.warning("the event file %s lacks %d events or more", self.path, left)

    def _run(self) -> None:
        try:
            while not self._is_over:
                self._wake.wait(FLUSH_TIME)
                self._wake.clear()
                self._write_pending()
            self._write_pending()
        finally:
            if self._file is not None:
                os.close(self._file)

    def _write_pending(self) -> None:
        with self._guard:
            events, self._pending = self._pending, []
            dropped, self._dropped = self._dropped, 0
        if dropped:
            events.append(EventsDropped(time=time.time(), pilot=self._pilot, count=dropped))
        for start in range(0, len(events), PORTION):
            portion = events[start : start + PORTION]
            try:
                self._write(_lines(portion))
            except OSError as error:
                lost = sum(event.count if isinstance(event, EventsDropped) else 1 for event in portion)
                with self._guard:
                    self._dropped += lost
                self._complain(error)

    def _write(self, lines: bytes) -> None:
        if self._file is None:
            self._file = _opened(self.path)
            if self._file is None:
                raise _UNREAD
        if self._is_torn:
            lines = b"\n" + lines
        rest = memoryview(lines)
        while rest:
            written = os.write(self._file, rest)
            rest = rest[written:]
            self._is_torn = bool(rest)

    def _complain(self, error: OSError) -> None:
        if not self._has_complained:
            self._has_complained = True
            log.warning("the event file %s: %s; events are lost", self.path, error.strerror or error)


def event_path(path: str | os.PathLike[str], pilot: str) -> Path:
    """Where a pilot writes its events; a directory gets one file per pilot."""
    place = Path(path)
    text = os.fspath(path)
    return place / f"{pilot}{SUFFIX}" if text.endswith(("/", os.sep)) or place.is_dir() else place


def _opened(path: Path) -> int | None:
    """The descriptor of an event file, to append to; None for a pipe that nobody reads: opening one waits for a reader.

    Raises:
        OSError: it cannot be opened.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
    os.set_blocking(descriptor, True)
    return descriptor


def _lines(events: Sequence[Event]) -> bytes:
    records = [as_record(event) for event in events]
    try:
        return _ENCODER.encode_lines(records)
    except Exception:  # noqa: BLE001 - as a token's id that is no UTF-8
        return b"".join(json.dumps(record, default=str).encode() + b"\n" for record in records)
