"""Which tokens a command means: those of views, single ones, all; and of these the ones that fulfil conditions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from apicas._documents import Document
from apicas._javascript import to_number
from apicas.cli.fields import WORKED_OUT, has_field
from apicas.cli.opening import patiently
from apicas.cli.terminal import plural, tell
from apicas.clients.base import PoolClient
from apicas.clients.port import MISSING, ViewQuery
from apicas.policies.leases import lease_of
from apicas.tokens import FIRST_LOCK_TIME, TokenState, state_of
from apicas.views import MONITOR_VIEWS, full_name

PAGE: Final = 500
"""Documents read at a time: some hundred kilobytes for usual tokens."""
_SHOWN: Final = 20
"""Ids that are not there, of those that are said by their names."""


class Condition(Protocol):
    """What a token fulfils or not, as `apicas.cli.fields.Where`."""

    @property
    def name(self) -> str:
        """The field that it is about; "" where it is about none in particular."""
        ...

    def matches(self, document: Document, now: float) -> bool:
        """Whether a token fulfils it at this store time, in unix seconds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The tokens of views, and single ones.

    Args:
        views: all tokens of these; tokens in no Monitor view are left out, as everywhere.
        ids: and these.
        everything: all tokens instead, those in no view included.
        older_than: of these only tokens that are locked for longer than this many seconds, by the store's clock.
        where: of all these only the ones that fulfil each of these conditions.
    """

    views: Sequence[str] = ()
    ids: Sequence[str] = ()
    everything: bool = False
    older_than: float | None = None
    where: Sequence[Condition] = ()

    async def pages(
        self, client: PoolClient, *, missing: Callable[[str], object] = lambda _id: None
    ) -> AsyncIterator[list[Document]]:
        """The tokens, page by page.

        One that is listed twice, since it was named and is in a view, or went to another one meanwhile, comes once.

        Args:
            client: the pool.
            missing: called with each of the ids that does not exist.
        """
        if self.everything:
            async for page in _all(client):
                yield self._matching(client, page)
            return
        if len(self.views) + bool(self.ids) == 1:
            async for page in self._pages(client, missing):
                yield page
            return
        seen: set[int] = set()
        async for page in self._pages(client, missing):
            yield [document for document in page if _is_new(document, seen)]

    async def _pages(self, client: PoolClient, missing: Callable[[str], object]) -> AsyncIterator[list[Document]]:
        for view in self.views:
            async for page in _pages(client, view):
                listed = [document for document in page if self.includes(document, client.time(), view)]
                yield self._matching(client, listed)
        for start in range(0, len(self.ids), PAGE):
            ids = self.ids[start : start + PAGE]
            found = await patiently(lambda ids=ids: client.get(ids))  # type: ignore[misc]
            for identifier, document in zip(ids, found, strict=True):
                if document is None:
                    missing(identifier)
            there = [document for document in found if document is not None]
            if self.older_than is not None:
                there = [document for document in there if self.includes(document, client.time())]
            yield self._matching(client, there)

    def includes(self, document: Document, now: float, view: str = "") -> bool:
        """Whether a document that a view lists is meant: it may have changed since the view was read."""
        state = state_of(document)
        known = MONITOR_VIEWS.get(full_name(view)) if view else None
        if known is not None and state is not known.state:
            return False
        if self.older_than is None:
            return state is not TokenState.NO_VIEW
        lock = lock_time(document)
        return state is TokenState.LOCKED and lock is not None and now - lock > self.older_than

    def fulfils(self, document: Document, now: float) -> bool:
        """Whether a document fulfils the conditions, at this store time."""
        return all(condition.matches(document, now) for condition in self.where)

    def _matching(self, client: PoolClient, page: Sequence[Document]) -> list[Document]:
        now = client.time()
        return [document for document in page if self.fulfils(document, now)]


@dataclass(slots=True)
class Survey:
    """What a selection holds."""

    number: int = 0
    held: int = 0
    """Locked, and refreshed within their lease: a pilot works on them."""
    done: int = 0
    split: int = 0
    """Stored in several versions by a cluster."""
    missing: list[str] = field(default_factory=list)
    """Ids that were asked for and do not exist."""

    @classmethod
    async def of(cls, client: PoolClient, selection: Selection) -> Survey:
        """Count."""
        survey = cls()
        async for page in selection.pages(client, missing=survey.missing.append):
            survey.number += len(page)
            survey.held += sum(is_held(document, client.time(), client.default_lease) for document in page)
            survey.done += sum(state_of(document) is TokenState.DONE for document in page)
            survey.split += sum(bool(document.get("_conflicts")) for document in page)
        return survey

    def warn(self) -> None:
        """Say that pilots will lose their work."""
        if self.held:
            tell(
                f"{plural(self.held)} of these {'is' if self.held == 1 else 'are'} held by running pilots, "
                "whose work on them will be stopped and lost"
            )

    def warn_of_done(self) -> None:
        """Say that finished work is going to be done again."""
        if self.done:
            tell(f"{plural(self.done)} of these {'is' if self.done == 1 else 'are'} done, and will be worked again")


def tell_missing(ids: Sequence[str]) -> None:
    """Say which tokens do not exist."""
    for name in ids[:_SHOWN]:
        tell(f"there is no token {name!r}")
    if len(ids) > _SHOWN:
        tell(f"nor are there {plural(len(ids) - _SHOWN, 'more token')} of those that were named")


async def tell_unknown_fields(client: PoolClient, selection: Selection) -> None:
    """Where nothing fulfils the conditions: say of which field none of the first tokens has any, as of a misspelt one.

    Args:
        client: the pool.
        selection: what turned out to hold no token.
    """
    names = {condition.name for condition in selection.where} - {"", *WORKED_OUT}
    if not names:
        return
    async for page in replace(selection, where=()).pages(client):
        if page:
            tell_lacking([name for name in sorted(names) if not any(has_field(document, name) for document in page)])
            return


def tell_lacking(names: Sequence[str]) -> None:
    """Say which fields no token has."""
    for name in names:
        tell(f"none of the tokens that were looked at has a field {name!r}")


def is_held(document: Document, now: float, default_lease: float) -> bool:
    """Whether a pilot has shown within the token's lease that it works on it."""
    if state_of(document) is not TokenState.LOCKED:
        return False
    lock = lock_time(document)
    return lock is not None and now - lock <= lease_of(document, default_lease)


