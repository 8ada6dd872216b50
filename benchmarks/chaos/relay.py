"""A TCP relay between pilots and server that cuts all connections, and is away for a while."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self

_CHUNK = 1 << 16


class Relay:
    """Passes bytes on; an async context manager.

    Args:
        host: of the server.
        port: of the server.
        own_port: where to listen, on loopback.
    """

    def __init__(self, host: str, port: int, own_port: int) -> None:
        self._target = (host, port)
        self.port = own_port
        self.cuts = 0
        """Connections that were cut."""
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._silent = False

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()
        self._cut()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def _close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def _cut(self) -> None:
        for writer in list(self._open):
            self.cuts += 1
            writer.transport.abort()

    async def away(self, seconds: float, *, silent: bool) -> None:
        """Cut all connections, and be away.

        Args:
            seconds: for how long.
            silent: take new connections and say nothing, instead of refusing them; these are cut at the end.
        """
        self._silent = silent
        if not silent:
            self._close()
        self._cut()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._silent = False
            self._cut()
            if self._listener is None:
                await self._listen()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if self._silent:
                while await reader.read(_CHUNK):
                    pass
                return
            onward_reader, onward = await asyncio.open_connection(*self._target)
            self._open.add(onward)
            try:
                await asyncio.gather(_pass(reader, onward), _pass(onward_reader, writer))
            finally:
                self._open.discard(onward)
                onward.transport.abort()
        except OSError:
            pass  # the server is away, or the connection was cut: the pilot sees the same
        finally:
            self._open.discard(writer)
            writer.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.close()
