"""What becomes of two versions of one token: merged after an edit, and put into an order after a split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from apicas.modifiers import NOTE_FIELDS
from apicas.policies.fence import LEASE_FIELDS
from apicas.tokens import (
    TokenState,
    annex,
    claim_of,
    count,
    generation_of,
    state_of,
)

_FINAL_RANK: Final = (TokenState.ERROR, TokenState.DONE)
_STATE_RANK: Final = (TokenState.NO_VIEW, TokenState.TODO, TokenState.LOCKED, *_FINAL_RANK)


def heal_order(leaves: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The live versions of one token that a cluster stored beside each other, the one to keep first.

    One that a person has reset after its end comes before all that has not been, or earlier: they want the work done
    again, whatever another branch has. Then one that is done, then one in error: a majority may have written it, and
    what a minority wrote on the same revision in that moment, a reclaim or a reset for instance, has the higher
    generation. Then by generation, then locked before todo; then by claim and revision, so that every healer chooses
    alike.
    """
    return sorted(
        leaves,
        key=lambda leaf: (
            count(annex(leaf).get("reset")),
            _FINAL_RANK.index(state_of(leaf)) if state_of(leaf) in _FINAL_RANK else -1,
            generation_of(leaf),
            _STATE_RANK.index(state_of(leaf)),
            claim_of(leaf) or "",
            str(leaf.get("_rev")),
        ),
        reverse=True,
    )


_MISSING: Final = object()


def merge(base: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Three-way merge by top-level key: ours where both changed; attachments united; the revision is theirs.

    Args:
        base: what both started from.
        ours: the outcome of the work; its lease fields always win.
        theirs: the document as somebody edited it.
    """
    merged = dict(theirs)
    for key in {*base, *ours, *LEASE_FIELDS}:
        mine = ours.get(key, _MISSING)
        if key in LEASE_FIELDS or not _same(mine, base.get(key, _MISSING)):
            if mine is _MISSING:
                merged.pop(key, None)
            else:
                merged[key] = mine
    attachments = _merge_attachments(*(_attachments_of(document) for document in (base, ours, theirs)))
    merged.pop("_attachments", None)
    if attachments:
        merged["_attachments"] = attachments
    merged["_id"], merged["_rev"] = theirs["_id"], theirs["_rev"]
    if "apicas" in ours:
        merged["apicas"] = ours["apicas"]
    return merged


def merge_late(base: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The outcome of a token that was reclaimed meanwhile: merged, and its generation and history stay theirs."""
    merged = merge(base, ours, theirs)
    entries = {key: value for key, value in annex(theirs).items() if key not in {"taken", "not_before", *NOTE_FIELDS}}
    merged["apicas"] = {**entries, "settled": annex(ours).get("settled")}
    if "usage" in annex(ours):
        merged["apicas"]["usage"] = annex(ours)["usage"]
    return merged


def _same(one: Any, other: Any) -> bool:
    """Whether a field was left alone. To Python 1 == True == 1.0, but whoever wrote one over the other meant it."""
    return type(one) is type(other) and bool(one == other)


def _attachments_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    attachments = document.get("_attachments")
    return attachments if isinstance(attachments, Mapping) else {}


def _merge_attachments(base: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Theirs, with the files that we bring and without those that we removed.

    A stub of ours says only that we left a file alone: theirs says whether it is still there, and a stub of nothing
    would be refused.
    """
    brought = {name: file for name, file in ours.items() if not _is_stub(file)}
    removed = base.keys() - ours.keys()
    return {name: file for name, file in theirs.items() if name not in removed} | brought


def _is_stub(attachment: Any) -> bool:
    return isinstance(attachment, Mapping) and attachment.get("stub") is True
