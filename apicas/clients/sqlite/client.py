"""The client of a pool in an SQLite file: the port's methods, as operations for the thread that has the connection.

SQL runs in the thread; JSON and everything else that is Python's runs in the loop, before and after.
"""

from __future__ import annotations

import os
import sqlite3
import time as system_time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from copy import deepcopy
from functools import partial
from itertools import chain, count, islice, repeat
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

from apicas._documents import MAX_DOCUMENT_BYTES, Document, decode
from apicas.clients.base import PoolClient, missing_view
from apicas.clients.bulks import EncodedDocument, NewToken
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
from apicas.clients.sqlite import attachments, documents, drafts
from apicas.clients.sqlite.arriving import await_arrivals
from apicas.clients.sqlite.feed import follow
from apicas.clients.sqlite.file_systems import network_file_system
from apicas.clients.sqlite.listings import (
    COUNT_STATES,
    COUNT_TOKENS,
    MONITOR,
    Listing,
    Span,
    find_listing,
    install,
    installed,
    span,
)
from apicas.clients.sqlite.schema import RUN, SPOTS, PoolFile, Synchronous
from apicas.clients.sqlite.sharing import OPEN_FILES
from apicas.clients.sqlite.thread import ConnectionThread, Operation
from apicas.exceptions import ConfigError, PoolError, TokenNotFoundError
from apicas.views import OVERVIEW, STATES, View, full_name

T = TypeVar("T")

# Rows that one operation reads, so that the thread is soon free for others, and an answer fits into memory.
_PAGE: Final = 20_000
_PAGE_OF_DOCUMENTS: Final = 1_000
# Bytes of the longest text that SQLite may put together for one answer.
_LARGEST_ANSWER: Final = 64_000_000


