"""The feed of changes: what was written to a pool, also by other processes."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from functools import partial
from typing import Final

import anyio

from apicas.clients.port import StoredChange
from apicas.clients.sqlite import documents
from apicas.clients.sqlite.thread import ConnectionThread, Read
from apicas.exceptions import ConfigError

_PAGE: Final = 1_000
"""Changes that one operation reads, so that the thread is soon free for others."""
_POLL: Final = 0.04
"""Seconds between two looks for what other processes wrote. A look costs some 50 microseconds."""


async def follow(
    thread: ConnectionThread, read: Read, since: str | None, address: str
) -> AsyncGenerator[StoredChange, None]:
    """Follow what is written, until closed.

    Args:
        thread: has the connection.
        read: has it read.
        since: the place of a change; what comes after it is told. None for now.
        address: the pool's, for people.

    Raises:
        ConfigError: that is no place.
    """
    seen = await read(documents.last_seq) if since is None else _place(since, address)
    version: tuple[int, int] | None = None
    with thread.watch() as written:
        while True:
            written.clear()
            version, news = await read(partial(_news, thread=thread, seen=seen, version=version))
            for change in news:
                seen = int(change.seq)
                yield change
            if not news:
                with anyio.move_on_after(_POLL):
                    await written.wait()


def _news(
    connection: sqlite3.Connection, thread: ConnectionThread, seen: int, version: tuple[int, int] | None
) -> tuple[tuple[int, int] | None, list[StoredChange]]:
    """What was written after a place in the feed; with what tells whether to look again."""
    ((others,),) = connection.execute("PRAGMA data_version")
    if version == (others, thread.commits):
        return version, []
    found = documents.changes(connection, seen, _PAGE)
    return (None if len(found) == _PAGE else (others, thread.commits)), found


def _place(since: str, address: str) -> int:
    if not since.isascii() or not since.isdecimal() or len(since) > 18:
        raise ConfigError(f"{since!r} is no place in the feed of {address}")
    return int(since)
