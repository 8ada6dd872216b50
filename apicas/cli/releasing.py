"""The work of `apicas release`: whose tokens are taken, and how.

They are taken as a reaper takes them: as a reclaim without a charge, and not as a release. A release names the claim
that it ends as settled by its owner, who would then take it for the answer to its own outcome, and drop its result.
A reclaim names it as taken: a late result is welcome until somebody claims the token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from apicas._documents import Document
from apicas._runtime.environment import boot_id, process_is_gone
from apicas.cli.changing import Deed, save_changed
from apicas.cli.opening import patiently
from apicas.cli.selection import Survey, lock_time
from apicas.cli.terminal import plural, tell
from apicas.clients.base import PoolClient
from apicas.clients.port import SaveResult
from apicas.exceptions import ConfigError
from apicas.modifiers import BasicTokenModifier
from apicas.policies.leases import lease_of
from apicas.tokens import TokenState, annex, is_foreign_lock, state_of

_SHOWN: Final = 20
"""Tokens that were named and are not locked, of which that is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whose:
    """Of locked tokens those of a node, of a pilot, or of whom nothing is heard.

    Args:
        host: the node's name.
        pilot: the pilot's id.
        stale: only those whose pilot is silent for two leases, or known to be gone.
        foreign: locks that apicas did not set, too.
    """

    host: str | None = None
    pilot: str | None = None
    stale: bool = False
    foreign: bool = False

    def judge(self, client: PoolClient) -> Judge:
        """What tells whether a token is one of these, on this node and by this pool's lease."""
        return Judge(self, client.default_lease, boot_id())


@dataclass(frozen=True, slots=True)
class Judge:
    """Tells whether a token is meant, as a condition does.

    Args:
        whose: whose tokens are.
        default_lease: seconds, for a claim that carries none.
        here: what process ids of this node are known by.
        name: of no field: it is about locks.
    """

    whose: Whose
    default_lease: float
    here: str
    name: str = ""

    def matches(self, document: Document, now: float) -> bool:
        """Whether a token is meant, at this store time."""
        whose = self.whose
        if state_of(document) is not TokenState.LOCKED or (is_foreign_lock(document) and not whose.foreign):
            return False
        if whose.host is not None and document.get("hostname") != whose.host:
            return False
        if whose.pilot is not None and annex(document).get("pilot") != whose.pilot:
            return False
        return not whose.stale or self._is_stale(document, now)

    def _is_stale(self, document: Mapping[str, Any], now: float) -> bool:
        if is_foreign_lock(document):
            return False  # nobody refreshes it: its age says nothing
        if process_is_gone(document, self.here):
            return True
        lock = lock_time(dict(document))
        return lock is not None and now - lock > 2 * lease_of(document, self.default_lease)


def tell_of(survey: Survey) -> None:
    """Say what speaks against it."""
    if survey.held:
        tell(
            f"{plural(survey.held)} of these had a heartbeat within the lease: "
            "a pilot that lives stops its work on them, or it is done twice"
        )


async def tell_not_locked(client: PoolClient, ids: Sequence[str]) -> None:
    """Say which of the tokens that were named nobody holds."""
    for document in await patiently(lambda: client.get(ids[:_SHOWN])) if ids else ():
        if document is not None and (state := state_of(document)) is not TokenState.LOCKED:
            tell(f"{document['_id']}: in {state}, and held by nobody")


def deed_of(client: PoolClient) -> Deed:
    """What is done. Once: where somebody else writes at the same time, it is the owner, who lives."""

    async def take(page: Sequence[Document]) -> list[SaveResult]:
        modifier, now = BasicTokenModifier(), client.time()
        return await save_changed(client, page, lambda document: _taken(modifier, document, now))

    return Deed(
        verb="release", done="released", question="Release {}? Their pilots must be gone.", change=take, attempts=1
    )


def _taken(modifier: BasicTokenModifier, document: Document, now: float) -> Document:
    if document.get("_conflicts"):
        raise ConfigError("it is stored in several versions: run `apicas heal` first")
    return modifier.reclaim(document, now, charge=False)
