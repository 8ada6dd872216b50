"""The claim: choose from a view, lock, compare-and-swap, and keep what was won.

A window of the view is read, what is no longer claimable left out, a choice made that keeps pilots apart, all of it
locked in one bulk, and the rows that were written kept. A row that lost its race is dropped; that is no error.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from apicas._documents import Document
from apicas._runtime.environment import Environment
from apicas._runtime.keeping.branches import Disowned
from apicas._runtime.keeping.leases import Lease, Leases
from apicas.clients.port import MISSING, Client, SaveResult, SaveStatus, ViewQuery
from apicas.exceptions import TransitionError
from apicas.modifiers import Claim, TokenModifier
from apicas.policies.claiming import (
    MAX_SCAN_PAGES,
    MAX_WINDOW,
    Portion,
    Spread,
    choose,
    may_claim,
    window_size,
    with_slack,
)
from apicas.policies.fence import Standing, standing
from apicas.policies.leases import LeaseTimes
from apicas.policies.retries import Backoff
from apicas.tokens import TokenState, generation_of, not_before, state_of

log = logging.getLogger("apicas.claims")

MAX_UNWRITABLE = 1000
"""Tokens remembered because the store does not take them back; more means that something else is wrong."""
MAX_LOOKS = 3
"""How often a claim without a clear answer is looked for, and written again."""
FIRST_PAGE = 256
"""Rows of the first page where a view is read on, since a sample had nothing that fits; each page is twice the last."""
ROUND_SHARE = 0.05
"""What reading a whole view may take of a pilot's time, if nothing in it fits here: others wait for the store."""


