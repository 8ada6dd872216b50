"""What every client does the same way, written once above the adapters.

A request that a store refuses as a whole is cut in half until the document that spoils it stands alone; it is rejected,
the others go through.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import count
from secrets import token_hex
from types import TracebackType
from typing import Any, Final, Self

from typing_extensions import TypedDict, Unpack

from apicas._documents import (
    MAX_DOCUMENT_BYTES,
    Document,
    check_attachment_name,
    check_id,
    decode,
    encode_document,
    encode_documents,
)
from apicas.clients.adapter import Adapter
from apicas.clients.bulks import MAX_BULK_BYTES, MAX_BULK_DOCUMENTS, BulkRefusedError, EncodedDocument, NewToken, bulks
from apicas.clients.port import (
    Arrival,
    SaveResult,
    SaveStatus,
    StoredView,
    Traffic,
    UploadProgress,
    UploadReport,
    ViewQuery,
    ViewRow,
)
from apicas.clients.readback import ATTEMPTS, Measured, ReadBack, doubted, has_file
from apicas.clients.stencils import Stencils
from apicas.clients.uploading import Bounds, Tokens, Upload
from apicas.exceptions import (
    EditConflictError,
    InvalidTokenError,
    PoolError,
    TokenNotFoundError,
    ViewNotFoundError,
)
from apicas.tokens import Token, new_token
from apicas.views import MONITOR_VIEWS, OVERVIEW, View

EDIT_ATTEMPTS: Final = 20


class ViewOptions(TypedDict, total=False):
    """The fields of ViewQuery, as keywords."""

    limit: int | None
    start_key: Any
    end_key: Any
    descending: bool
    include_docs: bool
    reduce: bool | None
    group: bool
    group_level: int | None
    fresh: bool


class PoolClient(Adapter):
    """A client: an adapter of one store, with all that users do to a pool.

    Args:
        max_document_bytes: the largest token, in bytes of JSON, attachments not counted.
    """

    _bulks_at_a_time: int = 1
    """How many bulks of an upload are on their way at once."""

    def __init__(self, *, max_document_bytes: int = MAX_DOCUMENT_BYTES) -> None:
        self.max_document_bytes: int = max_document_bytes
        self.traffic: Traffic = Traffic()
        self._mark = token_hex(8)
        """No two clients have the same."""
        self._stencils = Stencils(max_document_bytes)
        self._numbers = count()

    @abstractmethod
    def fork(self) -> PoolClient:
        """A second client of the same pool, not yet open, for another event loop or thread."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"

    def portion(self, view: str, wanted: int) -> int:
        """How many tokens to claim at a time: here all that can be used."""
        del view
        return wanted

    async def leaves(self, ids: Sequence[str]) -> list[list[Document]]:
        """Every live version of documents: one, in a store that has one copy of each."""
        return [[] if document is None else [document] for document in await self.get(ids)]

    async def conflicted(self, limit: int | None = None) -> list[str]:
        """The ids of documents with more than one live version: none, in a store that has one copy of each."""
        del limit
        return []

    async def views(self) -> list[StoredView]:
        """The views that the pool has, by name: those of Monitor, and those that users have added."""
        return sorted(map(stored_view, MONITOR_VIEWS.values()), key=lambda view: view.name)

    async def arrivals(self, views: Sequence[str]) -> AsyncIterator[Arrival]:
        """Tell when tokens may have become claimable: here nobody can, so that pilots look at intervals."""
        del views
        nothing: tuple[Arrival, ...] = ()
        for arrival in nothing:
            yield arrival
        raise PoolError(f"{self.address} does not tell of arrivals")

    async def delete(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        """Delete documents, all live versions of each, if the store still has its `_rev` among them."""
        return await self.discard(documents)

    async def view(self, name: str, **options: Unpack[ViewOptions]) -> list[ViewRow]:
        """Read rows of a view: `await client.view("error", limit=10, include_docs=True)`.

        Args:
            name: `todo` for `Monitor/todo`, or `Design/view`.
            options: the fields of ViewQuery.

        Raises:
            ViewNotFoundError: the pool has no such view.
        """
        return await self.query(name, ViewQuery(**options))

    async def is_view_nonempty(self, name: str) -> bool:
        """Whether a view has a token: whether to start a pilot. A view that does not exist is empty."""
        try:
            return bool(await self.query(name, ViewQuery(limit=1, reduce=False)))
        except ViewNotFoundError:
            return False

    async def fetch(self, document_id: str) -> Token:
        """Read one token.

        Raises:
            TokenNotFoundError: there is none.
        """
        (document,) = await self.get([document_id])
        if document is None:
            raise TokenNotFoundError(f"no token {document_id!r} in {self.address}")
        return Token(document)

    async def save(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        """Write documents, each if the store still has its `_rev`; see the port."""
        return await self._save_encoded(self._encode_all([_plain(document) for document in documents]))

    async def save_surely(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        """Write documents like `save`, and find out about those that had no clear answer.

        Nobody else must be writing the same: two writers of equal content are told apart by nothing.

        Raises:
            PoolUnavailableError: no clear answer came; some may have been written.
        """
        return await self._read_back.resolve(documents, await self.save(documents))

    async def _save_encoded(self, documents: Sequence[EncodedDocument | SaveResult]) -> list[SaveResult]:
        """Write documents in bulks; one that was refused before it was sent keeps its result."""
        pieces = bulks([encoded for encoded in documents if isinstance(encoded, EncodedDocument)])
        for later in pieces[1:]:  # the caller's mappings may change before their turn comes
            later[:] = [EncodedDocument(dict(encoded.document), encoded.body) for encoded in later]
        written: list[SaveResult] = []
        for bulk in pieces:
            written += await self._write_or_bisect(bulk)
        if len(written) == len(documents):
            return written
        results = iter(written)
        return [one if isinstance(one, SaveResult) else next(results) for one in documents]

    def _encode_all(self, documents: Sequence[Mapping[str, Any]]) -> list[EncodedDocument | SaveResult]:
        bodies = encode_documents(documents, max_bytes=self.max_document_bytes)
        return [
            EncodedDocument(document, body) if isinstance(body, bytes) else _rejected(body)
            for document, body in zip(documents, bodies, strict=True)
        ]

    async def _write_or_bisect(self, batch: Sequence[EncodedDocument], *, uncertain: bool = False) -> list[SaveResult]:
        try:
            results = await self._write(batch)
        except BulkRefusedError as error:
            uncertain = uncertain or error.uncertain
            if len(batch) == 1:
                return [await self._refused(batch[0], str(error), uncertain=uncertain)]
        else:
            return [doubted(result) for result in results] if uncertain else results
        half = len(batch) // 2
        first = await self._write_or_bisect(batch[:half], uncertain=uncertain)
        return first + await self._write_or_bisect(batch[half:], uncertain=uncertain)

    async def _refused(self, encoded: EncodedDocument, reason: str, *, uncertain: bool) -> SaveResult:
        """What became of a document that was refused alone: nothing, unless an attempt before that has written it."""
        if uncertain:
            (stored,) = await self.get([encoded.id])
            if (None if stored is None else stored["_rev"]) != encoded.rev:
                return SaveResult(SaveStatus.UNKNOWN, reason=reason)
        return SaveResult(SaveStatus.REJECTED, reason=reason)

    async def _successor(self, document_id: str, rev: str | None) -> Document | None:
        """The version of a document that replaced a revision, its first one for None; None where nobody knows.

        Asked only about writes that had no clear answer.
        """
        del document_id, rev
        return None

    @property
    def _read_back(self) -> ReadBack:
        return ReadBack(write=self.save, read=self.get, successor=self._successor)

    async def upload(self, tokens: Tokens, *, on_progress: UploadProgress | None = None) -> UploadReport:
        """Put new tokens into the pool, from any stream of mappings; memory stays constant.

        A token gets an `_id` where it has none, and every field that PiCaS tools expect. One that cannot be stored, or
        whose id is taken, is reported and left out.

        Args:
            tokens: the contents; `{"input": ...}` is enough.
            on_progress: called after each bulk with the report so far.

        Raises:
            TypeError: the stream is one token, or a text.
        """
        if isinstance(tokens, (Mapping, str, bytes)):
            raise TypeError("upload takes a stream of tokens: for a single one write [token]")
        bounds = Bounds(MAX_BULK_DOCUMENTS, MAX_BULK_BYTES, self._bulks_at_a_time)
        return await Upload(self._new, self._write_new, bounds, on_progress).run(tokens)

    def _new(self, content: Any) -> EncodedDocument | SaveResult:
        # At once: what it is made of may be somebody's to change before the next one comes.
        identifier = self._new_id()
        if type(content) is dict and (filled := self._stencils.fill(content, identifier)) is not None:
            return NewToken({"_id": filled[0]}, filled[1])
        if not isinstance(content, Mapping):
            return SaveResult(SaveStatus.REJECTED, reason=f"a token is a mapping, not {type(content).__name__}")
        document = new_token(content, identifier)
        try:
            return EncodedDocument(document, encode_document(document, max_bytes=self.max_document_bytes))
        except InvalidTokenError as error:
            return _rejected(error)

    def _new_id(self) -> str:
        """An `_id` for a token that has none.

        Ids of one client follow one another, so that its tokens lie together in every tree of the store: CouchDB takes
        twice as many of them as of random ones, and claims and outcomes of neighbours cost it a quarter less.
        """
        return f"token_{self._mark}{next(self._numbers):012x}"

    async def _write_new(self, bulk: Sequence[EncodedDocument]) -> list[SaveResult]:
        """Write new tokens in one request, and find out about those that had no clear answer."""
        results = await self._write_or_bisect(bulk)
        if SaveStatus.UNKNOWN not in [result.status for result in results]:
            return results
        return await self._read_back.resolve([decode(encoded.body) for encoded in bulk], results)

    async def edit(self, document_id: str, change: Callable[[Token], object]) -> Token:
        """Read a token, change it, and write it if nobody else did meanwhile; else again.

        Args:
            document_id: the token.
            change: changes the token in place; called once per attempt, so without other effects.

        Raises:
            TokenNotFoundError: there is no such token.
            EditConflictError: it kept changing.
            InvalidTokenError: what came out cannot be stored.
            PoolUnavailableError: no clear answer came; the change may have been made.
        """
        for _ in range(EDIT_ATTEMPTS):
            token = await self.fetch(document_id)
            change(token)
            results = await self.save([token.document])
            (result,) = await self._read_back.resolve([token.document], results)
            if result.status is SaveStatus.WRITTEN:
                token["_rev"] = result.rev
                return token
            if result.status is SaveStatus.REJECTED:
                raise InvalidTokenError(f"token {document_id!r}: {result.reason}")
        raise EditConflictError(f"token {document_id!r} changed {EDIT_ATTEMPTS} times while it was being edited")

    async def delete_from_view(self, name: str, *, on_progress: Callable[[int], object] | None = None) -> int:
        """Delete every token of a view, and answer how many that were.

        Args:
            name: the view.
            on_progress: called with the number so far.
        """
        deleted = 0
        query = ViewQuery(limit=MAX_BULK_DOCUMENTS, include_docs=True, reduce=False)
        while documents := [row.document for row in await self.query(name, query) if row.document is not None]:
            results = await self.delete(documents)
            won = sum(result.written for result in results)
            deleted += won
            if on_progress is not None:
                on_progress(deleted)
            if not won:
                break
        return deleted

    async def put_attachment(
        self,
        document_id: str,
        rev: str,
        name: str,
        data: bytes | AsyncIterator[bytes],
        content_type: str = "application/octet-stream",
    ) -> SaveResult:
        """Attach a file to a document, if the store still has its revision `rev`; see the port."""
        try:
            check_id(document_id)
            check_attachment_name(name)
        except InvalidTokenError as error:
            return SaveResult(SaveStatus.REJECTED, reason=str(error))
        # A stream can be read once only. A replicated store counts nothing but a plain answer.
        again = isinstance(data, (bytes, bytearray)) and not self.replicated
        result = SaveResult(SaveStatus.UNKNOWN)
        doubtful = False
        for _ in range(ATTEMPTS if again else 1):
            chunks = Measured(_one_chunk(data) if isinstance(data, (bytes, bytearray)) else data)
            result = await self._put_attachment(document_id, rev, name, aiter(chunks), content_type)
            doubtful = doubtful or result.status is SaveStatus.UNKNOWN
            if not doubtful or result.status in {SaveStatus.WRITTEN, SaveStatus.REJECTED} or self.replicated:
                break
            version = await self._successor(document_id, rev)
            if version is not None and has_file(version, name, chunks.length):
                return SaveResult(SaveStatus.WRITTEN, version["_rev"])
        return result

    async def get_attachment(self, document_id: str, name: str) -> bytes:
        """Read an attachment whole.

        Raises:
            TokenNotFoundError: there is no such document, or no such attachment.
        """
        return b"".join([chunk async for chunk in self.stream_attachment(document_id, name)])


def stored_view(view: View) -> StoredView:
    """A view as `views` lists it, for a store that keeps its state and its condition."""
    where = None if view.where is None else view.where.to_json()
    return StoredView(name=view.name, state=str(view.state), where=where)


def missing_view(address: str, name: str) -> ViewNotFoundError:
    """The error for a view that a pool does not have: apicas makes those of Monitor, and users add the others."""
    ours = name in MONITOR_VIEWS or name == OVERVIEW
    advice = (
        "run `apicas init`" if ours else "add_view installs a view; `apicas status` shows the states that there are"
    )
    return ViewNotFoundError(f"{address} has no view {name}: {advice}")


def _plain(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """A document that is to be written: of a token its document, without what the store said when it was read."""
    plain = document.document if isinstance(document, Token) else document
    return {name: value for name, value in plain.items() if name != "_conflicts"} if "_conflicts" in plain else plain


def _rejected(error: InvalidTokenError) -> SaveResult:
    return SaveResult(SaveStatus.REJECTED, reason=str(error))


async def _one_chunk(data: bytes | bytearray) -> AsyncIterator[bytes]:
    yield bytes(data)
