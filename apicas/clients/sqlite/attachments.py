"""Attachments: in chunks, so that a large one goes in and out without being in memory as a whole.

An upload is staged, chunk by chunk in transactions of its own, and adopted by its token in the last one: nobody else
waits for it, and a crash leaves nothing but a staged one, which is cleared away when it is old.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Final

import msgspec

from apicas.clients.port import AttachmentInfo
from apicas.exceptions import PoolUnavailableError

CHUNK: Final = 1 << 20
"""Bytes of a chunk."""
STAGED_LIFE: Final = 3600.0
"""Seconds without a further chunk, after which an upload is taken for dead. A live one takes them as fast as it can."""

STUBS: Final = """CASE WHEN attached = 0 THEN 'null' ELSE (
    SELECT json_group_object(name, json_object('content_type', content_type, 'length', length, 'stub', json('true')))
    FROM attachments WHERE token = chosen.number) END"""
"""SQL for the stubs of the attachments of a token in the rows `chosen`, as JSON."""


class Content(msgspec.Struct, frozen=True):
    """An attachment that comes inside a document."""

    content_type: str
    data: bytes


def names(connection: sqlite3.Connection, token: int) -> set[str]:
    """The names of a token's attachments."""
    return {name for (name,) in connection.execute("SELECT name FROM attachments WHERE token = ?", (token,))}


def replace(connection: sqlite3.Connection, token: int, contents: Mapping[str, Content | None]) -> None:
    """Make these the attachments of a token: what is None stays, what is not named goes."""
    for name in names(connection, token):
        if contents.get(name, _GONE) is not None:
            remove(connection, token, name)
    for name, content in contents.items():
        if content is not None:
            add(connection, token, name, content)


_GONE: Final = Content("", b"")


def add(connection: sqlite3.Connection, token: int, name: str, content: Content) -> None:
    """Attach a small file to a token that has none of that name."""
    added = connection.execute(
        "INSERT INTO attachments (token, name, content_type, length) VALUES (?, ?, ?, ?)",
        (token, name, content.content_type, len(content.data)),
    )
    parts = enumerate(_cut(content.data))
    connection.executemany("INSERT INTO chunks VALUES (?, ?, ?)", ((added.lastrowid, part, d) for part, d in parts))


def put(connection: sqlite3.Connection, token: int, name: str, content: Content) -> None:
    """Attach a small file to a token, in the place of the one of that name."""
    remove(connection, token, name)
    add(connection, token, name, content)


def remove(connection: sqlite3.Connection, token: int, name: str) -> None:
    """Remove an attachment of a token, if there is one of that name."""
    _remove_where(connection, "token = ? AND name = ?", (token, name))


def remove_all(connection: sqlite3.Connection, tokens: str) -> None:
    """Remove the attachments of tokens, whose numbers come as a JSON array."""
    _remove_where(connection, "token IN (SELECT value FROM json_each(?))", (tokens,))


def _remove_where(connection: sqlite3.Connection, condition: str, parameters: tuple[object, ...]) -> None:
    connection.execute(
        f"DELETE FROM chunks WHERE attachment IN (SELECT number FROM attachments WHERE {condition})", parameters
    )
    connection.execute(f"DELETE FROM attachments WHERE {condition}", parameters)


# Uploads. ---------------------------------------------------------------------------------------------------------


def stage(connection: sqlite3.Connection, upload: str, name: str, content_type: str, now: float) -> None:
    """Begin an upload, under a name that no other upload has."""
    connection.execute(
        "INSERT INTO attachments (name, content_type, length, staged, touched) VALUES (?, ?, 0, ?, ?)",
        (name, content_type, upload, now),
    )


def append(connection: sqlite3.Connection, upload: str, part: int, data: bytes, now: float) -> None:
    """Add a chunk to an upload.

    Raises:
        PoolUnavailableError: the upload took too long, and was cleared away.
    """
    row = connection.execute("SELECT number FROM attachments WHERE staged = ?", (upload,)).fetchone()
    if row is None:
        raise PoolUnavailableError(f"the upload stood still for {STAGED_LIFE:.0f} s and was given up: begin it again")
    connection.execute("INSERT INTO chunks VALUES (?, ?, ?)", (row[0], part, data))
    connection.execute(
        "UPDATE attachments SET length = length + ?, touched = ? WHERE number = ?", (len(data), now, row[0])
    )


def adopt(connection: sqlite3.Connection, token: int, upload: str, name: str) -> None:
    """Make an upload an attachment of a token, in the place of the one of that name.

    Raises:
        PoolUnavailableError: the upload took too long, and was cleared away.
    """
    remove(connection, token, name)
    adopted = connection.execute(
        "UPDATE attachments SET token = ?, staged = NULL, touched = NULL WHERE staged = ?", (token, upload)
    )
    if not adopted.rowcount:
        raise PoolUnavailableError(f"the upload stood still for {STAGED_LIFE:.0f} s and was given up: begin it again")


def discard(connection: sqlite3.Connection, upload: str) -> None:
    """Drop an upload, if it is there."""
    _remove_where(connection, "staged = ?", (upload,))


def has_leftovers(connection: sqlite3.Connection, now: float) -> bool:
    """Whether a crash left uploads behind."""
    found = connection.execute(
        "SELECT 1 FROM attachments WHERE staged IS NOT NULL AND touched < ? LIMIT 1", (now - STAGED_LIFE,)
    )
    return found.fetchone() is not None


def discard_leftovers(connection: sqlite3.Connection, now: float) -> None:
    """Drop what crashes left behind."""
    _remove_where(connection, "staged IS NOT NULL AND touched < ?", (now - STAGED_LIFE,))


# Reading. ---------------------------------------------------------------------------------------------------------


def infos(connection: sqlite3.Connection, document_id: str) -> list[AttachmentInfo] | None:
    """The attachments of a document by name; None where there is no such document."""
    row = connection.execute("SELECT number FROM tokens WHERE id = ?", (document_id,)).fetchone()
    if row is None:
        return None
    found = connection.execute("SELECT name, content_type, length FROM attachments WHERE token = ? ORDER BY name", row)
    return [AttachmentInfo(*values) for values in found]


def find(connection: sqlite3.Connection, document_id: str, name: str) -> tuple[int, int] | None:
    """An attachment's number, and its length in bytes."""
    found: tuple[int, int] | None = connection.execute(
        "SELECT number, length FROM attachments WHERE token = (SELECT number FROM tokens WHERE id = ?) AND name = ?",
        (document_id, name),
    ).fetchone()
    return found


def chunk(connection: sqlite3.Connection, number: int, part: int) -> bytes | None:
    """A chunk of an attachment; None where it has none, or was removed."""
    row = connection.execute("SELECT data FROM chunks WHERE attachment = ? AND part = ?", (number, part)).fetchone()
    return None if row is None else row[0]


def _cut(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]


async def chunks(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Cut a stream anew, into chunks of one size; the last is shorter."""
    pending = bytearray()
    async for piece in pieces:
        for part in _cut(piece):
            pending += part
            if len(pending) >= CHUNK:
                yield bytes(pending[:CHUNK])
                del pending[:CHUNK]
    if pending:
        yield bytes(pending)
