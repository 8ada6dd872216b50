"""New tokens as JSON, without a document in between: what all tokens have is put around the content.

Nearly every content is a dict of the user's own fields, and nearly every stream has contents of one shape. What goes
around such a content is made once. Any other content is nobody's business here: it gets a document, and a closer look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from apicas._documents import MAX_INTEGER_DIGITS, encode, is_plain_body, is_plain_id
from apicas.exceptions import InvalidTokenError
from apicas.tokens import new_token

_MOST_SHAPES: Final = 100
"""Sets of names that are remembered: a stream whose every content has other names is none to remember."""
_NEVER: Final = frozenset({"type", "lock", "done", "exit_code", "apicas"})
"""What says where a token belongs: in a content it may be anything. So may a name with an underscore."""
_BEHIND: Final[Sequence[str]] = ("output", "uploads")
"""What stands behind the content, so that people read `input` before `output`."""


class _Stencil(msgspec.Struct, frozen=True):
    """What goes around contents with the same names."""

    before: bytes
    between: bytes
    """After the id, where it is not in the content."""
    after: bytes
    has_id: bool
    """Whether the content brings its id."""


class Stencils:
    """Makes new tokens in todo of contents.

    Args:
        max_bytes: of the largest token.
    """

    def __init__(self, max_bytes: int) -> None:
        self._stencils: dict[tuple[Any, ...], _Stencil | None] = {}
        self._max_bytes = max_bytes
        self._surely_good = min(max_bytes, MAX_INTEGER_DIGITS)

    def fill(self, content: dict[str, Any], identifier: str) -> tuple[str, bytes] | None:
        """Make a token of a content.

        Args:
            content: a dict, and of no class of its own.
            identifier: the id, if the content has none.

        Returns:
            The id, and the JSON of what `new_token` would make. None where that wants a closer look.
        """
        names = tuple(content)
        try:
            stencil = self._stencils[names]
        except KeyError:
            stencil = self._learn(names)
        if stencil is None:
            return None
        if stencil.has_id:
            identifier = content["_id"]
            if not is_plain_id(identifier):
                return None
        try:
            inner = encode(content)[1:-1]
        except InvalidTokenError:
            return None
        if stencil.has_id:
            body = b"%b%b%b" % (stencil.before, inner, stencil.after)
        else:
            body = b"%b%b%b%b%b" % (stencil.before, identifier.encode(), stencil.between, inner, stencil.after)
        if len(body) > self._surely_good and (len(body) > self._max_bytes or not is_plain_body(body)):
            return None
        return identifier, body

    def _learn(self, names: tuple[Any, ...]) -> _Stencil | None:
        if len(self._stencils) >= _MOST_SHAPES:
            return None
        stencil = self._stencils[names] = _stencil(names) if names and all(map(_is_plain, names)) else None
        return stencil


def _is_plain(name: Any) -> bool:
    return type(name) is str and name not in _NEVER and (not name.startswith("_") or name == "_id")


def _stencil(names: tuple[str, ...]) -> _Stencil:
    document = new_token({}, "")
    del document["_id"]
    fields = {name: value for name, value in document.items() if name not in names}
    behind = [name for name in _BEHIND if name in fields and "input" in names]
    after = {name: fields.pop(name) for name in behind}
    inner = _inside(fields)
    ending = b"," + _inside(after) + b"}" if after else b"}"
    if "_id" in names:
        return _Stencil(b"{" + inner + b",", b"", ending, has_id=True)
    return _Stencil(b'{"_id":"', b'",' + inner + b",", ending, has_id=False)


def _inside(fields: Mapping[str, Any]) -> bytes:
    return encode(fields)[1:-1]
