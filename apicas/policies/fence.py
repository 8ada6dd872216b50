"""The fence: whether a lease still holds, and so whether an outcome may be written."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from apicas.modifiers import JOB_ID_FIELDS
from apicas.tokens import (
    TokenState,
    annex,
    claim_of,
    generation_of,
    is_foreign_lock,
    state_of,
    taken_from,
)


class Standing(Enum):
    """What a fresh look at a token says about a lease on it."""

    OURS = "ours"
    SETTLED = "settled"
    """Our own outcome is written there: the answer to the write got lost."""
    RECLAIMED = "reclaimed"
    """It was taken from us for our silence, and nobody has claimed it since: a finished result is still welcome."""
    LOST = "lost"


LEASE_FIELDS: Final = ("lock", "done", "hostname", *JOB_ID_FIELDS)


def standing(stored: Mapping[str, Any], fresh: Mapping[str, Any] | None, claim_id: str) -> Standing:
    """Whether a lease still holds, after a write under it met a conflict.

    It holds only if the claim id, done, hostname and job ids are as we last wrote them, the lock is one of ours, the
    token is still in the locked view, and the document differs elsewhere: somebody edited it. PiCaS locks over a held
    token and leaves our claim id in it, so the claim id alone says nothing; but only a beat of ours also writes its
    copy of the lock. That may be a later beat than the last we know of: one whose answer never came.

    Args:
        stored: the document as this pilot last wrote it.
        fresh: the document as it is now; None where it is gone.
        claim_id: this pilot's claim.
    """
    if fresh is None:
        return Standing.LOST
    if claim_of(fresh) != claim_id:
        if annex(fresh).get("settled") == claim_id:
            return Standing.SETTLED
        return Standing.RECLAIMED if _was_reclaimed(fresh, claim_id) else Standing.LOST
    same = all(fresh.get(name) == stored.get(name) for name in LEASE_FIELDS if name != "lock")
    held = state_of(fresh) is TokenState.LOCKED and not is_foreign_lock(fresh)
    return Standing.OURS if same and held else Standing.LOST


def _was_reclaimed(fresh: Mapping[str, Any], claim_id: str) -> bool:
    return taken_from(fresh) == claim_id and state_of(fresh) in {TokenState.TODO, TokenState.ERROR}


def beat_was_applied(stored: Mapping[str, Any], fresh: Mapping[str, Any], claim_id: str, lock: int) -> bool:
    """Whether a beat whose answer got lost did reach the store: the fresh document differs by that very lock only."""
    return fresh.get("lock") == lock and standing(stored, fresh, claim_id) is Standing.OURS


def outranks(leaf: Mapping[str, Any], claimed: Mapping[str, Any]) -> bool:
    """Whether another version of a token shows that a claim on it is over: one of a higher generation."""
    return generation_of(leaf) > generation_of(claimed)
