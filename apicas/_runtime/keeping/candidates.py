"""Candidates: what of a view may be claimed, and of that a choice which keeps pilots apart.

A view may be older than its documents, and lists what is not for everybody at this moment. So documents are read, and
what is taken, split, not yet due, or asks for what this node has not, is left out.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from apicas._documents import Document
from apicas._runtime.environment import Environment
from apicas.clients.port import MISSING, Client, ViewQuery
from apicas.policies.claiming import MAX_SCAN_PAGES, MAX_WINDOW, choose, may_claim, window_size, with_slack
from apicas.policies.leases import LeaseTimes
from apicas.tokens import TokenState, not_before, state_of

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
class Found:
    """Claimable documents, and what else was seen."""

    documents: list[Document] = field(default_factory=list)
    claimable: int = 0
    """How many could be claimed when they were read."""
    listed: int = 0
    """How many the view listed."""
    next_at: float | None = None
    """Store time at which the first of those that wait for their `not_before` may be claimed."""

    def note_later(self, later: float) -> None:
        """Note that there is one which may be claimed at a time to come."""
        self.next_at = later if self.next_at is None else min(self.next_at, later)

    def add(self, page: Found) -> None:
        """Add what another page of the view has."""
        self.documents += page.documents
        self.listed += page.listed
        self.claimable += page.claimable
        if page.next_at is not None:
            self.note_later(page.next_at)


class Candidates:
    """Finds what may be claimed.

    Args:
        client: the pool.
        held: the ids of tokens that this pilot holds.
        times: the lease.
        environment: clocks and dice.
    """

    def __init__(self, client: Client, held: Container[str], times: LeaseTimes, environment: Environment) -> None:
        self._client = client
        self._held = held
        self._times = times
        self._environment = environment
        self._rounds: dict[str, _Round] = {}
        self.under_way: set[str] = set()
        """Tokens that a claim of ours is writing at this moment: another one leaves them alone."""
        self.unwritable: set[str] = set()
        """Tokens that the store does not take back."""
        self.in_order = False
        """Whether the first tokens of a view are claimed, by its keys, and not just any."""
        self.choose: Callable[[], Choice] | None = None
        """Makes the choice of a claim; None where every token is welcome."""
        self.notice_split: Callable[[], None] = lambda: None
        """Called when a token with several versions is seen: it cannot be claimed before it is healed."""

    async def find(self, view: str, wanted: int, spread: int) -> Found:
        """Look for what may be claimed.

        Args:
            view: the view.
            wanted: tokens, at the most.
            spread: by how many times the window that is looked at exceeds that; see window_size.
        """
        if self.choose is not None:
            return await self._fitting(view, wanted, spread, self.choose())
        return await (self._first(view, wanted) if self.in_order else self._any(view, wanted, spread))

    async def _any(self, view: str, wanted: int, spread: int) -> Found:
        """Look at documents from a random place on."""
        window = window_size(wanted, spread)
        place = self._environment.rng.random()
        # Only a fresh view can say that there are none.
        documents = await self._client.sample(view, wanted, place, window=window, fresh=True)
        found = self._claimable(documents)
        hidden = found.next_at is not None or bool(self.unwritable)
        if not found.documents and hidden and len(documents) >= wanted:
            found = await self._scan(view, wanted, MAX_WINDOW)
            found.documents = choose(found.documents, wanted, self._environment.rng)
        return found

    async def _first(self, view: str, wanted: int) -> Found:
        """Look at the first documents, in the order of the view's keys."""
        found = await self._scan(view, wanted, with_slack(wanted))
        del found.documents[wanted:]
        return found

    def _claimable(self, documents: Sequence[Document], choice: Choice | None = None, most: int | None = None) -> Found:
        """What may be claimed of some documents: of a choice, the first that it takes, at most so many."""
        now = self._client.time()
        found = Found(listed=len(documents))
        for document in documents:
            token_id = document["_id"]
            if token_id in self._held or token_id in self.unwritable or token_id in self.under_way:
                found.listed -= 1  # its outcome is on the way, or it can't be claimed at all
            elif document.get("_conflicts"):  # its owner may be on the version that is not shown; healing frees it
                found.note_later(now + self._times.sweep)
                self.notice_split()
            elif may_claim(document, now):
                if choice is None:
                    found.documents.append(document)
                    continue
                if choice.takes(document):
                    found.documents.append(document)
                else:
                    found.listed -= 1
                if len(found.documents) == most:
                    break
            elif state_of(document) is TokenState.TODO:
                found.note_later(not_before(document))
        found.claimable = len(found.documents)
        return found

    async def _scan(self, view: str, wanted: int, size: int, choice: Choice | None = None) -> Found:
        """Read a view from its beginning until enough is found: past those that wait for their time, or are taken."""
        total = Found()
        async for page in self._pages(view, size):
            most = None if choice is None else wanted - len(total.documents)
            total.add(self._claimable(page.documents, choice, most))
            if len(total.documents) >= wanted or (choice is not None and choice.is_full):
                break
        return total

    async def _fitting(self, view: str, wanted: int, spread: int, choice: Choice) -> Found:
        """Look for what fits: in a sample, and from row to row where all of that is left to others."""
        if self.in_order:
            return await self._scan(view, wanted, with_slack(wanted), choice)
        limit = wanted if choice.surplus == 1 else with_slack(choice.surplus * wanted)
        place, window = self._environment.rng.random(), window_size(limit, spread)
        documents = await self._client.sample(view, limit, place, window=window, fresh=True)
        found = self._claimable(documents, choice, wanted)
        if not found.documents and not choice.is_full and len(documents) >= limit:
            await self._read_on(view, wanted, choice, found)
        return found

    async def _read_on(self, view: str, wanted: int, choice: Choice, found: Found) -> None:
        """Read a view from where this has ended the last time, past its end and from its beginning, until enough fits.

        A view that was read from its beginning to its end, and has nothing, rests. That may take several calls.
        """
        began, round_ = self._environment.monotonic(), self._rounds.setdefault(view, _Round())
        if began < round_.rests_until:
            found.note_later(self._client.time() + round_.rests_until - began)
            return
        is_at_end = await self._read_to_end(view, wanted, choice, found)
        if is_at_end and not round_.is_whole and not found.documents:
            is_at_end = await self._read_to_end(view, wanted, choice, found)
        now = self._environment.monotonic()
        round_.seconds += now - began
        if is_at_end and round_.is_whole:
            round_.rests_until = now + round_.seconds / ROUND_SHARE

    async def _read_to_end(self, view: str, wanted: int, choice: Choice, found: Found) -> bool:
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
        found.note_later(self._client.time())  # there is more
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
