"""Files that commands write: whole, or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from apicas.exceptions import ApicasError, ConfigError


@contextmanager
def written_whole(path: str, *, replace: bool = True) -> Iterator[BinaryIO]:
    """A file to be written, which gets its name when it is complete and on the disk; else it is removed.

    A device or a pipe that stands there is written to as it is.

    Args:
        path: the file.
        replace: whether it may be there already.

    Raises:
        ConfigError: it cannot be made, or is there and must not be.
        ApicasError: it could not be written, as on a full disk.
    """
    final = Path(path)
    if replace and _is_device(final):
        with _told(path), final.open("wb") as device:
            yield device
        return
    part = final.with_name(f".{final.name}.{os.getpid()}.part")
    reserved = None if replace else final
    try:
        if reserved is not None:  # so that of two that choose the same name one stops here
            reserved.open("xb").close()
        file = part.open("xb+")
    except FileExistsError:
        raise ConfigError(f"{path}: there is such a file: name another one") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {_reason(error)}") from error
    try:
        with _told(path):
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, final)  # noqa: PTH105 - as atomic as rename, and says that it replaces
            reserved = None
            sync_directory(final.parent)
    finally:
        for left in (part, reserved):
            if left is not None:
                with suppress(OSError):
                    left.unlink()


@contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ApicasError(f"{path} cannot be written: {_reason(error)}") from error


@contextmanager
def room_told() -> Iterator[None]:
    """Say that it is the place for temporary files which is full, and not the file that is being written."""
    try:
        yield
    except OSError as error:
        raise ApicasError(
            f"the directory for temporary files, {tempfile.gettempdir()}, takes no more: {_reason(error)}; $TMPDIR "
            "names another"
        ) from error


def _is_device(path: Path) -> bool:
    """Whether there is something that is neither a file nor a directory: a name must not be put in its place."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


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
