"""What SQLite's errors mean: one place, and the driver's error stays the cause."""

from __future__ import annotations

import sqlite3

from apicas.exceptions import AccessDeniedError, PoolError, PoolUnavailableError


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without its extension; 0 for an error of the driver itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection was in the way, so that the same may work in a moment."""
    return primary_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def translate(error: sqlite3.Error, address: str) -> PoolError:
    """The error that a user sees, by what can be done about it.

    Args:
        error: as the driver raised it; it becomes the cause.
        address: the pool's.
    """
    code = getattr(error, "sqlite_errorcode", 0)
    # The memory that processes share is a file beside the pool: only a full disk keeps it from growing.
    code = sqlite3.SQLITE_FULL if code == sqlite3.SQLITE_IOERR_SHMSIZE else primary_code(error)
    kind, text = _MEANINGS.get(code, (PoolError, "the SQLite database could not do what was asked"))
    found = kind(f"{address}: {text} ({error})")
    found.__cause__ = error
    return found


_DAMAGED = (PoolError, "the file is damaged: `sqlite3 FILE .recover` may save its tokens")
_DENIED = (AccessDeniedError, "no permission to write the file, or to make files beside it")
_MEANINGS: dict[int, tuple[type[PoolError], str]] = {
    sqlite3.SQLITE_BUSY: (PoolUnavailableError, "other processes kept the file busy"),
    sqlite3.SQLITE_LOCKED: (PoolUnavailableError, "other processes kept the file busy"),
    sqlite3.SQLITE_PROTOCOL: (PoolUnavailableError, "the file's locks do not work as they should"),
    sqlite3.SQLITE_FULL: (PoolUnavailableError, "no space is left for the file"),
    sqlite3.SQLITE_IOERR: (PoolUnavailableError, "the disk failed to read or write the file"),
    sqlite3.SQLITE_NOMEM: (PoolUnavailableError, "out of memory"),
    sqlite3.SQLITE_CANTOPEN: (PoolUnavailableError, "the file, or one beside it, cannot be opened"),
    sqlite3.SQLITE_READONLY: _DENIED,
    sqlite3.SQLITE_PERM: _DENIED,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}
