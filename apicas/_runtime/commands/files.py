"""The files of a command: attachments of its token before it, files that it made after it.

A token's attachments lie in its work directory when the command starts. What it has made is attached to the token, or
moved, once its exit code is 0. Names come out of tokens, which others may have written, so none leads out of the work
directory.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

import anyio

from apicas._documents import check_attachment_name, shown
from apicas._runtime.attempts.logs import directory_name, is_log
from apicas._runtime.commands.templates import Template, fill, parse
from apicas._runtime.commands.workdirs import SCRATCH, Keep, WorkDirectories
from apicas.exceptions import (
    ConfigError,
    InvalidTokenError,
    OutputError,
    PoolUnavailableError,
    Release,
    TokenNotFoundError,
)
from apicas.tokens import Token

FIELD: Final = "outputs"
"""The field in which a token names what its command makes."""
MOVED: Final = "output_files"
"""The field that gets the paths of what was moved."""
MAX_ATTACHED: Final = 32_000_000
"""Bytes of the files that one token may attach together: they are in memory until they are written, and in one bulk
with the outcomes of other tokens."""
_LATER: Final = 5.0
"""Seconds before a token is claimed again whose attachments could not be read."""
_WILD: Final = frozenset("*?[")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """Which files a command gets and leaves.

    Args:
        workdir: where work directories are made; `auto` for the node's scratch directory.
        keep: of which attempts they are kept.
        inputs: patterns of the names of attachments that are put there.
        outputs: patterns of the files that are attached or moved; the token's field `outputs` names more.
        outputs_to: where they are moved to, below a directory for each token, or to the directory that it says itself
            with placeholders, of which each stands for one name: `results/{survey}`; None to attach them.
    """

    workdir: str | os.PathLike[str] = SCRATCH
    keep: Keep = "never"
    inputs: Sequence[str] = ("*",)
    outputs: Sequence[str] = ()
    outputs_to: str | os.PathLike[str] | None = None


class CommandFiles:
    """The files of a pilot's commands.

    Args:
        options: which.

    Raises:
        ConfigError: a pattern or a directory cannot be used.
    """

    def __init__(self, options: FileOptions) -> None:
        self._inputs = options.inputs
        try:
            self._outputs = [_checked(pattern) for pattern in options.outputs]
        except InvalidTokenError as error:
            raise ConfigError(str(error)) from None
        self._to = None if options.outputs_to is None else parse(os.fspath(Path(options.outputs_to).absolute()))
        self._directories = WorkDirectories(options.workdir, options.keep)

    def check(self) -> None:
        """See whether there is a place for work directories.

        Raises:
            ConfigError: there is none.
        """
        _ = self._directories.base

    async def close(self) -> None:
        """Remove what is left of the work directories."""
        await self._directories.close()

    @asynccontextmanager
    async def around(self, token: Token) -> AsyncIterator[Path]:
        """A work directory with the inputs in it; what was made there is taken care of at a good end.

        Raises:
            InvalidTokenError: the token names files that no token can have.
            OutputError: what was to be made is not there, or cannot be stored.
            Release: the pool does not give its attachments at the moment.
        """
        patterns = [*self._outputs, *_named(token.get(FIELD))]
        directory = await self._directories.make()
        failed = True
        try:
            await self._fetch(token, directory)
            yield directory
            if patterns:
                await self._directories.in_thread(partial(self._deliver, token, directory, patterns))
            failed = False
        except anyio.get_cancelled_exc_class():
            failed = _is_overdue(token)  # a pilot that drains is no failure of the token's
            raise
        finally:
            with anyio.CancelScope(shield=True):
                kept = await self._directories.leave(directory, token, failed=failed)
            if kept is not None and token.lease is not None:
                token.lease.note().workdir = str(kept)

    # Before. ------------------------------------------------------------------------------------------------------

    async def _fetch(self, token: Token, directory: Path) -> None:
        for name in token.attachments:
            if is_log(name) or not any(fnmatchcase(name, pattern) for pattern in self._inputs):
                continue
            check_attachment_name(name)
            try:
                async with await anyio.open_file(directory / name, "wb") as file:
                    async for chunk in token.stream_attachment(name):
                        await file.write(chunk)
            except TokenNotFoundError:
                raise InvalidTokenError(f"its attachment {shown(name)} is gone") from None
            except PoolUnavailableError as error:
                raise Release(f"its attachment {shown(name)} cannot be read: {error}", after=_LATER) from error

    # After. -------------------------------------------------------------------------------------------------------

    def _deliver(self, token: Token, directory: Path, patterns: Iterable[str]) -> None:
        found = _found(directory, patterns)
        try:
            if self._to is None:
                _attach(token, found)
            else:
                token[MOVED] = [str(path) for path in _moved(found, directory, _place(self._to, token))]
        except OSError as error:
            raise OutputError(f"its output cannot be stored: {error}") from error


def _named(value: Any) -> list[str]:
    """The patterns in a token's field."""
    names = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(names, list):
        raise InvalidTokenError(f"{FIELD} is {shown(value)}: it is the name of a file, or a list of names")
    return [_checked(name) for name in names]