class Choice(Protocol):
    """Which candidates one claim takes: made for it, and asked about one after the other."""

    surplus: int
    """How many times as many candidates to look at as are wanted: 1 where nearly all are taken."""

    @property
    def is_full(self) -> bool:
        """Whether one was left that may be taken later: there is enough of its kind for now."""
        ...

    def takes(self, document: Mapping[str, Any]) -> bool:
        """Whether a candidate is to be claimed."""
        ...


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
        self._spread = Spread()
        self._portion = Portion()
        self._unwritable: set[str] = set()
        self._under_way: set[str] = set()
        """Tokens that a claim of ours is writing at this moment: another one leaves them alone."""
        self.disowned = Disowned()
        """Claims of ours that the store may have, though it did not say so plainly: they are not ours."""
        self.in_order = False
        """Whether the first tokens of a view are claimed, by its keys, and not just any."""
        self.choose: Callable[[], Choice] | None = None
        """Makes the choice of a claim; None where every token is welcome."""
        self._rounds: dict[str, _Round] = {}
        self.isolates = False
        """Whether suspects are run in processes of their own: a claim says so."""
        self.notice_split: Callable[[], None] = lambda: None
        """Called when a token with several versions is seen: it cannot be claimed before it is healed."""
        self.backoff = Backoff(first=0.02, most=2.0)

    async def run_once(self, view: str, wanted: int) -> Claimed:
        """Try once to claim up to `wanted` tokens of a view.

        Args:
            view: the view.
            wanted: tokens; a portion of them is claimed at a time.
        """
        began = self._environment.monotonic()
        wanted = self._client.portion(view, min(wanted, self._portion.size))
        found = await self._look_for(view, wanted)
        claimed = found.claimed
        if found.documents:
            await self._lock(found.documents, claimed)
            self._spread = self._spread.after(len(claimed.leases), claimed.lost)
            self._portion = self._portion.after(wanted, claimed.lost, self._environment.monotonic() - began)
        return claimed

    async def _look_for(self, view: str, wanted: int) -> _Found:
        """Find candidates."""
        if self.choose is not None:
            return await self._fitting(view, wanted, self.choose())
        return await (self._first(view, wanted) if self.in_order else self._any(view, wanted))

    async def _any(self, view: str, wanted: int) -> _Found:
        """Look at documents from a random place on."""
        window = window_size(wanted, self._spread.factor)
        place = self._environment.rng.random()
        # Only a fresh view can say that there are none.
        documents = await self._client.sample(view, wanted, place, window=window, fresh=True)
        found = self._claimable(documents)
        hidden = found.claimed.next_at is not None or bool(self._unwritable)
        if not found.documents and hidden and len(documents) >= wanted:
            found = await self._scan(view, wanted, MAX_WINDOW)
            found.documents = choose(found.documents, wanted, self._environment.rng)
        return found

    async def _first(self, view: str, wanted: int) -> _Found:
        """Look at the first documents, in the order of the view's keys."""
        found = await self._scan(view, wanted, with_slack(wanted))
        del found.documents[wanted:]
        return found

    def _claimable(
        self, documents: Sequence[Document], choice: Choice | None = None, most: int | None = None
    ) -> _Found:
        """What may be claimed of some documents: of a choice, the first that it takes, at most so many."""
        now = self._client.time()
        claimed = Claimed(listed=len(documents))
        found = _Found(claimed)
        for document in documents:
            token_id = document["_id"]
            if token_id in self._leases or token_id in self._unwritable or token_id in self._under_way:
                claimed.listed -= 1  # its outcome is on the way, or it can't be claimed at all
            elif document.get("_conflicts"):  # its owner may be on the version that is not shown; healing frees it
                self._note_later(claimed, now + self._times.sweep)
                self.notice_split()
            elif may_claim(document, now):
                if choice is None:
                    found.documents.append(document)
                    continue
                if choice.takes(document):
                    found.documents.append(document)
                else:
                    claimed.listed -= 1
                if len(found.documents) == most:
                    break
            elif state_of(document) is TokenState.TODO:
                self._note_later(claimed, not_before(document))
        claimed.claimable = len(found.documents)
        return found

    @staticmethod
    def _note_later(claimed: Claimed, later: float) -> None:
        claimed.next_at = later if claimed.next_at is None else min(claimed.next_at, later)

    async def _scan(self, view: str, wanted: int, size: int, choice: Choice | None = None) -> _Found:
        """Read a view from its beginning until enough is found: past those that wait for their time, or are taken."""
        total = _Found(Claimed())
        async for page in self._pages(view, size):
            most = None if choice is None else wanted - len(total.documents)
            total.add(self._claimable(page.documents, choice, most))
            if len(total.documents) >= wanted or (choice is not None and choice.is_full):
                break
        return total

    async def _fitting(self, view: str, wanted: int, choice: Choice) -> _Found:
        """Look for what fits: in a sample, and from row to row where all of that is left to others."""
        if self.in_order:
            return await self._scan(view, wanted, with_slack(wanted), choice)
        limit = wanted if choice.surplus == 1 else with_slack(choice.surplus * wanted)
        place, window = self._environment.rng.random(), window_size(limit, self._spread.factor)
        documents = await self._client.sample(view, limit, place, window=window, fresh=True)
        found = self._claimable(documents, choice, wanted)
        if not found.documents and not choice.is_full and len(documents) >= limit:
            await self._read_on(view, wanted, choice, found)
        return found

    async def _read_on(self, view: str, wanted: int, choice: Choice, found: _Found) -> None:
        """Read a view from where this has ended the last time, past its end and from its beginning, until enough fits.

        A view that was read from its beginning to its end, and has nothing, rests. That may take several calls.
        """
        began, round_ = self._environment.monotonic(), self._rounds.setdefault(view, _Round())
        if began < round_.rests_until:
            self._note_later(found.claimed, self._client.time() + round_.rests_until - began)
            return
        is_at_end = await self._read_to_end(view, wanted, choice, found)
        if is_at_end and not round_.is_whole and not found.documents:
            is_at_end = await self._read_to_end(view, wanted, choice, found)
        now = self._environment.monotonic()
        round_.seconds += now - began
        if is_at_end and round_.is_whole:
            round_.rests_until = now + round_.seconds / ROUND_SHARE

    async def _read_to_end(self, view: str, wanted: int, choice: Choice, found: _Found) -> bool:
        """Read on; answers whether the end of the view was reached, with less than was wanted."""
        round_ = self._rounds[view]
        start = round_.start
        if start is MISSING:
            round_.is_whole, round_.seconds = True, 0.0
        async for page in self._pages(view, FIRST_PAGE, round_.start):
            round_.start = page.start
            taken = {document["_id"] for document in found.documents}
            documents = [document for document in page.documents if document["_id"] not in taken]
            self._environment.rng.shuffle(documents)  # so that pilots keep apart
            found.add(self._claimable(documents, choice, wanted - len(found.documents)))
            round_.is_whole &= not found.documents
            if len(found.documents) >= wanted or choice.is_full:
                return False
            if page.is_last:
                round_.start = MISSING
                return True
        if round_.start == start:  # more rows with one key than are read at a time: there is no way past them
            round_.start = MISSING
            return True
        self._note_later(found.claimed, self._client.time())  # there is more
        return False

    async def _pages(self, view: str, size: int, start: Any = MISSING) -> AsyncIterator[_Page]:
        query = ViewQuery(limit=size, include_docs=True, reduce=False, start_key=start)
        seen: set[str | None] = set()
        for _ in range(MAX_SCAN_PAGES):
            rows = await self._client.query(view, query)
            new = [row for row in rows if row.id not in seen]
            is_last = len(rows) < size
            yield _Page(query.start_key, [row.document for row in new if row.document is not None], is_last)
            if is_last:
                return
            seen.update(row.id for row in new)
            # Nobody knows what follows a key, and many rows may share one: the last is asked for again.
            size = min(2 * size, MAX_WINDOW) if new else 2 * size
            query = ViewQuery(limit=size, include_docs=True, reduce=False, start_key=rows[-1].key)

    async def _lock(self, chosen: Sequence[Document], claimed: Claimed) -> None:
        sent = self._environment.monotonic()
        now = self._client.time()
        locked = [one for document in chosen if (one := self._locked(document, now)) is not None]
        unclear = locked
        ids = {document["_id"] for _, document in locked}
        self._under_way |= ids
        try:
            results = await self._client.save([document for _, document in locked])
            unclear = self._sort(locked, results, claimed, sent)
            await self._look(unclear, claimed, sent)
        except BaseException:  # no answer, or a cancellation: the store may have locked what nobody will work
            self._disown(unclear, claimed, sent)
            raise
        finally:
            self._under_way -= ids

    def _sort(
        self,
        locked: Sequence[tuple[str, Document]],
        results: Sequence[SaveResult],
        claimed: Claimed,
        sent: float,
    ) -> list[tuple[str, Document]]:
        """Keep what was won; answers with what has no clear answer."""
        unclear: list[tuple[str, Document]] = []
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

    def _disown(self, unclear: Sequence[tuple[str, Document]], claimed: Claimed, sent: float) -> None:
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

    def _locked(self, document: Document, now: float) -> tuple[str, Document] | None:
        """Lock a document that was read for this claim, and is nobody else's: no copy is made."""
        claim_id = self._environment.new_id()
        owner, lease = self._environment.owner, self._times.lease
        claim = Claim(claim_id=claim_id, owner=owner, now=now, lease=lease, isolated=self.isolates)
        try:
            return claim_id, self._modifier.lock(document, claim)
        except TransitionError:
            return None

    async def _look(self, unclear: Sequence[tuple[str, Document]], claimed: Claimed, sent: float) -> None:
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
            doubtful = self._sort(doubtful, [_doubted(result) for result in results], claimed, sent)
        for claim_id, document in doubtful:  # the committer goes on until it is settled
            self._hand_back(self._hold(claim_id, document, sent))

    async def _not_there(
        self, unclear: Sequence[tuple[str, Document]], claimed: Claimed, sent: float
    ) -> list[tuple[str, Document]]:
        """Read claims back, and keep what is ours; answers with what is as if they had not been written."""
        absent: list[tuple[str, Document]] = []
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
        if len(self._unwritable) < MAX_UNWRITABLE:
            self._unwritable.add(token_id)


