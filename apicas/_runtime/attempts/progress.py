"""Progress as a line of text: how commands tell it, which have no Python.

A command finds the path of a file in `$APICAS_PROGRESS`, and appends lines to it: a fraction, and a message if any.
The last line counts. The file does not exist before the first line, so a command that tells nothing costs nothing.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from apicas._documents import Document
from apicas.tokens import progress_of

VARIABLE: Final = "APICAS_PROGRESS"
"""The variable in which a command finds the path."""
TAIL: Final = 4_096
"""Bytes at the end of the file that are looked at."""
MOST: Final = 1_000_000
"""Bytes after which the file is emptied: a loop may write a line a thousand times a second."""


def read_line(text: str) -> Document:
    """What a line tells: `0.4 imaging`, `0.4`, or `40% imaging`.

    Raises:
        ValueError: it begins with no fraction.
    """
    number, _, message = text.strip().partition(" ")
    value = float(number.removesuffix("%"))
    return progress_of(value / 100 if number.endswith("%") else value, message)


def read_file(path: str) -> str | None:
    """The last line of a file; None where there is none in it. A file that has grown too long is emptied.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    # It is a command that makes it: no link of its making is followed, and no named pipe waited for.
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is no file")
        text = os.pread(descriptor, TAIL, max(found.st_size - TAIL, 0)).decode("utf-8", "replace")
        if found.st_size > MOST:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None
