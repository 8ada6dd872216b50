"""The committer: writes the outcomes of many tokens together, under the fence.

While one bulk is on its way the next gathers, so a busy pilot writes large bulks and an idle one waits for nothing.
An outcome is only written over the claim that it belongs to. After a conflict, or an answer that got lost, the token is
read: an edit by somebody else is merged, our own write is recognised, anything else means that the lease is lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import anyio

from apicas._documents import Document
from apicas._runtime.branches import overtaken, read_own
from apicas._runtime.environment import Environment
from apicas._runtime.leases import Lease, Leases
from apicas.clients.port import Client, SaveResult, SaveStatus
from apicas.exceptions import AccessDeniedError, PoolError, PoolNotFoundError
from apicas.policies import Backoff, Standing, merge, standing

log = logging.getLogger("apicas.committer")

MAX_BATCH = 1000


class Ending(Enum):
    """How a token left this pilot."""

    DONE = "done"
    FAILED = "failed"
    """Ended in error."""
    SCRUBBED = "scrubbed"
    """Failed, and sent back to todo."""
    CRASHED = "crashed"
    """Its process died; sent back to todo, and charged."""
    RELEASED = "released"
    """Handed back unfinished, uncharged."""
    LOST = "lost"
    """Somebody else had taken it: nothing was written."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What is to be written for a token."""

    document: Document
    ending: Ending


@dataclass(slots=True, eq=False)
class Settlement:
    """An outcome on its way into the store."""

    lease: Lease
    outcome: Outcome
    rejected: Callable[[str], Outcome]
    """What to write instead where the store does not take the outcome; given the reason."""
    settled: Callable[[Ending], None] | None = None
    """Called when it is written, or known to be lost."""
    event: anyio.Event = field(default_factory=anyio.Event)
    """Set when it is written, or known to be lost, or nobody will write it any more: then `ending` is None."""
    ending: Ending | None = None
    fallen_back: bool = False

    def finish(self, ending: Ending) -> None:
        """Tell whoever waits."""
        self.ending = ending
        if self.settled is not None:
            self.settled(ending)
        self.event.set()


