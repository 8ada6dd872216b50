"""A client of a simulated store with one or three replicas: `ReplicatedClient`, for tests in virtual time.

async def main() -> None:
    store = ReplicatedStore(3, seed=7)
    async with ReplicatedClient(store, "pilot") as client:
        ...
        store.cut.add(("pilot", 0))  # from here on nothing it sends arrives

run_virtual(main)
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import anyio
import msgspec
from typing_extensions import override

from apicas._documents import Document, decode, encode
from apicas.clients.base import PoolClient, missing_view, stored_view
from apicas.clients.bulks import EncodedDocument
from apicas.clients.port import (
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
from apicas.testing.revisions import Files, Replica, Revision, key_range, live, make_revision
from apicas.testing.store import Call, Feed, ReplicatedStore, Reply, SilenceError, Write
from apicas.tokens import TokenState
from apicas.views import MONITOR_VIEWS, OVERVIEW, View, full_name

_CHANGES_POLL = 0.05  # seconds
_FEED_BEAT = 20.0
"""Seconds between the signs of life in a feed of arrivals."""
_CHUNK = 1 << 20


class ReplicatedClient(PoolClient):
    """A pool in a simulated store.

    Args:
        store: the store.
        name: of this client, for faults and histories; a fork has the same.
        home: the number of the replica that it is connected to.
    """

    default_lease = 60.0

    def __init__(self, store: ReplicatedStore, name: str = "client", home: int = 0) -> None:
        super().__init__()
        self.store = store
        self.name = name
        self.home = home % len(store.replicas)
        self.replicated = len(store.replicas) > 1

    @property
    @override
    def address(self) -> str:
        return "simulated://pool"

    @override
    def time(self) -> float:
        errors = self.store.clock_errors
        return self.store.loop.unix_time + errors.get(self.home, 0.0) + errors.get(self.name, 0.0)

    @override
    def fork(self) -> ReplicatedClient:
        return ReplicatedClient(self.store, self.name, self.home)

    @override
    async def open(self) -> None:
        await self.setup()

    @override
    async def aclose(self) -> None:
        pass

    @override
    async def setup(self, *, replace_views: bool = False) -> SetupReport:
        created = await self._ask(self._set_up)
        return SetupReport(created=created, installed=("Monitor",) if created else ())

    def _set_up(self, reply: Reply) -> None:
        created, self.store.ready = not self.store.ready, True
        reply(created)

    async def _ask(self, serve: Callable[[Reply], None]) -> Any:
        """Send a request, and wait for its answer.

        Raises:
            PoolUnavailableError: none came in time, or the connection was refused.
        """
        call = Call(self.name, self.home, serve, self.store.latency.client_timeout)
        self.store.send(call)
        try:
            return await call.future
        finally:
            call.close()

    # Reading. -------------------------------------------------------------------------------------------------------

    async def _read(self, ids: Sequence[str]) -> Mapping[str, list[Revision]]:
        unique = list(dict.fromkeys(ids))
        found: Mapping[str, list[Revision]] = await self._ask(
            lambda reply: self.store.read(self.name, self.home, unique, reply)
        )
        return found

    @override
    async def get(self, ids: Sequence[str]) -> list[Document | None]:
        if not ids:
            return []
        found = await self._read(ids)
        return [_shown(found[identifier]) for identifier in ids]

    @override
    async def leaves(self, ids: Sequence[str]) -> list[list[Document]]:
        if not ids:
            return []
        found = await self._read(ids)
        return [[leaf.document() for leaf in live(found[identifier])] for identifier in ids]

    async def _ask_replica(self, look: Callable[[Replica], Any]) -> Any:
        """What one replica answers by itself: views are read there."""
        replica = self.store.replicas[self.home]
        return await self._ask(lambda reply: reply(look(replica)))

    @override
    async def conflicted(self, limit: int | None = None) -> list[str]:
        found: list[str] = await self._ask_replica(Replica.conflicted)
        return found[:limit]

    @override
    async def query(self, view: str, query: ViewQuery) -> list[ViewRow]:
        name = full_name(view)
        if name == OVERVIEW:
            rows: list[ViewRow] = await self._ask_replica(lambda replica: _overview(replica, query))
            return rows
        definition = self._view(name)
        rows = await self._ask_replica(lambda replica: replica.listed(definition, query))
        if not query.include_docs or not rows:
            return rows
        documents = await self.get([str(row.id) for row in rows])
        return [msgspec.structs.replace(row, document=document) for row, document in zip(rows, documents, strict=True)]

    def _view(self, name: str) -> View:
        try:
            return self.store.views[name]
        except KeyError:
            raise missing_view(self.address, name) from None

    @override
    async def sample(
        self, view: str, limit: int, place: float, *, window: int = 0, fresh: bool = False
    ) -> list[Document]:
        definition = self._view(full_name(view))
        rows = await self._ask_replica(lambda replica: replica.listed(definition, ViewQuery(fresh=fresh)))
        start = int(place * len(rows))
        ids = [row.id for row in (*rows[start:], *rows[:start])]
        found: list[Document] = []
        while ids and len(found) < limit:
            wanted = limit - len(found)
            found += [document for document in await self.get(ids[:wanted]) if document is not None]
            ids = ids[wanted:]
        return found

    @override
    async def counts(self, views: Sequence[str] = ()) -> dict[str, int]:
        names = views or [str(view.state) for view in MONITOR_VIEWS.values()]
        chosen = [(name, self._view(full_name(name))) for name in names]
        counted: dict[str, int] = await self._ask_replica(
            lambda replica: {name: replica.count(view) for name, view in chosen}
        )
        return counted

    @override
    async def total(self) -> int:
        number: int = await self._ask_replica(
            lambda replica: sum(shown.content.get("type") == "token" for shown in replica.shown.values())
        )
        return number

    @override
    async def add_view(self, view: View) -> None:
        await self._ask(lambda reply: reply(self.store.views.update({view.name: view})))

    @override
    async def views(self) -> list[StoredView]:
        found: list[StoredView] = await self._ask(
            lambda reply: reply(list(map(stored_view, self.store.views.values())))
        )
        return sorted(found, key=lambda view: view.name)

    @override
    async def scan(self, after: str | None = None, limit: int = 500) -> TokenPage:
        ids: list[str] = await self._ask_replica(
            lambda replica: sorted(identifier for identifier in replica.shown if after is None or identifier > after)
        )
        read = await self.get(ids[:limit])
        found = [document for document in read if document is not None and document.get("type") == "token"]
        return TokenPage(found, ids[limit - 1] if len(ids) > limit else None)

    # Writing. -------------------------------------------------------------------------------------------------------

    @override
    async def _write(self, batch: Sequence[EncodedDocument]) -> list[SaveResult]:
        return await self._send([self._prepare(encoded) for encoded in batch])

    async def _send(self, makers: Sequence[Callable[[], Write]]) -> list[SaveResult]:
        """Send writes; they are made where and when they arrive, anew for each copy of the request."""

        def serve(reply: Reply) -> None:
            self.store.write(self.home, [make() for make in makers], reply)

        try:
            rows = await self._ask(serve)
        except SilenceError as error:
            return [SaveResult(SaveStatus.UNKNOWN, reason=str(error))] * len(makers)
        return [
            SaveResult(status, rev if status is SaveStatus.WRITTEN else None, reason) for status, rev, reason in rows
        ]

    def _prepare(self, encoded: EncodedDocument) -> Callable[[], Write]:
        content: Document = decode(encoded.body)
        base = content.pop("_rev", None)
        attachments = content.pop("_attachments", None) or {}
        body = encode(content)
        digest = self.store.digest()

        def make() -> Write:
            parent = self._parent(encoded.id, base)
            try:
                files = _files(attachments, parent)
            except KeyError as error:
                revision = make_revision(encoded.id, parent, digest, body)
                return Write(self.name, revision, base, reason=f"attachment {error} is a stub of nothing")
            return Write(self.name, make_revision(encoded.id, parent, digest, body, files=files), base)

        return make

    def _parent(self, identifier: str, base: str | None) -> Revision | None:
        """The revision that a write follows; for a new document that was there before, the deletion of the old one."""
        if base is not None:
            return self.store.revisions.get((identifier, base))
        gone = self.store.replicas[self.home].leaves_of(identifier)
        return max(gone, key=lambda leaf: leaf.place, default=None)

    @override
    async def discard(self, leaves: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        def deletion(document: Mapping[str, Any]) -> Callable[[], Write]:
            identifier, base, digest = document["_id"], document.get("_rev") or "", self.store.digest()
            body = encode({"_id": identifier})
            return lambda: Write(
                self.name,
                make_revision(identifier, self._parent(identifier, base), digest, body, deleted=True),
                base,
            )

        return await self._send([deletion(document) for document in leaves]) if leaves else []

    @override
    async def delete(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        """Delete documents, the losing leaves after the one that was asked for has gone."""
        results = await self.discard(documents)
        if self.replicated:
            gone = [document["_id"] for document, result in zip(documents, results, strict=True) if result.written]
            others = [leaf for leaves in await self.leaves(gone) for leaf in leaves]
            await self.discard(others)
        return results

    # Attachments and changes. ---------------------------------------------------------------------------------------

    @override
    async def _put_attachment(
        self, document_id: str, rev: str, name: str, data: AsyncIterator[bytes], content_type: str
    ) -> SaveResult:
        content = b"".join([chunk async for chunk in data])
        digest = self.store.digest()

        def make() -> Write:
            parent = self._parent(document_id, rev)
            body = encode({"_id": document_id}) if parent is None else parent.body
            files = {**({} if parent is None else parent.files), name: (content_type, content)}
            return Write(self.name, make_revision(document_id, parent, digest, body, files=files), rev)

        (result,) = await self._send([make])
        return result

    async def _files_of(self, document_id: str) -> Files:
        leaves = live((await self._read([document_id]))[document_id])
        if not leaves:
            raise TokenNotFoundError(f"no token {document_id!r} in {self.address}")
        return leaves[0].files

    @override
    async def attachments(self, document_id: str) -> list[AttachmentInfo]:
        found = sorted((await self._files_of(document_id)).items())
        return [AttachmentInfo(name, content_type, len(data)) for name, (content_type, data) in found]

    @override
    async def stream_attachment(self, document_id: str, name: str) -> AsyncIterator[bytes]:
        try:
            _, data = (await self._files_of(document_id))[name]
        except KeyError:
            raise TokenNotFoundError(f"token {document_id!r} has no attachment {name!r}") from None
        for start in range(0, len(data), _CHUNK):
            yield data[start : start + _CHUNK]

    @override
    async def changes(self, since: str | None = None) -> AsyncIterator[StoredChange]:
        replica = self.store.replicas[self.home]
        seen = replica.sequence if since is None else int(since)
        while True:
            new = sorted(
                (seq, identifier, rev, deleted)
                for identifier, (seq, rev, deleted) in replica.changes.items()
                if seq > seen
            )
            for seq, identifier, rev, deleted in new:
                seen = seq
                yield StoredChange(str(seq), identifier, rev, deleted)
            await anyio.sleep(_CHANGES_POLL)

    @override
    async def arrivals(self, views: Sequence[str]) -> AsyncIterator[Arrival]:
        feed = Feed(self.name, self.home, [self._view(full_name(view)) for view in views])
        await self._ask(lambda reply: self.store.follow(feed, reply))
        try:
            yield Arrival.POSSIBLE
            while True:
                yield Arrival.NONE
                with anyio.move_on_after(_FEED_BEAT):
                    await feed.come.wait()
                if feed.come.is_set():
                    feed.come.clear()
                    yield Arrival.POSSIBLE
                else:  # no sign of life comes where nobody answers
                    await self._ask(lambda reply: reply(None))
        finally:
            feed.close()


def _shown(leaves: Sequence[Revision]) -> Document | None:
    """The version of a document that is shown, with the revisions of its other live leaves."""
    if len(leaves) == 1:
        return None if leaves[0].deleted else leaves[0].document()
    shown = live(leaves)
    return shown[0].document(shown[1:]) if shown else None


def _files(attachments: Mapping[str, Any], parent: Revision | None) -> dict[str, tuple[str, bytes]]:
    """The attachments of a new revision; KeyError for a stub of what the one before does not have."""
    kept: Files = {} if parent is None else parent.files
    return {
        name: kept[name]
        if attachment.get("stub")
        else (attachment.get("content_type", "application/octet-stream"), b64decode(attachment["data"]))
        for name, attachment in attachments.items()
    }


def _overview(replica: Replica, query: ViewQuery) -> list[ViewRow]:
    """The rows of Monitor/overview_total."""
    index = replica.indexed(fresh=query.fresh)
    ids = [one for one in key_range(replica.ids, ViewQuery()) if one in index]
    listed = sorted((str(index[one].state), one) for one in ids if index[one].state is not TokenState.NO_VIEW)
    if query.reduce is False:
        return [ViewRow(one, state, 1) for state, one in listed]
    if not (query.group or query.group_level):
        return [ViewRow(None, None, len(listed))] if listed else []
    states = [state for state, _ in listed]
    return [ViewRow(None, state, states.count(state)) for state in sorted(set(states))]
