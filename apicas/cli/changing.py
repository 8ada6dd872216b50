"""How selected tokens are changed: in bulks, each by compare-and-swap, after a question."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import typer

from apicas._documents import Document
from apicas.cli.exits import ExitCode
from apicas.cli.opening import patiently
from apicas.cli.selection import Selection, Survey, tell_unknown_fields
from apicas.cli.terminal import agree, plural, say, tell
from apicas.clients.base import PoolClient
from apicas.clients.port import SaveResult, SaveStatus
from apicas.exceptions import ConfigError, InvalidTokenError, TransitionError
from apicas.tokens import state_of

ATTEMPTS: Final = 5
"""How often a token is tried that others change at the same time: a heartbeat comes every few seconds at most."""
LINE_INTERVAL: Final = 10.0
"""Seconds between two lines about how far a command is."""

Change = Callable[[Sequence[Document]], Awaitable[list[SaveResult]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Something that is done to the tokens of a selection.

    Args:
        verb: what it is: `reset`.
        done: its participle.
        question: what is asked before, with {} for what it is about.
        change: writes a page of them.
        unasked: tokens up to which nothing is asked.
        attempts: how often one is tried that others change at the same time.
        meant: of which tokens it is said, after their number; the rest is the pool's address.
    """

    verb: str
    done: str
    question: str
    change: Change
    unasked: int = 0
    attempts: int = ATTEMPTS
    meant: str = "of"


@dataclass(slots=True)
class Tally:
    """What became of a selection."""

    changed: int = 0
    left: int = 0
    """Not changed, since somebody else changed them meanwhile."""
    rejected: int = 0


class Ticker:
    """A line now and then, about something that takes long.

    Args:
        verb: what is being done, as a participle.
    """

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._next = time.monotonic() + LINE_INTERVAL

    def show(self, number: int) -> None:
        """Say how many tokens it were so far, if that has not been said for a while."""
        if time.monotonic() >= self._next:
            tell(f"{self._verb} {plural(number)} so far")
            self._next = time.monotonic() + LINE_INTERVAL


async def carry_out(
    client: PoolClient, selection: Selection, deed: Deed, survey: Survey, *, dry_run: bool, yes: bool
) -> None:
    """Ask, do it, and say what was done.

    Args:
        client: the pool.
        selection: the tokens.
        deed: what is done to them.
        survey: what the selection holds.
        dry_run: only say it.
        yes: do not ask.

    Raises:
        typer.Exit: some of it was left out.
    """
    what = f"{plural(survey.number)} {deed.meant} {client.address}"
    if dry_run or not survey.number:
        say(f"would {deed.verb} {what}" if survey.number else f"nothing to {deed.verb}: {what}")
        if not survey.number:
            await tell_unknown_fields(client, selection)
    else:
        agree(deed.question.format(what), yes=yes or survey.number <= deed.unasked)
        conclude(await change_all(client, selection, deed), deed.done)
    if survey.missing:
        raise typer.Exit(ExitCode.INCOMPLETE)


async def change_all(client: PoolClient, selection: Selection, deed: Deed) -> Tally:
    """Change the tokens of a selection."""
    tally, ticker = Tally(), Ticker(deed.done)
    async for page in selection.pages(client):
        if page:
            await _change_page(client, selection, page, deed, tally)
        ticker.show(tally.changed)
    return tally


async def save_changed(
    client: PoolClient, page: Sequence[Document], change: Callable[[Document], Document]
) -> list[SaveResult]:
    """Write documents as a function changes them.

    Args:
        client: the pool.
        page: the documents; copies of them are changed.
        change: raises TransitionError, ConfigError or InvalidTokenError for one that stays as it is, with the reason.
    """
    results: list[SaveResult | None] = []
    changed: list[Document] = []
    for document in page:
        try:
            changed.append(change(dict(document)))
            results.append(None)
        except (TransitionError, ConfigError, InvalidTokenError) as error:
            results.append(SaveResult(SaveStatus.REJECTED, reason=str(error)))
    written = iter(await client.save(changed))
    return [next(written) if result is None else result for result in results]


async def _change_page(
    client: PoolClient, selection: Selection, page: Sequence[Document], deed: Deed, tally: Tally
) -> None:
    """Change documents, again where others were faster, as long as they are still what was meant."""
    states = {document["_id"]: state_of(document) for document in page}
    pending = list(page)
    for attempt in range(deed.attempts):
        written = await patiently(lambda pending=pending: deed.change(pending))  # type: ignore[misc]
        unclear = _count(pending, written, tally)
        if not unclear:
            return
        if attempt == deed.attempts - 1:
            tally.left += len(unclear)
            return
        fresh = await patiently(lambda ids=unclear: client.get(ids))  # type: ignore[misc]
        pending = [
            document
            for document in fresh
            if document and state_of(document) is states[document["_id"]] and selection.fulfils(document, client.time())
        ]
        tally.left += len(unclear) - len(pending)


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
        tell(f"{plural(tally.rejected)} not {done}: see above")
    if tally.left or tally.rejected:
        raise typer.Exit(ExitCode.INCOMPLETE)