class Committer:
    """Writes outcomes.

    Args:
        client: the pool.
        leases: what the pilot holds.
        environment: clocks and dice.
    """

    def __init__(self, client: Client, leases: Leases, environment: Environment) -> None:
        self._client = client
        self._leases = leases
        self._environment = environment
        self._backoff = Backoff(first=0.1, most=5.0)
        self._pending: list[Settlement] = []
        self._arrived = anyio.Event()
        self._one_at_a_time = anyio.Lock(fast_acquire=True)
        self.unwritten = 0
        """Outcomes that were handed in, and neither written nor known to be lost."""
        self._all_written = anyio.Event()

    async def wait_until_written(self) -> None:
        """Wait until nothing waits to be written, however long the store is away."""
        while self.unwritten:
            if self._all_written.is_set():  # others may wait for the present one
                self._all_written = anyio.Event()
            await self._all_written.wait()

    def _finish(self, settlement: Settlement, ending: Ending) -> None:
        self.unwritten -= 1
        settlement.finish(ending)
        if not self.unwritten:
            self._all_written.set()

    def submit(self, settlement: Settlement) -> None:
        """Take an outcome; it is written soon, together with others."""
        self.unwritten += 1
        self._pending.append(settlement)
        self._arrived.set()

    def give_up(self) -> None:
        """Let nobody wait any longer for what could not be written: nobody will write it."""
        for settlement in self._pending:
            settlement.event.set()

    async def run(self) -> None:
        """Write what comes, for ever.

        Raises:
            AccessDeniedError: the store refuses us for good.
        """
        while True:
            await self._arrived.wait()
            self._arrived = anyio.Event()
            await self.flush()

    async def flush(self) -> None:
        """Write all that waits, what somebody else is writing included, however long the store is away."""
        attempt = 0
        while True:
            try:
                async with self._one_at_a_time:  # a batch under way may fail, and its outcomes wait again
                    if not self._pending:
                        return
                    await self._write_batch()
            except (AccessDeniedError, PoolNotFoundError):
                raise
            except PoolError as error:
                if not attempt:
                    log.warning("%s; %d outcomes wait", error, len(self._pending))
                await anyio.sleep(self._backoff.delay(attempt, self._environment.rng))
                attempt += 1
            else:
                if attempt:
                    log.info("the pool answers again")
                attempt = 0

    async def _write_batch(self) -> None:
        batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
        again: list[Settlement] | None = None
        try:
            again = await self.run_once(batch)
        finally:  # also when cancelled: whoever leaves the pilot writes them
            left = [one for one in batch if one.ending is None] if again is None else again
            self._pending = left + self._pending

    async def run_once(self, batch: Sequence[Settlement]) -> list[Settlement]:
        """Write a batch, and answer which of it have to be tried again."""
        held: list[Settlement] = []
        for settlement in batch:
            if await self._leases.begin_settling(settlement.lease):
                held.append(settlement)
            else:
                self._lost(settlement)
        late = await overtaken(self._client, [settlement.lease for settlement in held])
        for settlement in [one for one in held if one.lease in late]:
            held.remove(settlement)
            self._lost(settlement)
        if not held:
            return []
        results = await self._client.save([_document(settlement) for settlement in held])
        again: list[Settlement] = []
        unclear: list[Settlement] = []
        for settlement, result in zip(held, results, strict=True):
            if result.written:
                self._end(settlement)
            elif result.status is SaveStatus.REJECTED:
                again += self._fall_back(settlement, result)
            else:
                unclear.append(settlement)
        return again + await self._look(unclear)

    def _end(self, settlement: Settlement) -> None:
        self._leases.end(settlement.lease)
        self._finish(settlement, settlement.outcome.ending)

    def _lost(self, settlement: Settlement) -> None:
        self._leases.lose(settlement.lease)
        log.warning("token %s was taken by somebody else: its outcome is not written", settlement.lease.token_id)
        self._finish(settlement, Ending.LOST)

    def _fall_back(self, settlement: Settlement, result: SaveResult) -> list[Settlement]:
        log.error("the outcome of token %s cannot be stored: %s", settlement.lease.token_id, result.reason)
        if settlement.fallen_back:  # not even the error goes in: the lock goes stale, and a person will look
            self._leases.lose(settlement.lease)
            self._finish(settlement, Ending.LOST)
            return []
        settlement.fallen_back = True
        settlement.outcome = settlement.rejected(result.reason)
        return [settlement]

    async def _look(self, unclear: Sequence[Settlement]) -> list[Settlement]:
        """Read back what met a conflict, or had no clear answer."""
        if not unclear:
            return []
        again: list[Settlement] = []
        fresh = await read_own(self._client, [settlement.lease for settlement in unclear])
        for settlement, document in zip(unclear, fresh, strict=True):
            lease = settlement.lease
            match standing(lease.stored, document, lease.claim_id):
                case Standing.SETTLED:
                    self._end(settlement)
                case Standing.OURS if document is not None:
                    lease.stored = document
                    again.append(settlement)
                case _:
                    self._lost(settlement)
        return again


def _document(settlement: Settlement) -> dict[str, Any]:
    """The outcome as it is to be written now: over the stored revision, merged with what somebody edited."""
    lease, document = settlement.lease, settlement.outcome.document
    if lease.stored.get("_rev") == lease.base.get("_rev") or not _edited(lease):
        return {**document, "_rev": lease.stored["_rev"]}
    return merge(lease.base, document, lease.stored)


def _edited(lease: Lease) -> bool:
    """Whether the stored document differs from the one that was claimed by more than heartbeats."""
    ignored = {"_rev", "lock", "apicas"}
    return any(
        lease.stored.get(key) != lease.base.get(key)
        for key in lease.stored.keys() | lease.base.keys()
        if key not in ignored
    )
