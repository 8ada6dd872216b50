"""Uploads: new tokens from any stream, in bulks, with the next one made while the one before is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from apicas.clients.port import Reject, SaveResult, SaveStatus, UploadProgress, UploadReport

if TYPE_CHECKING:
    from apicas.clients.base import EncodedDocument

Tokens: TypeAlias = Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]

MAX_REJECTS_KEPT: Final = 100


class Upload:
    """One upload.

    Args:
        new: makes a document of a content, or says why it cannot; called before the next content is asked for.
        write: writes a bulk, and answers for each.
        most: documents in a bulk.
        size: bytes in a bulk, after which it is full.
        on_progress: called after each bulk with the report so far.
    """

    def __init__(
        self,
        new: Callable[[Any], EncodedDocument | SaveResult],
        write: Callable[[Sequence[EncodedDocument]], Awaitable[list[SaveResult]]],
        most: int,
        size: int,
        on_progress: UploadProgress | None,
    ) -> None:
        self._new = new
        self._write = write
        self._most = most
        self._size = size
        self._on_progress = on_progress
        self._report = UploadReport()
        self._bulk: list[EncodedDocument] = []
        self._positions: list[int] = []
        """Where in the stream each of the bulk was."""
        self._position = 0
        self._bytes = 0

    async def run(self, tokens: Tokens) -> UploadReport:
        """Upload a stream of contents."""
        async with _OneAtATime() as writes:
            if isinstance(tokens, AsyncIterable):
                async for content in tokens:
                    if self._is_full_with(content):
                        await writes.start(self._write_bulk(*self._taken()))
            else:
                for content in tokens:
                    if self._is_full_with(content):
                        await writes.start(self._write_bulk(*self._taken()))
        await self._write_bulk(*self._taken())
        return self._report

    def _is_full_with(self, content: Any) -> bool:
        """Add a content to the bulk; answers whether the bulk is to be written now."""
        encoded = self._new(content)
        if isinstance(encoded, SaveResult):
            self._reject(self._position, content.get("_id") if isinstance(content, Mapping) else None, encoded)
        else:
            self._bulk.append(encoded)
            self._positions.append(self._position)
            self._bytes += len(encoded.body)
        self._position += 1
        return len(self._bulk) >= self._most or self._bytes >= self._size

    def _taken(self) -> tuple[list[EncodedDocument], list[int]]:
        """The bulk, and the positions of its documents; the next one is empty."""
        taken = self._bulk, self._positions
        self._bulk, self._positions, self._bytes = [], [], 0
        return taken

    async def _write_bulk(self, bulk: Sequence[EncodedDocument], positions: Sequence[int]) -> None:
        results = await self._write(bulk) if bulk else []
        for position, encoded, result in zip(positions, bulk, results, strict=True):
            if result.written:
                self._report.uploaded += 1
            else:
                self._reject(position, encoded.id, result)
        if self._on_progress is not None:
            self._on_progress(self._report)

    def _reject(self, position: int, identifier: Any, result: SaveResult) -> None:
        self._report.rejected += 1
        if len(self._report.rejects) < MAX_REJECTS_KEPT:
            reason = "this id is in the pool already" if result.status is SaveStatus.CONFLICT else result.reason
            shown = identifier if isinstance(identifier, str) else None
            self._report.rejects.append(Reject(position, shown, reason or result.status.value))


class _OneAtATime:
    """Runs coroutines one after the other, while its owner prepares the next; leaving it waits for the last.

    An error of one comes out where the next is started, or at the end. What is under way when the owner fails is
    finished; when the owner is cancelled, it is cancelled.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine as soon as the one before has ended."""
        try:
            await self._wait()
        except BaseException:
            work.close()
            raise
        self._task = asyncio.create_task(work)
        await asyncio.sleep(0)  # it gets as far as the store before its owner goes on

    async def _wait(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        try:
            await task
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError) and self._task is not None:
            self._task.cancel()
        try:
            await self._wait()
        except Exception:
            if error is None:  # else the first error is the one that counts
                raise
