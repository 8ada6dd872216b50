"""The branches of a token on a replicated store, and which of them speaks for a lease.

Several writers may win a race on different replicas. Then the token has several live versions (leaves), of which the
store shows one to everybody, by a rule that knows nothing of claims. A pilot writes to its own leaf, whichever is
shown; so what it asks about its lease, it must ask of all leaves. Why this is sound: docs/design/0008-clusters.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from apicas._documents import Document
from apicas._runtime.keeping.leases import Lease
from apicas.clients.port import Client
from apicas.policies.fence import Standing, outranks, standing
from apicas.policies.merging import heal_order
from apicas.tokens import TokenState, claim_of, generation_of, is_foreign_lock, state_of

MAX_DISOWNED: Final = 10_000
"""Claims remembered that nobody may own. More are forgotten, the oldest first: their tokens become suspects."""


async def read_own(client: Client, leases: Sequence[Lease]) -> list[Document | None]:
    """The tokens of leases as they are now: of each the version that tells what became of the lease.

    Args:
        client: the pool.
        leases: what this pilot claimed; each is judged by its `stored` document.

    Raises:
        PoolError: they could not be read, so nothing is known.
    """
    ids = [lease.token_id for lease in leases]
    if not client.replicated:
        return await client.get(ids)
    return [_speaker(lease, leaves) for lease, leaves in zip(leases, await client.leaves(ids), strict=True)]


async def overtaken(client: Client, leases: Sequence[Lease]) -> set[Lease]:
    """The leases that are lost although a write under them would succeed: of a higher generation is another branch.

    Raises:
        PoolError: the tokens could not be read, so nothing is known.
    """
    if not leases or not client.replicated:
        return set()
    fresh = await read_own(client, leases)
    return {
        lease
        for lease, document in zip(leases, fresh, strict=True)
        if document is not None
        and outranks(document, lease.stored)
        and standing(lease.stored, document, lease.claim_id) is Standing.LOST
    }


def _speaker(lease: Lease, leaves: Sequence[Document]) -> Document | None:
    """The version that tells about a lease; None where the token is gone.

    One of a higher generation, if there is any. Else our own outcome, what a PiCaS pilot wrote, or the leaf that we
    hold. Where beats of ours that a minority took have split our own branch, any part of it will do: a plain answer to
    the next write decides. Else whatever is shown, which is not ours.
    """
    if len(leaves) < 2:
        return leaves[0] if leaves else None
    highest = max(leaves, key=generation_of)
    if outranks(highest, lease.stored):
        return highest
    ordered = [dict(leaf) for leaf in heal_order(leaves)]
    for leaf in ordered:
        if standing(lease.stored, leaf, lease.claim_id) is Standing.SETTLED:
            return leaf
    for leaf in ordered:
        if _is_taken(lease, leaf):
            return leaf
    for leaf in ordered:
        if standing(lease.stored, leaf, lease.claim_id) is Standing.OURS:
            return leaf
    return leaves[0]


def _is_taken(lease: Lease, leaf: Document) -> bool:
    """Whether a leaf shows that somebody without a claim took the token: PiCaS, or a person.

    PiCaS takes any answer for a lock, and works the token: one of us has to stand down, and it never does. It writes
    over a leaf of ours and leaves our claim in it; what else of ours is left beside that is a beat of which a minority
    knew.
    """
    if state_of(leaf) is TokenState.LOCKED and is_foreign_lock(leaf):
        return True
    return claim_of(leaf) == lease.claim_id and standing(lease.stored, leaf, lease.claim_id) is Standing.LOST


class Disowned:
    """Claims that may have no owner: the store took them, but nobody was told so by a plain answer.

    Nobody beats such a claim. When its token is reclaimed, that is not held against the token.
    """

    def __init__(self) -> None:
        self._claims: dict[str, None] = {}

    def add(self, document: Mapping[str, Any]) -> None:
        """Remember the claim in a document."""
        claim = claim_of(document)
        if claim is None:
            return
        self._claims.pop(claim, None)
        self._claims[claim] = None
        if len(self._claims) > MAX_DISOWNED:
            del self._claims[next(iter(self._claims))]

    def __contains__(self, document: Mapping[str, Any]) -> bool:
        return claim_of(document) in self._claims
