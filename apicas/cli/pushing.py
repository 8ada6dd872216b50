"""The work of `apicas push`: check all lines, then push them in batches.

Standard input and pipes can be read once only: while they are checked they are copied to a temporary file.
"""

from __future__ import annotations

import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, BinaryIO, Final

import typer

from apicas.cli.exits import ExitCode
from apicas.cli.lines import BadLine, GoodLine, Line, Reading, raw_lines
from apicas.cli.opening import opened, patiently
from apicas.cli.push_display import PushDisplay, push_display
from apicas.cli.terminal import one_line, plural, say, tell
from apicas.clients.base import PoolClient
from apicas.clients.bulks import MAX_BULK_BYTES, MAX_BULK_DOCUMENTS
from apicas.configuration import Configuration
from apicas.exceptions import ConfigError

MAX_PROBLEMS_SHOWN: Final = 20
"""A file of the wrong format has as many bad lines as it has lines."""


@dataclass(slots=True)
class Source:
    """One input, to be read from where it stands."""

    name: str
    file: BinaryIO
    reading: Reading
    checked: bool = False

    @property
    def size(self) -> int | None:
        """Bytes; None where that is not known."""
        if not self.file.seekable():
            return None
        here = self.file.tell()
        end = self.file.seek(0, 2)
        self.file.seek(here)
        return end

    def lines(self, copy: BinaryIO | None = None) -> Iterator[Line]:
        """Read the lines, and copy them to a file."""
        lines = raw_lines(self.file)
        return self.reading.read(lines if copy is None else _copied(lines, copy), PurePath(self.name).suffix)


@dataclass(slots=True)
class Problems:
    """What was wrong with lines: all are counted, the first are shown."""

    count: int = 0

    def add(self, source: Source, number: int, reason: str) -> None:
        """Show one."""
        self.count += 1
        if self.count <= MAX_PROBLEMS_SHOWN:
            typer.echo(one_line(f"{source.name}:{number}: {reason}"), err=True)

    def finish(self) -> None:
        """Say how many were not shown."""
        if self.count > MAX_PROBLEMS_SHOWN:
            tell(f"and {plural(self.count - MAX_PROBLEMS_SHOWN, 'line')} more")


@contextmanager
def inputs(names: Sequence[str], reading: Reading, *, skip_bad: bool) -> Iterator[list[Source]]:
    """Open all inputs, and check all their lines unless bad ones are to be skipped.

    Args:
        names: of files; `-` for standard input.
        reading: how.
        skip_bad: leave that to the push.

    Raises:
        ConfigError: a file cannot be read, or lines are bad, and were shown.
    """
    if not names and sys.stdin.isatty():
        raise ConfigError("nothing to push: name a file, or pipe lines into `apicas push`")
    with ExitStack() as stack:
        sources = [Source(name, _open(stack, name), reading) for name in names or ["-"]]
        if not skip_bad:
            problems = Problems()
            with push_display("checking", sources) as display:
                sources = [_check(stack, source, problems, display) for source in sources]
            problems.finish()
            if problems.count:
                raise ConfigError(f"{plural(problems.count, 'bad line')}: nothing was pushed (see --skip-bad)")
        yield sources


def _open(stack: ExitStack, name: str) -> BinaryIO:
    if name == "-":
        return sys.stdin.buffer
    try:
        return stack.enter_context(open(name, "rb"))  # noqa: PTH123 - Path would turn ./x into x, in messages too
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}") from error


def _check(stack: ExitStack, source: Source, problems: Problems, display: PushDisplay) -> Source:
    """Read all lines once; answers with the source as it can be read again."""
    copy = None if source.file.seekable() else stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
    start = source.file.tell() if copy is None else 0
    for number, line in enumerate(source.lines(copy)):
        if isinstance(line, BadLine):
            problems.add(source, line.number, line.reason)
        if number % MAX_BULK_DOCUMENTS == 0:
            display.show(source)
    again = source.file if copy is None else copy
    again.seek(start)
    return Source(source.name, again, source.reading, checked=True)


