"""Reading and writing tokens: functions over a connection, a whole batch each.

They step few statements (thread.py says why): a write puts hundreds of rows into one UPDATE or INSERT, and asks what
became of the single ones only if some were not written; a read gets its rows as one JSON text, decoded elsewhere.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, TypeAlias

import msgspec

from apicas._documents import Document, decode, encode
from apicas.clients.port import SaveResult, SaveStatus, StoredChange
from apicas.clients.sqlite import attachments
from apicas.clients.sqlite.drafts import MOST_ROWS, Draft, NewRows, next_rev, rows_of_drafts
from apicas.clients.sqlite.listings import TOKEN_STATES, Listing, Span
from apicas.clients.sqlite.schema import SPOTS

CONFLICT: Final = SaveResult(SaveStatus.CONFLICT)
# A token's revision, its body and its attachments as one JSON array; the revision needs no escapes.
_ARRAY: Final = f"""'["' || rev || '",' || body || ',' || {attachments.STUBS} || ']'"""
COLUMNS: Final = "number, rev, body, attached"
"""What a selection of documents selects."""
_ANY_ID: Final = "SELECT id FROM tokens WHERE number >= (SELECT max(number) FROM tokens) * ? ORDER BY number LIMIT 1"

_LAST_SEQ: Final = (
    "max((SELECT coalesce(max(seq), 0) FROM tokens INDEXED BY tokens_by_seq),"
    " (SELECT coalesce(max(seq), 0) FROM tombstones))"
)
# The number of the last change is asked for first. A subquery for it would read the table that is written, and SQLite
# then first puts all rows, bodies too, into a table of its own.
_INSERT: Final = (
    "INSERT INTO tokens (id, rev, state, spot, body, seq, attached)"
    " SELECT column1, column2, column3, column4, column5, ? + column6, 0 FROM (VALUES {})"
    " WHERE column1 IS NOT NULL"
    " ON CONFLICT (id) DO NOTHING"
)
_INSERTED_ROW: Final = "(?, ?, ?, ?, ?, ?)"
# An insert that meets its token, and has the old revision in the place of the spot: an UPDATE FROM first writes all the
# rows into a table of its own, which takes as long as the rest. A token that is gone is inserted, under a negative
# number. One with attachments is left alone here: those that the new version does not name have to go.
_UPDATE: Final = (
    "INSERT INTO tokens (id, spot, rev, state, body, number, seq, attached)"
    " SELECT column1, column2, column3, column4, column5, column6, 0, 0 FROM (VALUES {}) WHERE column1 IS NOT NULL"
    " ON CONFLICT (id) DO UPDATE SET rev = excluded.rev, state = excluded.state, body = excluded.body,"
    f" seq = {_LAST_SEQ} - excluded.number"
    " WHERE rev = excluded.spot AND attached = 0"
)
_TAKE_OUT: Final = "DELETE FROM tokens WHERE number < 0"
_UPDATED_ROW: Final = "(?, ?, ?, ?, ?, ?)"
_BURY: Final = "INSERT INTO tombstones (seq, id, rev) SELECT * FROM (VALUES {}) WHERE column1 IS NOT NULL"
_CHANGES: Final = (
    "SELECT * FROM (SELECT seq, id, rev, 0 FROM tokens INDEXED BY tokens_by_seq WHERE seq > ? ORDER BY seq LIMIT ?) "
    "UNION ALL SELECT * FROM (SELECT seq, id, rev, 1 FROM tombstones WHERE seq > ? ORDER BY seq LIMIT ?) "
    "ORDER BY seq LIMIT ?"
)


# Writing. ---------------------------------------------------------------------------------------------------------


def write(connection: sqlite3.Connection, drafts: Sequence[Draft]) -> list[SaveResult]:
    """Write documents, each if the pool still has the revision that it replaces; in the order given."""
    results: list[SaveResult] = [CONFLICT] * len(drafts)
    new: list[int] = []
    changed: list[int] = []
    single: list[int] = []
    for index, one in enumerate(drafts):
        kind = single if one.contents else new if one.old is None else changed
        kind.append(index)
    for chunk in _chunks(new):
        for index, result in zip(chunk, _insert(connection, rows_of_drafts([drafts[i] for i in chunk])), strict=True):
            results[index] = result
    for chunk in _chunks(changed):
        single += _update(connection, [(index, drafts[index]) for index in chunk], results)
    for index in single:
        results[index] = _write_one(connection, drafts[index])
    return results


_Placed: TypeAlias = tuple[int, Draft]
"""A draft, after its place in the batch."""


def insert(connection: sqlite3.Connection, rows: Sequence[NewRows]) -> list[SaveResult]:
    """Write new documents, each if there is none of its id; in the order given."""
    return [result for chunk in rows for result in _insert(connection, chunk)]


def _insert(connection: sqlite3.Connection, rows: NewRows) -> list[SaveResult]:
    parameters = [last_seq(connection), *rows.parameters]
    if _execute(connection, _INSERT, _INSERTED_ROW, parameters).rowcount == len(rows.ids):
        return [SaveResult(SaveStatus.WRITTEN, rev) for rev in rows.revs]
    stored = stored_revs(connection, rows.ids)
    return [
        SaveResult(SaveStatus.WRITTEN, rev) if stored.get(identifier) == rev else CONFLICT
        for identifier, rev in zip(rows.ids, rows.revs, strict=True)
    ]


def _update(connection: sqlite3.Connection, rows: Sequence[_Placed], results: list[SaveResult]) -> list[int]:
    """Update tokens, and answer with the places of those that were left out for their attachments."""
    parameters: list[Any] = []
    for number, (_, one) in enumerate(rows, 1):
        parameters += (one.id, one.old, one.rev, one.state, one.body, -number)
    updated = _execute(connection, _UPDATE, _UPDATED_ROW, parameters)
    done = updated.rowcount
    if updated.lastrowid is None or updated.lastrowid < 0:  # of the last insert, which may also be an earlier one
        done -= connection.execute(_TAKE_OUT).rowcount
    stored = _note_written(connection, rows, done, results)
    return [index for index, one in rows if stored.get(one.id) == one.old]


def _note_written(
    connection: sqlite3.Connection, rows: Sequence[_Placed], done: int, results: list[SaveResult]
) -> Mapping[str, str]:
    """Note who was written: all, or where some were not those whose revision is stored. Answers with what is stored."""
    stored: Mapping[str, str] = {}
    if done < len(rows):
        stored = stored_revs(connection, [one.id for _, one in rows])
    for index, one in rows:
        if done == len(rows) or stored.get(one.id) == one.rev:
            results[index] = SaveResult(SaveStatus.WRITTEN, one.rev)
    return stored


def _write_one(connection: sqlite3.Connection, one: Draft) -> SaveResult:
    """Write a document that has attachments, or had."""
    row = connection.execute("SELECT number, rev FROM tokens WHERE id = ?", (one.id,)).fetchone()
    number, rev = row or (None, None)
    if rev != one.old:
        return CONFLICT
    kept = attachments.names(connection, number) if number is not None else set()
    for name, content in one.contents.items():
        if content is None and name not in kept:
            return SaveResult(SaveStatus.REJECTED, reason=f"attachment {name!r} is a stub of nothing")
    values = (one.rev, one.state, last_seq(connection) + 1, len(one.contents), one.body)
    if number is None:
        added = connection.execute(
            "INSERT INTO tokens (rev, state, seq, attached, body, id, spot) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*values, one.id, one.spot),
        )
        number = added.lastrowid or 0
    else:
        connection.execute(
            "UPDATE tokens SET rev = ?, state = ?, seq = ?, attached = ?, body = ? WHERE number = ?", (*values, number)
        )
    attachments.replace(connection, number, one.contents)
    return SaveResult(SaveStatus.WRITTEN, one.rev)


Attach: TypeAlias = Callable[[sqlite3.Connection, int], None]
"""Changes the attachments of a token, given its number."""


def attach(
    connection: sqlite3.Connection,
    document_id: str,
    rev: str,
    unique: str,
    put: Attach,
) -> SaveResult:
    """Change the attachments of a document, if the pool still has its revision; it gets a new one.

    Args:
        connection: in a transaction.
        document_id: the document.
        rev: its revision.
        unique: for the new one.
        put: makes the change, given the number of the token.
    """
    row = connection.execute("SELECT number FROM tokens WHERE id = ? AND rev = ?", (document_id, rev)).fetchone()
    if row is None:
        return CONFLICT
    put(connection, row[0])
    changed = next_rev(rev, unique)
    connection.execute(
        "UPDATE tokens SET rev = ?, seq = ?, attached = (SELECT count(*) FROM attachments WHERE token = tokens.number)"
        " WHERE number = ?",
        (changed, last_seq(connection) + 1, row[0]),
    )
    return SaveResult(SaveStatus.WRITTEN, changed)


def delete(
    connection: sqlite3.Connection, wanted: Sequence[tuple[Any, Any]], uniques: Sequence[str]
) -> list[SaveResult]:
    """Delete documents, each if the pool still has its revision, and leave a tombstone for those who follow the pool.

    Args:
        connection: in a transaction.
        wanted: the ids and revisions.
        uniques: one per document, for the tombstone's revision.
    """
    stored = _stored(connection, [identifier for identifier, _ in wanted])
    seq = last_seq(connection)
    results: list[SaveResult] = []
    tombstones: list[Any] = []
    numbers = []
    for (identifier, rev), unique in zip(wanted, uniques, strict=True):
        found = stored.get(identifier) if isinstance(identifier, str) else None
        if found is None or found[1] != rev:
            results.append(CONFLICT)
            continue
        del stored[identifier]  # asked for twice, it is gone the second time
        gone = next_rev(rev, unique)
        results.append(SaveResult(SaveStatus.WRITTEN, gone))
        numbers.append(found[0])
        tombstones.append((seq + len(numbers), identifier, gone))
    for chunk in _chunks(tombstones):
        _execute(connection, _BURY, "(?, ?, ?)", [value for row in chunk for value in row])
    _remove(connection, encode(numbers).decode())
    return results


def _remove(connection: sqlite3.Connection, numbers: str) -> None:
    attachments.remove_all(connection, numbers)
    connection.execute("DELETE FROM tokens WHERE number IN (SELECT value FROM json_each(?))", (numbers,))


def _stored(connection: sqlite3.Connection, ids: Sequence[Any]) -> dict[str, tuple[int, str]]:
    """The numbers and revisions of what is stored of these ids."""
    (text,) = connection.execute(
        "SELECT json_group_array(json_array(id, number, rev)) FROM tokens WHERE id IN (SELECT value FROM json_each(?))",
        (ids_json(ids),),
    ).fetchone()
    return {identifier: (number, rev) for identifier, number, rev in decode(text)}


def revision(connection: sqlite3.Connection, document_id: str) -> str | None:
    """The revision of a document; None where it does not exist."""
    row = connection.execute("SELECT rev FROM tokens WHERE id = ?", (document_id,)).fetchone()
    return None if row is None else row[0]


def stored_revs(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, str]:
    """The revisions of what is stored of these ids."""
    return {identifier: rev for identifier, (_, rev) in _stored(connection, ids).items()}


def last_seq(connection: sqlite3.Connection) -> int:
    """The number of the last change of the pool; 0 before the first."""
    ((seq,),) = connection.execute(f"SELECT {_LAST_SEQ}")
    return int(seq)


def _chunks(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut a batch into what goes into one statement."""
    for start in range(0, len(rows), MOST_ROWS):
        yield rows[start : start + MOST_ROWS]


