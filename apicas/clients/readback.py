"""Reading back: what became of writes that had no clear answer.

Such a write may have been carried out, or not, or may still be: a request that was slow on its way. So it is written
again first, on the same revision: of the two at most one can win. Then what is stored there tells whose it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from apicas._documents import Document, decode, encode
from apicas.clients.port import SaveResult, SaveStatus
from apicas.exceptions import PoolUnavailableError

ATTEMPTS: Final = 5
"""How often a write is repeated whose answers all get lost."""

Write: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], Awaitable[list[SaveResult]]]
Read: TypeAlias = Callable[[Sequence[str]], Awaitable[list[Document | None]]]
Successor: TypeAlias = Callable[[str, str | None], Awaitable[Document | None]]
"""The version of a document that replaced a revision (None: its first one); None where the store does not know."""


class ReadBack(msgspec.Struct, frozen=True):
    """Finds out what became of writes.

    Args:
        write: as a client's `save`.
        read: as a client's `get`.
        successor: for documents that others have changed since.
    """

    write: Write
    read: Read
    successor: Successor

    async def resolve(self, documents: Sequence[Mapping[str, Any]], results: Sequence[SaveResult]) -> list[SaveResult]:
        """Turn every unknown result into another one.

        Nobody else must be writing the same: two writers of equal content are told apart by nothing.

        Args:
            documents: what was written.
            results: what became of it, as far as it is known.

        Raises:
            PoolUnavailableError: no clear answer came in a number of attempts.
        """
        known = list(results)
        for _ in range(ATTEMPTS):
            unclear = [place for place, result in enumerate(known) if result.status is SaveStatus.UNKNOWN]
            if not unclear:
                return known
            again = await self._again([documents[place] for place in unclear])
            for place, result in zip(unclear, again, strict=True):
                known[place] = result
        reasons = [result.reason for result in known if result.status is SaveStatus.UNKNOWN]
        if reasons:
            raise PoolUnavailableError(f"{len(reasons)} documents may or may not have been written: {reasons[0]}")
        return known

    async def _again(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        results = list(await self.write(documents))
        beaten = [place for place, result in enumerate(results) if result.status is SaveStatus.CONFLICT]
        stored = await self.read([documents[place]["_id"] for place in beaten]) if beaten else []
        for place, shown in zip(beaten, stored, strict=True):
            if (ours := await self._ours(documents[place], shown)) is not None:
                results[place] = SaveResult(SaveStatus.WRITTEN, ours["_rev"])
        return results

    async def _ours(self, document: Mapping[str, Any], shown: Document | None) -> Document | None:
        """The version that is what we wrote; None where somebody else was first."""
        if shown is not None and same_content(shown, document):
            return shown
        version = await self.successor(document["_id"], document.get("_rev"))
        return version if version is not None and same_content(version, document) else None


def same_content(stored: Mapping[str, Any], written: Mapping[str, Any]) -> bool:
    """Whether a document as it was read is what was written, but for its revision and the form of its attachments."""
    # Through JSON, since a tuple or a datetime is read back as something else than what was written.
    content: Document = decode(encode(dict(written)))
    ignored = {"_rev", "_attachments", "_conflicts"}
    return {k: v for k, v in stored.items() if k not in ignored} == {
        k: v for k, v in content.items() if k not in ignored
    }


class Measured:
    """A stream that counts what it has passed on.

    Args:
        data: the chunks.
    """

    def __init__(self, data: AsyncIterator[bytes]) -> None:
        self._data = data
        self.length: int | None = None
        """Bytes; None until the stream has come to its end."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        length = 0
        async for chunk in self._data:
            length += len(chunk)
            yield chunk
        self.length = length


def has_file(version: Mapping[str, Any], name: str, length: int | None) -> bool:
    """Whether a version of a document came to be by attaching a file of that name and length."""
    stub = (version.get("_attachments") or {}).get(name)
    generation = int(str(version["_rev"]).partition("-")[0])
    return stub is not None and stub.get("length") == length and stub.get("revpos", generation) == generation


def doubted(result: SaveResult) -> SaveResult:
    """A result after another attempt that may have written: a conflict may be with that."""
    if result.status is SaveStatus.CONFLICT:
        return SaveResult(SaveStatus.UNKNOWN, reason="an earlier attempt may have written it")
    return result
