"""Uploads: new tokens from any stream, in bulks, with the next one made while those before are written."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import msgspec

from apicas.clients.port import Reject, SaveResult, SaveStatus, UploadProgress, UploadReport

if TYPE_CHECKING:
    from apicas.clients.bulks import EncodedDocument

Tokens: TypeAlias = Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]

MAX_REJECTS_KEPT: Final = 100


class Bounds(msgspec.Struct, frozen=True):
    """What an upload has in memory at most: as many bulks as are on their way, and the one that is being filled."""

    documents: int
    """Of a bulk."""
    bytes: int
    """Of a bulk, after which it is full."""
    bulks: int
    """That are on their way at once."""


class Upload:
    """One upload.

    Args:
        new: makes a document of a content, or says why it cannot; called before the next content is asked for.
        write: writes a bulk, and answers for each.
        bounds: of the memory.
        on_progress: called after each bulk with the report so far.
    """

    def __init__(
        self,
        new: Callable[[Any], EncodedDocument | SaveResult],
        write: Callable[[Sequence[EncodedDocument]], Awaitable[list[SaveResult]]],
        bounds: Bounds,
        on_progress: UploadProgress | None,
    ) -> None:
        self._new = new
        self._write = write
        self._bounds = bounds
        self._most, self._size = bounds.documents, bounds.bytes
        self._on_progress = on_progress
        self._report = UploadReport()
        self._bulk: list[EncodedDocument] = []
        self._positions: list[int] = []
        """Where in the stream each of the bulk was."""
        self._position = 0
        self._bytes = 0

    async def run(self, tokens: Tokens) -> UploadReport:
        """Upload a stream of contents."""
        async with _InOrder(self._bounds.bulks) as writes:
            if isinstance(tokens, AsyncIterable):
                async for content in tokens:
                    if self._is_full_with(content):
                        await writes.start(self._write_bulk(*self._taken(), writes.last))
            else:
                for content in tokens:
                    if self._is_full_with(content):
                        await writes.start(self._write_bulk(*self._taken(), writes.last))
            await writes.start(self._write_bulk(*self._taken(), writes.last))
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

    async def _write_bulk(
        self, bulk: Sequence[EncodedDocument], positions: Sequence[int], before: asyncio.Task[None] | None
    ) -> None:
        """Write a bulk, and note what became of it after that of the one before."""
        results = await self._write(bulk) if bulk else []
        if before is not None and not await _succeeded(before):
            return
        written = [result.status for result in results].count(SaveStatus.WRITTEN)
        self._report.uploaded += written
        if written < len(bulk):
            for position, encoded, result in zip(positions, bulk, results, strict=True):
                if not result.written:
                    self._reject(position, encoded.id, result)
        if self._on_progress is not None:
            self._on_progress(self._report)

    def _reject(self, position: int, identifier: Any, result: SaveResult) -> None:
        self._report.rejected += 1
        if len(self._report.rejects) < MAX_REJECTS_KEPT:
            reason = "this id is in the pool already" if result.status is SaveStatus.CONFLICT else result.reason
            shown = identifier if isinstance(identifier, str) else None
            self._report.rejects.append(Reject(position, shown, reason or result.status.value))


async def _succeeded(task: asyncio.Task[None]) -> bool:
    """Wait for a task, and answer whether it ended well: whose it is hears of its error."""
    await asyncio.wait([task])
    return not task.cancelled() and task.exception() is None


class _InOrder:
    """Runs a few coroutines at a time, while its owner prepares the next; leaving it waits for all.

    An error of one comes out where a later one is started, or at the end: that of the first that failed. What is under
    way when the owner fails is finished; when the owner is cancelled, it is cancelled.

    Args:
        most: how many at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: deque[asyncio.Task[None]] = deque()

    @property
    def last(self) -> asyncio.Task[None] | None:
        """The one that was started last, if it may still be under way."""
        return self._tasks[-1] if self._tasks else None

    async def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine as soon as there is room."""
        try:
            while self._tasks and (len(self._tasks) >= self._most or self._tasks[0].done()):
                await self._wait()
        except BaseException:
            work.close()
            raise
        self._tasks.append(asyncio.create_task(work))
        await asyncio.sleep(0)  # it gets as far as the store before its owner goes on

    async def _wait(self) -> None:
        """Wait for the first."""
        try:
            await self._tasks[0]
        except asyncio.CancelledError:
            await self._cancel()
            raise
        finally:
            self._tasks.popleft()

    async def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            await self._cancel()
        first = error
        while self._tasks:
            try:
                await self._wait()
            except Exception as failed:  # noqa: BLE001 - raised below
                first = failed if first is None else first  # the first error is the one that counts
        if error is None and first is not None:
            raise first
