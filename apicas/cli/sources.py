"""What tokens are imported from: the lines of files, of compressed ones and of archives."""

from __future__ import annotations

import gzip
import lzma
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

from apicas.cli.lines import raw_lines
from apicas.exceptions import ConfigError

ARCHIVES: Final = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
_DAMAGE: Final = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


@dataclass(frozen=True, slots=True)
class NumberedLine:
    """A line that is not blank."""

    source: str
    number: int
    content: bytes


def lines_of(name: str) -> Iterator[NumberedLine]:
    """The lines of a file, read one by one.

    Args:
        name: of the file, whose ending tells what it is; `-` for standard input.

    Raises:
        ConfigError: it cannot be read, or is damaged; what came before has been handed out.
    """
    try:
        with _opened(name) as file:
            if name.endswith(ARCHIVES):
                yield from lines_of_archive(name, file)
            elif name.endswith(".gz"):
                with gzip.GzipFile(fileobj=file) as plain:
                    yield from _numbered(name, cast("BinaryIO", plain))
            else:
                yield from _numbered(name, file)
    except _DAMAGE as error:
        raise ConfigError(f"{name} is damaged, or not what its name says: {error}") from error
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror or error}") from error


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    with open(name, "rb") as file:  # noqa: PTH123 - Path would turn ./x into x, in messages too
        yield file


def lines_of_archive(name: str, file: BinaryIO) -> Iterator[NumberedLine]:
    """The lines of all members of an archive that are JSON Lines; nothing is written to the disk."""
    with tarfile.open(fileobj=file, mode="r|*") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() and member.name.endswith(".jsonl") else None
            if content is not None:
                yield from _numbered(f"{name}:{member.name}", cast("BinaryIO", content))


def _numbered(name: str, file: BinaryIO) -> Iterator[NumberedLine]:
    shown = "standard input" if name == "-" else name
    for number, line in enumerate(raw_lines(file), 1):
        if line.strip():
            yield NumberedLine(shown, number, line)
