"""What must not be shown: a password, or an address that may hold one.

A secret is in no repr, no log line, no dump and no traceback, also not in one that shows the values of variables. So
code that can raise holds secrets, and plain text only where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest
from typing import Any, Final, NoReturn

SHOWN: Final = "<secret>"


class Secret:
    """A text that shows itself only to those who ask for it.

    Args:
        text: the secret.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        # Not the text itself: what lists the attributes of objects would show it.
        self._text: Callable[[], str] = lambda: text

    def reveal(self) -> str:
        """The text. Keep it in no variable of a function that can raise."""
        return self._text()

    def __repr__(self) -> str:
        return SHOWN

    def __format__(self, specification: str) -> str:
        return SHOWN

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (Secret, str)):
            text = other.reveal() if isinstance(other, Secret) else other
            return compare_digest(self._bytes(), text.encode("utf-8", "surrogatepass"))
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._bytes())

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a secret is written nowhere")

    def _bytes(self) -> bytes:
        return self._text().encode("utf-8", "surrogatepass")


def secret(text: str | Secret | None) -> Secret | None:
    """A secret of what may be one already; None for None."""
    return Secret(text) if isinstance(text, str) else text
