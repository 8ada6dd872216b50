"""The spool: what a running attempt prints, in files that can be followed, within bounds.

A stream is a row of segments: files named by the offset in the stream at which they begin, each only ever appended to.
The first one and the last two are kept, so a follower goes from one to the next, and sees by the names what is missing.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from apicas._runtime.attempts.logs import AttemptLog
from apicas._runtime.processes.pipes import Capture

SEGMENT: Final = 262_144
"""Bytes after which a new segment begins."""
LAST: Final = 2
"""Segments at the end of a stream that are kept, beside the first."""
_PORTION: Final = 65_536


class Spool:
    """The files of one attempt.

    Args:
        directory: where they go; it is made.
        log: what is written.
    """

    def __init__(self, directory: Path, log: AttemptLog) -> None:
        self._log = log
        self._streams = [_Stream(directory, name, capture) for name, capture in log.captures()]
        self._directory = directory

    def write(self) -> None:
        """Append what is new.

        Raises:
            OSError: there is no room.
        """
        if not any(stream.has_more for stream in self._streams):
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log.path = str(self._directory)
        for stream in self._streams:
            stream.write()

    def finish(self) -> None:
        """Put one file for each stream in the place of the segments.

        Raises:
            OSError: there is no room.
        """
        for name, capture in self._log.captures():
            content = capture.content()
            if content:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                (self._directory / f"{name}.txt").write_bytes(content)
        for _, segment in [found for stream in self._streams for found in segments(self._directory, stream.name)]:
            with suppress(OSError):
                segment.unlink()

    def remove(self) -> None:
        """Remove all of it, and the directory around it, which is the token's."""
        if self._log.path is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            with suppress(OSError):
                self._directory.parent.rmdir()


class _Stream:
    def __init__(self, directory: Path, name: str, capture: Capture) -> None:
        self.name = name
        self._directory = directory
        self._capture = capture
        self._position = 0
        self._segments: list[int] = []
        self._size = 0

    @property
    def has_more(self) -> bool:
        """Whether there is something to write."""
        return self._capture.size > self._position

    def write(self) -> None:
        """Append what is new, as far as it is still kept; not what comes meanwhile, which may have no end."""
        end = self._capture.size
        while self._position < end:
            place, portion = self._capture.since(self._position, _PORTION)
            if not portion:
                return
            if not self._segments or place != self._position or self._size >= SEGMENT:
                self._begin(place)
            with open(self._path(self._segments[-1]), "ab") as file:  # noqa: PTH123 - appended to, and not read
                file.write(portion)
            self._size += len(portion)
            self._position = place + len(portion)

    def _begin(self, place: int) -> None:
        self._segments.append(place)
        self._size = 0
        while len(self._segments) > 1 + LAST:
            with suppress(OSError):
                os.unlink(self._path(self._segments.pop(1)))  # noqa: PTH108 - as the path is made

    def _path(self, place: int) -> str:
        return f"{self._directory}/{self.name}.{place:020d}"


def segments(directory: Path, stream: str) -> list[tuple[int, Path]]:
    """The segments of a stream with their offsets, the first one first.

    Raises:
        OSError: the directory cannot be read, or is not there any more.
    """
    if not directory.is_dir():
        return []
    found = [(path.suffix[1:], path) for path in directory.iterdir() if path.stem == stream and path.is_file()]
    return sorted((int(place), path) for place, path in found if place.isdigit())


class Follower:
    """Reads a stream of a spool as it grows.

    Args:
        directory: of the attempt.
        stream: its name.
    """

    def __init__(self, directory: Path, stream: str) -> None:
        self._directory = directory
        self._stream = stream
        self.position = 0
        """How much of the stream has been read, or is missing."""

    def read(self) -> Iterator[bytes]:
        """What is new; with a line that says how much is missing, where it is.

        Raises:
            OSError: it cannot be read.
        """
        for place, path in segments(self._directory, self._stream):
            with suppress(FileNotFoundError), path.open("rb") as file:  # it may just have been removed
                end = place + os.fstat(file.fileno()).st_size
                if end <= self.position:
                    continue
                if place > self.position:
                    yield b"\n[... %d bytes are missing here ...]\n" % (place - self.position)
                    self.position = place
                file.seek(self.position - place)
                content = file.read(end - self.position)
                self.position += len(content)
                yield content


_MISSING: Final = re.compile(rb"\n\[\.\.\. ([0-9]+) bytes are missing here \.\.\.\]\n")


def rest_of(content: bytes, position: int) -> bytes:
    """What comes after the first so many bytes of a stream, in what was attached of it."""
    found = _MISSING.search(content)
    if found is None or position <= found.start():
        return content[position:]
    behind = content[found.end() :]
    missing = found.start() + int(found[1]) - position
    if missing > 0:
        return b"\n[... %d bytes are missing here ...]\n" % missing + behind
    return behind[-missing:]
