"""The committer: writes the outcomes of many tokens together, under the fence.

While one bulk is on its way the next gathers, so a busy pilot writes large bulks and an idle one waits for nothing.
An outcome is only written over the claim that it belongs to. After a conflict, or an answer that got lost, the token is
read: an edit by somebody else is merged, our own write is recognised, and one that was taken for our silence, and that
nobody has claimed since, still gets its result. Anything else means that the lease is lost: nothing is written, and a
finished result is kept aside.

What takes long to be written, or took long to be worked out, is kept in the outbox meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Final

import anyio

from apicas._documents import Document
from apicas._runtime.environment import Environment
from apicas._runtime.keeping.branches import overtaken, read_own
from apicas._runtime.keeping.leases import Lease, Leases, Phase
from apicas._runtime.keeping.safekeeping import PUT_AWAY_TIME, Safekeeping
from apicas._runtime.keeping.settlements import Ending, Outcome, Settlement
from apicas._runtime.outbox.replay import written_over
from apicas.clients.port import Client, SaveResult, SaveStatus
from apicas.exceptions import AccessDeniedError, PoolError, PoolNotFoundError
from apicas.policies.fence import Standing, standing
from apicas.policies.retries import Backoff
from apicas.tokens import claim_of

log = logging.getLogger("apicas.committer")

MAX_BATCH = 1000
GATHER_TIME: Final = 0.02
"""Seconds that outcomes wait for others, so that a bulk is worth a request."""
GATHER_WITHIN: Final = 0.05
"""Seconds after a write in which the next one waits for others."""
GATHER_MOST: Final = 64
"""Outcomes that are worth a request."""


class Committer:
    """Writes outcomes.

    Args:
        client: the pool.
        leases: what the pilot holds.
        environment: clocks and dice.
        safe: keeps what is not written yet, or never will be.
        rejected: what to write instead of an outcome that the store does not take, given the reason.
    """

    def __init__(
        self,
        client: Client,
        leases: Leases,
        environment: Environment,
        safe: Safekeeping,
        rejected: Callable[[Lease, str], Outcome],
    ) -> None:
        self._client = client
        self._leases = leases
        self._environment = environment
        self._safe = safe
        self._rejected = rejected
        self._backoff = Backoff(first=0.1, most=5.0)
        self._pending: list[Settlement] = []
        self._under_way: list[Settlement] = []
        """The batch that is being written."""
        self._first: list[Settlement] = []
        """What is kept before it may be written."""
        self._to_keep = asyncio.Event()
        self._written_some = asyncio.Event()
        self._first_one_at_a_time = anyio.Lock(fast_acquire=True)
        self._arrived = asyncio.Event()
        self._one_at_a_time = anyio.Lock(fast_acquire=True)
        self._hurried = asyncio.Event()
        self._wrote = -math.inf
        """Monotonic seconds: when the last outcomes were written."""
        self._away = False
        """Whether the last attempt to write failed."""
        self._has_given_up = False
        self.unwritten = 0
        """Outcomes that were handed in, and neither written nor known to be lost."""
        self._all_written = asyncio.Event()

    async def wait_until_written(self) -> None:
        """Wait until nothing waits to be written, however long the store is away."""
        while self.unwritten:
            self.hurry()
            if self._all_written.is_set():  # others may wait for the present one
                self._all_written = asyncio.Event()
            await self._all_written.wait()

    def _finish(self, settlement: Settlement, ending: Ending) -> None:
        self.unwritten -= 1
        settlement.finish(ending)
        if settlement.touched and ending is not Ending.LOST:
            self._safe.written(settlement)
            self._written_some.set()
        if not self.unwritten:
            self._all_written.set()

    def submit(self, settlement: Settlement) -> None:
        """Take an outcome; it is written soon, together with others."""
        self.unwritten += 1
        if self._has_given_up:
            settlement.abandon()
        if self._safe.comes_first(settlement):
            self._first.append(settlement)
            self._to_keep.set()
        else:
            self._pending.append(settlement)
            self._arrived.set()

    def give_up(self) -> None:
        """Let nobody wait any longer for what could not be written: this process will not write it."""
        self._has_given_up = True
        for settlement in (*self._first, *self._pending):
            settlement.abandon()

    async def put_away(self) -> int:
        """Keep what could not be written, within a bounded time; answers how many finished results wait there."""
        # Also what is under way: a server that hangs may never answer.
        unwritten = [*self._first, *self._under_way, *self._pending]
        with anyio.move_on_after(PUT_AWAY_TIME, shield=True):
            await self._safe.keep(unwritten)
            await self._safe.tidy()
        return sum(settlement.kept and settlement.ending is None for settlement in unwritten)

    async def run(self) -> None:
        """Write what comes, for ever.

        Raises:
            AccessDeniedError: the store refuses us for good.
        """
        async with anyio.create_task_group() as group:
            group.start_soon(self._run_keeping)
            group.start_soon(self._run_tidying)
            while True:
                await self._arrived.wait()
                self._arrived = asyncio.Event()
                await self._gather()
                await self._write_all(until_more_came=True)
                self._wrote = self._environment.monotonic()

    async def _gather(self) -> None:
        """Wait a moment for more outcomes where they come one by one: not in an idle pilot, nor if somebody waits."""
        few = len(self._pending) < GATHER_MOST
        if few and self._environment.monotonic() - self._wrote < GATHER_WITHIN:
            with anyio.move_on_after(GATHER_TIME):
                await self._hurried.wait()
        self._hurried.clear()

    def hurry(self) -> None:
        """Write at once: somebody waits for an outcome."""
        self._hurried.set()

    async def _run_keeping(self) -> None:
        """Keep what is to be kept before it is written, and what could not be written. An fsync may take long."""
        while True:
            await self._to_keep.wait()
            self._to_keep = asyncio.Event()
            await self._keep_first()
            if self._away:
                await self._safe.keep(list(self._pending))

    async def _run_tidying(self) -> None:
        """Forget what is written."""
        while True:
            await self._written_some.wait()
            self._written_some = asyncio.Event()
            await self._safe.tidy()

    async def _keep_first(self) -> None:
        async with self._first_one_at_a_time:
            while batch := self._first[:MAX_BATCH]:
                try:
                    await self._safe.keep(batch)
                finally:  # also when cancelled, and when it could not be kept: it is written all the same
                    del self._first[: len(batch)]
                    self._pending += batch
                    self._arrived.set()

    async def flush(self) -> None:
        """Write all that waits, what somebody else is writing included, however long the store is away."""
        await self._keep_first()
        await self._write_all()
        await self._safe.tidy()

    async def _write_all(self, *, until_more_came: bool = False) -> None:
        """Write what waits, as often as it takes.

        Args:
            until_more_came: whether outcomes that have come since are left for a bulk of their own: they would else be
                written a few at a time, one bulk after the other, as long as tokens end faster than one is written.
        """
        attempt = vain = 0
        while True:
            if vain > 1:  # an edit that came between takes a second round; answers that all get lost take many
                await anyio.sleep(self._backoff.delay(vain - 2, self._environment.rng))
            try:
                async with self._one_at_a_time:  # a batch under way may fail, and its outcomes wait again
                    if not self._pending:
                        break
                    vain = 0 if await self._write_batch() else vain + 1
            except (AccessDeniedError, PoolNotFoundError):
                raise
            except PoolError as error:
                if not attempt:
                    log.warning("%s; %d outcomes wait", error, len(self._pending))
                self._away = True
                self._to_keep.set()
                await anyio.sleep(self._backoff.delay(attempt, self._environment.rng))
                attempt += 1
            else:
                if attempt:
                    log.info("the pool answers again")
                attempt = 0
                self._away = False
                if until_more_came and not vain and self._arrived.is_set():
                    break

    async def _write_batch(self) -> bool:
        """Write what waits first; answers whether any of it is settled now."""
        batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
        self._under_way = batch
        again: list[Settlement] | None = None
        try:
            again = await self.run_once(batch)
        finally:  # also when cancelled: whoever leaves the pilot writes them
            left = [one for one in batch if one.ending is None] if again is None else again
            self._under_way = []
            self._pending = left + self._pending
        return len(left) < len(batch)

    async def run_once(self, batch: Sequence[Settlement]) -> list[Settlement]:
        """Write a batch, and answer which of it have to be tried again."""
        writable, taken = await self._begin(batch)
        late = await overtaken(self._client, [one.lease for one in writable if one.over is None])
        lost = [one for one in writable if one.lease in late]
        writable = [one for one in writable if one.lease not in late]
        results = await self._client.save([_document(settlement) for settlement in writable]) if writable else []
        rejected: list[tuple[Settlement, SaveResult]] = []
        unclear: list[Settlement] = taken
        self._end([one for one, result in zip(writable, results, strict=True) if result.written])
        for settlement, result in zip(writable, results, strict=True):
            if result.written:
                continue
            if result.status is SaveStatus.REJECTED:
                rejected.append((settlement, result))
            else:
                settlement.answer = result.status
                settlement.in_doubt |= result.status is SaveStatus.UNKNOWN
                settlement.doubtful |= self._client.replicated and result.status is SaveStatus.UNKNOWN
                unclear.append(settlement)
        await self._lose(lost)
        return await self._fall_back(rejected) + await self._look(unclear)

    async def _begin(self, batch: Sequence[Settlement]) -> tuple[list[Settlement], list[Settlement]]:
        """Keep the heartbeat off the leases of a batch; answers what may be written, and what a beat found taken."""
        writable: list[Settlement] = []
        taken: list[Settlement] = []
        self._leases.settle_at_once(one.lease for one in batch if one.over is None)
        for settlement in batch:
            lease = settlement.lease
            if (
                settlement.over is not None
                or (lease.phase is Phase.SETTLING and not lease.beating)
                or await self._leases.begin_settling(lease)
            ):
                writable.append(settlement)
            elif settlement.is_finished:
                taken.append(settlement)
            else:
                self._say_lost(settlement)
                self._finish(settlement, Ending.LOST)
        return writable, taken

    def _end(self, settlements: Sequence[Settlement]) -> None:
        self._leases.end(settlement.lease for settlement in settlements)
        for settlement in settlements:
            self._finish(settlement, settlement.outcome.ending)

    async def _lose(self, settlements: Sequence[Settlement]) -> None:
        """Somebody else has the tokens: nothing is written to them, and what was finished is kept aside."""
        if not settlements:
            return
        for settlement in settlements:
            self._leases.lose(settlement.lease)
        places = await self._safe.set_aside(settlements, "somebody else has taken it")
        for settlement in settlements:
            self._say_lost(settlement, places.get(settlement))
            self._finish(settlement, Ending.LOST)

    @staticmethod
    def _say_lost(settlement: Settlement, place: str | None = None) -> None:
        aside = "" if place is None else f"; it is kept in {place}"
        log.warning(
            "token %s was taken by somebody else: its outcome is not written%s", settlement.lease.token_id, aside
        )

    async def _fall_back(self, rejected: Sequence[tuple[Settlement, SaveResult]]) -> list[Settlement]:
        """Write that it failed where the store does not take the outcome itself."""
        again: list[Settlement] = []
        for settlement, result in rejected:
            places = await self._safe.set_aside([settlement], f"it cannot be stored: {result.reason}")
            aside = f"; it is kept in {places[settlement]}" if places else ""
            log.error("the outcome of token %s cannot be stored: %s%s", settlement.lease.token_id, result.reason, aside)
            if settlement.fallen_back:  # not even the error goes in: the lock goes stale, and a person will look
                self._leases.lose(settlement.lease)
                self._finish(settlement, Ending.LOST)
                continue
            settlement.fallen_back = True
            settlement.kept = False
            settlement.outcome = self._rejected(settlement.lease, result.reason)
            again.append(settlement)
        return again

    async def _look(self, unclear: Sequence[Settlement]) -> list[Settlement]:
        """Read back what met a conflict, or had no clear answer, or was taken by the time it was finished."""
        if not unclear:
            return []
        again: list[Settlement] = []
        lost: list[Settlement] = []
        fresh = await read_own(self._client, [settlement.lease for settlement in unclear])
        for settlement, document in zip(unclear, fresh, strict=True):
            lease = settlement.lease
            match standing(lease.stored, document, lease.claim_id):
                case Standing.SETTLED if document is not None and _needs_confirming(settlement, document):
                    settlement.unconfirmed = document
                    again.append(settlement)
                case Standing.SETTLED:
                    self._end([settlement])
                case Standing.OURS if document is not None and lease.phase is Phase.SETTLING:
                    lease.stored = document
                    again.append(settlement)
                case Standing.LOST if _is_unchanged(lease, document):
                    again.append(settlement)
                case Standing.RECLAIMED if not settlement.is_finished:
                    self._end([settlement])  # it is where it was to go
                case Standing.LOST if settlement.in_doubt and not settlement.is_finished:
                    self._end([settlement])  # it went there, and on to somebody else before we looked
                case Standing.OURS | Standing.RECLAIMED if document is not None:
                    self._leases.lose(lease)
                    settlement.over = document
                    again.append(settlement)
                case _:
                    lost.append(settlement)
        await self._lose(lost)
        return again


def _is_unchanged(lease: Lease, document: Document | None) -> bool:
    """Whether nothing has been written over what a claim without a clear answer was written over: it may yet be.

    Such a claim is handed back unseen. Until that is stored, the claim may arrive, and lock what nobody works.
    """
    return document is not None and document["_rev"] == lease.stored["_rev"] and lease.phase is Phase.SETTLING


def _needs_confirming(settlement: Settlement, found: Document) -> bool:
    """Whether an outcome that was found in a replicated store may be lost with the few replicas that have it.

    What somebody has claimed or changed since then went through a majority.
    """
    if not settlement.doubtful or claim_of(found) is not None:
        return False
    before = settlement.unconfirmed
    changed = before is not None and before["_rev"] != found["_rev"]
    return not (changed and settlement.answer is SaveStatus.CONFLICT)


def _document(settlement: Settlement) -> Document:
    """The outcome as it is to be written now."""
    if settlement.unconfirmed is not None:
        return settlement.unconfirmed
    lease = settlement.lease
    over = lease.stored if settlement.over is None else settlement.over
    return written_over(lease.base, settlement.outcome.document, over, lease.claim_id)