def _copied(lines: Iterator[bytes], copy: BinaryIO) -> Iterator[bytes]:
    for line in lines:
        copy.write(line)
        yield line


@dataclass(slots=True)
class Push:
    """Pushes the lines of all sources.

    Args:
        configuration: where to.
        sources: what.
    """

    configuration: Configuration
    sources: Sequence[Source]
    pushed: int = 0
    skipped: Problems = field(default_factory=Problems)
    """Lines that are no tokens."""
    rejected: Problems = field(default_factory=Problems)
    """Tokens that the pool did not take."""
    _last: str = ""
    """The last line that is in the pool."""

    async def run(self) -> None:
        """Push, and say what was done.

        Raises:
            typer.Exit: the pool did not take every token.
        """
        began = time.monotonic()
        async with opened(self.configuration, create=True) as client:
            try:
                with push_display("pushing", self.sources) as display:
                    for source in self.sources:
                        await self._push(client, source, display)
            except BaseException:
                if self.pushed:
                    tell(f"{plural(self.pushed)} were pushed before that, up to {self._last}")
                raise
        self._conclude(client.address, time.monotonic() - began)

    async def _push(self, client: PoolClient, source: Source, display: PushDisplay) -> None:
        for batch in batches(self._good(source)):
            await self._upload(client, source, batch)
            display.show(source, self.pushed)

    def _good(self, source: Source) -> Iterator[GoodLine]:
        """The lines that are tokens; the others are shown, and left out."""
        for line in source.lines():
            if isinstance(line, GoodLine):
                yield line
            else:  # also in a file that was checked, and has changed since
                (self.rejected if source.checked else self.skipped).add(source, line.number, line.reason)

    async def _upload(self, client: PoolClient, source: Source, batch: Sequence[GoodLine]) -> None:
        # With ids of our own from the start, what is pushed again after a failure cannot be there twice.
        remaining = [(line.number, {"_id": f"token_{uuid.uuid4().hex}", **line.content}) for line in batch]
        failed = False

        async def attempt() -> None:
            nonlocal remaining, failed
            if failed:
                remaining = await _missing(client, remaining)
            failed = True
            report = await client.upload(content for _, content in remaining)
            for reject in report.rejects:
                self.rejected.add(source, remaining[reject.position][0], reject.reason)
            self.rejected.count += report.rejected - len(report.rejects)
            self.pushed += len(batch) - report.rejected

        await patiently(attempt)
        self._last = f"line {batch[-1].number} of {source.name}"

    def _conclude(self, address: str, seconds: float) -> None:
        self.skipped.finish()
        self.rejected.finish()
        if self.skipped.count:
            tell(f"{plural(self.skipped.count, 'bad line')} skipped")
        say(f"pushed {plural(self.pushed)} to {address} in {seconds:.1f} s")
        if self.rejected.count:
            tell(f"{plural(self.rejected.count)} not taken by the pool")
            raise typer.Exit(ExitCode.INCOMPLETE)


def batches(lines: Iterator[GoodLine]) -> Iterator[list[GoodLine]]:
    """Lines in batches that are bounded in number and in bytes."""
    batch: list[GoodLine] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += line.size
        if len(batch) >= MAX_BULK_DOCUMENTS or size >= MAX_BULK_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


async def _missing(client: PoolClient, tokens: list[tuple[int, dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
    """Those that an attempt without a clear end has not put into the pool."""
    stored = await client.get([content["_id"] for _, content in tokens])
    return [token for token, found in zip(tokens, stored, strict=True) if found is None or not _is_of(found, token[1])]


def _is_of(stored: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    """Whether a stored document was made from this content, by what every store gives back as it was."""
    own = {"_rev", "_attachments", "apicas"}
    return all(stored.get(name) == value for name, value in content.items() if name not in own)