def _execute(connection: sqlite3.Connection, template: str, row: str, parameters: list[Any]) -> sqlite3.Cursor:
    """Run a statement over rows: one, whose number of rows is a power of two, so that few have to be compiled.

    The rows that fill it up are null, and every such statement leaves those out.
    """
    width = row.count("?")
    rows = len(parameters) // width  # what is left over is of the template, before its rows
    size = 1 << (rows - 1).bit_length()
    parameters += [None] * ((size - rows) * width)
    return connection.execute(_statement(template, row, size), parameters)


@cache
def _statement(template: str, row: str, size: int) -> str:
    return template.format(", ".join([row] * size))


# Reading. ---------------------------------------------------------------------------------------------------------


def ids_json(ids: Sequence[Any]) -> str:
    """Ids as a JSON array, less those that no document can have."""
    possible = [identifier for identifier in ids if isinstance(identifier, str) and is_text(identifier)]
    return encode(possible).decode()


def is_text(value: str) -> bool:
    """Whether a string is Unicode text that SQLite takes: without surrogates, and without NUL, which ends it there."""
    return (value.isascii() and "\x00" not in value) or not any(c == "\x00" or "\ud800" <= c <= "\udfff" for c in value)


class Selected(msgspec.Struct, frozen=True):
    """Documents as they come out of SQLite: JSON texts, each an array."""

    number: int
    texts: Sequence[str]

    def decoded(self) -> list[Document]:
        """The documents, with their revisions and the stubs of their attachments."""
        found: list[Document] = []
        for text in self.texts:
            for rev, document, stubs in decode(text):
                document["_rev"] = rev
                if stubs is not None:
                    document["_attachments"] = stubs
                found.append(document)
        return found

    def __add__(self, other: Selected) -> Selected:
        return Selected(self.number + other.number, [*self.texts, *other.texts])


