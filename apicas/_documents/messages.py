"""Values in messages."""

from __future__ import annotations

from reprlib import Repr
from typing import Any

_repr = Repr()
_repr.maxstring = 80


def shown(value: Any) -> str:
    """A value as a message shows it: short, and whatever it is, since it is what somebody else wrote."""
    try:
        return _repr.repr(value)
    except Exception:  # noqa: BLE001 - any class of a user's may fail here, and so do integers of 4300 digits
        return f"<{type(value).__name__}>"
