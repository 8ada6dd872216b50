"""What is about to be written, as SQLite takes it: made in the loop, before the thread has it."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count, repeat
from typing import Any, Final

import msgspec

from apicas._documents import Document, decode, encode
from apicas.clients.bulks import EncodedDocument
from apicas.clients.sqlite.attachments import Content
from apicas.clients.sqlite.listings import NO_TOKEN
from apicas.tokens import TokenState, state_by_fields, state_of

MOST_ROWS: Final = 1024
"""Rows per statement at most: six variables each, of which a statement may have 32,766."""
_TODO: Final = TokenState.TODO.value


class _Header(msgspec.Struct):
    """What the store reads of a document; msgspec skips the rest without making anything of it."""

    id: str = msgspec.field(name="_id")
    rev: str | None = msgspec.field(name="_rev", default=None)
    attachments: Any = msgspec.field(name="_attachments", default=msgspec.UNSET)
    type: Any = None
    lock: Any = None
    done: Any = None
    exit_code: Any = None


_read_header = msgspec.json.Decoder(_Header).decode


_NO_CONTENTS: Final[Mapping[str, Content | None]] = {}
_PLAIN_EXIT_CODES: Final = frozenset({int, str})


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A document to be written.

    A struct, since a frozen dataclass takes as long to make as all the rest of a draft.
    """

    id: str
    old: str | None
    """The revision that it replaces."""
    rev: str
    state: str
    spot: int
    """Where a new token goes; one that is there stays where it is."""
    body: str
    contents: Mapping[str, Content | None]
    """The attachments by name; None for a stub."""


def draft(encoded: EncodedDocument, unique: str, spot: int) -> Draft:
    """Make a draft of a document.

    Args:
        encoded: the document, and its JSON.
        unique: makes the revision one that no document ever had.
        spot: where it goes if it is new.
    """
    document, body = encoded.document, encoded.body
    if not _is_plain(document):
        return _draft_of_body(body, unique, spot)
    old = document.get("_rev")
    state: str = state_by_fields(document)._value_
    return Draft(document["_id"], old, next_rev(old, unique), state, spot, body.decode(), _NO_CONTENTS)


def _is_plain(document: Mapping[str, Any]) -> bool:
    """Whether what the store reads of a document is in it as in its JSON: no file, no number of some odd class."""
    get = document.get
    return (
        type(get("lock")) is int
        and type(get("done")) is int
        and get("type") == "token"
        and type(get("exit_code")) in _PLAIN_EXIT_CODES
        and "_attachments" not in document
    )


def _draft_of_body(body: bytes, unique: str, spot: int) -> Draft:
    header = _read_header(body)
    contents: Mapping[str, Content | None] = _NO_CONTENTS
    if header.attachments is not msgspec.UNSET:
        document: Document = decode(body)
        contents = {name: _content(entry) for name, entry in (document.pop("_attachments") or {}).items()}
        body = encode(document)
    return Draft(header.id, header.rev, next_rev(header.rev, unique), _state(header), spot, body.decode(), contents)


def next_rev(old: str | None, unique: str) -> str:
    """The revision that follows another, or the first of a new document."""
    if old is None:
        return f"1-{unique}"
    return f"{int(old[: old.index('-')]) + 1}-{unique}"


def _state(header: _Header) -> str:
    if header.type != "token":
        return NO_TOKEN
    fields = {"type": "token", "lock": header.lock, "done": header.done, "exit_code": header.exit_code}
    return state_of(fields).value


def _content(entry: Mapping[str, Any]) -> Content | None:
    if entry.get("stub") is True:
        return None
    kind = entry.get("content_type")
    return Content(kind if isinstance(kind, str) else "application/octet-stream", b64decode(entry["data"]))


# New tokens. ------------------------------------------------------------------------------------------------------


class NewRows(msgspec.Struct, frozen=True, gc=False):
    """Documents that are new and have no attachments: one statement's worth."""

    ids: Sequence[str]
    revs: Sequence[str]
    parameters: list[Any]
    """Of all rows, one after the other."""


def rows_of_drafts(drafts: Sequence[Draft]) -> NewRows:
    """Put drafts of new documents into rows."""
    return _new_rows(
        [one.id for one in drafts],
        [one.rev for one in drafts],
        [one.state for one in drafts],
        [one.spot for one in drafts],
        [one.body for one in drafts],
    )


def rows_of_tokens(tokens: Sequence[EncodedDocument], revs: Sequence[str], spots: Sequence[int]) -> list[NewRows]:
    """Put what are NewTokens into rows, each with its revision and where it goes."""
    ids = [one.id for one in tokens]
    bodies = [one.body.decode() for one in tokens]
    parts = [slice(start, start + MOST_ROWS) for start in range(0, len(tokens), MOST_ROWS)]
    return [_new_rows(ids[part], revs[part], repeat(_TODO), spots[part], bodies[part]) for part in parts]


def _new_rows(
    ids: Sequence[str], revs: Sequence[str], states: Iterable[str], spots: Sequence[int], bodies: Sequence[str]
) -> NewRows:
    return NewRows(ids, revs, list(chain.from_iterable(zip(ids, revs, states, spots, bodies, count(1), strict=False))))
