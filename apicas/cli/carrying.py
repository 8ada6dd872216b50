"""Tokens on their way out of a pool: as JSON Lines, with their attachments.

A line is a token as it is stored. Attachments stand in its `_attachments`, as CouchDB takes them (base64), as long as
they are small together. A larger one follows in lines of its own, a part each, so that neither side holds more of it
than a part: `{"_id": token, "_attachment": name, "part": 0, "data": base64}`, and `"last": true` in the last one.
"""

from __future__ import annotations

import asyncio
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from apicas._documents import Document, encode
from apicas.cli.files import room_told
from apicas.cli.opening import patiently
from apicas.cli.terminal import tell
from apicas.clients.base import PoolClient
from apicas.exceptions import InvalidTokenError, TokenNotFoundError

INLINE_BYTES: Final = 1_000_000
"""Bytes of the attachments of a token that stand in its line."""
PART_BYTES: Final = 3_000_000
"""Bytes of an attachment in a line of its own."""
_TOGETHER: Final = 16
"""Tokens whose attachments are read at a time."""
_LOOKS: Final = 5
"""How often a token is read whose attachments change meanwhile."""


class _ChangedError(Exception):
    """An attachment is no longer the one that the document tells of."""


@dataclass(slots=True)
class Carried:
    """What was written."""

    tokens: int = 0
    attachments: int = 0
    left_out: int = 0
    """Attachments that were not asked for."""
    split: int = 0
    """Tokens that a cluster stores in several versions, of which the one that it shows was written."""
    failed: int = 0
    """Tokens that could not be written, and were told."""


@dataclass(slots=True)
class _Load:
    """A token as it is going to be written."""

    line: bytes
    attachments: int = 0
    large: list[tuple[str, BinaryIO]] = field(default_factory=list)


class Carrier:
    """Writes tokens.

    Args:
        client: the pool.
        write: takes a line with its end.
        attachments: whether these are wanted.
    """

    def __init__(self, client: PoolClient, write: Callable[[bytes], object], *, attachments: bool = True) -> None:
        self._client = client
        self._write = write
        self._attachments = attachments
        self.carried = Carried()

    async def add(self, documents: Sequence[Document]) -> None:
        """Write tokens. One that is deleted meanwhile is left out; one that cannot be written is told."""
        for start in range(0, len(documents), _TOGETHER):
            some = documents[start : start + _TOGETHER]
            with ExitStack() as files:
                if any(map(_stubs, some)):
                    loads = await asyncio.gather(*(self._load(document, files) for document in some))
                else:  # nearly always: nothing to wait for
                    loads = [await self._load(document, files) for document in some]
                for load in loads:
                    if load is not None:
                        self._put(load)

    def _put(self, load: _Load) -> None:
        self._write(load.line)
        for name, file in load.large:
            for line in _parts(load.line, name, file):
                self._write(line)
        self.carried.tokens += 1
        self.carried.attachments += load.attachments

    async def _load(self, document: Document, files: ExitStack) -> _Load | None:
        identifier = document["_id"]
        reason = "its attachments keep changing"
        found: Document | None = document
        for _ in range(_LOOKS):
            if found is None:
                return None
            try:
                return await self._loaded(found, files)
            except _ChangedError:
                (found,) = await patiently(lambda: self._client.get([identifier]))
            except InvalidTokenError as error:
                reason = str(error)
                break
        self.carried.failed += 1
        tell(f"{identifier}: {reason}")
        return None

    async def _loaded(self, document: Document, files: ExitStack) -> _Load:
        plain = {name: value for name, value in document.items() if name not in {"_attachments", "_conflicts"}}
        self.carried.split += bool(document.get("_conflicts"))
        stubs = _stubs(document)
        if not self._attachments:
            self.carried.left_out += len(stubs)
            return _Load(_line(plain))
        small = _small(stubs)
        entries: dict[str, Any] = {}
        large: list[tuple[str, BinaryIO]] = []
        for name, stub in stubs.items():
            entry = {"content_type": stub.get("content_type", "application/octet-stream")}
            if name in small:
                content = await self._content(document["_id"], name, stub["length"])
                entries[name] = {**entry, "data": b64encode(content).decode("ascii")}
            else:
                entries[name] = {**entry, "length": stub["length"], "follows": True}
                large.append((name, await self._spooled(document["_id"], name, stub["length"], files)))
        return _Load(_line({**plain, "_attachments": entries} if entries else plain), len(entries), large)

    async def _content(self, identifier: str, name: str, length: int) -> bytes:
        try:
            content = await patiently(lambda: self._client.get_attachment(identifier, name))
        except TokenNotFoundError:
            raise _ChangedError from None
        if len(content) != length:
            raise _ChangedError
        return content

    async def _spooled(self, identifier: str, name: str, length: int, files: ExitStack) -> BinaryIO:
        """A large attachment in a file that the stack closes."""
        with room_told():
            file = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
            try:
                await self._spool(identifier, name, length, file)
                file.flush()
            except OSError:
                with suppress(OSError):  # it tries once more to write what it holds
                    file.close()
                raise
            return file

    async def _spool(self, identifier: str, name: str, length: int, file: BinaryIO) -> None:
        """Read a large attachment into a file."""

        async def read() -> None:
            file.seek(0)
            file.truncate()
            async for chunk in self._client.stream_attachment(identifier, name):
                file.write(chunk)

        try:
            await patiently(read)
        except TokenNotFoundError:
            raise _ChangedError from None
        if file.tell() != length:
            raise _ChangedError


def _stubs(document: Document) -> Mapping[str, Mapping[str, Any]]:
    return document.get("_attachments") or {}


def _small(stubs: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The names of the attachments that stand in the token's line: the smallest, as long as there is room."""
    room, names = INLINE_BYTES, set[str]()
    for name in sorted(stubs, key=lambda name: stubs[name]["length"]):
        room -= stubs[name]["length"]
        if room >= 0:
            names.add(name)
    return names


def _line(value: Any) -> bytes:
    return encode(value) + b"\n"


def _parts(line: bytes, name: str, file: BinaryIO) -> Iterator[bytes]:
    """The lines of a large attachment."""
    from apicas._documents import decode

    identifier = decode(line)["_id"]
    file.seek(0)
    number, content = 0, file.read(PART_BYTES)
    while True:
        following = file.read(PART_BYTES)
        part = {"_id": identifier, "_attachment": name, "part": number, "data": b64encode(content).decode("ascii")}
        yield _line(part if following else {**part, "last": True})
        if not following:
            return
        number, content = number + 1, following


async def chunks_of(file: BinaryIO) -> AsyncIterator[bytes]:
    """A file in chunks, from its beginning."""
    file.seek(0)
    while chunk := file.read(1 << 20):
        yield chunk
