"""Tokens of which a database has several live leaves: which they are, and how to delete all leaves of a document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

from apicas._documents import Document
from apicas.clients.couch import answers
from apicas.clients.couch.transport import Transport
from apicas.clients.port import SaveResult, SaveStatus
from apicas.tokens import TYPES

_PAGE: Final = 5000
"""Changes in one request. They carry ids and revisions only."""
_ROUNDS: Final = 10
"""Looks at the leaves of documents that are being deleted; more than one only where others write them meanwhile."""

ReadLeaves = Callable[[Sequence[str]], Awaitable[list[list[Document]]]]
Discard = Callable[[Sequence[Mapping[str, Any]]], Awaitable[list[SaveResult]]]


class SplitFeed:
    """Finds documents with several leaves without a view: by the changes feed, which says how many leaves there are.

    The first look reads the feed from its beginning, once; each later one only what was written since.

    Args:
        transport: to the server.
        path: of the database's `_changes`.
    """

    def __init__(self, transport: Transport, path: str) -> None:
        self._transport = transport
        self._path = path
        self._since = "0"
        self._seen_whole: dict[str, bool] = {}
        """Documents that have, or had, several leaves: a deleted one is a leaf to the feed, so healed ones stay in it.

        The value says whether the last look found but one live leaf.
        """

    async def ids(self, leaves: ReadLeaves) -> list[str]:
        """The ids of tokens that have several live leaves now.

        Args:
            leaves: reads all live leaves of documents.
        """
        await self._follow()
        split: list[str] = []
        candidates = list(self._seen_whole)
        for identifier, found in zip(candidates, await leaves(candidates), strict=True):
            if len(found) > 1:
                self._seen_whole[identifier] = False
                split += [identifier] if found[0].get("type") in TYPES else []
            elif self._seen_whole[identifier]:
                del self._seen_whole[identifier]
            else:  # looked at once more, since the replica of the feed may be ahead of the others
                self._seen_whole[identifier] = True
        return split

    async def _follow(self) -> None:
        while True:
            query = urlencode({"style": "all_docs", "limit": _PAGE, "since": self._since})
            page = (await self._transport.ask("GET", f"{self._path}?{query}")).value()
            for identifier, several in answers.split_ids(page["results"]):
                if several:
                    self._seen_whole[identifier] = False
                else:
                    self._seen_whole.pop(identifier, None)
            self._since = str(page["last_seq"])
            if len(page["results"]) < _PAGE:
                return


@dataclass(slots=True)
class _Deletion:
    """One document that is being deleted."""

    id: str
    rev: str
    gone: bool = False
    """Whether we have deleted that revision, or may have."""
    known: set[str] = field(default_factory=set)
    """The leaves that were there beside it."""
    losers: list[Document] = field(default_factory=list)
    shown: list[Document] = field(default_factory=list)
    result: SaveResult | None = None

    def look(self, leaves: Sequence[Document]) -> None:
        """Decide what to delete next, from the live leaves there are."""
        revisions = {leaf["_rev"] for leaf in leaves}
        if self.rev in revisions:
            self.known |= revisions
        elif self.gone and not leaves:  # by an attempt of which no answer said so
            self.result = SaveResult(SaveStatus.WRITTEN)
        elif not self.gone or not revisions <= self.known:
            self.result = SaveResult(SaveStatus.CONFLICT, reason="another revision is stored, or none")
        self.shown, self.losers = list(leaves[:1]), list(leaves[1:])

    def note(self, leaf: Document, result: SaveResult) -> None:
        """Note what became of a leaf."""
        if leaf["_rev"] == self.rev and result.status in {SaveStatus.WRITTEN, SaveStatus.UNKNOWN}:
            self.gone = True


async def delete_all_leaves(
    documents: Sequence[Mapping[str, Any]], *, leaves: ReadLeaves, discard: Discard
) -> list[SaveResult]:
    """Delete documents with all their live leaves, each if the revision that is asked for is among them.

    The shown leaf goes last: as long as it is there, no other one shows. Where an answer is no plain one, or somebody
    wrote meanwhile, the leaves are read again, for a bounded number of times.

    Args:
        documents: with `_id` and `_rev`; others are answered as `discard` does.
        leaves: reads all live leaves.
        discard: deletes leaves.
    """
    deletions: dict[int, _Deletion] = {}
    others: list[int] = []
    seen: set[str] = set()
    for place, document in enumerate(documents):
        identifier, rev = document.get("_id"), document.get("_rev")
        if isinstance(identifier, str) and isinstance(rev, str) and identifier not in seen:
            seen.add(identifier)
            deletions[place] = _Deletion(identifier, rev)
        else:
            others.append(place)
    await _delete(list(deletions.values()), leaves, discard)
    results = {place: deletion.result for place, deletion in deletions.items()}
    if others:
        results.update(zip(others, await discard([documents[place] for place in others]), strict=True))
    return [result for place in range(len(documents)) if (result := results[place]) is not None]


async def _delete(deletions: Sequence[_Deletion], leaves: ReadLeaves, discard: Discard) -> None:
    pending = list(deletions)
    for _ in range(_ROUNDS):
        for deletion, found in zip(pending, await leaves([one.id for one in pending]), strict=True):
            deletion.look(found)
        pending = [deletion for deletion in pending if deletion.result is None]
        await _discard_losers([deletion for deletion in pending if deletion.losers], discard)
        await _discard_shown([deletion for deletion in pending if not deletion.losers], discard)
        pending = [deletion for deletion in pending if deletion.result is None]
        if not pending:
            return
    for deletion in pending:
        deletion.result = SaveResult(SaveStatus.UNKNOWN, reason=f"not certainly deleted after {_ROUNDS} attempts")


async def _discard_losers(deletions: Sequence[_Deletion], discard: Discard) -> None:
    """Delete the leaves that are not shown. Those of which no plain answer says so are found by the next look."""
    places = [(deletion, leaf) for deletion in deletions for leaf in deletion.losers]
    if not places:
        return
    failed = set()
    for (deletion, leaf), result in zip(places, await discard([leaf for _, leaf in places]), strict=True):
        deletion.note(leaf, result)
        if not result.written:
            failed.add(id(deletion))
    await _discard_shown([deletion for deletion in deletions if id(deletion) not in failed], discard)


async def _discard_shown(deletions: Sequence[_Deletion], discard: Discard) -> None:
    if not deletions:
        return
    leaves = [deletion.shown[0] for deletion in deletions]
    for deletion, leaf, result in zip(deletions, leaves, await discard(leaves), strict=True):
        deletion.note(leaf, result)
        if result.status in {SaveStatus.WRITTEN, SaveStatus.REJECTED}:
            deletion.result = result
