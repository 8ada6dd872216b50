"""What no store takes, checked: one set of rules for all of them."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from apicas._documents.coding import MAX_DEPTH, encode, encode_lines, refuse
from apicas._documents.messages import shown
from apicas.exceptions import InvalidTokenError

# CouchDB 3 refuses a larger document by default (`max_document_size`), attachments not counted.
MAX_DOCUMENT_BYTES = 8_000_000
# CouchDB reads no number beyond a double's range, and fails with 500 on one that is much longer.
MAX_INTEGER_DIGITS = 300
_OWN_FIELDS = frozenset({"_id", "_rev", "_attachments"})
_PLAIN_FIELDS = frozenset(
    "_id _rev type lock done hostname scrub_count exit_code error input output uploads apicas".split()  # noqa: SIM905
)
_PLAIN_ID = re.compile(r"[A-Za-z0-9][\x20-\x7e]{0,255}\Z", re.ASCII)
_PLAIN_IDS = re.compile(r"(?:[A-Za-z0-9][\x20-\x7e]{0,255}\n)*+\Z", re.ASCII)
_REVISION = re.compile(r"[1-9]\d{0,18}-[0-9a-zA-Z]{1,64}\Z", re.ASCII)
_REVISIONS = re.compile(r"(?:[1-9]\d{0,18}-[0-9a-zA-Z]{1,64}\n)*+\Z", re.ASCII)
_CONTENT_TYPE = re.compile(r"[\x20-\x7e]{0,255}\Z", re.ASCII)
_LONG_DIGITS = re.compile(rb"\d{%d}" % (MAX_INTEGER_DIGITS + 1))
_DIGIT = re.compile(rb"\d")
_DIGITS_TO_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_DIGITS_IN_A_ROW = b"0" * (MAX_INTEGER_DIGITS + 1)
# Documents that are encoded in one call: few enough that their text twice is no burden.
_MOST_TOGETHER = 128
_TOO_LONG = 10**MAX_INTEGER_DIGITS


def encode_document(document: Mapping[str, Any], *, max_bytes: int = MAX_DOCUMENT_BYTES) -> bytes:
    """Check a document against the rules of every store, and encode it.

    Args:
        document: with an `_id`; attachments either stubs or inline (`{"content_type": ..., "data": base64}`).
        max_bytes: the largest body, in bytes of JSON without the data of attachments.

    Raises:
        InvalidTokenError: the message is the reason that a user is shown.
    """
    if not _has_plain_fields(document):
        check_fields(document)
    body = encode(document)
    if len(body) > max_bytes:
        size = len(body) - _inline_bytes(document)
        if size > max_bytes:
            raise InvalidTokenError(f"{size:,} bytes, more than the limit of {max_bytes:,}")
    # The encoded text tells in microseconds that nearly every document needs no closer look.
    if _has_long_digits(body):
        refuse(document, _is_too_long, f"is an integer of more than {MAX_INTEGER_DIGITS} digits")
    if not _is_shallow(body):
        _refuse_depth(document)
    return body


def encode_documents(
    documents: Sequence[Mapping[str, Any]], *, max_bytes: int = MAX_DOCUMENT_BYTES
) -> list[bytes | InvalidTokenError]:
    """Check and encode documents like `encode_document`: together, which takes half as long; the odd ones alone.

    Args:
        documents: what `encode_document` takes.
        max_bytes: the largest body, in bytes of JSON without the data of attachments.

    Returns:
        The body of each, or why no store takes it.
    """
    answers: list[bytes | InvalidTokenError] = []
    for start in range(0, len(documents), _MOST_TOGETHER):
        answers += _encode_together(documents[start : start + _MOST_TOGETHER], max_bytes)
    return answers


def _encode_together(documents: Sequence[Mapping[str, Any]], max_bytes: int) -> Sequence[bytes | InvalidTokenError]:
    try:
        lines = encode_lines(documents)
    except Exception:  # noqa: BLE001 - one of them is no JSON; alone it is told what is wrong with it
        lines = b""
    bodies = lines.split(b"\n")[:-1]  # JSON escapes the line feeds inside
    if (
        len(bodies) != len(documents)
        or max(map(len, bodies)) > max_bytes
        or not all(map(_is_shallow, bodies))
        or _DIGITS_IN_A_ROW in lines.translate(_DIGITS_TO_ZEROS)
        or not _have_plain_names(documents)
    ):
        return [_answer(document, max_bytes) for document in documents]
    if b"null" not in lines:
        return bodies
    return [
        body if b"null" not in body else _answer(document, max_bytes)
        for document, body in zip(documents, bodies, strict=True)
    ]


def _have_plain_names(documents: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no document needs a closer look at its id, its revision and the names of its fields."""
    ids: list[Any] = [document.get("_id") for document in documents]
    revisions = [revision for document in documents if (revision := document.get("_rev")) is not None]
    if {*map(type, ids), *map(type, revisions)} != {str}:
        return False
    return (
        _all_match(_PLAIN_IDS, ids)
        and _all_match(_REVISIONS, revisions)
        and all(map(_is_plain_name, set[Any]().union(*documents)))
    )


def _all_match(lines: re.Pattern[str], texts: Sequence[str]) -> bool:
    """Whether a pattern of lines matches texts, each as one line."""
    together = "\n".join([*texts, ""])
    return together.count("\n") == len(texts) and lines.match(together) is not None


def _is_plain_name(field: Any) -> bool:
    return isinstance(field, str) and (not field.startswith("_") or field in {"_id", "_rev"})


def _answer(document: Mapping[str, Any], max_bytes: int) -> bytes | InvalidTokenError:
    try:
        return encode_document(document, max_bytes=max_bytes)
    except InvalidTokenError as error:
        return error


