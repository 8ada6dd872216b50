"""Files and directories that are nobody else's business: those with passwords in them, or with results of tokens.

Rules:
- The owner is this user, or root, who can read everything anyway.
- Nobody else may read or write. A wrong mode is refused and not put right: what others could read is known by now.
- What is checked is what is used: an open file by its descriptor, a directory without following another user's link.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from apicas.exceptions import ConfigError

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_ROOT: Final = 0


def private_directory(path: Path) -> Path:
    """Make a directory that only this user can enter, with its parents, or check the one that is there.

    Args:
        path: may be a symbolic link of this user's to a directory.

    Returns:
        The path, absolute.

    Raises:
        ConfigError: it cannot be made, is no directory, is somebody else's, or others may read or write it; the
            message is one line that says what to do.
    """
    path = path.absolute()
    try:
        # A parent that is missing is made as private: `mkdir` of the last one alone would leave the others open.
        for parent in reversed(path.parents):
            _make(parent)
        _make(path)
        _check_link(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the directory {_shown(path)} cannot be used: {_reason(error)}") from error
    if found.st_uid != os.geteuid():
        raise ConfigError(f"the directory {_shown(path)} is somebody else's (user {found.st_uid}): use one of your own")
    if found.st_mode & _OTHERS:
        raise ConfigError(f"others may look into the directory {_shown(path)}: run `chmod 700 {_quoted(path)}`")
    return path


def check_private_file(path: Path) -> None:
    """Check that nobody else can read or write a file.

    Raises:
        ConfigError: it cannot be looked at, is no file, is somebody else's, or others may read or write it; the
            message is one line that says what to do.
    """
    try:
        _check_link(path)
        found = path.stat()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{_shown(path)} cannot be read: {_reason(error)}") from error
    check_private(path, found, "is private")


def check_private(path: Path, found: os.stat_result, what: str) -> None:
    """Check what was found about a file; of an open one, so that it is no other file by the time it is read.

    Args:
        path: for the message.
        found: by `os.fstat`.
        what: the reason why it must be private, after the path: `holds a password`.

    Raises:
        ConfigError: it is no file, is somebody else's, or others may read or write it.
    """
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{_shown(path)} {what} and is no regular file")
    if found.st_uid not in {os.geteuid(), _ROOT}:
        raise ConfigError(f"{_shown(path)} {what} and is somebody else's (user {found.st_uid}): use a copy of your own")
    if found.st_mode & _OTHERS:
        raise ConfigError(f"{_shown(path)} {what} and others may read it: run `chmod 600 {_quoted(path)}`")


def replace_private(path: Path, body: bytes, mode: int = 0o600) -> str:
    """Write a file that only this user can read, or replace it as a whole.

    Args:
        path: of the file; its directory is made, for this user alone.
        body: what is to be in it. It may hold secrets, so nothing is raised from where it is known.
        mode: of the file in the end.

    Returns:
        What went wrong; "" where nothing did.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(body)
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError:
            new.unlink(missing_ok=True)
            raise
    except OSError as error:
        return error.strerror or str(error)
    return ""


@contextmanager
def held_alone(path: Path) -> Iterator[None]:
    """Have a file for oneself between reading it and replacing it: others who ask for the same wait.

    What is locked is a file beside it, since the file itself is replaced. It is removed in the end, so who gets the
    lock of one that is gone by then begins again. Where the file system has no locks, nobody waits.

    Args:
        path: of the file; its directory is made, for this user alone.
    """
    descriptor: int | None = None
    beside = path.with_name(f".{path.name}.lock")
    with suppress(OSError):  # what cannot be written is told by who writes it
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = _locked(beside)
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):
                beside.unlink()
            os.close(descriptor)


def _locked(path: Path) -> int:
    """The descriptor of a file that is locked, and still has its name."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            found = os.fstat(descriptor)
            if found.st_nlink and os.path.samestat(found, path.stat()):
                return descriptor
        except FileNotFoundError:
            pass  # its owner has removed it
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def is_foreign(path: Path, found: os.stat_result) -> bool:
    """Whether somebody else than this user or root could have written what is in a file, or put it there.

    Args:
        path: of the file.
        found: by `os.fstat`.
    """
    owners = {found.st_uid, path.lstat().st_uid}
    return not owners <= {os.geteuid(), _ROOT} or bool(found.st_mode & stat.S_IWOTH)


def _make(path: Path) -> None:
    """Make one directory; that it exists is no news, whoever was first."""
    if path.is_dir():
        return
    try:
        path.mkdir(mode=stat.S_IRWXU)
    except FileExistsError:
        if not path.is_dir():
            raise


def _check_link(path: Path) -> None:
    """Refuse a link that somebody else put there: it leads to where they choose.

    Raises:
        OSError: there is such a link, or nothing.
    """
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) and found.st_uid not in {os.geteuid(), _ROOT}:
        raise OSError(f"it is a link of somebody else's (user {found.st_uid})")


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _shown(path: Path) -> str:
    """A path in a message: as it is, unless it would break the line or drive a terminal."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def _quoted(path: Path) -> str:
    return shlex.quote(_shown(path))
