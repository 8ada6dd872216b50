"""The port: compare-and-swap on documents, as little as all stores do alike.

An adapter knows documents, not pilots: no rule about tokens is written in one. What every client does the same way
(uploading, editing, bisecting a refused bulk) stands once, in `apicas.clients.base`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from enum import Enum
from types import TracebackType
from typing import Any, Final, Protocol, Self

import msgspec

from apicas._documents import Document
from apicas.views import View


class _Missing(Enum):
    MISSING = "missing"


MISSING: Final = _Missing.MISSING
"""Stands for a key that was not given; None is a key that sorts before all others."""


class SaveStatus(Enum):
    """What became of one document of a `save`."""

    WRITTEN = "written"
    """The store has it, and this writer alone has written on that revision."""
    CONFLICT = "conflict"
    """The stored document has another revision, or is gone: somebody else was first."""
    UNKNOWN = "unknown"
    """It may or may not have happened: read back. The answer got lost, or only a minority of the replicas has it."""
    REJECTED = "rejected"
    """The store does not take this document; `reason` says why. Trying again is no use."""


class SaveResult(msgspec.Struct, frozen=True, gc=False):
    """What became of one document, in the order in which they were given."""

    status: SaveStatus
    rev: str | None = None
    """The new revision, of a document that was written."""
    reason: str = ""
    """Why, for people."""

    @property
    def written(self) -> bool:
        """Whether the document is written."""
        return self.status is SaveStatus.WRITTEN


class ViewQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What to read of a view.

    Args:
        limit: rows at most; None for all.
        start_key: the first key, in the view's order (with `descending`, the greatest).
        end_key: the last key, itself included.
        descending: from the last key to the first.
        include_docs: put the documents into the rows. They are read after the rows, so a document may by now belong
            to another view: check it.
        reduce: run the view's reduce function; None for the store's default: yes where there is one.
        group: reduce by key.
        group_level: reduce by the first elements of keys that are lists.
        fresh: wait until all that was written so far is in the view. "Empty" from a stale view is not empty.
    """

    limit: int | None = None
    start_key: Any = MISSING
    end_key: Any = MISSING
    descending: bool = False
    include_docs: bool = False
    reduce: bool | None = None
    group: bool = False
    group_level: int | None = None
    fresh: bool = True


class ViewRow(msgspec.Struct, frozen=True):
    """A row of a view; `id` is None in a reduced one, `document` None where it was not asked for, or is gone."""

    id: str | None
    key: Any
    value: Any
    document: Document | None = None


class TokenPage(msgspec.Struct, frozen=True):
    """Some of a pool's tokens, in the order of their ids."""

    documents: list[Document]
    after: str | None
    """The id behind which the next page begins; None after the last one. A page may be empty and not be the last."""


class StoredChange(msgspec.Struct, frozen=True):
    """One entry of the changes feed."""

    seq: str
    """Where the feed goes on from."""
    id: str
    rev: str
    deleted: bool = False


class Arrival(Enum):
    """What a client tells whoever waits for tokens; see `Client.arrivals`."""

    POSSIBLE = "possible"
    """Look at the views: there may be a token that was not there before."""
    NONE = "none"
    """Nothing came; a sign that whoever tells is there."""


class AttachmentInfo(msgspec.Struct, frozen=True):
    """What is known of an attachment without reading it."""

    name: str
    content_type: str
    length: int
    """Bytes."""


class SetupReport(msgspec.Struct, frozen=True):
    """What `setup` did."""

    created: bool = False
    """Whether the database is new."""
    installed: tuple[str, ...] = ()
    """The design documents that were written."""
    kept: tuple[str, ...] = ()
    """Design documents that were there, and differ from ours in text though not in the names of their views."""


class Reject(msgspec.Struct, frozen=True):
    """A document that an upload left out."""

    position: int
    """Its place in the stream, from 0."""
    id: str | None
    reason: str


