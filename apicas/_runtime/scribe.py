"""The scribe: a thread that looks after the files of running attempts, once a second.

It starts with the first command or worker process, and has the file system to itself: should that hang, no loop and no
heartbeat does. What a command tells of its progress becomes a note of its attempt, which the next beat writes.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from apicas._documents import shown
from apicas._runtime.leases import Lease
from apicas._runtime.places import make_place, sweep_places
from apicas._runtime.progress import read_file, read_line
from apicas.modifiers import Owner

log = logging.getLogger("apicas")

LOOK: Final = 1.0
"""Seconds between two looks."""
TOUCH: Final = 3_600.0
"""Seconds after which the directory is touched, so that it looks alive."""
_PROGRESS: Final = "progress"


class Scribe:
    """Looks after the files of one pilot's attempts.

    Args:
        owner: the pilot, after which its directory is named.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._numbers = itertools.count()
        self._leases: dict[str, Lease] = {}
        """Whose progress a file of that name tells."""
        self._seen: dict[str, tuple[int, int]] = {}
        self._place: Path | None = None
        self._directory = ""
        self._has_failed = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def progress_path(self, lease: Lease) -> str | None:
        """Where the commands of an attempt tell their progress; None where there is no room for a file."""
        notes = lease.note()
        if notes.file is None:
            if self._place is None and not self._open():
                return None
            notes.file = str(next(self._numbers))
            self._leases[notes.file] = lease
        return f"{self._directory}/{notes.file}"

    def forget(self, lease: Lease) -> None:
        """Look no more after an attempt: it has come to its end."""
        if lease.notes is not None and lease.notes.file is not None:
            self._leases.pop(lease.notes.file, None)

    def close(self) -> None:
        """End the thread, and remove the directory. Blocks for a moment at the most."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(LOOK)
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

    def look(self) -> None:
        """Look once: take in what was told, and remove what is nobody's any more."""
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    self._look_at(entry)
        except OSError as error:  # a cleaner of temporary files has been here
            log.debug("%s: %s", self._directory, error)

    def _look_at(self, entry: os.DirEntry[str]) -> None:
        lease = self._leases.get(entry.name)
        if lease is None:
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
                lease.reached(read_line(line))
        except (OSError, ValueError) as error:
            notes = lease.note()
            if not notes.has_complained:
                notes.has_complained = True
                said = f" {shown(line)}" if line is not None else ""
                log.warning("token %s: what it told of its progress%s is left out: %s", lease.token_id, said, error)
