"""One replica of a simulated store: each document a tree of revisions, and the views over what it shows.

A replica takes one child of a revision from an interactive write, and refuses the others. What it learns from other
replicas it takes as it is, so that a document may end up with several live leaves. The one of the longest history is
shown, of equally long ones that with the greatest digest.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from apicas._documents import Document, decode
from apicas.clients.port import MISSING, ViewQuery, ViewRow
from apicas.tokens import TokenState, monitor_state
from apicas.views import View

Files = Mapping[str, tuple[str, bytes]]
"""Attachments by name: content type and content."""
NO_FILES: Files = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Revision:
    """One version of one document; never changed."""

    id: str
    number: int
    digest: str
    parent: Revision | None
    body: bytes
    content: Document
    """What `body` says, to look at."""
    deleted: bool = False
    files: Files = field(default_factory=lambda: NO_FILES)
    state: TokenState = TokenState.NO_VIEW

    @property
    def rev(self) -> str:
        """As the `_rev` of a document."""
        return f"{self.number}-{self.digest}"

    @property
    def place(self) -> tuple[int, str]:
        """What decides which of several leaves is shown."""
        return self.number, self.digest

    def document(self, others: Iterable[Revision] = ()) -> Document:
        """A copy of the document, as a client reads it.

        Args:
            others: live leaves that are not shown.
        """
        document: Document = decode(self.body)
        document["_rev"] = self.rev
        if self.files:
            document["_attachments"] = {
                name: {"content_type": content_type, "length": len(data), "stub": True}
                for name, (content_type, data) in self.files.items()
            }
        conflicts = [other.rev for other in others]
        if conflicts:
            document["_conflicts"] = conflicts
        return document

    def history(self) -> Iterator[Revision]:
        """This revision and those before it, the newest first."""
        revision: Revision | None = self
        while revision is not None:
            yield revision
            revision = revision.parent


def make_revision(
    identifier: str,
    parent: Revision | None,
    digest: str,
    body: bytes,
    *,
    deleted: bool = False,
    files: Files = NO_FILES,
) -> Revision:
    """The child of a revision, or the first of its document."""
    content = decode(body)
    state = TokenState.NO_VIEW if deleted else monitor_state(content)
    number = 1 if parent is None else parent.number + 1
    return Revision(identifier, number, digest, parent, body, content, deleted, files, state)


def live(leaves: Iterable[Revision]) -> list[Revision]:
    """The leaves that are not deleted, the shown one first."""
    return sorted((leaf for leaf in leaves if not leaf.deleted), key=lambda leaf: leaf.place, reverse=True)


def joined(one: Iterable[Revision], other: Iterable[Revision]) -> list[Revision]:
    """The leaves of two trees put together: without those that have children in the other."""
    found = {leaf.rev: leaf for leaf in (*one, *other)}
    if len(found) > 1:
        for leaf in list(found.values()):
            for older in leaf.history():
                if older is not leaf:
                    found.pop(older.rev, None)
    return list(found.values())


class Replica:
    """One copy of the database.

    Args:
        number: its place among the replicas.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.paused = False
        self.inbox: list[tuple[object, ...]] = []
        """What came while it was paused."""
        self.leaves: dict[str, dict[str, Revision]] = {}
        self.shown: dict[str, Revision] = {}
        """The live document that is shown, by id; deleted ones are not in here."""
        self.ids: list[str] = []
        """The ids of live documents, in order."""
        self.changes: dict[str, tuple[int, str, bool]] = {}
        self.sequence = 0
        self.listeners: list[Callable[[Revision], None]] = []
        """Called with each version that comes to be shown."""
        self._known: dict[str, set[str]] = {}
        self._index: dict[str, Revision] = {}
        self._stale = False

    def leaves_of(self, identifier: str) -> list[Revision]:
        """All leaves of a document, deleted ones too."""
        return list(self.leaves.get(identifier, {}).values())

    def knows(self, revision: Revision) -> bool:
        """Whether the replica has seen a revision, as a leaf or in the history of one."""
        return revision.rev in self._known.get(revision.id, ())

    def write(self, revision: Revision, base: str | None) -> bool:
        """Take a client's write, if `base` is a live leaf here and nobody's child was taken before.

        Args:
            revision: the new one.
            base: the revision that it replaces; None where the document is to be new.
        """
        leaves = self.leaves.get(revision.id, {})
        if base is None:
            fits = all(leaf.deleted for leaf in leaves.values())
        else:
            fits = base in leaves and not leaves[base].deleted
        if fits:
            self.learn(revision)
        return fits

    def learn(self, revision: Revision) -> None:
        """Take a revision with its history, as it comes from another replica."""
        known = self._known.setdefault(revision.id, set())
        if revision.rev in known:
            return
        leaves = self.leaves.setdefault(revision.id, {})
        for older in revision.history():
            if older.rev in known:
                leaves.pop(older.rev, None)
                break
            known.add(older.rev)
        leaves[revision.rev] = revision
        self._show(revision.id, leaves)

    def _show(self, identifier: str, leaves: Mapping[str, Revision]) -> None:
        candidates = [leaf for leaf in leaves.values() if not leaf.deleted]
        shown = max(candidates, key=lambda leaf: leaf.place, default=None)
        before = self.shown.get(identifier)
        if shown is before and shown is not None:
            return
        self._stale = True
        self.sequence += 1
        self.changes.pop(identifier, None)
        if shown is None:
            newest = max(leaves.values(), key=lambda leaf: leaf.place)
            self.changes[identifier] = (self.sequence, newest.rev, True)
            if before is not None:
                del self.shown[identifier]
                self.ids.pop(bisect.bisect_left(self.ids, identifier))
            return
        self.changes[identifier] = (self.sequence, shown.rev, False)
        self.shown[identifier] = shown
        if before is None:
            bisect.insort(self.ids, identifier)
        for listener in tuple(self.listeners):
            listener(shown)

    # Views. ---------------------------------------------------------------------------------------------------------

    def indexed(self, *, fresh: bool) -> Mapping[str, Revision]:
        """What the views list: of a fresh one what this replica has, of a stale one what it had when last asked."""
        if self._stale and fresh:
            self._index, self._stale = dict(self.shown), False
        return self._index

    def listed(self, view: View, query: ViewQuery) -> list[ViewRow]:
        """Rows of a view, without documents."""
        index = self.indexed(fresh=query.fresh)
        found: list[ViewRow] = []
        for identifier in key_range(self.ids, query):
            if query.limit is not None and len(found) >= query.limit:
                break
            revision = index.get(identifier)
            if revision is not None and lists(view, revision):
                found.append(ViewRow(identifier, identifier, identifier))
        return found

    def count(self, view: View) -> int:
        """How many documents a view lists."""
        return sum(lists(view, revision) for revision in self.indexed(fresh=True).values())

    def conflicted(self) -> list[str]:
        """The ids of tokens with more than one live leaf."""
        return [
            identifier
            for identifier in self.ids
            if len(self.leaves[identifier]) > 1
            and len(live(self.leaves[identifier].values())) > 1
            and self.shown[identifier].content.get("type") == "token"
        ]


def lists(view: View, revision: Revision) -> bool:
    """Whether a view lists a document."""
    if revision.state is not view.state:
        return False
    return view.where is None or view.where.matches(revision.content)


def key_range(ids: list[str], query: ViewQuery) -> list[str]:
    """The ids that a query's keys select, in its direction."""
    low, high = (query.end_key, query.start_key) if query.descending else (query.start_key, query.end_key)
    first = 0 if low is MISSING or low is None else bisect.bisect_left(ids, low)
    last = len(ids) if high is MISSING else 0 if high is None else bisect.bisect_right(ids, high)
    return ids[first:last][::-1] if query.descending else ids[first:last]
