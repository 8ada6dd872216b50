"""The work of `apicas archive`: write, force to the disk, read again, and only then delete what is unchanged."""

from __future__ import annotations

import os
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import PurePath
from typing import BinaryIO, Final, cast

import typer

from apicas._documents import Document, decode
from apicas.cli.carrying import Carrier
from apicas.cli.changing import Ticker
from apicas.cli.exits import ExitCode
from apicas.cli.files import forget_cached, room_told, written_whole
from apicas.cli.opening import patiently
from apicas.cli.selection import PAGE, Selection
from apicas.cli.sources import lines_of, lines_of_archive
from apicas.cli.terminal import plural, say, tell
from apicas.clients.base import PoolClient
from apicas.exceptions import ApicasError

MEMBER_BYTES: Final = 32_000_000
"""Bytes of JSON Lines after which the archive gets another file inside."""
_IN_MEMORY: Final = 4_000_000
_ATTEMPTS: Final = 5


def default_name() -> str:
    """A name for an archive that says when it was made."""
    return time.strftime("tokens-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime())


class Archiving:
    """One archive.

    Args:
        client: the pool.
        selection: what goes into the archive, and out of the pool.
        path: of the archive.
    """

    def __init__(self, client: PoolClient, selection: Selection, path: str) -> None:
        self._client = client
        self._selection = selection
        self._path = path
        self._split = 0
        self._changed = 0

    async def run(self) -> None:
        """Write the archive, and delete what is in it.

        Raises:
            ConfigError: there is such a file, or it cannot be made.
            ApicasError: it could not be written, or does not hold what was written: nothing was deleted.
            typer.Exit: some tokens stay in the pool.
        """
        with written_whole(self._path, replace=False) as file:
            writer = ArchiveWriter(file, self._path)
            carrier = Carrier(self._client, writer.add)
            await self._fill(carrier, writer)
            writer.close()
            writer.verify()
        say(f"wrote {plural(carrier.carried.tokens)} to {self._path}, and read it again: it is complete")
        deleted = await self._delete(carrier.carried.tokens)
        say(f"deleted {plural(deleted)} of {self._client.address}")
        if self._changed:
            tell(f"{plural(self._changed)} changed meanwhile: in the archive as before, and still in the pool")
        if self._split:
            tell(f"{plural(self._split)} not archived: stored in several versions, `apicas heal` comes first")
        if self._changed or self._split or carrier.carried.failed:
            raise typer.Exit(ExitCode.INCOMPLETE)

    async def _fill(self, carrier: Carrier, writer: ArchiveWriter) -> None:
        ticker, split = Ticker("archived"), set[str]()
        async for page in self._selection.pages(self._client):
            split |= {document["_id"] for document in page if document.get("_conflicts")}
            await carrier.add([document for document in page if not document.get("_conflicts")])
            writer.turn()
            ticker.show(carrier.carried.tokens)
        self._split = len(split)

    async def _delete(self, number: int) -> int:
        """Delete what the file holds, each token if its revision is the one in the file."""
        ticker, deleted, page = Ticker("deleted"), 0, list[Document]()
        for token in _tokens_in(self._path):
            page.append(token)
            if len(page) == PAGE:
                deleted, page = deleted + await self._delete_page(page), []
                ticker.show(deleted)
        return min(number, deleted + await self._delete_page(page))

    async def _delete_page(self, page: Sequence[Document]) -> int:
        """Delete tokens; one that is gone counts, one that was changed stays."""
        pending, gone = list(page), 0
        for _ in range(_ATTEMPTS):
            if not pending:
                break
            # Exactly this version: one that a cluster stores beside it is not in the archive.
            results = await patiently(lambda pending=pending: self._client.discard(pending))  # type: ignore[misc]
            unclear = [token for token, result in zip(pending, results, strict=True) if not result.written]
            stored = await patiently(lambda ids=[token["_id"] for token in unclear]: self._client.get(ids))  # type: ignore[misc]
            gone += len(pending) - len(unclear)
            pending = []
            for token, found in zip(unclear, stored, strict=True):
                if found is None:
                    gone += 1
                elif found["_rev"] == token["_rev"]:
                    pending.append(token)
                else:
                    self._changed += 1
        self._changed += len(pending)
        return gone


class ArchiveWriter:
    """Writes lines into the files of a tar, and compares it with what was written.

    Args:
        file: of the archive, for reading too.
        path: its name, which tells how it is compressed.
    """

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._name = PurePath(path).name.split(".tar")[0].removesuffix(".tgz") or "tokens"
        self._tar = _tar_for(file, path)
        self._part = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed with the archive
        self._parts = 0
        self._digest, self._lines = sha256(), 0

    def add(self, line: bytes) -> None:
        """Write a line."""
        with room_told():
            self._part.write(line)
        self._digest.update(line)
        self._lines += 1

    def turn(self) -> None:
        """Begin another file in the archive where this one is long enough. Called between tokens."""
        if self._part.tell() >= MEMBER_BYTES:
            self._finish_part()

    def close(self) -> None:
        """Write what is left, and the end of the archive."""
        self._finish_part()
        self._tar.close()
        self._part.close()

    def _finish_part(self) -> None:
        length = self._part.tell()
        if not length:
            return
        self._parts += 1
        member = tarfile.TarInfo(f"{self._name}/tokens-{self._parts:06}.jsonl")
        member.size, member.mtime, member.mode = length, int(time.time()), 0o600
        self._part.seek(0)
        self._tar.addfile(member, cast("BinaryIO", self._part))
        self._part.seek(0)
        self._part.truncate()

    def verify(self) -> None:
        """Read the archive from the disk, and compare.

        Raises:
            ApicasError: it is not what was written.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        forget_cached(self._file)
        self._file.seek(0)
        digest, lines = sha256(), 0
        try:
            for line in lines_of_archive("the archive", self._file):
                digest.update(line.content)
                lines += 1
        except (tarfile.TarError, EOFError, ValueError, OSError) as error:
            raise ApicasError(f"the archive cannot be read again: {error}: nothing was deleted") from error
        if (lines, digest.digest()) != (self._lines, self._digest.digest()):
            raise ApicasError("the archive is not what was written into it: nothing was deleted")


def _tar_for(file: BinaryIO, path: str) -> tarfile.TarFile:
    match PurePath(path).suffix:
        case ".gz" | ".tgz":
            return tarfile.open(fileobj=file, mode="w:gz", compresslevel=6)
        case ".xz":
            return tarfile.open(fileobj=file, mode="w:xz")
        case ".bz2":
            return tarfile.open(fileobj=file, mode="w:bz2")
    return tarfile.open(fileobj=file, mode="w")


def _tokens_in(path: str) -> Iterator[Document]:
    """The ids and revisions of the tokens in an archive."""
    for line in lines_of(path):
        entry = decode(line.content)
        if "_attachment" not in entry:
            yield {"_id": entry["_id"], "_rev": entry["_rev"]}