class UploadReport(msgspec.Struct):
    """What an upload did. Only the first rejects are kept; `rejected` counts all."""

    uploaded: int = 0
    rejected: int = 0
    rejects: list[Reject] = msgspec.field(default_factory=list)


class Permissions(msgspec.Struct, frozen=True):
    """Who may use a database: members read and write, admins also change design documents and these lists."""

    members: tuple[str, ...] = ()
    member_roles: tuple[str, ...] = ()
    admins: tuple[str, ...] = ()
    admin_roles: tuple[str, ...] = ()


class StoredView(msgspec.Struct, frozen=True, kw_only=True):
    """A view as a pool has it."""

    name: str
    """`Design/view`."""
    state: str = ""
    """The state whose tokens it lists; empty where only its map function tells."""
    where: Any = None
    """Its further condition, as JSON; see apicas.views.condition_from_json."""
    map_function: str = ""
    """Its text, where the store has one."""
    reduce_function: str = ""
    """Its text, or the name of one of the store's own."""


class Traffic(msgspec.Struct):
    """What a client and its forks have asked of the store so far. A pool in memory counts nothing."""

    requests: int = 0
    """Requests to a server, repeated ones each time; transactions of a file, those that only read included."""
    sent: int = 0
    """Bytes of the bodies of requests, and of documents that a file took."""
    received: int = 0
    """Bytes of the bodies of answers, and of documents read from a file."""


UploadProgress = Callable[[UploadReport], object]