def select(connection: sqlite3.Connection, selection: str, parameters: Sequence[Any]) -> Selected:
    """Read documents.

    Args:
        connection: the connection.
        selection: a SELECT of COLUMNS.
        parameters: its parameters.
    """
    together = f"SELECT count(*), '[' || group_concat({_ARRAY}) || ']' FROM ({selection}) AS chosen"
    try:
        ((number, text),) = connection.execute(together, parameters)
    except sqlite3.DataError:  # longer than one text may be
        rows = connection.execute(f"SELECT {_ARRAY} FROM ({selection}) AS chosen", parameters)
        texts = [f"[{row[0]}]" for row in rows]
        return Selected(len(texts), texts)
    return Selected(number, [text] if number else [])


def get(connection: sqlite3.Connection, ids: str) -> Selected:
    """Read documents by their ids, which come as a JSON array."""
    return select(connection, f"SELECT {COLUMNS} FROM tokens WHERE id IN (SELECT value FROM json_each(?))", [ids])


def page(connection: sqlite3.Connection, listing: Listing, within: Span, limit: int, *, descending: bool) -> Selected:
    """Read the first documents of a view, in the order of ids, or the last."""
    statement = listing.page(COLUMNS, within, descending=descending)
    return select(connection, statement, [*within.parameters(), limit])


