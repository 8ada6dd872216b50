"""Disks that can be filled: a small file system in memory where we may mount one, else a limit on the size of files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.chaos.pilots import Crew

SIZE: Final = "256m"
LIMIT: Final = 1_000_000
"""Bytes. The files that the pilots count in stay below it; a pool of padded tokens and its log do not."""
PADDING: Final = 4000
"""Characters that a token gets where the size of files is limited, so that the pool is larger than the limit."""


class SmallDisk:
    """A small file system that is filled by a file of ours."""

    how = "a tmpfs that is filled"

    def __init__(self, directory: Path) -> None:
        self._file = directory / "full"

    def fill(self) -> None:
        """Leave no room."""
        with self._file.open("wb", buffering=0) as file:
            piece = bytes(1 << 20)
            while piece:
                try:
                    file.write(piece)
                except OSError:
                    piece = piece[: len(piece) // 2]

    def clear(self) -> None:
        """Make room again."""
        self._file.unlink(missing_ok=True)


class LimitedFiles:
    """A limit on the size of the files that pilots write."""

    how = f"RLIMIT_FSIZE of {LIMIT:,} bytes"

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def fill(self) -> None:
        """Leave no room."""
        self._crew.limit_files(LIMIT)

    def clear(self) -> None:
        """Make room again."""
        self._crew.limit_files(None)


@contextmanager
def small_file_system(directory: Path) -> Iterator[bool]:
    """Mount a small file system on a directory; yields whether that is permitted."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(directory)]
    try:
        mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(directory)], check=False, capture_output=True)
