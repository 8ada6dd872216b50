"""The work of `apicas import`: tokens from lines, and what is said of them."""

from __future__ import annotations

import tempfile
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import typer

from apicas._documents import Document, check_fields, decode
from apicas.cli.attaching import attach, stub_of
from apicas.cli.changing import Ticker
from apicas.cli.exits import ExitCode
from apicas.cli.fields import time_of
from apicas.cli.files import room_told
from apicas.cli.lines import MAX_LINE_BYTES
from apicas.cli.opening import opened, patiently
from apicas.cli.sources import NumberedLine, lines_of
from apicas.cli.terminal import one_line, plural, say, tell
from apicas.clients.base import PoolClient
from apicas.clients.bulks import MAX_BULK_BYTES, MAX_BULK_DOCUMENTS
from apicas.clients.port import SaveResult, SaveStatus
from apicas.clients.readback import same_content
from apicas.configuration import Configuration
from apicas.exceptions import ConfigError, EditConflictError, InvalidTokenError, TokenNotFoundError
from apicas.modifiers import BasicTokenModifier
from apicas.tokens import TokenState, state_of

MAX_SHOWN: Final = 20
"""Lines of one kind that are told; the others are counted."""


@dataclass(slots=True)
class Counted:
    """Lines that became no token, or not the token that they are: all are counted, the first are told."""

    number: int = 0

    def add(self, line: NumberedLine, reason: str) -> None:
        """Tell of one."""
        self.number += 1
        if self.number <= MAX_SHOWN:
            typer.echo(one_line(f"{line.source}:{line.number}: {reason}"), err=True)

    def finish(self, what: str) -> None:
        """Say how many there were."""
        if self.number:
            tell(f"{plural(self.number)} {what}{', the first are shown' if self.number > MAX_SHOWN else ''}")


@dataclass(slots=True)
class _Waiting:
    """A token of a line, on its way to the pool."""

    line: NumberedLine
    document: Document
    following: Mapping[str, Mapping[str, Any]]
    """Its large attachments, which come in lines of their own."""


async def run(configuration: Configuration, names: Sequence[str], *, as_is: bool, dry_run: bool) -> None:
    """Import files, and say what was done.

    Raises:
        typer.Exit: some lines were left out, or differ from what is in the pool.
    """
    async with opened(configuration, create=not dry_run) as client:
        importer = Importer(client, as_is=as_is, dry_run=dry_run)
        try:
            for name in names:
                await importer.read(lines_of(name))
        except BaseException:
            if importer.imported and not dry_run:
                tell(f"{plural(importer.imported)} were imported before that; the same again goes on from there")
            raise
        importer.conclude()