def _is_shallow(body: bytes) -> bool:
    """Whether there are too few brackets for a depth that is refused."""
    return len(body) <= 2 * MAX_DEPTH or body.count(b"[") + body.count(b"{") <= MAX_DEPTH


def _has_long_digits(body: bytes) -> bool:
    """Whether there are more digits in a row than any number may have: such a run meets each sample this far apart."""
    return bool(_DIGIT.search(body[MAX_INTEGER_DIGITS :: MAX_INTEGER_DIGITS + 1]) and _LONG_DIGITS.search(body))


def _has_plain_fields(document: Mapping[str, Any]) -> bool:
    """Whether a document needs no closer look at its fields: nearly all do not."""
    identifier, revision = document.get("_id"), document.get("_rev")
    return (
        document.keys() <= _PLAIN_FIELDS
        and is_plain_id(identifier)
        and (revision is None or (type(revision) is str and _REVISION.match(revision) is not None))
    )


def is_plain_id(identifier: Any) -> bool:
    """Whether an id needs no closer look: nearly none does."""
    return type(identifier) is str and _PLAIN_ID.match(identifier) is not None


def is_plain_body(body: bytes) -> bool:
    """Whether the JSON of a document tells that neither its numbers nor its depth need a closer look."""
    return not _has_long_digits(body) and _is_shallow(body)


def check_fields(document: Mapping[str, Any]) -> None:
    """Check the fields that a store reads itself: those that start with an underscore.

    Raises:
        InvalidTokenError: the message is the reason.
    """
    check_id(document.get("_id"))
    revision = document.get("_rev")
    if revision is not None and not (isinstance(revision, str) and _REVISION.match(revision)):
        raise InvalidTokenError(f"_rev {shown(revision)} is no revision")
    for key in document.keys() - _OWN_FIELDS:
        if not isinstance(key, str):
            raise InvalidTokenError(f"field {shown(key)} is no string")
        if key.startswith("_"):
            raise InvalidTokenError(f"field {shown(key)}: names that start with an underscore are reserved")
    attachments = document.get("_attachments")
    if attachments is not None:
        _check_attachments(attachments)


def check_id(identifier: Any) -> None:
    """Check that a value can be a token's id.

    Raises:
        InvalidTokenError: the message is the reason.
    """
    if not isinstance(identifier, str):
        raise InvalidTokenError(f"_id {shown(identifier)} is no string")
    if not identifier:
        raise InvalidTokenError("_id is empty")
    if identifier.startswith("_"):
        raise InvalidTokenError(f"_id {shown(identifier)}: ids that start with an underscore are reserved")
    if len(identifier) > 4096:
        raise InvalidTokenError("_id is longer than 4096 characters")
    if "\x00" in identifier:
        raise InvalidTokenError("_id holds a NUL character")


def check_attachment_name(name: Any) -> None:
    """Check that a value can be an attachment's name, and a file's name when it is downloaded.

    Raises:
        InvalidTokenError: the message is the reason.
    """
    if not isinstance(name, str) or not name:
        raise InvalidTokenError(f"attachment name {shown(name)} is no name")
    if name.startswith("_"):
        raise InvalidTokenError(f"attachment name {shown(name)}: names that start with an underscore are reserved")
    if "/" in name or "\\" in name or ".." in name or name == ".":
        raise InvalidTokenError(f"attachment name {shown(name)} could leave its directory")
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise InvalidTokenError(f"attachment name {shown(name)} holds a control character")
    if len(name.encode("utf-8", "replace")) > 255:
        raise InvalidTokenError(f"attachment name {shown(name)} is longer than 255 bytes")


def _check_attachments(attachments: Any) -> None:
    if not isinstance(attachments, Mapping):
        raise InvalidTokenError("_attachments is no mapping")
    for name, attachment in attachments.items():
        check_attachment_name(name)
        if not isinstance(attachment, Mapping):
            raise InvalidTokenError(f"attachment {shown(name)} is no mapping")
        if attachment.get("stub") is not True:
            _check_inline(name, attachment.get("data"))
        content_type = attachment.get("content_type", "")
        if not isinstance(content_type, str) or not _CONTENT_TYPE.match(content_type):
            raise InvalidTokenError(f"the content type of attachment {shown(name)} cannot stand in a header")


def _check_inline(name: str, data: Any) -> None:
    if not isinstance(data, str):
        raise InvalidTokenError(f"attachment {shown(name)} has neither data nor a stub")
    try:
        b64decode(data, validate=True)
    except (Base64Error, ValueError):
        raise InvalidTokenError(f"the data of attachment {shown(name)} is no base64") from None


def _inline_bytes(document: Mapping[str, Any]) -> int:
    """The length of the attachments inside a document whose fields have been checked."""
    attachments = (document.get("_attachments") or {}).values()
    data = [attachment.get("data") for attachment in attachments if attachment.get("stub") is not True]
    return sum(len(content) for content in data)


def _is_too_long(value: Any) -> bool:
    return isinstance(value, int) and not -_TOO_LONG < value < _TOO_LONG


def _refuse_depth(document: Mapping[str, Any]) -> None:
    level = [msgspec.to_builtins(document)]
    for _ in range(MAX_DEPTH):
        level = [inner for item in level for inner in _containers(item)]
        if not level:
            return
    raise InvalidTokenError(f"nested more than {MAX_DEPTH} deep")


def _containers(value: Any) -> list[Any]:
    """The mappings and sequences directly inside one."""
    items = value.values() if isinstance(value, Mapping) else value
    return [item for item in items if isinstance(item, (Mapping, list, tuple))]
