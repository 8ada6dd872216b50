"""Frames between a pilot and a process for tokens: 8 bytes of length and a body, both ways, over a socket pair.

What has come stays where it is until somebody asks for it, so a wait for a frame may be cut at any time. More than is
asked for is not read: the other side may have gone mad.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final, cast

from typing_extensions import override

HEADER_BYTES: Final = 8
COUNT_BYTES: Final = 8
"""Of the file in which the other side counts what it has taken."""
END: Final = bytes(HEADER_BYTES)
"""An empty frame."""
AHEAD: Final = 262_144
"""Bytes that are read while nobody asks for them, about."""


def framed(body: bytes) -> bytes:
    """A frame."""
    return len(body).to_bytes(HEADER_BYTES, "big") + body


class FrameBuffer:
    """Bytes as they come, and frames as they are complete.

    Args:
        most: bytes of a body at the most; None for any number.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes)

    def add(self, chunk: bytes) -> None:
        """Take what came next."""
        self._bytes += chunk

    def next(self) -> bytes | None:
        """The next body; None where it has not come yet.

        Raises:
            ValueError: it has more bytes than are allowed.
        """
        if len(self._bytes) < HEADER_BYTES:
            return None
        end = HEADER_BYTES + int.from_bytes(self._bytes[:HEADER_BYTES], "big")
        if self._most is not None and end > HEADER_BYTES + self._most:
            raise ValueError(f"a frame of {end:,} bytes")
        if len(self._bytes) < end:
            return None
        body = bytes(memoryview(self._bytes)[HEADER_BYTES:end])
        del self._bytes[:end]
        return body


class FrameConnection(asyncio.Protocol):
    """Our end of the connection, on the loop. One waits at a time.

    Args:
        most: bytes of a body at the most.
    """

    def __init__(self, most: int) -> None:
        self._buffer = FrameBuffer(most)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._come: asyncio.Future[None] | None = None
        """Done when there is more, where somebody waits for it."""
        self._room: asyncio.Future[None] | None = None
        """Done when more may be sent, where too much is under way."""
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._is_paused = self._is_over = False

    async def open(self, connection: socket.socket) -> None:
        """Take a socket over."""
        await self._loop.create_unix_connection(lambda: self, sock=connection)

    async def send(self, data: bytes) -> None:
        """Send frames, and wait until not too much is under way. To one that has gone, nothing is sent."""
        if self._transport is None or self._closed.done():
            return
        self._transport.write(data)
        if self._room is not None:
            await asyncio.shield(self._room)

    async def receive(self) -> bytes | None:
        """The next body; None where there is none to come."""
        while True:
            try:
                body = self._buffer.next()
            except ValueError:
                return None
            if body is not None or self._is_over:
                return body
            await self._wait()

    async def _wait(self) -> None:
        self._come = self._loop.create_future()
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        try:
            await self._come
        finally:
            self._come = None

    def finish(self) -> None:
        """Wait for nothing more: the other side is gone, or does nothing."""
        self._is_over = True
        self.resume_writing()
        self._tell()

    async def close(self) -> None:
        """Close it. Safe to repeat."""
        if self._transport is not None:
            self._transport.abort()
            await asyncio.shield(self._closed)

    def _tell(self) -> None:
        if self._come is not None and not self._come.done():
            self._come.set_result(None)

    # What the loop calls. -------------------------------------------------------------------------------------------

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer.add(data)
        if self._come is not None:
            self._tell()
        elif len(self._buffer) > AHEAD and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    @override
    def eof_received(self) -> bool:
        self.finish()
        return True  # it may still hear us

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.finish()
        if not self._closed.done():
            self._closed.set_result(None)

    @override
    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    @override
    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)