def _doubted(result: SaveResult) -> SaveResult:
    """A result after another attempt: a conflict may be with that one."""
    return SaveResult(SaveStatus.UNKNOWN, reason=result.reason) if result.status is SaveStatus.CONFLICT else result


@dataclass(slots=True)
class _Page:
    """Rows of a view: the key that they begin with, and whether there are no more behind them."""

    start: Any
    documents: list[Document]
    is_last: bool


@dataclass(slots=True)
class _Round:
    """How far a view was read that has much which is left to others."""

    start: Any = MISSING
    """The key to go on from."""
    is_whole: bool = False
    """Whether it has been read from its beginning, and nothing was found yet."""
    seconds: float = 0.0
    """What that took so far, in calls that have not come to the end."""
    rests_until: float = -math.inf
    """Monotonic seconds: not read again before."""


@dataclass(slots=True)
class _Found:
    """Claimable documents, and what else was seen."""

    claimed: Claimed
    documents: list[Document] = field(default_factory=list)

    def add(self, page: _Found) -> None:
        """Add what another page of the view has."""
        self.documents += page.documents
        self.claimed.listed += page.claimed.listed
        self.claimed.claimable += page.claimed.claimable
        times = [at for at in (self.claimed.next_at, page.claimed.next_at) if at is not None]
        self.claimed.next_at = min(times, default=None)
