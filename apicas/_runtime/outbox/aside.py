"""Results on versions of tokens that healing deletes: kept in the outbox, among those that are lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from apicas._documents import Document
from apicas._runtime.outbox.disk import Outbox
from apicas._runtime.outbox.entries import Entry
from apicas.modifiers import Owner
from apicas.tokens import TokenState, annex, claim_of, state_of

REASON: Final = "healed: another version of the token was kept"


class LostVersions:
    """Keeps versions aside; see apicas._runtime.keeping.healer.Aside.

    Args:
        outbox: where.
        pool: the pool's address, without secrets.
        owner: who heals.
        now: store time, unix seconds.
    """

    def __init__(self, outbox: Outbox, pool: str, owner: Owner, now: Callable[[], float]) -> None:
        self._outbox = outbox
        self._pool = pool
        self._owner = owner
        self._now = now

    async def keep(self, document: Mapping[str, Any]) -> None:
        """Keep a version.

        Raises:
            OSError, ConfigError: it could not be kept.
        """
        await self._outbox.set_aside([self._entry(dict(document))])

    def _entry(self, document: Document) -> Entry:
        state, owner = state_of(document), self._owner
        claim = annex(document).get("settled") or claim_of(document) or document["_rev"]
        hostname = document.get("hostname")
        return Entry(
            pool=self._pool,
            token=document["_id"],
            claim=str(claim),
            stored={"_id": document["_id"], "_rev": document["_rev"]},
            base={"_id": document["_id"], "_rev": document["_rev"]},
            outcome=document,
            ending=_ENDINGS.get(state, "scrubbed"),
            time=self._now(),
            hostname=hostname if isinstance(hostname, str) else "",
            pilot=owner.pilot,
            process=owner.process,
            reason=REASON,
        )


_ENDINGS: Final[Mapping[TokenState, str]] = {TokenState.DONE: "done", TokenState.ERROR: "failed"}
