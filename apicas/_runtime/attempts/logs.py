"""What the processes of an attempt print: kept in memory within bounds, attached to the token in the end.

`stdout.txt` and `stderr.txt` are those of the last attempt. An attempt that did not end well leaves them a second time,
shorter, under names with its number, so that the next one does not wipe out why it failed: `stdout.2.txt`.
"""

from __future__ import annotations

import os
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from apicas._documents import Document, shown
from apicas._runtime.processes.pipes import Capture
from apicas.exceptions import ConfigError
from apicas.tokens import Token

STREAMS: Final = ("stdout", "stderr")
LIMIT: Final = 1_000_000
"""Bytes that are kept of each stream."""
KEPT: Final = 64_000
"""Bytes that are kept of each stream of an earlier attempt."""
ATTEMPTS: Final = 3
"""Earlier attempts of which the output is kept."""
TAIL: Final = 1_000
"""Bytes of each stream that a beat carries: its last lines."""
_MAX_NAME: Final = 150
_EARLIER: Final = re.compile(r"(?:stdout|stderr)\.([1-9][0-9]{0,15})\.txt", re.ASCII)


def file_name(stream: str, attempt: int | None = None) -> str:
    """The name of an attachment: that of the last attempt, or of an earlier one by its number."""
    return f"{stream}.txt" if attempt is None else f"{stream}.{attempt}.txt"


def is_log(name: str) -> bool:
    """Whether an attachment is what some attempt has printed."""
    return name in {file_name(stream) for stream in STREAMS} or _EARLIER.fullmatch(name) is not None


def attempts_in(names: Iterable[str]) -> list[int]:
    """The numbers of the attempts that left output under names of their own, the first one first."""
    return sorted({int(found[1]) for name in names if (found := _EARLIER.fullmatch(name)) is not None})


def log_directory(logs: Path, token_id: str, attempt: int) -> Path:
    """Where the output of an attempt is kept below a directory of logs."""
    return logs / directory_name(token_id) / str(attempt)


def directory_name(text: str) -> str:
    """A name for a directory out of an id or another text, which may hold anything."""
    name = quote(text, safe=" +,=@~")
    if len(name) > _MAX_NAME or name.strip(".") == "":
        name = f"{name[:_MAX_NAME]}.{blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"
    return name


def log_root(directory: str | os.PathLike[str]) -> Path:
    """Make a directory for logs.

    Raises:
        ConfigError: it cannot be made, or not be written.
    """
    path = Path(directory).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the directory {shown(str(path))} for logs cannot be made: {error}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"the directory {shown(str(path))} for logs cannot be written")
    return path


class AttemptLog:
    """The output of one attempt, read by the loop and looked at by other threads.

    Args:
        limit: bytes that are kept of each stream.
        is_own: whether it has no process of its own that attaches it, as that of work on the loop.
    """

    __slots__ = ("began", "is_own", "path", "stderr", "stdout")

    def __init__(self, limit: int = LIMIT, *, is_own: bool = False) -> None:
        self.is_own = is_own
        self.began = time.monotonic()
        self.stdout, self.stderr = Capture(limit), Capture(limit)
        self.path: str | None = None
        """The directory in which it can be followed on this node; None while there is none."""

    def captures(self) -> Iterator[tuple[str, Capture]]:
        """The streams by their names."""
        yield "stdout", self.stdout
        yield "stderr", self.stderr

    def entry(self) -> Document | None:
        """What a beat writes of it: where it is, and its last lines; None where it has none."""
        entry: Document = {name: text for name, capture in self.captures() if (text := _last_lines(capture))}
        if self.path is not None:
            entry["path"] = self.path
        return entry or None

    def attach(self, token: Token) -> None:
        """Attach it to its token, except where the work itself has attached something of that name."""
        before = token.peek().get("_attachments")
        files: Mapping[str, Any] = before if isinstance(before, Mapping) else {}
        for name, capture in self.captures():
            content, file = capture.content(), files.get(file_name(name))
            # An earlier attempt's output must not pass for this one's.
            if (content or file is not None) and not (isinstance(file, Mapping) and "data" in file):
                token.put_attachment(file_name(name), content, "text/plain")


def keep_attempt(document: Document, number: int) -> None:
    """Have the next attempts leave what this one has attached: a second time, under names with its number.

    Args:
        document: the outcome; it gets another mapping of attachments.
        number: the attempt's.
    """
    files = document.get("_attachments")
    if not isinstance(files, Mapping):
        return
    new = [name for name in STREAMS if _is_new(files, file_name(name))]
    added = {file_name(name, number): _shortened(files[file_name(name)]) for name in new}
    if not added:
        return
    united = {**files, **added}
    old = attempts_in(united)[:-ATTEMPTS]
    gone = {file_name(name, attempt) for name in STREAMS for attempt in old}
    document["_attachments"] = {name: file for name, file in united.items() if name not in gone}


def _is_new(files: Mapping[str, Any], name: str) -> bool:
    """Whether a file is of this attempt, and not empty."""
    file = files.get(name)
    return isinstance(file, Mapping) and bool(file.get("data"))


def _shortened(file: Mapping[str, Any]) -> Mapping[str, Any]:
    content = b64decode(file["data"])
    if len(content) <= KEPT:
        return file
    capture = Capture(KEPT)
    capture.add(content)
    return {**file, "data": b64encode(capture.content()).decode("ascii")}


def _last_lines(capture: Capture) -> str:
    """The end of a stream, in whole lines where there are any, with nothing that drives a terminal."""
    text = capture.last(TAIL).decode("utf-8", "replace")
    if capture.size > TAIL and "\n" in text[:-1]:
        text = text.partition("\n")[2]
    return "".join(_printable(character) for character in text)[-2 * TAIL :]


def _printable(character: str) -> str:
    if character.isprintable() or character in "\n\t":
        return character
    return character.encode("unicode_escape").decode("ascii")
