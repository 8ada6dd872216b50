"""Documents as every store takes them: JSON, encoded once, checked against one set of rules.

Rules:
- One bad document fails a whole CouchDB bulk, so what can be known to be refused is refused here, alone, with a reason.
- The rules are the same for every store: a pool moves from SQLite to CouchDB without surprises.
- NaN and the infinities are no JSON. The encoder writes them as null, so a document with a null in it is looked at.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from apicas.exceptions import InvalidTokenError

Document: TypeAlias = dict[str, Any]

# CouchDB 3 refuses a larger document by default (`max_document_size`), attachments not counted.
MAX_DOCUMENT_BYTES = 8_000_000
# CouchDB reads no number beyond a double's range, and fails with 500 on one that is much longer.
MAX_INTEGER_DIGITS = 300

_OWN_FIELDS = frozenset({"_id", "_rev", "_attachments"})
_REVISION = re.compile(r"[1-9]\d{0,18}-[0-9a-zA-Z]{1,64}\Z", re.ASCII)
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


def encode(value: Any) -> bytes:
    """Encode a value as JSON.

    Raises:
        InvalidTokenError: for what is not JSON; the message says what.
    """
    try:
        body = _encoder.encode(value)
    except RecursionError:
        raise InvalidTokenError("nested too deeply") from None
    except UnicodeEncodeError:
        raise InvalidTokenError("a string holds a lone surrogate, which is no Unicode text") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidTokenError(f"not JSON: {error}") from None
    if b"null" in body:
        _refuse_non_finite(value)
    return body


def decode(body: bytes | str) -> Any:
    """Decode JSON, integers of any length included.

    Raises:
        InvalidTokenError: for what is not JSON.
    """
    try:
        return _decoder.decode(body)
    except RecursionError:
        raise InvalidTokenError("nested too deeply") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidTokenError(f"not JSON: {error}") from None


def encode_document(document: Mapping[str, Any], *, max_bytes: int = MAX_DOCUMENT_BYTES) -> bytes:
    """Check a document against the rules of every store, and encode it.

    Args:
        document: with an `_id`; attachments either stubs or inline (`{"content_type": ..., "data": base64}`).
        max_bytes: the largest body, in bytes of JSON without the data of attachments.

    Raises:
        InvalidTokenError: the message is the reason that a user is shown.
    """
    check_fields(document)
    body = encode(document)
    if len(body) > max_bytes:
        attachments = document.get("_attachments") or {}
        inline = sum(len(a.get("data", "")) for a in attachments.values())
        if len(body) - inline > max_bytes:
            raise InvalidTokenError(f"{len(body) - inline:,} bytes, more than the limit of {max_bytes:,}")
    if any(len(part) > MAX_INTEGER_DIGITS for part in _long_digits(body)):
        raise InvalidTokenError(f"an integer of more than {MAX_INTEGER_DIGITS} digits")
    return body


def check_fields(document: Mapping[str, Any]) -> None:
    """Check the fields that a store reads itself: those that start with an underscore.

    Raises:
        InvalidTokenError: the message is the reason.
    """
    check_id(document.get("_id"))
    revision = document.get("_rev")
    if revision is not None and not (isinstance(revision, str) and _REVISION.match(revision)):
        raise InvalidTokenError(f"_rev {revision!r} is no revision")
    for key in document:
        if not isinstance(key, str):
            raise InvalidTokenError(f"field {key!r} is no string")
        if key.startswith("_") and key not in _OWN_FIELDS:
            raise InvalidTokenError(f"field {key!r}: names that start with an underscore are reserved")
    attachments = document.get("_attachments")
    if attachments is not None:
        _check_attachments(attachments)


def check_id(identifier: Any) -> None:
    """Check that a value can be a token's id.

    Raises:
        InvalidTokenError: the message is the reason.
    """
    if not isinstance(identifier, str):
        raise InvalidTokenError(f"_id {identifier!r} is no string")
    if not identifier:
        raise InvalidTokenError("_id is empty")
    if identifier.startswith("_"):
        raise InvalidTokenError(f"_id {identifier!r}: ids that start with an underscore are reserved")
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
        raise InvalidTokenError(f"attachment name {name!r} is no name")
    if name.startswith("_"):
        raise InvalidTokenError(f"attachment name {name!r}: names that start with an underscore are reserved")
    if "/" in name or "\\" in name or ".." in name:
        raise InvalidTokenError(f"attachment name {name!r} could leave its directory")
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise InvalidTokenError(f"attachment name {name!r} holds a control character")
    if len(name.encode("utf-8", "replace")) > 255:
        raise InvalidTokenError(f"attachment name {name[:40]!r}... is longer than 255 bytes")


def _check_attachments(attachments: Any) -> None:
    if not isinstance(attachments, Mapping):
        raise InvalidTokenError("_attachments is no mapping")
    for name, attachment in attachments.items():
        check_attachment_name(name)
        if not isinstance(attachment, Mapping):
            raise InvalidTokenError(f"attachment {name!r} is no mapping")
        if attachment.get("stub") is not True:
            _check_inline(name, attachment.get("data"))


def _check_inline(name: str, data: Any) -> None:
    if not isinstance(data, str):
        raise InvalidTokenError(f"attachment {name!r} has neither data nor a stub")
    try:
        b64decode(data, validate=True)
    except (Base64Error, ValueError):
        raise InvalidTokenError(f"the data of attachment {name!r} is no base64") from None


_DIGITS = re.compile(rb"\d{%d,}" % (MAX_INTEGER_DIGITS + 1))


def _long_digits(body: bytes) -> list[bytes]:
    """Runs of digits that are too long for a number. One inside a string is harmless, and told apart by its quotes."""
    found = []
    for match in _DIGITS.finditer(body):
        before, after = body[match.start() - 1 : match.start()], body[match.end() : match.end() + 1]
        if before in {b":", b"[", b",", b"-"} and after in {b",", b"]", b"}"}:
            found.append(match.group())
    return found


def _refuse_non_finite(value: Any, path: str = "") -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidTokenError(f"{path or 'the value'} is {value}, which is no JSON")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_non_finite(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_non_finite(item, f"{path}[{index}]")
