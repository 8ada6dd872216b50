"""Whether tokens have come into a view since somebody last looked.

In three steps, each far cheaper than the next: a glance at the log file's time stamp, from the loop; SQLite's counter
of changes, by the thread; the rows. An idle pilot does the first fifty times a second.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Final

import msgspec

from apicas.clients.port import Arrival
from apicas.clients.sqlite import documents
from apicas.clients.sqlite.listings import find_listing
from apicas.clients.sqlite.thread import ConnectionThread, Read

INTERVAL: Final = 0.02
"""Seconds between two glances at whether other processes wrote."""
_COARSE: Final = 100_000_000
"""Nanoseconds for which a time stamp may stay the same though somebody writes again: kernels count in milliseconds."""
_ANYWAY: Final = 50
"""Glances after which the counter is read whatever the file looks like."""
_WITHOUT_A_LOG: Final = 5
"""The same where there is no file."""


class Glance:
    """Looks at the write-ahead log from outside: cheap, and never wrong in saying that nothing was written for long.

    It opens no file. To close one would drop the locks that SQLite holds in this process.

    Args:
        path: of the log.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._before: tuple[int, int, int] | None = None
        self._unchanged = 0

    def sees_change(self, commits: int) -> bool:
        """Whether somebody may have written since the last glance.

        Args:
            commits: how many transactions this process's own connection has committed.
        """
        try:
            status = os.stat(self._path)  # noqa: PTH116 - a Path for each of fifty a second
            written, size, anyway = status.st_mtime_ns, status.st_size, _ANYWAY
        except OSError:  # a file that one process has for itself may have no log
            written, size, anyway = 0, 0, _WITHOUT_A_LOG
        before, self._before = self._before, (written, size, commits)
        self._unchanged += 1
        fresh = time.time_ns() - written < _COARSE
        if before == self._before and not fresh and self._unchanged < anyway:
            return False
        self._unchanged = 0
        return True


class Seen(msgspec.Struct):
    """What was seen so far.

    Args:
        last: the number of the last change.
    """

    last: int
    version: tuple[int, int] | None = None


def is_news(state: Seen, commits: int, connection: sqlite3.Connection) -> bool:
    """Whether anybody has written since this was last asked.

    Args:
        state: what was seen so far; updated.
        commits: how many transactions this very connection has committed; SQLite counts only those of others.
        connection: not in a transaction, which would see no news.
    """
    ((others,),) = connection.execute("PRAGMA data_version")
    before, state.version = state.version, (others, commits)
    return before != state.version


def look(connection: sqlite3.Connection, views: Sequence[str], state: Seen) -> bool:
    """Whether what was written since the last look left a token in one of the views; a missing view lists none."""
    # First the number, then the rows: what is written in between is seen twice, rather than not at all.
    since, state.last = state.last, documents.last_seq(connection)
    for view in views:
        listing = find_listing(connection, view)
        if listing is not None:
            changed = f"SELECT 1 FROM tokens INDEXED BY tokens_by_seq WHERE seq > ? AND ({listing.where}) LIMIT 1"
            if connection.execute(changed, (since,)).fetchone() is not None:
                return True
    return False


async def await_arrivals(
    thread: ConnectionThread, read: Read, path: str, views: Sequence[str]
) -> AsyncGenerator[Arrival, None]:
    """Tell when tokens have come into a view: at once where this process wrote them, else after INTERVAL.

    Args:
        thread: has the connection.
        read: has it read, where that counts as a request.
        path: of the log file.
        views: their full names.
    """
    state = Seen(await read(documents.last_seq))
    look_again = partial(look, views=views, state=state)
    glance = Glance(path)
    yield Arrival.POSSIBLE
    yield Arrival.NONE
    with thread.watch() as written:
        while True:
            written.clear()
            is_any = partial(is_news, state, thread.commits)
            # The counter is in shared memory: to read it is no request.
            if glance.sees_change(thread.commits) and await thread.read(is_any) and await read(look_again):
                yield Arrival.POSSIBLE
            # A scope of anyio's would cost as much as all the rest of a glance.
            timer = asyncio.get_running_loop().call_later(INTERVAL, written.set)
            try:
                await written.wait()
            finally:
                timer.cancel()
