"""What an adapter of one store implements: the port's reading side, and `_write`.

`_write` takes encoded documents in one request, and either answers for each, or raises BulkRefusedError when the store
refused the request as a whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from apicas._documents import Document
from apicas.clients.bulks import EncodedDocument
from apicas.clients.port import (
    AttachmentInfo,
    SaveResult,
    SetupReport,
    StoredChange,
    TokenPage,
    ViewQuery,
    ViewRow,
)
from apicas.views import View


class Adapter(ABC):
    """One store: what its client has to do, while all that users do with a pool is written once, in PoolClient."""

    default_lease: float = 900.0
    replicated: bool = False
    wake_spacing: float = 0.025

    @property
    @abstractmethod
    def address(self) -> str:
        """The pool's URL without secrets, for people."""

    @abstractmethod
    def time(self) -> float:
        """Unix seconds by the store's clock, which stamps locks."""

    @abstractmethod
    async def open(self) -> None:
        """Connect."""

    @abstractmethod
    async def aclose(self) -> None:
        """Disconnect. May be called twice."""

    @abstractmethod
    async def setup(self, *, replace_views: bool = False) -> SetupReport:
        """Create the database and the Monitor views where they are missing. Safe to repeat."""

    @abstractmethod
    async def get(self, ids: Sequence[str]) -> list[Document | None]:
        """Read documents, in the order asked for; None for one that does not exist."""

    @abstractmethod
    async def query(self, view: str, query: ViewQuery) -> list[ViewRow]:
        """Read rows of a view."""

    @abstractmethod
    async def sample(
        self, view: str, limit: int, place: float, *, window: int = 0, fresh: bool = False
    ) -> list[Document]:
        """Read documents of a view in no particular order, for a claim."""

    @abstractmethod
    async def counts(self, views: Sequence[str] = ()) -> dict[str, int]:
        """The number of tokens per view."""

    @abstractmethod
    async def total(self) -> int:
        """How many documents of type token the pool has."""

    @abstractmethod
    async def scan(self, after: str | None = None, limit: int = 500) -> TokenPage:
        """Read all documents of type token, page by page, in the order of ids; see the port."""

    @abstractmethod
    async def discard(self, leaves: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        """Delete exactly these versions, by `_id` and `_rev`."""

    @abstractmethod
    async def add_view(self, view: View) -> None:
        """Install a view; one of the same name is replaced."""

    @abstractmethod
    async def attachments(self, document_id: str) -> list[AttachmentInfo]:
        """The attachments of a document, by name."""

    @abstractmethod
    def stream_attachment(self, document_id: str, name: str) -> AsyncIterator[bytes]:
        """Read an attachment in chunks."""

    @abstractmethod
    def changes(self, since: str | None = None) -> AsyncIterator[StoredChange]:
        """Follow what is written to the pool, until closed."""

    @abstractmethod
    async def _write(self, batch: Sequence[EncodedDocument]) -> list[SaveResult]:
        """Write one bulk, and answer for each document.

        Raises:
            BulkRefusedError: the store refused the bulk as a whole, and nothing of it was written, or a 5xx repeats.
        """

    @abstractmethod
    async def _put_attachment(
        self, document_id: str, rev: str, name: str, data: AsyncIterator[bytes], content_type: str
    ) -> SaveResult:
        """Attach a file under a name that has been checked."""