def _checked(pattern: Any) -> str:
    if not isinstance(pattern, str) or not pattern.strip("./") or "\0" in pattern:
        raise InvalidTokenError(f"the output {shown(pattern)} is no name of a file")
    parts = PurePosixPath(pattern)
    if parts.is_absolute() or ".." in parts.parts:
        raise InvalidTokenError(f"the output {shown(pattern)} would be outside the work directory")
    return pattern


def _found(directory: Path, patterns: Iterable[str]) -> list[Path]:
    """What was made, each path once, in the order in which it is named."""
    top = directory.resolve()
    found: dict[Path, None] = {}
    for pattern in patterns:
        is_wild = not _WILD.isdisjoint(pattern)
        paths = sorted(directory.glob(pattern)) if is_wild else [directory / pattern]
        for path in paths:
            if not path.exists():
                raise OutputError(f"it ended with exit code 0, but its output {shown(pattern)} is not there")
            if not path.resolve().is_relative_to(top):
                raise OutputError(f"its output {shown(path.name)} is a link out of the work directory")
            found[path] = None
    return [path for path in found if not any(other in path.parents for other in found)]


def _attach(token: Token, paths: Sequence[Path]) -> None:
    size = 0
    names: set[str] = set()
    for path in paths:
        if not path.is_file():
            raise OutputError(f"its output {shown(path.name)} is no file, and cannot be attached: have it moved")
        if path.name in names:
            raise OutputError(f"two of its outputs are called {shown(path.name)}: a token has one file of a name")
        names.add(path.name)
        size += path.stat().st_size
    if size > MAX_ATTACHED:
        raise OutputError(
            f"its outputs have {size:,} bytes, and {MAX_ATTACHED:,} at the most can be attached: have them moved"
        )
    for path in paths:
        token.put_attachment(path.name, path.read_bytes())


def _place(to: Template, token: Token) -> Path:
    """Where the outputs of a token go. A value is the name of one directory, whatever it holds."""
    (path,) = fill([to], token, directory_name)
    return Path(path) if len(to) > 1 else Path(path) / directory_name(token.id)


def _moved(paths: Sequence[Path], directory: Path, place: Path) -> list[Path]:
    """Move what was made; answers where it is now. What an earlier attempt has left there is replaced."""
    targets = [(path, place / path.relative_to(directory)) for path in paths]
    for path, target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        _move(path, target)
    return [target for _, target in targets]


def _move(path: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    try:
        path.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # Whoever looks at the target sees all of it or nothing.
        coming = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}")
        try:
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, coming)
            coming.replace(target)
        except BaseException:
            (shutil.rmtree if coming.is_dir() else partial(Path.unlink, missing_ok=True))(coming)
            raise


def _is_overdue(token: Token) -> bool:
    """Whether its time limit has passed: its lock is beaten no longer."""
    return token.lease is not None and not token.lease.beats
