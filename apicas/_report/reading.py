"""Reads event files, line by line, in bounded memory. What is no event is counted and left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from apicas.events import SCHEMA
from apicas.exceptions import ConfigError

MAX_LINE: Final = 1_000_000
"""Bytes of a line; what is longer is no event."""
MAX_ID: Final = 200
"""Characters of a pilot's id; ours has 16."""
_LATEST: Final = 1e11
_MOST: Final = 1_000_000


class Line(msgspec.Struct):
    """One event, whichever it is."""

    event: str
    time: float
    pilot: str
    token: str = ""
    reason: str = ""
    hostname: str = ""
    seconds: float = 0.0
    began: float | None = None
    worker: int | None = None
    workers: int = 0
    count: int = 0
    schema: int = SCHEMA


_DECODER: Final = msgspec.json.Decoder(Line)


@dataclass(slots=True)
class Reading:
    """What is read, and how much of it was no event.

    Args:
        paths: files, as `files` gives them.
    """

    paths: Sequence[Path]
    events: int = 0
    unreadable: int = 0
    newer: int = 0
    """Lines of a later version."""

    def lines(self) -> Iterator[Line]:
        """The events, file by file.

        Raises:
            ConfigError: a file cannot be read.
        """
        for path in self.paths:
            try:
                with path.open("rb") as file:
                    yield from self._of(_lines(file))
            except OSError as error:
                raise ConfigError(f"{path}: {error.strerror or error}") from error

    def _of(self, texts: Iterable[bytes]) -> Iterator[Line]:
        for text in texts:
            if not text.strip():
                continue
            line = _parsed(text)
            if line is None:
                self.unreadable += 1
            elif line.schema > SCHEMA:
                self.newer += 1
            else:
                self.events += 1
                yield line


def files(names: Sequence[str]) -> list[Path]:
    """The files that are named; of a directory, all its *.jsonl.

    Raises:
        ConfigError: there is none.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        inside = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not inside:
            raise ConfigError(f"{name}: no event file is in this directory; they end in .jsonl")
        found += inside
    return list(dict.fromkeys(found))


def _lines(file: Any) -> Iterator[bytes]:
    """The lines; of those that are too long, one empty object."""
    while text := file.readline(MAX_LINE):
        whole = text.endswith(b"\n") or len(text) < MAX_LINE
        while not whole:
            rest = file.readline(MAX_LINE)
            whole, text = rest.endswith(b"\n") or len(rest) < MAX_LINE, b"{}"
        yield text


def _parsed(text: bytes) -> Line | None:
    """The event in a line; None where there is none. Anybody may have written the file."""
    try:
        line = _DECODER.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    in_time = 0 <= line.time < _LATEST and 0 <= line.seconds < _LATEST and 0 <= (line.began or 0) < _LATEST
    is_known = bool(line.event) and len(line.pilot) < MAX_ID and 0 <= (line.worker or 0) < _MOST
    return line if in_time and is_known and 0 <= line.workers < _MOST else None
