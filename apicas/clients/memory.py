"""A pool in this process's memory: for tests, and for trying things out. Gone when the process ends.

A client and its forks share one pool, from any thread: every operation is short and runs under one lock, which also
makes each bulk atomic.
"""

from __future__ import annotations

import asyncio
import bisect
import threading
import time as system_time
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import md5
from typing import Any

import anyio

from apicas._documents import Document, decode, encode
from apicas.clients.base import PoolClient, missing_view, stored_view
from apicas.clients.bulks import EncodedDocument
from apicas.clients.port import (
    MISSING,
    Arrival,
    AttachmentInfo,
    SaveResult,
    SaveStatus,
    SetupReport,
    StoredChange,
    StoredView,
    TokenPage,
    ViewQuery,
    ViewRow,
)
from apicas.exceptions import TokenNotFoundError
from apicas.tokens import TokenState, monitor_state, state_of
from apicas.views import MONITOR_VIEWS, OVERVIEW, View, full_name

CHUNK = 1 << 20
_CHANGES_POLL = 0.05  # seconds


@dataclass(slots=True)
class _Stored:
    rev: str
    body: bytes
    attachments: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def document(self) -> Document:
        document: Document = decode(self.body)
        document["_rev"] = self.rev
        if self.attachments:
            document["_attachments"] = {
                name: {"content_type": content_type, "length": len(data), "stub": True}
                for name, (content_type, data) in self.attachments.items()
            }
        return document


