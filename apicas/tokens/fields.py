"""The fields of a token that have a meaning, read from its document whatever somebody wrote there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from apicas._documents import Document
from apicas._javascript import to_number

# PiCaS writes 99 into lock and done of a token in error. Below this value a lock is a mark and no time.
FIRST_LOCK_TIME: Final = 1_000_000_000
ERROR_MARK: Final = 99
# A double counts exactly up to here. A larger counter is nonsense, and could outgrow every store.
MAX_COUNT: Final = 1 << 53
# The history in a token is a reminder for people, not a log: it stays short, since every write carries it.
MAX_HISTORY: Final = 8
# A token that is retried for ever must not grow beyond what the store takes.
MAX_ERRORS: Final = 50
MAX_MESSAGE: Final = 200
"""Characters of what a token tells of its progress: every beat carries it."""
_ROUNDING: Final = 1e-6


def new_token(content: Mapping[str, Any], identifier: str) -> Document:
    """A document that every PiCaS tool can work with, from a user's content.

    Args:
        content: fields of the user's; `_id` where the user chose one. The `apicas` sub-object and a revision, which
            only make sense in the pool that they come from, are left behind.
        identifier: the `_id` to use where the content has none.
    """
    document: Document = {
        "_id": identifier,
        "type": "token",
        "lock": 0,
        "done": 0,
        "hostname": "",
        "scrub_count": 0,
        "exit_code": "",
        "error": [],
        "input": {},
        "output": {},
        "uploads": {},
    }
    document.update(content)
    for name in ("_rev", "apicas"):
        if name in document:
            del document[name]
    return document


def annex(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `apicas` sub-object of a document; empty where there is none, or where somebody put something else."""
    value = document.get("apicas")
    if type(value) is dict:  # what decoders make; the check for any mapping takes longer than all the rest
        return value
    return value if isinstance(value, Mapping) else {}


def count(value: Any) -> int:
    """A counter of a token, whatever was written there: 0 for what is no positive integer."""
    if type(value) is int:
        return value if 0 < value < MAX_COUNT else 0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < MAX_COUNT:
        return 0
    return int(value) if value == int(value) else 0  # other tools write 3.0 for 3


def generation_of(document: Mapping[str, Any]) -> int:
    """How many claims, and ways back to todo, the token has behind it. Only ever grows."""
    return count(annex(document).get("generation"))


def attempt_of(document: Mapping[str, Any]) -> int:
    """The number of the last claim, the first is 1; 0 for a token that no apicas pilot has claimed.

    Each claim is a generation, and so is each way back to todo.
    """
    return (generation_of(document) + 1) // 2


def claim_of(document: Mapping[str, Any]) -> str | None:
    """The id of the claim that holds the token, as apicas wrote it; None where no apicas pilot holds it."""
    claim = annex(document).get("claim")
    return claim if isinstance(claim, str) else None


def is_suspect(document: Mapping[str, Any]) -> bool:
    """Whether a pilot vanished while it held the token, perhaps because of it: it now runs in a process of its own."""
    return annex(document).get("suspect") is True


def taken_from(document: Mapping[str, Any]) -> str | None:
    """The claim that the token was reclaimed from, as long as nobody has claimed it since; None for none."""
    claim = annex(document).get("taken")
    return claim if isinstance(claim, str) else None


def not_before(document: Mapping[str, Any]) -> float:
    """Unix seconds before which no pilot claims the token; 0 where it may be claimed at once."""
    value = annex(document).get("not_before")
    if value is None:
        return 0.0
    return to_number(value) if isinstance(value, (int, float)) else 0.0  # float() fails on a huge integer


def is_foreign_lock(document: Mapping[str, Any]) -> bool:
    """Whether somebody other than apicas set the lock: PiCaS, or a script. Such a lock is not refreshed by anybody."""
    return claim_of(document) is None or annex(document).get("lock") != document.get("lock")


def progress_of(fraction: float, message: str = "") -> Document:
    """How far work is, as it is kept: the fraction, and a message that is short and drives no terminal.

    Args:
        fraction: from 0 to 1; what rounding puts a little beside that is taken for 0 or 1.
        message: what it is at.

    Raises:
        ValueError: the fraction is none.
    """
    if isinstance(fraction, bool) or not -_ROUNDING <= fraction <= 1 + _ROUNDING:  # NaN is not, either
        raise ValueError(f"the progress is {fraction}: it is a fraction from 0 to 1")
    text = "".join(map(_printable, str(message)[: MAX_MESSAGE + 1]))
    if len(text) > MAX_MESSAGE:
        text = f"{text[: MAX_MESSAGE - 3]}..."
    return {"fraction": round(min(max(float(fraction), 0.0), 1.0), 4), "message": text}


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")
