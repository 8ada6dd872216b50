"""The claim: lock what was found, compare-and-swap, and keep what was won.

What may be claimed is found by candidates.py. All of it is locked in one bulk, and the rows that were written are kept.
A row that lost its race is dropped; that is no error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from apicas._documents import Document
from apicas._runtime.environment import Environment
from apicas._runtime.keeping.branches import Disowned
from apicas._runtime.keeping.candidates import Candidates
from apicas._runtime.keeping.leases import Lease, Leases
from apicas.clients.port import Client, SaveResult, SaveStatus
from apicas.clients.readback import doubted
from apicas.exceptions import TransitionError
from apicas.modifiers import Claim, TokenModifier
from apicas.policies.claiming import Portion, Spread
from apicas.policies.fence import Standing, standing
from apicas.policies.leases import LeaseTimes
from apicas.policies.retries import Backoff
from apicas.tokens import generation_of

log = logging.getLogger("apicas.claims")

MAX_UNWRITABLE = 1000
"""Tokens remembered because the store does not take them back; more means that something else is wrong."""
MAX_LOOKS = 3
"""How often a claim without a clear answer is looked for, and written again."""

Locked: TypeAlias = tuple[str, Document]
"""A claim id, and the document as it is locked with it."""


@dataclass(slots=True)
class Claimed:
    """What one attempt to claim came to."""

    leases: list[Lease] = field(default_factory=list)
    lost: int = 0
    """Races lost."""
    claimable: int = 0
    """Tokens that could have been claimed when they were read."""
    listed: int = 0
    """Tokens that the view listed."""
    next_at: float | None = None
    """Store time at which the first of the tokens that wait for their `not_before` may be claimed."""

    @property
    def contended(self) -> bool:
        """Whether there may be more at once: rivals, or a view older than the documents, took what was listed."""
        return not self.leases and bool(self.lost or self.claimable or (self.listed and self.next_at is None))


class Claimer:
    """Claims tokens of views.

    Args:
        client: the pool.
        leases: where what is won is remembered.
        modifier: locks a token.
        times: the lease.
        environment: clocks and dice.
        hand_back: called with a lease that nobody will work: its claim was cut short.
    """

    def __init__(
        self,
        client: Client,
        leases: Leases,
        modifier: TokenModifier,
        times: LeaseTimes,
        environment: Environment,
        hand_back: Callable[[Lease], None],
    ) -> None:
        self._client = client
        self._leases = leases
        self._modifier = modifier
        self._times = times
        self._environment = environment
        self._hand_back = hand_back
        self.candidates = Candidates(client, leases, times, environment)
        self._spread = Spread()
        self._portion = Portion()
        self.disowned = Disowned()
        """Claims of ours that the store may have, though it did not say so plainly: they are not ours."""
        self.isolates = False
        """Whether suspects are run in processes of their own: a claim says so."""
        self.backoff = Backoff(first=0.02, most=2.0)

    async def run_once(self, view: str, wanted: int) -> Claimed:
        """Try once to claim up to `wanted` tokens of a view.

        Args:
            view: the view.
            wanted: tokens; a portion of them is claimed at a time.
        """
        began = self._environment.monotonic()
        wanted = self._client.portion(view, min(wanted, self._portion.size))
        found = await self.candidates.find(view, wanted, self._spread.factor)
        claimed = Claimed(claimable=found.claimable, listed=found.listed, next_at=found.next_at)
        if found.documents:
            await self._lock(found.documents, claimed)
            self._spread = self._spread.after(len(claimed.leases), claimed.lost)
            self._portion = self._portion.after(wanted, claimed.lost, self._environment.monotonic() - began)
        return claimed

    async def _lock(self, chosen: Sequence[Document], claimed: Claimed) -> None:
        sent = self._environment.monotonic()
        now = self._client.time()
        locked = [one for document in chosen if (one := self._locked(document, now)) is not None]
        unclear = locked
        ids = {document["_id"] for _, document in locked}
        self.candidates.under_way |= ids
        try:
            results = await self._client.save([document for _, document in locked])
            unclear = self._sort(locked, results, claimed, sent)
            await self._look(unclear, claimed, sent)
        except BaseException:  # no answer, or a cancellation: the store may have locked what nobody will work
            self._disown(unclear, claimed, sent)
            raise
        finally:
            self.candidates.under_way -= ids

    def _sort(
        self,
        locked: Sequence[Locked],
        results: Sequence[SaveResult],
        claimed: Claimed,
        sent: float,
    ) -> list[Locked]:
        """Keep what was won; answers with what has no clear answer."""
        unclear: list[Locked] = []
        for (claim_id, document), result in zip(locked, results, strict=True):
            if result.written:
                document["_rev"] = result.rev
                claimed.leases.append(self._hold(claim_id, document, sent))
            elif result.status is SaveStatus.REJECTED:
                self._note_unwritable(document["_id"], result.reason)
            elif result.status is SaveStatus.UNKNOWN:
                unclear.append((claim_id, document))
            else:
                claimed.lost += 1
        return unclear

    def _disown(self, unclear: Sequence[Locked], claimed: Claimed, sent: float) -> None:
        """Hand back what was won, and what may have been. On a replicated store the latter goes stale; see _look."""
        if self._client.replicated:
            for _, document in unclear:
                self.disowned.add(document)
        else:
            claimed.leases += [
                self._hold(claim_id, document, sent)
                for claim_id, document in unclear
                if document["_id"] not in self._leases
            ]
        for lease in claimed.leases:
            self._hand_back(lease)

    def _locked(self, document: Document, now: float) -> Locked | None:
        """Lock a document that was read for this claim, and is nobody else's: no copy is made."""
        claim_id = self._environment.new_id()
        owner, lease = self._environment.owner, self._times.lease
        claim = Claim(claim_id=claim_id, owner=owner, now=now, lease=lease, isolated=self.isolates)
        try:
            return claim_id, self._modifier.lock(document, claim)
        except TransitionError:
            return None

    async def _look(self, unclear: Sequence[Locked], claimed: Claimed, sent: float) -> None:
        """Read back the claims that had no clear answer.

        On a replicated store only a plain answer makes an owner, whatever a later look shows: such a claim is left to
        go stale. On one with a single copy of each document, what is stored tells.
        """
        if not unclear:
            return
        if self._client.replicated:
            for _, document in unclear:
                self.disowned.add(document)
            claimed.lost += len(unclear)
            return
        doubtful = list(unclear)
        for _ in range(MAX_LOOKS):
            doubtful = await self._not_there(doubtful, claimed, sent)
            if not doubtful:
                return
            # Not there, or not yet: a slow request may still arrive, and lock what nobody works. Written again on the
            # same revision, one of the two wins, and the other comes to nothing.
            results = await self._client.save([document for _, document in doubtful])
            doubtful = self._sort(doubtful, [doubted(result) for result in results], claimed, sent)
        for claim_id, document in doubtful:  # the committer goes on until it is settled
            self._hand_back(self._hold(claim_id, document, sent))

    async def _not_there(self, unclear: Sequence[Locked], claimed: Claimed, sent: float) -> list[Locked]:
        """Read claims back, and keep what is ours; answers with what is as if they had not been written."""
        absent: list[Locked] = []
        fresh = await self._client.get([document["_id"] for _, document in unclear])
        for (claim_id, document), stored in zip(unclear, fresh, strict=True):
            if stored is not None and standing(document, stored, claim_id) is Standing.OURS:
                claimed.leases.append(self._hold(claim_id, stored, sent))
            elif stored is not None and stored["_rev"] == document["_rev"]:
                absent.append((claim_id, document))
            else:
                claimed.lost += 1
        return absent

    def _hold(self, claim_id: str, document: Document, sent: float) -> Lease:
        lease = Lease(document["_id"], claim_id, document, document, sent, sent)
        self._leases.add((lease,))
        if log.isEnabledFor(logging.DEBUG):
            log.debug("claimed token %s, generation %d", lease.token_id, generation_of(document))
        return lease

    def _note_unwritable(self, token_id: str, reason: str) -> None:
        log.error("token %s cannot be claimed, the pool does not take it back: %s", token_id, reason)
        if len(self.candidates.unwritable) < MAX_UNWRITABLE:
            self.candidates.unwritable.add(token_id)
