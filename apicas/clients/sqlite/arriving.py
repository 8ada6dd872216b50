"""Whether tokens have come into a view since somebody last looked: operations over a connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from apicas.clients.sqlite import documents
from apicas.clients.sqlite.listings import find_listing

INTERVAL: Final = 0.02
"""Seconds between two looks at whether other processes wrote. A look costs some 50 microseconds."""


@dataclass(slots=True)
class Seen:
    """What was seen so far.

    Args:
        last: the number of the last change.
    """

    last: int
    version: tuple[int, int] | None = None


def is_news(connection: sqlite3.Connection, state: Seen, commits: int) -> bool:
    """Whether anybody has written since this was last asked.

    Args:
        connection: not in a transaction, which would see no news.
        state: what was seen so far; updated.
        commits: how many transactions this very connection has committed; SQLite counts only those of others.
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
