"""The reaper: takes back what dead pilots left locked. It runs in every pilot; there is no leader.

What is stale is decided by apicas.policies.is_stale; then the token is reclaimed by compare-and-swap on exactly the
revision that was watched, so an owner that comes back in that moment wins.

A token that a cluster stores in several versions is healed first: the one that is shown may not be its owner's.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from apicas._documents import Document
from apicas._runtime.environment import Environment
from apicas._runtime.keeping.healer import Healer
from apicas._runtime.keeping.leases import Leases
from apicas.clients.port import Client, ViewQuery
from apicas.exceptions import PoolError, ViewNotFoundError
from apicas.modifiers import TokenModifier
from apicas.policies.leases import LeaseTimes, Watch, is_stale, look_again
from apicas.policies.retries import MAX_CRASHES, MAX_VANISHED, RetryDelays, jittered
from apicas.tokens import TokenState, annex, claim_of, count, is_foreign_lock, is_suspect, state_of

log = logging.getLogger("apicas.reaper")

LOCKED_VIEW = "Monitor/locked"
_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaperOptions:
    """What the reaper may take.

    Args:
        foreign_lock_timeout: seconds after which a lock that apicas did not set is stale; None for never.
        max_crashes: how many processes a token may take down before it goes to error.
    """

    foreign_lock_timeout: float | None = None
    max_crashes: int = MAX_CRASHES


@dataclass(slots=True)
class Sweep:
    """What one sweep found."""

    reclaimed: int = 0
    unaccounted: set[str] = field(default_factory=set)
    """Tokens that other apicas pilots hold, none of which has been seen to beat since this pilot first looked."""
    looked: int = 0
    """Locks of others that were looked at."""


class Reaper:
    """Sweeps the locked tokens.

    Args:
        client: the pool.
        leases: what this pilot holds itself.
        modifier: takes a token from its owner.
        times: the lease and what follows from it.
        environment: clocks and dice.
        options: what it may take.
        healer: knows how long the version that is left of a healed token has been silent, and whose claims may have no
            owner; None for a store with one copy of each document.
    """

    def __init__(
        self,
        client: Client,
        leases: Leases,
        modifier: TokenModifier,
        times: LeaseTimes,
        environment: Environment,
        options: ReaperOptions,
        healer: Healer | None = None,
    ) -> None:
        self._client = client
        self._leases = leases
        self._modifier = modifier
        self._times = times
        self._environment = environment
        self._options = options
        self._healer = healer
        self._watches: dict[str, Watch] = {}
        self._one_at_a_time = anyio.Lock()
        self.delays = RetryDelays()
        """How long a token waits that took its pilot down."""
        self._away = False
        self.on_reclaimed: Callable[[Sequence[tuple[Document, str]]], None] | None = None
        """Called with what was reclaimed, and from whom; None where nobody wants to know."""
        self.views: tuple[str, ...] = (LOCKED_VIEW,)
        """Those that list what is held. One of the user's that does not exist is asked for once."""
        self.before_sweep: Callable[[], Awaitable[object]] | None = None
        """Called before each sweep: what is about to bring a token's result comes before those who take the token."""

    async def run_once(self) -> Sweep:
        """Look at every locked token of others, and take what is stale."""
        async with self._one_at_a_time:
            if self.before_sweep is not None:
                await self.before_sweep()
            return await self._sweep()

    async def _sweep(self) -> Sweep:
        sweep = Sweep()
        watches: dict[str, Watch] = {}
        try:
            async for page in self._locked():
                stale = [document for document in page if self._looks_stale(document, watches, sweep)]
                for token_id in await self._reclaim(stale):
                    sweep.reclaimed += 1
                    del watches[token_id]
        except PoolError:
            # After an outage nothing is stale until its owner has had time to come back.
            self._watches.clear()
            raise
        self._watches = watches
        sweep.looked = len(watches)
        return sweep

    async def _locked(self) -> AsyncIterator[list[Document]]:
        """The locked tokens of all views, page by page."""
        for view in self.views:
            try:
                async for page in self._locked_in(view):
                    yield page
            except ViewNotFoundError:
                if view == LOCKED_VIEW:
                    raise
                self.views = tuple(other for other in self.views if other != view)

    async def _locked_in(self, view: str) -> AsyncIterator[list[Document]]:
        """The locked tokens, page by page, without those that were ours when the page was asked for.

        What has ended meanwhile would else seem to be somebody else's.
        """
        query = ViewQuery(limit=_PAGE, include_docs=True)
        while True:
            ours = {lease.token_id for lease in self._leases}
            rows = await self._client.query(view, query)
            yield [row.document for row in rows if row.document is not None and row.id not in ours]
            if len(rows) < _PAGE or (view != LOCKED_VIEW and rows[-1].key != rows[-1].id):
                return  # a view of the user's whose keys are no ids cannot be read on from one
            query = ViewQuery(limit=_PAGE, include_docs=True, start_key=_next_key(rows[-1].key))

    def _looks_stale(self, document: Document, watches: dict[str, Watch], sweep: Sweep) -> bool:
        """Note a look at a token; answers whether to reclaim it."""
        token_id = document["_id"]
        if token_id in watches or token_id in self._leases or state_of(document) is not TokenState.LOCKED:
            return False
        watch = self._watch(document)
        watches[token_id] = watch
        if not document.get("_conflicts") and self._is_stale(document, watch):
            return True
        if not watch.beaten and not is_foreign_lock(document):
            sweep.unaccounted.add(token_id)
        return False

    def _watch(self, document: Document) -> Watch:
        """Note this look at a token; of one with several versions, at all of them."""
        token_id, others = document["_id"], sorted(document.get("_conflicts") or ())
        before = self._watches.get(token_id)
        if before is not None and before.revision.count(" ") != len(others):
            before = None  # a version came to light, or was deleted: nobody has shown that he lives
        claim = claim_of(document)
        if before is not None and before.claim != claim:
            before = None  # claimed anew, by one who may have crashed since, or was never told that he owns it
        if others and self._healer is not None:
            self._healer.notice()
        elif before is None and self._healer is not None:
            before = self._healer.watch_of(token_id)
        revisions = " ".join([document["_rev"], *others])
        watch = look_again(before, revisions, self._environment.monotonic(), 2 * self._times.sweep)
        return replace(watch, claim=claim)

    def _is_stale(self, document: Document, watch: Watch) -> bool:
        return is_stale(
            document,
            watch,
            store_now=self._client.time(),
            default_lease=self._times.lease,
            owner_is_gone=self._environment.owner_is_gone(document),
            foreign_lock_timeout=self._options.foreign_lock_timeout,
        )

    async def _reclaim(self, stale: Sequence[Document]) -> list[str]:
        """Take tokens from their owners, all that still are as they were looked at; answers with their ids."""
        if not stale:
            return []
        now = self._client.time()
        results = await self._client.save([self._reclaimed(document, now) for document in stale])
        taken = [document for document, result in zip(stale, results, strict=True) if result.written]
        _tell(taken, now)
        if taken and self.on_reclaimed is not None:
            self.on_reclaimed([(document, _owner(document)) for document in taken])
        return [document["_id"] for document in taken]

    def _reclaimed(self, document: Document, now: float) -> Document:
        later = 0.0
        charge = self._healer is None or document not in self._healer.disowned
        if charge and is_suspect(document):
            before = count(annex(document).get("crashes")) + count(annex(document).get("vanished"))
            later = now + self.delays.after_crash(before + 1, self._environment.rng)
        reclaimed = self._modifier.reclaim(dict(document), now, charge=charge, not_before=later)
        crashes, vanished = (count(annex(reclaimed).get(name)) for name in ("crashes", "vanished"))
        message = None
        if crashes > self._options.max_crashes:
            message = f"its work took {crashes} processes down; the limit is {self._options.max_crashes}"
        elif vanished > MAX_VANISHED:
            message = f"{vanished} pilots vanished under it, though it had a process of its own; {MAX_VANISHED} may"
        return reclaimed if message is None else self._modifier.set_error(reclaimed, message, None, now)

    async def run(self) -> None:
        """Sweep for ever, at once and then at intervals."""
        while True:
            try:
                await self.run_once()
            except PoolError as error:
                if not self._away:
                    log.warning("sweep: %s", error)
                self._away = True
            else:
                self._away = False
            await anyio.sleep(jittered(self._times.sweep, self._environment.rng))


def _next_key(key: Any) -> Any:
    """The smallest key after this one, so that a page begins behind the one before."""
    return f"{key}\x00" if isinstance(key, str) else key


def _age(document: Mapping[str, Any], now: float) -> str:
    lock = document.get("lock")
    return f"{max(0, int(now - lock))} s ago" if isinstance(lock, int) else "nobody knows when"


def _tell(taken: Sequence[Document], now: float) -> None:
    """Say what was reclaimed: a line for each owner, who may have held thousands."""
    by_owner: defaultdict[str, list[Document]] = defaultdict(list)
    for document in taken:
        by_owner[_owner(document)].append(document)
    for owner, documents in by_owner.items():
        first, *others = documents
        and_others = f" and {len(others):,} more" if others else ""
        age = _age(max(documents, key=lambda document: count(document.get("lock"))), now)
        log.warning(
            "reclaimed token %s%s from %s, last seen alive %s",
            *(first["_id"], and_others, owner, age),
            extra={"reclaimed": [document["_id"] for document in documents], "owner": owner},
        )


def _owner(document: Mapping[str, Any]) -> str:
    return f"pilot {annex(document).get('pilot', '?')} on {document.get('hostname') or '?'}"