def scan(connection: sqlite3.Connection, after: str, limit: int) -> Selected:
    """Read the first tokens behind an id, in whatever state, in the order of ids; no id is empty."""
    statement = f"SELECT {COLUMNS} FROM tokens WHERE id > ? AND +state IN ({TOKEN_STATES}) ORDER BY id LIMIT ?"
    return select(connection, statement, [after, limit])


def page_of_ids(connection: sqlite3.Connection, listing: Listing, within: Span, limit: int, *, descending: bool) -> str:
    """Like `page`, but only the ids, as a JSON array."""
    statement = listing.page("id", within, descending=descending)
    ((text,),) = connection.execute(f"SELECT json_group_array(id) FROM ({statement})", [*within.parameters(), limit])
    return str(text)


def window(connection: sqlite3.Connection, listing: Listing, place: float, limit: int) -> Selected:
    """Read documents of a view from a place on, and from its beginning where that is not enough.

    Args:
        connection: the connection.
        listing: the view.
        place: from 0 up to 1.
        limit: documents at most.
    """
    if listing.by_spot is not None:
        spot = int(place * SPOTS)
        found = select(connection, listing.window(COLUMNS, ">="), (spot, limit))
        if found.number < limit:
            found += select(connection, listing.window(COLUMNS, "<"), (spot, limit - found.number))
        return found
    # Nobody claims from these views. They begin at the id of a token that is anywhere in the pool.
    row = connection.execute(_ANY_ID, (place,)).fetchone()
    low, high = Span(low=row and row[0]), Span(high=row and row[0], before=True)
    found = page(connection, listing, low, limit, descending=False)
    if found.number < limit and row is not None:
        found += page(connection, listing, high, limit - found.number, descending=False)
    return found


def changes(connection: sqlite3.Connection, since: int, limit: int) -> list[StoredChange]:
    """What was written and deleted after a place in the feed, oldest first."""
    rows = connection.execute(_CHANGES, (since, limit, since, limit, limit))
    return [StoredChange(str(seq), identifier, rev, bool(gone)) for seq, identifier, rev, gone in rows]
