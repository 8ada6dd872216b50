"""The scribe: a thread that looks after the files of running attempts, once a second.

It starts with the first command or worker process, and has the file system to itself: should that hang, no loop and no
heartbeat does. What a command tells of its progress becomes a note of its attempt, which the next beat writes. What
runs longer than a second and prints has its output in files, to be followed; shorter attempts never have one.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, cast

from apicas._documents import Document, shown
from apicas._runtime.attempts.logs import log_directory
from apicas._runtime.attempts.notes import Notes
from apicas._runtime.attempts.places import LOGS, make_place, sweep_places
from apicas._runtime.attempts.progress import read_file, read_line
from apicas._runtime.attempts.spool import Spool
from apicas.modifiers import Owner
from apicas.tokens import attempt_of

log = logging.getLogger("apicas")

LOOK: Final = 1.0
"""Seconds between two looks."""
TOUCH: Final = 3_600.0
"""Seconds after which the directory is touched, so that it looks alive."""
SPOOL_AFTER: Final = 1.0
"""Seconds after which the output of an attempt gets files: most commands have ended by then."""
FAREWELL: Final = 10.0
"""Seconds that the end of a pilot waits for the files of its last attempts."""
_PROGRESS: Final = "progress"


class Attempt(Protocol):
    """What the scribe asks of a lease."""

    @property
    def token_id(self) -> str:
        """The token's `_id`."""
        ...

    @property
    def base(self) -> Document:
        """The token as it was claimed."""
        ...

    @property
    def notes(self) -> Notes | None:
        """What is known of the attempt; None while nothing is."""
        ...

    def note(self) -> Notes:
        """The same, to add to it."""
        ...

    def reached(self, progress: Document) -> None:
        """Note how far the work is."""
        ...


class Scribe:
    """Looks after the files of one pilot's attempts.

    Args:
        owner: the pilot, after which its directory is named.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._numbers = itertools.count()
        self._running: dict[str, Attempt] = {}
        """Whose progress a file of that name tells."""
        self._seen: dict[str, tuple[int, int]] = {}
        self._spools: dict[str, Spool] = {}
        self._over: deque[Spool] = deque()
        """Those of attempts that have ended, of which the output is to be kept."""
        self._broken: set[str] = set()
        self._has_complained = False
        self.logs: Path | None = None
        """Where the output of all attempts is kept; None where it goes into the tokens."""
        self._place: Path | None = None
        self._directory = ""
        self._has_failed = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def keeps_logs(self) -> bool:
        """Whether the output of attempts goes into files for good."""
        return self.logs is not None and not self._has_failed

    def progress_path(self, attempt: Attempt) -> str | None:
        """Where the commands of an attempt tell their progress; None where there is no room for a file."""
        notes = attempt.note()
        if notes.file is None:
            if self._place is None and not self._open():
                return None
            notes.file = str(next(self._numbers))
            self._running[notes.file] = attempt
        return f"{self._directory}/{notes.file}"

    def forget(self, attempt: Attempt) -> None:
        """Look no more after an attempt: it has come to its end."""
        notes = attempt.notes
        if notes is None or notes.file is None:
            return
        self._running.pop(notes.file, None)
        if self.keeps_logs and notes.log is not None and any(stream.size for _, stream in notes.log.captures()):
            directory = self._directory_of(attempt)
            notes.directory = str(directory)
            self._over.append(Spool(directory, notes.log))

    def close(self) -> None:
        """End the thread, and remove the directory. Blocks for a moment, or until the output of attempts is written."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(LOOK if self.logs is None else FAREWELL)
        if self._place is not None:
            shutil.rmtree(self._place, ignore_errors=True)

    def _open(self) -> bool:
        if self._has_failed or self._closing.is_set():
            return False
        try:
            self._place = make_place(self._owner)
            (self._place / _PROGRESS).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            log.warning("commands cannot tell their progress: %s", error)
            self._has_failed = True
            return False
        self._directory = str(self._place / _PROGRESS)
        self._thread = threading.Thread(target=self._run, name="apicas-scribe", daemon=True)
        self._thread.start()
        return True

    def _run(self) -> None:
        sweep_places()
        looks = 0
        while not self._closing.wait(LOOK):
            self.look()
            looks += 1
            if looks * LOOK > TOUCH and self._place is not None:
                looks = 0
                with suppress(OSError):
                    os.utime(self._place)
        self.look()

    def look(self) -> None:
        """Look once: take in what was told, and remove what is nobody's any more."""
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    self._look_at(entry)
        except OSError as error:  # a cleaner of temporary files has been here
            log.debug("%s: %s", self._directory, error)
        self._spool()

    def _spool(self) -> None:
        """Write what running attempts have printed, and leave of those that have ended what is to stay."""
        now = time.monotonic()
        for name, attempt in list(self._running.items()):
            output = None if attempt.notes is None else attempt.notes.log
            if output is None or now - output.began < SPOOL_AFTER or name in self._broken:
                continue
            if name not in self._spools:
                self._spools[name] = Spool(self._directory_of(attempt), output)
            self._write(name, self._spools[name])
        while self._over:
            try:
                self._over.popleft().finish()
            except OSError as error:
                self._complain(error)
        for name in [name for name in self._spools if name not in self._running]:
            spool = self._spools.pop(name)
            self._broken.discard(name)
            if self.logs is None:
                spool.remove()

    def _write(self, name: str, spool: Spool) -> None:
        try:
            spool.write()
        except OSError as error:
            self._broken.add(name)
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        if not self._has_complained:
            self._has_complained = True
            log.warning("the output of tokens cannot be written: %s; the work goes on", error)

    def _directory_of(self, attempt: Attempt) -> Path:
        """Named by the token also where it is for a time only: who looks for it knows no more of it before a beat."""
        root = cast("Path", self._place) / LOGS if self.logs is None else self.logs
        return log_directory(root, attempt.token_id, attempt_of(attempt.base))

    def _look_at(self, entry: os.DirEntry[str]) -> None:
        attempt = self._running.get(entry.name)
        if attempt is None:
            self._seen.pop(entry.name, None)
            with suppress(OSError):
                os.unlink(entry.path)  # noqa: PTH108 - as scandir has it
            return
        line: str | None = None
        try:
            found = entry.stat(follow_symlinks=False)
            if self._seen.get(entry.name) == (found.st_mtime_ns, found.st_size):
                return
            self._seen[entry.name] = found.st_mtime_ns, found.st_size
            line = read_file(entry.path)
            if line is not None:
                attempt.reached(read_line(line))
        except (OSError, ValueError) as error:
            notes = attempt.note()
            if not notes.has_complained:
                notes.has_complained = True
                said = f" {shown(line)}" if line is not None else ""
                log.warning("token %s: what it told of its progress%s is left out: %s", attempt.token_id, said, error)