class SQLiteClient(PoolClient):
    """A pool in an SQLite file, which is made when it is first opened.

    Any number of processes of one node share the file. On a network file system one process can use it at a time; all
    its clients then share a connection.

    Args:
        path: the file; `~` is the home directory.
        now: the clock, in unix seconds; tests pass their own.
        synchronous: NORMAL never damages the pool, but a power cut may undo the last commits; FULL undoes none, and
            waits for the disk at each.
        max_document_bytes: the largest token, in bytes of JSON, attachments not counted.
        create: make the pool where there is none; else that is a PoolNotFoundError.
        file_system: tells the type of the file system that a path lies on, where it cannot be shared, else None.
    """

    default_lease = 60.0
    wake_spacing = 0.001
    _bulks_at_a_time = 2  # the thread has the next one as soon as one is written

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        now: Callable[[], float] = system_time.time,
        synchronous: Synchronous = "NORMAL",
        max_document_bytes: int = MAX_DOCUMENT_BYTES,
        create: bool = True,
        file_system: Callable[[Path], str | None] = network_file_system,
    ) -> None:
        super().__init__(max_document_bytes=max_document_bytes)
        if synchronous not in {"NORMAL", "FULL"}:
            raise ConfigError(f"synchronous is NORMAL or FULL, not {synchronous!r}")
        self._given = os.fspath(path)
        # Made absolute at once: the working directory may change before the file is opened.
        self._path = Path(os.path.abspath(Path(self._given).expanduser()))  # noqa: PTH100 - resolves no links yet
        self._now = now
        self._synchronous: Synchronous = synchronous
        self._create = create
        self._file_system = file_system
        self._thread: ConnectionThread | None = None
        self._finalizer: weakref.finalize[[ConnectionThread], SQLiteClient] | None = None
        self._made = False
        rng = Random(self._mark)
        self._spots = chain.from_iterable(repeat(rng.randrange(SPOTS), RUN) for _ in count())

    @property
    def address(self) -> str:
        """`sqlite:///file.db`, as it was given."""
        return f"sqlite:///{self._given}"

    def time(self) -> float:
        """This node's clock."""
        return self._now()

    def fork(self) -> SQLiteClient:
        """Another client of the same file, with a connection of its own where the file can be shared."""
        fork = SQLiteClient(
            self._path,
            now=self._now,
            synchronous=self._synchronous,
            max_document_bytes=self.max_document_bytes,
            create=self._create,
            file_system=self._file_system,
        )
        fork.traffic = self.traffic
        return fork

    # Opening and closing. -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the file, and make the pool if there is none.

        Raises:
            ConfigError: the file is no apicas pool, or of a newer apicas; or there is no such directory.
            PoolNotFoundError: there is no pool, and `create` is off.
            PoolInUseError: another process has it, on a file system where it cannot be shared.
        """
        if self._thread is not None:
            return
        thread = OPEN_FILES.acquire(self._file(), self.address)
        try:
            self._made = await thread.read(lambda connection: connection.made)
            OPEN_FILES.opened(thread)
            if await thread.read(partial(attachments.has_leftovers, now=self._now())):
                await thread.write(partial(attachments.discard_leftovers, now=self._now()))
        except BaseException as error:
            if OPEN_FILES.release(thread) and isinstance(error, Exception):  # a cancelled caller does not wait
                await thread.stopped()
            raise
        self._thread = thread
        # For a client that somebody forgets to close: its thread would wait for ever.
        self._finalizer = weakref.finalize(self, OPEN_FILES.release, thread)

    def _file(self) -> PoolFile:
        path = self._path.resolve()
        return PoolFile(
            path=path,
            synchronous=self._synchronous,
            create=self._create,
            alone_on=self._file_system(path),
            largest=max(_LARGEST_ANSWER, 4 * self.max_document_bytes),
        )

    async def aclose(self) -> None:
        """Close the file, after what was asked so far is done. May be called twice."""
        thread, self._thread = self._thread, None
        if thread is None or self._finalizer is None:
            return
        self._finalizer.detach()
        if OPEN_FILES.release(thread):
            await thread.stopped()

    def _opened(self) -> ConnectionThread:
        if self._thread is None:
            raise PoolError(f"the client of {self.address} is not open: use `async with`")
        return self._thread

    async def _read(self, operation: Operation[T]) -> T:
        thread = self._opened()
        self.traffic.requests += 1
        return await thread.read(operation)

    async def _read_snapshot(self, operation: Operation[T]) -> T:
        thread = self._opened()
        self.traffic.requests += 1
        return await thread.read_snapshot(operation)

    async def _transact(self, operation: Operation[T]) -> T:
        thread = self._opened()
        self.traffic.requests += 1
        return await thread.write(operation)

    def _documents(self, selected: documents.Selected) -> list[Document]:
        self.traffic.received += sum(map(len, selected.texts))
        return selected.decoded()

    async def setup(self, *, replace_views: bool = False) -> SetupReport:
        """Nothing is left to do: opening makes the file, and the Monitor views are part of it."""
        del replace_views  # they cannot differ
        self._opened()
        made, self._made = self._made, False
        return SetupReport(created=made, installed=("Monitor",) if made else ())

    # Reading. -----------------------------------------------------------------------------------------------------

    async def get(self, ids: Sequence[str]) -> list[Document | None]:
        """Read documents."""
        found: dict[Any, Document] = {}
        for start in range(0, len(ids), _PAGE_OF_DOCUMENTS):
            wanted = documents.ids_json(ids[start : start + _PAGE_OF_DOCUMENTS])
            read = await self._read(partial(documents.get, ids=wanted))
            found |= {document["_id"]: document for document in self._documents(read)}
        handed: set[str] = set()
        return [_own(found.get(identifier), handed) for identifier in ids]

    async def query(self, view: str, query: ViewQuery) -> list[ViewRow]:
        """Read rows of a view."""
        name = full_name(view)
        if name == OVERVIEW:
            return await self._overview(query)
        within = span(query)
        left = 0 if within is None else query.limit
        within = within or Span()
        rows: list[ViewRow] = []
        most = _PAGE_OF_DOCUMENTS if query.include_docs else _PAGE
        while True:
            size = most if left is None else min(most, left - len(rows))
            read = await self._page(name, query, within, size)
            rows += read
            if len(read) < size or len(rows) == left:
                return rows
            within = within.beyond(rows[-1].key, descending=query.descending)

    async def _page(self, name: str, query: ViewQuery, within: Span, size: int) -> list[ViewRow]:
        down = query.descending
        if not query.include_docs:
            operation = partial(documents.page_of_ids, within=within, limit=size, descending=down)
            ids = decode(await self._with_listing(name, operation))
            return [ViewRow(identifier, identifier, identifier) for identifier in ids]
        selected = await self._with_listing(name, partial(documents.page, within=within, limit=size, descending=down))
        # SQLite does not promise to put them together in the order of the rows.
        read = sorted(self._documents(selected), key=itemgetter("_id"), reverse=down)
        return [ViewRow(document["_id"], document["_id"], document["_id"], document) for document in read]

    async def _with_listing(self, name: str, operation: Callable[[sqlite3.Connection, Listing], T]) -> T:
        """Run an operation on a view, given its full name.

        Raises:
            ViewNotFoundError: there is no such view.
        """
        address = self.address

        def run(connection: sqlite3.Connection) -> T:
            listing = find_listing(connection, name)
            if listing is None:
                raise missing_view(address, name)
            return operation(connection, listing)

        # A user's view could be replaced between two statements, and its index with it.
        return await (self._read(run) if name in MONITOR else self._read_snapshot(run))

    async def _overview(self, query: ViewQuery) -> list[ViewRow]:
        if query.reduce is False:
            rows: list[ViewRow] = []
            for state in sorted(STATES):
                left = None if query.limit is None else query.limit - len(rows)
                rows += [ViewRow(row.id, str(state), 1) for row in await self.query(state, ViewQuery(limit=left))]
            return rows
        counts = {name: number for name, number in sorted((await self.counts()).items()) if number}
        if query.group or query.group_level:
            return [ViewRow(None, name, number) for name, number in counts.items()]
        return [ViewRow(None, None, sum(counts.values()))] if counts else []

    async def sample(
        self, view: str, limit: int, place: float, *, window: int = 0, fresh: bool = False
    ) -> list[Document]:
        """Read documents of a view, beginning at a place and going round."""
        del fresh, window  # a file always is fresh, and a claim begins anywhere in it
        read = await self._with_listing(full_name(view), partial(documents.window, place=place, limit=limit))
        return self._documents(read)

    async def counts(self, views: Sequence[str] = ()) -> dict[str, int]:
        """The number of tokens per view, counted in its index: some 20 ms per million."""
        if views:
            return {view: await self._count(full_name(view)) for view in views}
        found = dict(await self._read(lambda connection: connection.execute(COUNT_STATES).fetchall()))
        return {str(state): found.get(str(state), 0) for state in STATES}

    async def _count(self, name: str) -> int:
        if name == OVERVIEW:
            return sum((await self.counts()).values())
        return await self._with_listing(name, _count_rows)

    async def total(self) -> int:
        """How many documents of type token the pool has."""
        ((number,),) = await self._read(lambda connection: connection.execute(COUNT_TOKENS).fetchall())
        return int(number)

    async def scan(self, after: str | None = None, limit: int = 500) -> TokenPage:
        """Read all documents of type token, page by page."""
        size = min(limit, _PAGE_OF_DOCUMENTS)
        read = await self._read(partial(documents.scan, after=after or "", limit=size))
        found = sorted(self._documents(read), key=itemgetter("_id"))
        return TokenPage(found, found[-1]["_id"] if len(found) == size else None)

    # Writing. -----------------------------------------------------------------------------------------------------

    def _unique(self) -> str:
        """A piece of a name that is given once, by whatever client."""
        return f"{self._mark}{next(self._numbers):x}"

    async def _write(self, batch: Sequence[EncodedDocument]) -> list[SaveResult]:
        self.traffic.sent += sum([len(encoded.body) for encoded in batch])
        operation: Operation[list[SaveResult]]
        if {*map(type, batch)} == {NewToken}:
            revs = [f"1-{self._mark}{number:x}" for number in islice(self._numbers, len(batch))]
            rows = drafts.rows_of_tokens(batch, revs, list(islice(self._spots, len(batch))))
            operation = partial(documents.insert, rows=rows)
        else:
            made = [drafts.draft(encoded, self._unique(), next(self._spots)) for encoded in batch]
            operation = partial(documents.write, drafts=made)
        return await self._transact(operation)

    async def discard(self, leaves: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        """Delete documents, each if the pool still has its revision."""
        pairs = [(document["_id"], document.get("_rev")) for document in leaves]
        uniques = [self._unique() for _ in pairs]
        return await self._transact(partial(documents.delete, wanted=pairs, uniques=uniques))

    async def add_view(self, view: View) -> None:
        """Install a view. One with a condition gets indexes, made from all tokens while writers wait."""
        await self._transact(partial(install, view=view))

    async def views(self) -> list[StoredView]:
        """The views that the pool has, by name."""
        return sorted([*await super().views(), *await self._read(installed)], key=lambda view: view.name)

    # Attachments. -------------------------------------------------------------------------------------------------

    async def _put_attachment(
        self, document_id: str, rev: str, name: str, data: AsyncIterator[bytes], content_type: str
    ) -> SaveResult:
        for text in (document_id, name, content_type):
            if not documents.is_text(text):
                return SaveResult(SaveStatus.REJECTED, reason=f"{text!r} is no Unicode text")
        if await self._read(partial(documents.revision, document_id=document_id)) != rev:
            return SaveResult(SaveStatus.CONFLICT)  # before the data is read for nothing
        attach = partial(documents.attach, document_id=document_id, rev=rev, unique=self._unique())
        async with aclosing(attachments.chunks(data)) as chunks:
            first = await anext(chunks, b"")
            if len(first) < attachments.CHUNK:
                content = attachments.Content(content_type, first)
                return await self._transact(partial(attach, put=partial(attachments.put, name=name, content=content)))
            upload = self._unique()
            result: SaveResult | None = None
            try:
                await self._transact(
                    partial(attachments.stage, upload=upload, name=name, content_type=content_type, now=self._now())
                )
                await self._append(upload, first, chunks)
                result = await self._transact(partial(attach, put=partial(attachments.adopt, upload=upload, name=name)))
            finally:
                if result is None or not result.written:
                    self._opened().send(partial(attachments.discard, upload=upload))
            return result

    async def _append(self, upload: str, first: bytes, chunks: AsyncGenerator[bytes, None]) -> None:
        """Stage the chunks of an upload, each in a transaction of its own."""
        await self._transact(partial(attachments.append, upload=upload, part=0, data=first, now=self._now()))
        part = 1
        async for data in chunks:
            await self._transact(partial(attachments.append, upload=upload, part=part, data=data, now=self._now()))
            part += 1

    async def attachments(self, document_id: str) -> list[AttachmentInfo]:
        """The attachments of a document."""
        found = None
        if documents.is_text(document_id):
            found = await self._read(partial(attachments.infos, document_id=document_id))
        if found is None:
            raise TokenNotFoundError(f"no token {document_id!r} in {self.address}")
        return found

    async def stream_attachment(self, document_id: str, name: str) -> AsyncIterator[bytes]:
        """Read an attachment in chunks of 1 MiB.

        Raises:
            TokenNotFoundError: there is no such document, or no such attachment.
            PoolError: the attachment was replaced or removed meanwhile.
        """
        found = None
        if documents.is_text(document_id) and documents.is_text(name):
            found = await self._read(partial(attachments.find, document_id=document_id, name=name))
        if found is None:
            raise TokenNotFoundError(f"token {document_id!r} has no attachment {name!r}")
        number, length = found
        for part in range(-(-length // attachments.CHUNK)):
            data = await self._read(partial(attachments.chunk, number=number, part=part))
            if data is None:
                raise PoolError(f"attachment {name!r} of token {document_id!r} was replaced while it was being read")
            yield data

    # The feed. ----------------------------------------------------------------------------------------------------

    async def changes(self, since: str | None = None) -> AsyncIterator[StoredChange]:
        """Follow what is written: at once what this process's connection wrote, within 50 ms what others did."""
        feed = follow(self._opened(), self._read, since, self.address)
        async with aclosing(feed) as changes:
            async for change in changes:
                yield change

    async def arrivals(self, views: Sequence[str]) -> AsyncIterator[Arrival]:
        """Tell when tokens have come into a view: at once where this process wrote them, else within 20 ms."""
        path, names = f"{self._path.resolve()}-wal", [full_name(view) for view in views]
        async with aclosing(await_arrivals(self._opened(), self._read, path, names)) as feed:
            async for arrival in feed:
                yield arrival


def _count_rows(connection: sqlite3.Connection, listing: Listing) -> int:
    ((number,),) = connection.execute(listing.count())
    return int(number)


def _own(document: Document | None, handed: set[str]) -> Document | None:
    """A document for one caller to change: a copy, if it was asked for twice."""
    if document is None:
        return None
    if document["_id"] in handed:
        return deepcopy(document)
    handed.add(document["_id"])
    return document
