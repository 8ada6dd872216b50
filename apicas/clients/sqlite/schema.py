"""The file: how it is made, and how one is told from any other SQLite database.

Rows that are written together lie together, in the tokens table and in its indexes: a transaction costs what it touches
in pages, and random places cost ten times as much. So a claim's window (the order of `spot`) is made of short runs of
tokens that came into the pool one after another, with the runs in random order.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

import msgspec

from apicas.clients.sqlite.failures import is_busy, primary_code
from apicas.exceptions import AccessDeniedError, ConfigError, PoolInUseError, PoolNotFoundError

APPLICATION_ID: Final = 0x61706963
"""`apic`, in the file's header: `file pool.db` shows it."""
SCHEMA_VERSION: Final = 1
RUN: Final = 64
"""How many tokens that came one after another share a spot: some pages' worth."""
SPOTS: Final = 1 << 32
"""Spots are numbers from 0 up to this."""

Synchronous = Literal["NORMAL", "FULL"]

_OLDEST_SQLITE: Final = (3, 33, 0)  # upserts need 3.24; nothing as old was tried
_CACHE: Final = 2_000  # KiB for each connection; with 32 MB a pilot was 35 MB bigger, and not faster
_LOG: Final = 4_000  # pages in the log before they are carried over: with 1,000 an upload took a quarter longer
_LARGEST_LOG: Final = 64_000_000  # bytes, to which a log that grew once is cut again

_SCHEMA: Final = """
CREATE TABLE tokens (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    rev TEXT NOT NULL,
    state TEXT NOT NULL,            -- the Monitor view that lists it, 'no view', or 'no token' by its type
    spot INTEGER NOT NULL,          -- where a claim meets it
    seq INTEGER NOT NULL,           -- of its last change
    attached INTEGER NOT NULL,      -- how many attachments it has
    body TEXT NOT NULL              -- JSON as its writer sent it; a _rev in it is the one before, the column counts
);
CREATE INDEX tokens_by_state ON tokens (state, id);
CREATE INDEX tokens_by_spot ON tokens (spot) WHERE state = 'todo';
CREATE INDEX tokens_by_seq ON tokens (seq);
CREATE TABLE tombstones (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    rev TEXT NOT NULL
);
CREATE TABLE attachments (
    number INTEGER PRIMARY KEY AUTOINCREMENT,   -- never used again, so that a reader gets no other's chunks
    token INTEGER,                              -- null while it is being uploaded
    name TEXT NOT NULL,
    content_type TEXT NOT NULL,
    length INTEGER NOT NULL,                    -- bytes
    staged TEXT UNIQUE,                         -- the upload that it belongs to
    touched REAL,                               -- unix seconds when the upload last went on
    UNIQUE (token, name)
);
CREATE TABLE chunks (
    attachment INTEGER NOT NULL,
    part INTEGER NOT NULL,                      -- from 0
    data BLOB NOT NULL,
    PRIMARY KEY (attachment, part)
);
CREATE TABLE views (
    number INTEGER PRIMARY KEY AUTOINCREMENT,   -- names its indexes
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    condition TEXT                              -- JSON; null for none
);
"""


class PoolConnection(sqlite3.Connection):
    """A connection to a pool."""

    made = False
    """Whether the pool was made when this was opened."""


class PoolFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file, and how to open it.

    Args:
        path: absolute, without symbolic links.
        synchronous: FULL also survives a power cut with every commit; NORMAL then may lose the last ones, never more.
        create: make a pool where there is none.
        alone_on: the type of the file system where one process must have the file for itself; None where it can be
            shared.
        largest: bytes of the largest value that SQLite handles; a bigger answer is read in pieces.
    """

    path: Path
    synchronous: Synchronous
    create: bool
    alone_on: str | None
    largest: int

    def connect(self) -> PoolConnection:
        """Open the file, and make it a pool if it is new or empty.

        Raises:
            ConfigError: the file is something else, or of a newer apicas; or there is no such directory.
            PoolNotFoundError: there is no pool, and none is to be made.
            PoolInUseError: another process has it, where it cannot be shared.
            sqlite3.Error: anything else that went wrong.
        """
        self._check_path()
        mode = "rwc" if self.create else "rw"
        connection = sqlite3.connect(
            f"file:{quote(str(self.path))}?mode={mode}",
            uri=True,
            isolation_level=None,
            timeout=0,
            cached_statements=512,
            factory=PoolConnection,
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_path(self) -> None:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old: apicas needs 3.33 for a pool in a file")
        directory = self.path.parent
        if not directory.is_dir():
            raise ConfigError(f"no directory {directory}: make it, or name another place for the pool")
        if self.path.is_dir():
            raise ConfigError(f"{self.path} is a directory, not a file: write sqlite:///{self.path.name}/apicas.db")
        if self.path.exists():
            if not os.access(self.path, os.R_OK | os.W_OK):
                raise AccessDeniedError(f"no permission to read and write {self.path}")
        elif not self.create:
            raise PoolNotFoundError(f"no pool at {self.path}: `apicas init` makes one")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise AccessDeniedError(f"no permission to make files in {directory}, as SQLite does beside the pool")

    def _prepare(self, connection: PoolConnection) -> None:
        # An answer is one text where it can be, and this bounds it. Longer ones are read row by row.
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, self.largest)
        is_new = self._look_alone(connection, self.alone_on) if self.alone_on else self._is_new(connection)
        # The log first: the file remembers it, and a pool is made in one transaction after that.
        connection.execute(f"PRAGMA journal_mode = {'DELETE' if self.alone_on else 'WAL'}").fetchall()
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG}").fetchall()
        connection.execute(f"PRAGMA journal_size_limit = {_LARGEST_LOG}").fetchall()
        connection.execute(f"PRAGMA synchronous = {self.synchronous}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE}")
        connection.execute("PRAGMA temp_store = MEMORY")
        if is_new:
            connection.made = self._make(connection)

    def _look_alone(self, connection: sqlite3.Connection, file_system: str) -> bool:
        """Like _is_new, and take the file's lock for good; said before the first look, no memory is ever shared."""
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        try:
            is_new = self._is_new(connection)
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
            raise PoolInUseError(
                f"another process uses {self.path}, and on {file_system} only one can: "
                "put the pool into a local directory, or on CouchDB"
            ) from error
        return is_new

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        """Whether the file is empty; else it is a pool that this apicas can use.

        Raises:
            ConfigError: it is not.
        """
        try:
            ((application,),) = connection.execute("PRAGMA application_id")
            ((version,),) = connection.execute("PRAGMA user_version")
            ((objects,),) = connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.DatabaseError as error:
            if primary_code(error) != sqlite3.SQLITE_NOTADB:
                raise
            raise ConfigError(f"{self.path} is no apicas pool, and no SQLite database at all") from error
        if application == APPLICATION_ID:
            if version > SCHEMA_VERSION:
                raise ConfigError(
                    f"{self.path} was made by a newer apicas: its schema is {version}, ours {SCHEMA_VERSION}"
                )
            return False
        if application or version or objects:
            raise ConfigError(f"{self.path} is an SQLite database, but no apicas pool")
        if not self.create:
            raise PoolNotFoundError(f"{self.path} is empty: `apicas init` makes it a pool")
        return True

    def _make(self, connection: sqlite3.Connection) -> bool:
        """Make the file a pool, and answer whether it was us who did."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            is_new = self._is_new(connection)  # still: another process may have been quicker
            if is_new:
                for statement in _SCHEMA.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return is_new