def lock_time(document: Document) -> float | None:
    """When a token was locked or refreshed last; None where its lock is a mark and no time."""
    lock = to_number(document.get("lock"))
    return lock if lock >= FIRST_LOCK_TIME else None


def _is_new(document: Document, seen: set[int]) -> bool:
    """Whether a token comes for the first time; hashes take half of the memory of ids."""
    mark = hash(document["_id"])
    if mark in seen:
        return False
    seen.add(mark)
    return True


async def _all(client: PoolClient) -> AsyncIterator[list[Document]]:
    """All tokens, in the order of their ids."""
    after: str | None = None
    while True:
        page = await patiently(lambda after=after: client.scan(after, PAGE))  # type: ignore[misc]
        yield page.documents
        after = page.after
        if after is None:
            return


async def _pages(client: PoolClient, view: str) -> AsyncIterator[list[Document]]:
    """The documents of a view, whatever its keys are.

    Each page starts at the key where the one before ended, and the rows of that key that were seen are left out. Where
    one key has more rows than a page, the page grows.
    """
    start: Any = MISSING
    seen: set[str | None] = set()
    limit = PAGE
    while True:
        query = ViewQuery(limit=limit, start_key=start, include_docs=True, reduce=False)
        rows = await patiently(lambda query=query: client.query(view, query))  # type: ignore[misc]
        yield [row.document for row in rows if row.document is not None and row.id not in seen]
        if len(rows) < limit:
            return
        last = rows[-1].key
        if last == start:
            limit *= 2
        seen = {row.id for row in rows if row.key == last}
        start = last
