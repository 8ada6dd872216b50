"""What is kept of an outcome that is not in the pool: all that another process needs to write it, under the fence.

Rules:
- An entry says which version of the format it is. What this version cannot read is left for one that can.
- Anything can be kept: what is no JSON, and so cannot go into the pool, is kept as text.
- Names of files are made of digests, never of what stands in a token.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from typing import Any, Final

from apicas._documents import MAX_INTEGER_DIGITS, Document, decode, encode
from apicas.exceptions import InvalidTokenError
from apicas.tokens import annex

FORMAT: Final = 1
_MAX_DEPTH: Final = 400
_NAME: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{24}\.json", re.ASCII)
_TOO_LONG: Final = 10**MAX_INTEGER_DIGITS
_NUMBER: Final = (int, float)
_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "pool": str,
    "token": str,
    "claim": str,
    "stored": dict,
    "base": dict,
    "outcome": dict,
    "ending": str,
    "time": _NUMBER,
    "hostname": str,
    "pilot": str,
    "process": str,
    "reason": str,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One outcome, kept outside of the pool."""

    pool: str
    """The pool's address, without secrets."""
    token: str
    claim: str
    stored: Document = field(repr=False)
    """The document as its pilot last wrote it."""
    base: Document = field(repr=False)
    """The document that the work started from."""
    outcome: Document = field(repr=False)
    ending: str
    """How the work ended: done, failed, scrubbed."""
    time: float
    """When it was kept: unix seconds by the store's clock."""
    hostname: str
    pilot: str
    process: str
    reason: str = ""
    """Why it was not written, where it never will be."""

    @property
    def name(self) -> str:
        """The name of its file while it waits: always the same for the same claim on the same token."""
        return f"{pilot_prefix(self.pilot)}-{_digest(self.token, self.claim)}.json"

    @property
    def aside_name(self) -> str:
        """The name of its file once it is lost, with what of the token's id can stand in one."""
        slug = re.sub(r"[^A-Za-z0-9._-]+", "_", self.token[:40]).strip("._-") or "token"
        return f"{slug}-{_digest(self.token, self.claim, self.ending, self.reason)}.json"

    def head(self) -> Entry:
        """All but the documents, of which only what tells the owner stays."""
        return replace(self, stored={"apicas": dict(annex(self.stored))}, base={}, outcome={})

    def encode(self) -> bytes:
        """The entry as JSON; what is no JSON in it as text."""
        record: dict[str, Any] = {"format": FORMAT, **{each.name: getattr(self, each.name) for each in fields(self)}}
        if self.base == self.stored:
            record["base"] = None
        try:
            return encode(record)
        except InvalidTokenError:
            return encode(_as_json(record))


def decode_entry(body: bytes) -> Entry:
    """Read an entry.

    Raises:
        ValueError: it is none; the message says what is wrong.
    """
    try:
        record = decode(body)
    except InvalidTokenError as error:
        raise ValueError(f"it cannot be read: {error}") from None
    if not isinstance(record, dict) or "format" not in record:
        raise ValueError("it is no entry of an outbox")
    if record["format"] != FORMAT:
        raise ValueError(f"it has format {str(record['format'])[:20]!r}, and this version of apicas reads {FORMAT}")
    if record.get("base") is None:
        record["base"] = record.get("stored")
    wrong = [name for name, kind in _TYPES.items() if not isinstance(record.get(name), kind)]
    if wrong:
        raise ValueError(f"it lacks {', '.join(wrong)}, or has something else in the place")
    ids = [record["stored"].get("_id"), record["base"].get("_id"), record["outcome"].get("_id", record["token"])]
    if any(identifier != record["token"] for identifier in ids):
        raise ValueError("its documents are not of its token")
    return Entry(**{name: record[name] for name in _TYPES})


def pilot_prefix(pilot: str) -> str:
    """What the names of a pilot's waiting entries begin with."""
    return _digest(pilot)[:8]


def is_name(name: str) -> bool:
    """Whether a file's name is that of a waiting entry."""
    return _NAME.fullmatch(name) is not None


def _digest(*texts: str) -> str:
    return sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _as_json(value: Any, depth: int = 0) -> Any:
    """A value as JSON, whatever it is: what is none becomes text."""
    if depth > _MAX_DEPTH:
        return "[nested too deeply]"
    if isinstance(value, Mapping):
        return {_text(key): _as_json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_as_json(item, depth + 1) for item in value]
    if value is None or isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, int):
        return int(value) if -_TOO_LONG < value < _TOO_LONG else hex(value)
    return _text(value)


def _text(value: Any) -> str:
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001 - any class of a user's may fail here
        text = f"<{type(value).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()
