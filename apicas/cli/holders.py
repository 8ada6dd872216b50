"""Who holds tokens: pilots by what their locks say, without asking anybody else. Plain functions of documents.

A pilot that holds nothing is not to be seen here. What a lock says is what its owner wrote: the host, the batch job,
the last beat; and on this node the system knows whether the process is still there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from apicas._documents import Document
from apicas._javascript import to_number
from apicas.modifiers import JOB_ID_FIELDS
from apicas.policies.leases import lease_of
from apicas.tokens import FIRST_LOCK_TIME, Token, TokenState, annex, is_foreign_lock, state_of

if TYPE_CHECKING:
    from apicas.clients.base import PoolClient

MAX_READ: Final = 10_000
"""Locked tokens that are read: as many as a hundred nodes hold. More are said to be there."""
MAX_TEXT: Final = 255
"""Characters of a host name, or of a batch job's id, that are shown."""


OLD_LOCK: Final = 48 * 3600.0
"""Seconds after which the lock of another tool is worth a look: its longest tasks run for 30 hours."""


class Sign(StrEnum):
    """What the locks of a holder say of it."""

    ALIVE = "alive"
    SILENT = "silent"
    """No beat within the lease of a token: a running pilot puts that token back to todo."""
    GONE = "gone"
    """Its process is known not to exist any more."""
    FOREIGN = "foreign"
    """Another tool's lock, which nobody refreshes."""


@dataclass(slots=True)
class Holder:
    """One pilot, or another tool on one host, and what it holds."""

    pilot: str | None
    """Its id; None for another tool."""
    hostname: str
    jobs: dict[str, str] = field(default_factory=dict)
    """The ids of its batch job, by the kind of batch system."""
    sign: Sign = Sign.ALIVE
    since: float | None = None
    """Unix seconds of its oldest claim; None where the locks are no times."""
    beat: float | None = None
    """Unix seconds of the latest lock."""
    tokens: list[Document] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    """The ids of tokens whose last beat is longer ago than their lease."""

    def add(self, document: Document, now: float, default_lease: float) -> None:
        """Take in a token that it holds."""
        lock = lock_time(document)
        self.tokens.append(document)
        if lock is None:
            return
        began = to_number(annex(document).get("claimed"))
        began = began if began >= FIRST_LOCK_TIME and self.pilot is not None else lock
        self.since = began if self.since is None else min(self.since, began)
        self.beat = lock if self.beat is None else max(self.beat, lock)
        if self.pilot is not None and now - lock > lease_of(document, default_lease):
            self.silent.append(document["_id"])

    def stuck(self, now: float) -> list[str]:
        """The ids of its tokens that nobody seems to work on.

        Args:
            now: store time, unix seconds.
        """
        if self.sign is Sign.FOREIGN:
            return [document["_id"] for document in self.tokens if now - (lock_time(document) or 0.0) > OLD_LOCK]
        return [document["_id"] for document in self.tokens] if self.sign is Sign.GONE else self.silent


def lock_time(document: Mapping[str, Any]) -> float | None:
    """When a token was locked or refreshed last; None where its lock is a mark and no time."""
    lock = to_number(document.get("lock"))
    return lock if lock >= FIRST_LOCK_TIME else None


def holders(
    documents: Iterable[Document],
    *,
    now: float,
    default_lease: float,
    owner_is_gone: Callable[[Mapping[str, Any]], bool],
) -> list[Holder]:
    """Who holds these tokens; those with the latest sign of life first.

    Args:
        documents: tokens; those that are not locked are left out.
        now: store time, unix seconds.
        default_lease: seconds, for a claim that carries none.
        owner_is_gone: whether a document's claim is of a process that is known to be gone.
    """
    found: dict[tuple[str | None, str], Holder] = {}
    for document in documents:
        if state_of(document) is not TokenState.LOCKED:
            continue
        pilot = None if is_foreign_lock(document) else _text(annex(document).get("pilot"))
        hostname = Token(document).hostname[:MAX_TEXT]
        holder = found.setdefault((pilot, hostname), Holder(pilot, hostname))
        holder.jobs |= jobs_of(document)
        holder.add(document, now, default_lease)
    for holder in found.values():
        holder.sign = _sign(holder, owner_is_gone)
    return sorted(found.values(), key=lambda holder: -(holder.beat or 0.0))


def _sign(holder: Holder, owner_is_gone: Callable[[Mapping[str, Any]], bool]) -> Sign:
    if holder.pilot is None:
        return Sign.FOREIGN
    if owner_is_gone(holder.tokens[0]):
        return Sign.GONE
    return Sign.SILENT if len(holder.silent) == len(holder.tokens) else Sign.ALIVE


def jobs_of(document: Mapping[str, Any]) -> dict[str, str]:
    """The ids of a token's batch job, by the kind of batch system."""
    return {name.removesuffix("_job_id"): _text(document[name]) for name in JOB_ID_FIELDS if document.get(name)}


def _text(value: Any) -> str:
    return str(value)[:MAX_TEXT]


async def read_locked(client: PoolClient) -> list[Document]:
    """The locked tokens, up to MAX_READ of them."""
    from contextlib import aclosing

    from apicas.cli.selection import Selection

    found: list[Document] = []
    async with aclosing(Selection(views=["locked"]).pages(client)) as pages:  # type: ignore[type-var]  # a generator
        async for page in pages:
            found += page
            if len(found) >= MAX_READ:
                break
    return found[:MAX_READ]


async def holders_in(client: PoolClient) -> list[Holder]:
    """Who holds tokens of a pool; of very many tokens, of those that were read."""
    from apicas._runtime.environment import boot_id, process_is_gone

    documents = await read_locked(client)
    return holders(
        documents,
        now=client.time(),
        default_lease=client.default_lease,
        owner_is_gone=lambda document: process_is_gone(document, boot_id()),
    )
