"""Which tokens a reset or a delete means, and how they are changed: in bulks, each by compare-and-swap."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import typer

from apicas._documents import Document
from apicas._javascript import to_number
from apicas.cli.exits import ExitCode
from apicas.cli.opening import patiently
from apicas.cli.terminal import plural, say, tell
from apicas.clients.base import PoolClient
from apicas.clients.port import MISSING, SaveResult, SaveStatus, ViewQuery
from apicas.policies import lease_of
from apicas.tokens import FIRST_LOCK_TIME, TokenState, state_of

PAGE: Final = 500
"""Documents read at a time: some hundred kilobytes for usual tokens."""
ATTEMPTS: Final = 5
"""How often a token is tried that others change at the same time: a heartbeat comes every few seconds at most."""
_LINE_INTERVAL: Final = 10.0

Change = Callable[[Sequence[Document]], Awaitable[list[SaveResult]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The tokens of views, and single ones.

    Args:
        views: all tokens of these; tokens in no Monitor view are left out, as everywhere.
        ids: and these.
        older_than: of the views only tokens that are locked for longer than this many seconds, by the store's clock.
    """

    views: Sequence[str] = ()
    ids: Sequence[str] = ()
    older_than: float | None = None

    async def pages(self, client: PoolClient) -> AsyncIterator[list[Document]]:
        """The tokens, page by page; some may come twice while others change the pool."""
        for view in self.views:
            async for page in _pages(client, view):
                yield [document for document in page if self.includes(document, client.time())]
        for start in range(0, len(self.ids), PAGE):
            found = await patiently(lambda start=start: client.get(self.ids[start : start + PAGE]))  # type: ignore[misc]
            yield [document for document in found if document is not None]

    def includes(self, document: Document, now: float) -> bool:
        """Whether a document that a view lists is meant."""
        state = state_of(document)
        if self.older_than is None:
            return state is not TokenState.NO_VIEW
        lock = _lock_time(document)
        return state is TokenState.LOCKED and lock is not None and now - lock > self.older_than


@dataclass(slots=True)
class Survey:
    """What a selection holds."""

    number: int = 0
    held: int = 0
    """Locked, and refreshed within their lease: a pilot works on them."""

    @classmethod
    async def of(cls, client: PoolClient, selection: Selection) -> Survey:
        """Count."""
        survey = cls()
        async for page in selection.pages(client):
            survey.number += len(page)
            survey.held += sum(is_held(document, client.time(), client.default_lease) for document in page)
        return survey

    def warn(self) -> None:
        """Say that pilots will lose their work."""
        if self.held:
            tell(
                f"{plural(self.held)} of these {'is' if self.held == 1 else 'are'} held by running pilots, "
                "whose work on them will be stopped and lost"
            )


@dataclass(slots=True)
class Tally:
    """What became of a selection."""

    changed: int = 0
    left: int = 0
    """Not changed, since somebody else changed them meanwhile."""
    rejected: int = 0


async def change_all(client: PoolClient, selection: Selection, change: Change, verb: str) -> Tally:
    """Change the tokens of a selection.

    Args:
        client: the pool.
        selection: which.
        change: writes a page of them.
        verb: what is done, for the lines on the way.
    """
    tally, next_line = Tally(), time.monotonic() + _LINE_INTERVAL
    async for page in selection.pages(client):
        if page:
            await _change_page(client, page, change, tally)
        if time.monotonic() >= next_line:
            tell(f"{verb} {plural(tally.changed)} so far")
            next_line = time.monotonic() + _LINE_INTERVAL
    return tally


def is_held(document: Document, now: float, default_lease: float) -> bool:
    """Whether a pilot has shown within the token's lease that it works on it."""
    if state_of(document) is not TokenState.LOCKED:
        return False
    lock = _lock_time(document)
    return lock is not None and now - lock <= lease_of(document, default_lease)


def _lock_time(document: Document) -> float | None:
    """When a token was locked or refreshed last; None where its lock is a mark and no time."""
    lock = to_number(document.get("lock"))
    return lock if lock >= FIRST_LOCK_TIME else None


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


async def _change_page(client: PoolClient, page: Sequence[Document], change: Change, tally: Tally) -> None:
    """Change documents, again where others were faster, as long as they stay in the state they were found in."""
    states = {document["_id"]: state_of(document) for document in page}
    pending = list(page)
    for _ in range(ATTEMPTS):
        unclear = _count(pending, await patiently(lambda pending=pending: change(pending)), tally)  # type: ignore[misc]
        if not unclear:
            return
        fresh = await patiently(lambda ids=unclear: client.get(ids))  # type: ignore[misc]
        pending = [document for document in fresh if document and state_of(document) is states[document["_id"]]]
        tally.left += len(unclear) - len(pending)
    tally.left += len(pending)


def _count(documents: Iterable[Document], results: Iterable[SaveResult], tally: Tally) -> list[str]:
    """Count what was done; answers with the ids of which that is not known."""
    unclear: list[str] = []
    for document, result in zip(documents, results, strict=True):
        if result.written:
            tally.changed += 1
        elif result.status is SaveStatus.REJECTED:
            tally.rejected += 1
            tell(f"{document['_id']}: {result.reason}")
        else:
            unclear.append(document["_id"])
    return unclear


def conclude(tally: Tally, done: str) -> None:
    """Say what became of a selection.

    Args:
        tally: the numbers.
        done: what was asked for, as a participle.

    Raises:
        typer.Exit: some of it was left out.
    """
    say(f"{done} {plural(tally.changed)}")
    if tally.left:
        tell(f"{plural(tally.left)} not {done}: changed by somebody else meanwhile")
    if tally.rejected:
        tell(f"{plural(tally.rejected)} not {done}: the pool does not take them")
    if tally.left or tally.rejected:
        raise typer.Exit(ExitCode.INCOMPLETE)
