"""What this process has open, file by file.

Where a file is used by one process at a time, all clients of that process share one connection. And a process that was
forked off while a pool was open must not open it again: SQLite would believe in locks that only the parent has.
"""

from __future__ import annotations

import logging
import os
import threading

import msgspec

from apicas.clients.sqlite.schema import PoolFile
from apicas.clients.sqlite.thread import ConnectionThread
from apicas.exceptions import PoolError

log = logging.getLogger("apicas.sqlite")


class _Open(msgspec.Struct):
    """A thread, and how many clients use it."""

    file: PoolFile
    thread: ConnectionThread
    users: int = 1
    inode: tuple[int, int] | None = None
    """Which file it has; None until it is known to be open."""

    def is_of(self, file: PoolFile) -> bool:
        """Whether this is the same file, by whatever name."""
        inode = _inode(file)
        return self.inode == inode if self.inode and inode else self.file.path == file.path


class OpenFiles:
    """The threads of this process, and which files they have open."""

    def __init__(self) -> None:
        # A client that is forgotten is released by the garbage collector: at any moment, also within these methods.
        self._lock = threading.RLock()
        self._open: list[_Open] = []
        self._noticed: set[str] = set()
        os.register_at_fork(after_in_child=self._renew_lock)

    def acquire(self, file: PoolFile, address: str) -> ConnectionThread:
        """A thread for a client: its own, or on a file that cannot be shared the one that there is.

        Raises:
            PoolError: the file was open when this process was forked off.
        """
        with self._lock:
            known = [entry for entry in tuple(self._open) if entry.is_of(file)]
            if any(not entry.thread.here for entry in known):
                raise PoolError(
                    f"{address} was open when this process was forked off, and cannot be used in it: "
                    "open the pool after the fork, or start processes with spawn"
                )
            for entry in known:
                if file.alone_on and entry.file.alone_on and entry.users:
                    entry.users += 1
                    return entry.thread
            thread = ConnectionThread(file.connect, address)
            self._open.append(_Open(file, thread))
            return thread

    def opened(self, thread: ConnectionThread) -> None:
        """Remember which file a thread has, now that the file exists, and say so if nobody else can have it."""
        with self._lock:
            for entry in tuple(self._open):
                if entry.thread is thread:
                    entry.inode = _inode(entry.file)
                    self._notice(entry.file)

    def release(self, thread: ConnectionThread) -> bool:
        """Give a thread back, and answer whether nobody else uses it: then it was told to stop."""
        if not thread.here:  # the parent's: what it has locked stays in this process's memory
            return False
        with self._lock:
            for entry in tuple(self._open):
                if entry.thread is thread:
                    entry.users -= 1
                    if entry.users:
                        return False
                    self._open.remove(entry)
                    break
        thread.stop()
        return True

    def _notice(self, file: PoolFile) -> None:
        if file.alone_on and str(file.path) not in self._noticed:
            self._noticed.add(str(file.path))
            log.warning("%s is on %s: only one process at a time can use this pool", file.path, file.alone_on)

    def _renew_lock(self) -> None:
        """Another thread may have held the lock when this process was forked off, and does not exist here."""
        self._lock = threading.RLock()


def _inode(file: PoolFile) -> tuple[int, int] | None:
    try:
        status = file.path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


OPEN_FILES = OpenFiles()
"""Those of this process: SQLite's locks are the process's, so there is one such list."""
