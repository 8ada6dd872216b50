"""As much of HTTP/1.1 as the fault proxy needs: heads, bodies of both framings, and where an answer ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

MAX_HEAD = 1 << 16
"""Bytes; more is no head."""
_CHUNK = 1 << 16


class BrokenOffError(Exception):
    """The other side went away in the middle."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first line and the headers of a request, or of an answer."""

    first_line: str
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        """A header's value; empty where there is none."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    def with_headers(self, **changed: str | None) -> Head:
        """The same head with headers set, or, with None, left out; underscores stand for hyphens."""
        new = {name.replace("_", "-"): value for name, value in changed.items()}
        kept = [(name, value) for name, value in self.headers if name.lower() not in new]
        added = [(name, value) for name, value in new.items() if value is not None]
        return Head(self.first_line, (*kept, *added))

    def encode(self) -> bytes:
        """As it goes over the wire."""
        lines = [self.first_line, *(f"{name}: {value}" for name, value in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @property
    def is_chunked(self) -> bool:
        """Whether its body comes in chunks that say their length."""
        return "chunked" in self.get("transfer-encoding").lower()

    @property
    def length(self) -> int | None:
        """What its Content-Length says; None where there is none."""
        text = self.get("content-length")
        return int(text) if text else None

    @property
    def status(self) -> int:
        """An answer's status."""
        return int(self.first_line.split(" ", 2)[1])


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """Read a head; None where the other side closed the connection instead."""
    try:
        block = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first_line, *lines = block.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    pairs = [line.partition(":") for line in lines]
    return Head(first_line, tuple((name.strip(), value.strip()) for name, _, value in pairs))


async def pieces(reader: asyncio.StreamReader, head: Head, *, is_answer: bool) -> AsyncIterator[bytes]:
    """The body as it comes, frames of chunks included.

    Args:
        reader: behind the head.
        head: says how long the body is. An answer that does not say ends with the connection.
        is_answer: a request that does not say has no body.

    Raises:
        BrokenOffError: it ended too early.
    """
    try:
        if head.is_chunked:
            async for piece in _chunks(reader):
                yield piece
        elif head.length is not None:
            left = head.length
            while left:
                piece = await reader.read(min(left, _CHUNK))
                if not piece:
                    raise BrokenOffError
                left -= len(piece)
                yield piece
        elif is_answer:
            while piece := await reader.read(_CHUNK):
                yield piece
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise BrokenOffError from error


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        if size:
            yield line + await reader.readexactly(size + 2)
            continue
        trailer = line
        while line != b"\r\n":
            line = await reader.readuntil(b"\r\n")
            trailer += line
        yield trailer
        return


async def read_body(reader: asyncio.StreamReader, head: Head, *, is_answer: bool) -> bytes:
    """A whole body, frames of chunks included."""
    return b"".join([piece async for piece in pieces(reader, head, is_answer=is_answer)])


def unframed(head: Head, body: bytes) -> bytes:
    """The content of a body: without the frames of chunks."""
    if not head.is_chunked:
        return body
    content = b""
    while body:
        line, _, rest = body.partition(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        if not size:
            break
        content += rest[:size]
        body = rest[size + 2 :]
    return content