class Importer:
    """Puts tokens into a pool.

    Args:
        client: the pool.
        as_is: whether locked tokens stay locked.
        dry_run: only look.
    """

    def __init__(self, client: PoolClient, *, as_is: bool = False, dry_run: bool = False) -> None:
        self._client = client
        self._as_is = as_is
        self._dry_run = dry_run
        self._batch: list[_Waiting] = []
        self._bytes = 0
        self._owner: _Waiting | None = None
        """The token whose large attachments come next, if they are wanted."""
        self._ticker = Ticker("imported")
        self.imported = 0
        self.unlocked = 0
        self.there = 0
        self.bad, self.different = Counted(), Counted()

    async def read(self, lines: Iterator[NumberedLine]) -> None:
        """Import the tokens of some lines."""
        try:
            for line in lines:
                try:
                    entry = _decoded(line)
                    if "_attachment" in entry:
                        await self._attach(line, entry, lines)
                    else:
                        await self._add(line, entry)
                except InvalidTokenError as error:
                    self.bad.add(line, str(error))
        except ConfigError:  # the file ends in the middle: what came before is good
            await self._flush()
            raise
        await self._flush()

    def conclude(self) -> None:
        """Say what was done.

        Raises:
            typer.Exit: some lines were left out, or differ.
        """
        self.bad.finish("not imported")
        self.different.finish("not imported: in the pool already, with other content")
        if self.there:
            tell(f"{plural(self.there)} {'was' if self.there == 1 else 'were'} in the pool already, as in the file")
        if self.unlocked:
            tell(f"{plural(self.unlocked)} {'was' if self.unlocked == 1 else 'were'} locked, and came into todo")
        say(f"{'would import' if self._dry_run else 'imported'} {plural(self.imported)} into {self._client.address}")
        if self.bad.number or self.different.number:
            raise typer.Exit(ExitCode.INCOMPLETE)

    async def _add(self, line: NumberedLine, entry: Document) -> None:
        waiting = self._prepared(line, entry)
        self._batch.append(waiting)
        self._bytes += len(line.content)
        full = len(self._batch) >= MAX_BULK_DOCUMENTS or self._bytes >= MAX_BULK_BYTES
        if full or waiting.following:
            await self._flush()

    def _prepared(self, line: NumberedLine, entry: Document) -> _Waiting:
        """The token of a line, as it is going to be written."""
        document = {name: value for name, value in entry.items() if name not in {"_rev", "_conflicts"}}
        if "_id" not in document:
            raise InvalidTokenError("no _id: tokens without one are for `apicas push`")
        if "type" not in document and "lock" not in document:
            raise InvalidTokenError("no token that was exported: new ones are for `apicas push`")
        if document.get("type") != "token":
            raise InvalidTokenError("its `type` is not token")
        following = _following(document)
        check_fields(document)
        if not self._as_is and state_of(document) is TokenState.LOCKED:
            # Like a reclaim, and at a time that is the same when the import is repeated. An owner that lives after
            # all, where a pool is put back that it still works on, may then bring its result.
            document = BasicTokenModifier().reclaim(document, time_of(document.get("lock")) or 0, charge=False)
            self.unlocked += 1
        return _Waiting(line, document, following)

    async def _flush(self) -> None:
        batch, self._batch, self._bytes = self._batch, [], 0
        self._owner = None
        if not batch:
            return
        results = await self._saved(batch)
        taken = [one for one, result in zip(batch, results, strict=True) if result.status is SaveStatus.CONFLICT]
        for one, result in zip(batch, results, strict=True):
            if result.written:
                self.imported += 1
            elif result.status is SaveStatus.REJECTED:
                self.bad.add(one.line, result.reason)
        same = await self._compare(taken)
        last = batch[-1]
        if last.following and (results[-1].written or last.document["_id"] in same):
            self._owner = last
        self._ticker.show(self.imported)

    async def _saved(self, batch: Sequence[_Waiting]) -> list[SaveResult]:
        documents = [waiting.document for waiting in batch]
        if not self._dry_run:
            return await patiently(lambda: self._client.save_surely(documents))
        found = await patiently(lambda: self._client.get([document["_id"] for document in documents]))
        return [SaveResult(SaveStatus.WRITTEN if one is None else SaveStatus.CONFLICT) for one in found]

    async def _compare(self, taken: Sequence[_Waiting]) -> set[str]:
        """Count tokens whose ids are in the pool already; answers with the ids of those that are the same there."""
        same: set[str] = set()
        ids = [waiting.document["_id"] for waiting in taken]
        stored = await patiently(lambda: self._client.get(ids)) if ids else []
        for waiting, found in zip(taken, stored, strict=True):
            if found is not None and _is_same(found, waiting):
                self.there += 1
                same.add(waiting.document["_id"])
            else:
                self.different.add(waiting.line, f"token {waiting.document['_id']!r} is in the pool already")
        return same

    # Large attachments. ---------------------------------------------------------------------------------------------

    async def _attach(self, line: NumberedLine, entry: Document, lines: Iterator[NumberedLine]) -> None:
        """Take the lines of a large attachment, and attach it."""
        with room_told(), tempfile.TemporaryFile() as file:
            _spool(entry, lines, file)
            owner, name = self._owner, entry["_attachment"]
            if self._dry_run or owner is None or owner.document["_id"] != entry.get("_id"):
                return  # of a token that is not ours to change, or was told
            about = owner.following.get(name)
            if about is None or about.get("length") != file.tell():
                raise InvalidTokenError(f"attachment {name!r} is not complete")
            try:
                content_type = str(about.get("content_type", "application/octet-stream"))
                token_id = owner.document["_id"]
                await attach(self._client, token_id, name, file, content_type, replace=False)
            except (TokenNotFoundError, EditConflictError) as error:
                self.bad.add(line, str(error))


def _decoded(line: NumberedLine) -> Document:
    if len(line.content) >= MAX_LINE_BYTES:
        raise InvalidTokenError(f"longer than {MAX_LINE_BYTES:,} bytes")
    value = decode(line.content)
    if not isinstance(value, dict):
        raise InvalidTokenError("no token: a token is a JSON object")
    return value


def _following(document: Document) -> dict[str, Mapping[str, Any]]:
    """Take out of a document the attachments that follow it."""
    attachments = document.get("_attachments")
    if not isinstance(attachments, dict):
        return {}
    following: dict[str, Mapping[str, Any]] = {
        name: about for name, about in attachments.items() if isinstance(about, dict) and about.get("follows") is True
    }
    inside = {name: about for name, about in attachments.items() if name not in following}
    document["_attachments"] = inside
    if not inside:
        del document["_attachments"]
    return following


def _is_same(stored: Document, waiting: _Waiting) -> bool:
    """Whether a stored token is the one of a line; large attachments may be missing, and are then put in."""
    if not same_content(stored, waiting.document):
        return False
    inside = waiting.document.get("_attachments") or {}
    have = set(stored.get("_attachments") or {})
    if have - waiting.following.keys() != inside.keys():
        return False
    lengths: dict[str, Any] = {name: len(b64decode(about["data"])) for name, about in inside.items()}
    lengths |= {name: about.get("length") for name, about in waiting.following.items() if name in have}
    return all((stub_of(stored, name) or {}).get("length") == length for name, length in lengths.items())


def _spool(first: Document, lines: Iterator[NumberedLine], file: BinaryIO) -> None:
    """Write the parts of an attachment into a file.

    Raises:
        InvalidTokenError: a line is none of its parts.
    """
    entry, number = first, 0
    while True:
        same = (entry.get("_id"), entry.get("_attachment")) == (first.get("_id"), first.get("_attachment"))
        if not same or entry.get("part") != number or not isinstance(entry.get("data"), str):
            raise InvalidTokenError(f"no part {number} of attachment {first.get('_attachment')!r}")
        try:
            file.write(b64decode(entry["data"], validate=True))
        except ValueError:
            raise InvalidTokenError(f"part {number} of attachment {first.get('_attachment')!r} is no base64") from None
        if entry.get("last") is True:
            return
        following = next(lines, None)
        if following is None:
            raise InvalidTokenError(f"attachment {first.get('_attachment')!r} is not complete")
        entry, number = _decoded(following), number + 1