class Client(Protocol):
    """A pool's store, open for use by one event loop.

    Everything may raise PoolUnavailableError (try again later), AccessDeniedError (final) and PoolNotFoundError.
    A client is an async context manager; it connects on entry.
    """

    @property
    def address(self) -> str:
        """The pool's URL without secrets, for people."""
        ...

    @property
    def default_lease(self) -> float:
        """Seconds that a lock holds in this kind of store where the user says nothing."""
        ...

    @property
    def replicated(self) -> bool:
        """Whether a document has several replicas, so that a write may be neither done nor refused."""
        ...

    @property
    def traffic(self) -> Traffic:
        """What this client and its forks have asked of the store: for benchmarks, and for tests that count."""
        ...

    @property
    def wake_spacing(self) -> float:
        """Seconds by which pilots keep apart that one token has woken: about what a look costs this kind of store."""
        ...

    def time(self) -> float:
        """Unix seconds by the store's clock, which stamps locks."""
        ...

    def fork(self) -> Client:
        """A second client of the same pool, not yet open, for another event loop or thread."""
        ...

    async def open(self) -> None:
        """Connect."""
        ...

    async def aclose(self) -> None:
        """Disconnect. May be called twice."""
        ...

    async def __aenter__(self) -> Self:
        """Connect."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect."""
        ...

    async def setup(self, *, replace_views: bool = False) -> SetupReport:
        """Create the database and the Monitor views where they are missing. Safe to repeat.

        Args:
            replace_views: also overwrite a Monitor that differs; a big pool is then indexed anew.
        """
        ...

    async def get(self, ids: Sequence[str]) -> list[Document | None]:
        """Read documents, in the order asked for; None for one that does not exist.

        A document of which a replicated store has several live versions (leaves) comes with `_conflicts`: the revisions
        of those that are not shown. So do documents in the rows of `query` and in the answer of `sample`. A document is
        written without it.
        """
        ...

    async def leaves(self, ids: Sequence[str]) -> list[list[Document]]:
        """Every live version of documents, the shown one first; an empty list for one that does not exist.

        One version each, but for a replicated store on which several writers won a race in different replicas.
        """
        ...

    async def conflicted(self, limit: int | None = None) -> list[str]:
        """The ids of documents of type token that have more than one live version.

        Args:
            limit: ids at most; None for all.
        """
        ...

    async def discard(self, leaves: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        """Delete exactly these versions, by `_id` and `_rev`; another version of the same document then shows."""
        ...

    async def query(self, view: str, query: ViewQuery) -> list[ViewRow]:
        """Read rows of a view.

        Raises:
            ViewNotFoundError: the pool has no such view.
        """
        ...

    async def sample(
        self, view: str, limit: int, place: float, *, window: int = 0, fresh: bool = False
    ) -> list[Document]:
        """Read documents of a view in no particular order, for a claim; check each, and write with its `_rev`.

        Args:
            view: the view.
            limit: documents at most.
            place: a number from 0 up to 1 that says where to begin: pilots that begin in different places do not meet.
            window: where the store can begin nowhere but at the start of the view, the number of rows from there among
                which `place` means a place. Rows cost little, documents much.
            fresh: wait until all that was written so far is in the view.

        Returns:
            Fewer than `limit` only if the view has no more.
        """
        ...

    def portion(self, view: str, wanted: int) -> int:
        """How many tokens to claim from a view at a time, where `wanted` could be used.

        Fewer where others claim from it as well and little is left: claims of all would meet, and all but one be lost.
        """
        ...

    async def counts(self, views: Sequence[str] = ()) -> dict[str, int]:
        """The number of tokens per view, keyed as asked for; per Monitor state where none are named."""
        ...

    async def total(self) -> int:
        """How many documents of type token the pool has, those in no view included."""
        ...

    async def scan(self, after: str | None = None, limit: int = 500) -> TokenPage:
        """Read all documents of type token, page by page, in the order of ids; those in no view included.

        A token that is there all the time is read once, whatever becomes of it meanwhile, as it never is by reading
        one view after the other.

        Args:
            after: where the page before said that the next one begins; None for the first.
            limit: documents at most.
        """
        ...

    async def save(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        """Write documents, each if the store still has its `_rev`, or has no such document where there is none.

        A document that cannot be written never keeps the others from being written. Not one transaction: any subset
        may be written when this raises.
        """
        ...

    async def delete(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        """Delete documents by `_id`, all live versions of each, if the store still has its `_rev` among them."""
        ...

    async def add_view(self, view: View) -> None:
        """Install a view; one of the same name is replaced."""
        ...

    async def views(self) -> list[StoredView]:
        """The views that the pool has, by name: those of Monitor, and those that users have added."""
        ...

    async def put_attachment(
        self, document_id: str, rev: str, name: str, data: bytes | AsyncIterator[bytes], content_type: str
    ) -> SaveResult:
        """Attach a file to a document, if the store still has its revision `rev`; the document gets a new one.

        Args:
            document_id: the document.
            rev: its revision.
            name: the attachment's name.
            data: the content, or its chunks, which are never all in memory.
            content_type: a MIME type.
        """
        ...

    async def attachments(self, document_id: str) -> list[AttachmentInfo]:
        """The attachments of a document, by name.

        Raises:
            TokenNotFoundError: there is no such document.
        """
        ...

    def stream_attachment(self, document_id: str, name: str) -> AsyncIterator[bytes]:
        """Read an attachment in chunks.

        Raises:
            TokenNotFoundError: there is no such document, or no such attachment.
        """
        ...

    def changes(self, since: str | None = None) -> AsyncIterator[StoredChange]:
        """Follow what is written to the pool, until closed. Several writes of one document may come as one.

        Args:
            since: a `seq` to go on from; "0" for the beginning; None for now.
        """
        ...

    def arrivals(self, views: Sequence[str]) -> AsyncIterator[Arrival]:
        """Tell when tokens may have become claimable, until closed.

        The first to come is POSSIBLE, and says that from here on no arrival is missed: whoever found the views empty
        before looks once more. Each further one follows a write that left a token in one of the views, or at least in
        todo. Heartbeats, claims and outcomes are no arrivals, whoever wrote them. NONE comes soon after the start, and
        at times, where what tells is known to be there.

        It is a help, not a promise: an arrival may fail to be told, so who waits for one also looks now and then.

        Args:
            views: those that are claimed from.

        Raises:
            PoolUnavailableError: what tells is gone; asking for a new one may help.
            PoolError: this store, or what is between here and there, does not offer it.
        """
        ...
