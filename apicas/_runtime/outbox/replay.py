"""Replay: writes to the pool what waits in an outbox, under the fence.

| what the token says | what is done |
|---|---|
| our outcome is there | the entry is removed |
| our claim still holds | the outcome is merged with edits of others, and written |
| taken for our silence, and claimed by nobody since | written all the same: a late result is welcome |
| anything else | set aside: never over a newer generation |

Every write is a compare-and-swap and everything may be done twice, so any number of processes replay one outbox, also
while the pilot that an entry is of still tries by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from apicas._documents import Document
from apicas._runtime.environment import Environment
from apicas._runtime.outbox.disk import Outbox
from apicas._runtime.outbox.entries import Entry
from apicas.clients.port import Client, SaveStatus
from apicas.policies.fence import Standing, standing
from apicas.policies.leases import lease_of
from apicas.policies.merging import merge, merge_late
from apicas.tokens import claim_of

log = logging.getLogger("apicas.outbox")

MAX_ENTRIES: Final = 100
"""Entries in memory at once: each may hold some megabytes."""
MAX_ROUNDS: Final = 5
"""Looks at one token: each after a lost race or an answer that never came. The next replay goes on."""


@dataclass(slots=True)
class ReplayReport:
    """What a replay did."""

    written: list[Entry] = field(default_factory=list)
    settled: list[Entry] = field(default_factory=list)
    """Was in the pool already."""
    lost: list[tuple[str, Entry]] = field(default_factory=list)
    """Set aside there: somebody else has the token, or has worked it, or the pool does not take the result."""
    waiting: list[Entry] = field(default_factory=list)
    """Stays: no clear answer, or several live versions of the token, which are healed first."""


def written_over(base: Document, outcome: Document, fresh: Document, claim_id: str) -> Document:
    """An outcome as it is written over a document as it is now: not to be changed, it may be the outcome itself.

    Args:
        base: what the work started from.
        outcome: what it came to.
        fresh: the document; its claim holds, or was taken and has not been claimed since.
        claim_id: the claim.
    """
    if claim_of(fresh) != claim_id:
        return merge_late(base, outcome, fresh)
    if fresh["_rev"] == outcome.get("_rev") == base.get("_rev"):  # nearly always
        return outcome
    if fresh.get("_rev") == base.get("_rev") or not _edited(base, fresh):
        return {**outcome, "_rev": fresh["_rev"]}
    return merge(base, outcome, fresh)


def _edited(base: Document, fresh: Document) -> bool:
    """Whether a document differs from the one that was claimed by more than heartbeats."""
    ignored = {"_rev", "lock", "apicas", "_conflicts"}
    return any(fresh.get(key) != base.get(key) for key in fresh.keys() | base.keys() if key not in ignored)


async def replay(client: Client, outbox: Outbox) -> ReplayReport:
    """Write all that waits, whosever it is.

    Raises:
        PoolError: the pool cannot be reached.
        OSError, ConfigError: the outbox cannot be read or written.
    """
    return await _Replay(client, outbox).run(await outbox.names(), lambda _entry: True)


class Replayer:
    """Replays what pilots left that are gone or cut off.

    Args:
        client: the pool.
        outbox: of this pool.
        environment: who we are: our own entries are our committer's.
        lease: seconds, for claims that carry none.
    """

    def __init__(self, client: Client, outbox: Outbox, environment: Environment, lease: float) -> None:
        self._client = client
        self._outbox = outbox
        self._environment = environment
        self._lease = lease
        self._later: dict[str, Entry] = {}
        """What was read, and is not due yet: not read again with every sweep."""

    async def run_once(self) -> ReplayReport:
        """Look once.

        Raises:
            PoolError: the pool cannot be reached.
            OSError, ConfigError: the outbox cannot be read or written.
        """
        names = await self._outbox.names(not_of=self._environment.owner.pilot)
        self._later = {name: self._later[name] for name in names if name in self._later}
        due = [name for name in names if name not in self._later or self._is_due(self._later[name])]
        if not due:
            return ReplayReport()
        report = await _Replay(self._client, self._outbox).run(due, self._look)
        if report.written:
            log.info("%d finished results of other pilots were in %s and are written", len(report.written), self._place)
        for path, entry in report.lost:
            log.warning("the result of token %s is not written: %s; it is kept in %s", entry.token, entry.reason, path)
        return report

    @property
    def _place(self) -> str:
        return self._outbox.place

    def _look(self, entry: Entry) -> bool:
        if self._is_due(entry):
            self._later.pop(entry.name, None)
            return True
        self._later[entry.name] = entry.head()
        return False

    def _is_due(self, entry: Entry) -> bool:
        """Whether its pilot is gone, or has been unable to write it for so long that others may soon take the token."""
        if self._environment.owner_is_gone(entry.stored):
            return True
        return self._client.time() - entry.time > lease_of(entry.stored, self._lease) / 2


@dataclass(slots=True, eq=False)
class _Attempt:
    """One entry on its way."""

    entry: Entry
    fresh: Document = field(default_factory=dict)
    uncertain: bool = False
    """Whether an answer of a replicated store left it open: what is read may be there in a minority of replicas."""


class _Replay:
    """One pass over some entries."""

    def __init__(self, client: Client, outbox: Outbox) -> None:
        self._client = client
        self._outbox = outbox
        self._report = ReplayReport()

    async def run(self, names: Sequence[str], wanted: Callable[[Entry], bool]) -> ReplayReport:
        """Replay those that are wanted, a few at a time."""
        for first in range(0, len(names), MAX_ENTRIES):
            entries = await self._outbox.read(names[first : first + MAX_ENTRIES])
            attempts = [_Attempt(entry) for entry in entries if wanted(entry)]
            for _ in range(MAX_ROUNDS):
                attempts = await self._try(attempts)
            self._report.waiting += [attempt.entry.head() for attempt in attempts]
        return self._report

    async def _try(self, attempts: Sequence[_Attempt]) -> list[_Attempt]:
        """Look, and write what may be written; answers which have to be tried again."""
        writable = await self._look(attempts)
        if not writable:
            return []
        documents = [written_over(one.entry.base, one.entry.outcome, one.fresh, one.entry.claim) for one in writable]
        results = await self._client.save(documents)
        again: list[_Attempt] = []
        for attempt, result in zip(writable, results, strict=True):
            if result.written:
                self._report.written.append(attempt.entry.head())
                await self._outbox.remove([attempt.entry.name])
            elif result.status is SaveStatus.REJECTED:
                await self._lose(attempt.entry, f"it cannot be stored: {result.reason}")
            else:
                attempt.uncertain = result.status is SaveStatus.UNKNOWN and self._client.replicated
                again.append(attempt)
        return again

    async def _look(self, attempts: Sequence[_Attempt]) -> list[_Attempt]:
        """Read the tokens, and settle what needs no write; answers what does."""
        if not attempts:
            return []
        found = await self._client.get([attempt.entry.token for attempt in attempts])
        writable: list[_Attempt] = []
        for attempt, fresh in zip(attempts, found, strict=True):
            entry = attempt.entry
            if fresh is not None and "_conflicts" in fresh:  # several live versions: healed first
                self._report.waiting.append(entry.head())
                continue
            match _standing(entry, fresh):
                case Standing.SETTLED if attempt.uncertain:
                    self._report.waiting.append(entry.head())
                case Standing.SETTLED:
                    self._report.settled.append(entry.head())
                    await self._outbox.remove([entry.name])
                case Standing.OURS | Standing.RECLAIMED if fresh is not None:
                    attempt.fresh = fresh
                    writable.append(attempt)
                case _:
                    await self._lose(entry, "the token is gone" if fresh is None else "somebody else has taken it")
        return writable

    async def _lose(self, entry: Entry, reason: str) -> None:
        lost = replace(entry, reason=reason)
        (place,) = await self._outbox.set_aside([lost])
        self._report.lost.append((place, lost.head()))


def _standing(entry: Entry, fresh: Document | None) -> Standing:
    return standing(entry.stored, fresh, entry.claim)