@dataclass(slots=True)
class _Pool:
    """What a client and its forks share."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    documents: dict[str, _Stored] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    """All ids in order, as the views list them."""
    states: dict[str, TokenState] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=lambda: dict(MONITOR_VIEWS))
    changes: dict[str, StoredChange] = field(default_factory=dict)
    """The last change of each document, in the order of their numbers."""
    sequence: int = 0
    ready: bool = False
    listeners: list[Callable[[str], None]] = field(default_factory=list)
    """Called with the id of each document that was left in todo."""


class MemoryClient(PoolClient):
    """A pool in memory.

    Args:
        now: the clock, in unix seconds; tests pass their own.
    """

    default_lease = 60.0
    wake_spacing = 0.001

    def __init__(self, *, now: Callable[[], float] = system_time.time, _pool: _Pool | None = None) -> None:
        super().__init__()
        self._now = now
        self._pool = _pool or _Pool()

    @property
    def address(self) -> str:
        """`memory:`."""
        return "memory:"

    def time(self) -> float:
        """This process's clock."""
        return self._now()

    def fork(self) -> MemoryClient:
        """Another client of the same pool."""
        return MemoryClient(now=self._now, _pool=self._pool)

    async def open(self) -> None:
        """There is nothing to connect to; the views are there from the start."""
        await self.setup()

    async def aclose(self) -> None:
        """There is nothing to disconnect from."""

    async def setup(self, *, replace_views: bool = False) -> SetupReport:
        """Install the Monitor views."""
        with self._pool.lock:
            if self._pool.ready and not replace_views:
                return SetupReport()
            created = not self._pool.ready
            self._pool.views.update(MONITOR_VIEWS)
            self._pool.ready = True
        return SetupReport(created=created, installed=("Monitor",))

    async def get(self, ids: Sequence[str]) -> list[Document | None]:
        """Read documents."""
        with self._pool.lock:
            stored = [self._pool.documents.get(identifier) for identifier in ids]
            return [None if found is None else found.document() for found in stored]

    async def query(self, view: str, query: ViewQuery) -> list[ViewRow]:
        """Read rows of a view."""
        name = full_name(view)
        with self._pool.lock:
            if name == OVERVIEW:
                return await self._overview(query)
            definition = self._view(name)
            rows: list[ViewRow] = []
            for identifier in self._range(query):
                if query.limit is not None and len(rows) >= query.limit:
                    break
                document = self._listed(definition, identifier)
                if document is not None:
                    rows.append(ViewRow(identifier, identifier, identifier, document if query.include_docs else None))
            return rows

    def _view(self, name: str) -> View:
        try:
            return self._pool.views[name]
        except KeyError:
            raise missing_view(self.address, name) from None

    def _listed(self, view: View, identifier: str) -> Document | None:
        """The document if the view lists it."""
        if view.type != "token":
            document = self._pool.documents[identifier].document()
            return document if view.matches(document) else None
        if self._pool.states[identifier] is not view.state:
            return None
        document = self._pool.documents[identifier].document()
        return document if view.where is None or view.where.matches(document) else None

    def _range(self, query: ViewQuery) -> Sequence[str]:
        ids = self._pool.ids
        low, high = (query.end_key, query.start_key) if query.descending else (query.start_key, query.end_key)
        first = 0 if low is MISSING or low is None else bisect.bisect_left(ids, low)
        last = len(ids) if high is MISSING else 0 if high is None else bisect.bisect_right(ids, high)
        selected = ids[first:last]
        return selected[::-1] if query.descending else selected

    async def _overview(self, query: ViewQuery) -> list[ViewRow]:
        if query.reduce is False:
            states = sorted((str(self._pool.states[identifier]), identifier) for identifier in self._pool.ids)
            return [ViewRow(i, state, 1) for state, i in states if state != TokenState.NO_VIEW]
        counts = {name: number for name, number in sorted((await self.counts()).items()) if number}
        if query.group or query.group_level:
            return [ViewRow(None, name, number) for name, number in counts.items()]
        return [ViewRow(None, None, sum(counts.values()))] if counts else []

    async def sample(
        self, view: str, limit: int, place: float, *, window: int = 0, fresh: bool = False
    ) -> list[Document]:
        """Read documents of a view, beginning at a place and going round."""
        del fresh, window  # memory always is fresh, and begins anywhere
        with self._pool.lock:
            definition = self._view(full_name(view))
            ids = self._pool.ids
            start = int(place * len(ids))
            found: list[Document] = []
            for identifier in (*ids[start:], *ids[:start]):
                document = self._listed(definition, identifier)
                if document is not None:
                    found.append(document)
                    if len(found) >= limit:
                        break
            return found

    async def counts(self, views: Sequence[str] = ()) -> dict[str, int]:
        """The number of tokens per view."""
        with self._pool.lock:
            if not views:
                totals = {str(view.state): 0 for view in MONITOR_VIEWS.values()}
                for state in self._pool.states.values():
                    if state in totals:
                        totals[state] += 1
                return totals
            return {name: len(await self.query(name, ViewQuery())) for name in views}

    async def total(self) -> int:
        """How many documents of type token the pool has."""
        with self._pool.lock:
            return sum(stored.document().get("type") == "token" for stored in self._pool.documents.values())

    async def scan(self, after: str | None = None, limit: int = 500) -> TokenPage:
        """Read all documents of type token, page by page."""
        with self._pool.lock:
            first = 0 if after is None else bisect.bisect_right(self._pool.ids, after)
            ids = self._pool.ids[first : first + limit]
            read = [self._pool.documents[identifier].document() for identifier in ids]
        found = [document for document in read if document.get("type") == "token"]
        return TokenPage(found, ids[-1] if len(ids) == limit else None)

    async def _write(self, batch: Sequence[EncodedDocument]) -> list[SaveResult]:
        with self._pool.lock:
            return [self._write_one(encoded) for encoded in batch]

    def _write_one(self, encoded: EncodedDocument) -> SaveResult:
        stored = self._pool.documents.get(encoded.id)
        if encoded.rev != (stored.rev if stored else None):
            return SaveResult(SaveStatus.CONFLICT)
        document = decode(encoded.body)
        try:
            attachments = self._attach(document.pop("_attachments", None) or {}, stored)
        except KeyError as error:
            return SaveResult(SaveStatus.REJECTED, reason=f"attachment {error} is a stub of nothing")
        document.pop("_rev", None)
        return SaveResult(SaveStatus.WRITTEN, self._store(document, attachments))

    @staticmethod
    def _attach(attachments: Mapping[str, Any], stored: _Stored | None) -> dict[str, tuple[str, bytes]]:
        kept = stored.attachments if stored else {}
        return {
            name: kept[name]
            if attachment.get("stub")
            else (attachment.get("content_type", "application/octet-stream"), b64decode(attachment["data"]))
            for name, attachment in attachments.items()
        }

    def _store(self, document: Document, attachments: dict[str, tuple[str, bytes]]) -> str:
        identifier, body, pool = document["_id"], encode(document), self._pool
        rev = self._next_rev(pool.documents.get(identifier), body)
        if identifier not in pool.documents:
            bisect.insort(pool.ids, identifier)
        pool.documents[identifier] = _Stored(rev, body, attachments)
        pool.states[identifier] = monitor_state(document)
        self._note(identifier, rev)
        if state_of(document) is TokenState.TODO:
            for listener in tuple(pool.listeners):
                listener(identifier)
        return rev

    def _next_rev(self, stored: _Stored | None, body: bytes) -> str:
        """Like CouchDB's: a growing number and a digest, here also of the change's number, so that none comes twice."""
        number = int(stored.rev.split("-")[0]) if stored else 0
        digest = md5(b"%d %b" % (self._pool.sequence, body), usedforsecurity=False).hexdigest()
        return f"{number + 1}-{digest}"

    def _note(self, identifier: str, rev: str, *, deleted: bool = False) -> None:
        pool = self._pool
        pool.sequence += 1
        pool.changes.pop(identifier, None)
        pool.changes[identifier] = StoredChange(str(pool.sequence), identifier, rev, deleted)

    async def discard(self, leaves: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        """Delete documents, each if the pool still has its revision."""
        with self._pool.lock:
            return [self._delete_one(document["_id"], document.get("_rev")) for document in leaves]

    def _delete_one(self, identifier: str, rev: str | None) -> SaveResult:
        pool = self._pool
        stored = pool.documents.get(identifier)
        if stored is None or stored.rev != rev:
            return SaveResult(SaveStatus.CONFLICT)
        del pool.documents[identifier], pool.states[identifier]
        pool.ids.pop(bisect.bisect_left(pool.ids, identifier))
        gone = self._next_rev(stored, b"")
        self._note(identifier, gone, deleted=True)
        return SaveResult(SaveStatus.WRITTEN, gone)

    async def add_view(self, view: View) -> None:
        """Install a view."""
        with self._pool.lock:
            self._pool.views[view.name] = view

    async def views(self) -> list[StoredView]:
        """The views that the pool has, by name."""
        with self._pool.lock:
            return [stored_view(view) for _, view in sorted(self._pool.views.items())]

    async def _put_attachment(
        self, document_id: str, rev: str, name: str, data: AsyncIterator[bytes], content_type: str
    ) -> SaveResult:
        content = b"".join([chunk async for chunk in data])
        with self._pool.lock:
            stored = self._pool.documents.get(document_id)
            if stored is None or stored.rev != rev:
                return SaveResult(SaveStatus.CONFLICT)
            attachments = {**stored.attachments, name: (content_type, content)}
            document = decode(stored.body)
            return SaveResult(SaveStatus.WRITTEN, self._store(document, attachments))

    def _attachments_of(self, document_id: str) -> dict[str, tuple[str, bytes]]:
        with self._pool.lock:
            try:
                return self._pool.documents[document_id].attachments
            except KeyError:
                raise TokenNotFoundError(f"no token {document_id!r} in {self.address}") from None

    async def attachments(self, document_id: str) -> list[AttachmentInfo]:
        """The attachments of a document."""
        found = sorted(self._attachments_of(document_id).items())
        return [AttachmentInfo(name, content_type, len(data)) for name, (content_type, data) in found]

    async def stream_attachment(self, document_id: str, name: str) -> AsyncIterator[bytes]:
        """Read an attachment in chunks."""
        try:
            _, data = self._attachments_of(document_id)[name]
        except KeyError:
            raise TokenNotFoundError(f"token {document_id!r} has no attachment {name!r}") from None
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]

    async def changes(self, since: str | None = None) -> AsyncIterator[StoredChange]:
        """Follow what is written, looking every 50 ms."""
        seen = self._pool.sequence if since is None else int(since)
        while True:
            with self._pool.lock:
                new = [change for change in self._pool.changes.values() if int(change.seq) > seen]
            for change in new:
                seen = int(change.seq)
                yield change
            await anyio.sleep(_CHANGES_POLL)

    async def arrivals(self, views: Sequence[str]) -> AsyncIterator[Arrival]:
        """Tell when tokens may have become claimable, at once."""
        loop, come = asyncio.get_running_loop(), asyncio.Event()
        definitions = [self._view(full_name(view)) for view in views]

        def listen(identifier: str) -> None:
            if any(self._listed(definition, identifier) is not None for definition in definitions):
                with suppress(RuntimeError):  # that loop was closed meanwhile
                    loop.call_soon_threadsafe(come.set)

        self._pool.listeners.append(listen)
        try:
            yield Arrival.POSSIBLE
            yield Arrival.NONE
            while True:
                await come.wait()
                come.clear()
                yield Arrival.POSSIBLE
        finally:
            self._pool.listeners.remove(listen)
