"""Files that commands write: whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from apicas.exceptions import ApicasError, ConfigError


@contextmanager
def written_whole(path: str, *, replace: bool = True) -> Iterator[BinaryIO]:
    """A file to be written, which gets its name when it is complete and on the disk; else it is removed.

    Args:
        path: the file.
        replace: whether it may be there already.

    Raises:
        ConfigError: it cannot be made, or is there and must not be.
        ApicasError: it could not be written, as on a full disk.
    """
    final = Path(path)
    if not replace and os.path.lexists(final):
        raise ConfigError(f"{path}: there is such a file: name another one")
    part = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        file = part.open("xb+")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, final)  # noqa: PTH105 - as atomic as rename, and says that it replaces
        sync_directory(final.parent)
    except OSError as error:
        raise ApicasError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink()


def sync_directory(directory: Path) -> None:
    """Have a new name in a directory on the disk, where the file system can do that."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def forget_cached(file: BinaryIO) -> None:
    """Have the next reader of a file read it from the disk, as far as the system does as it is asked."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
