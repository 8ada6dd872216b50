"""A directory for each attempt of a command: made before it, gone after it unless somebody wants to look at it.

    DIR/.apicas-USER/PROCESS.PILOT/NUMBER    while the command runs
    DIR/ID/ATTEMPT                           where it is kept

What a pilot leaves that was killed is taken away by the next one of the user that uses the same place on that node.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

from anyio import CapacityLimiter, to_thread

from apicas._documents import shown
from apicas._files import private_directory
from apicas._node.scratch import find_scratch
from apicas._node.surroundings import Surroundings
from apicas._runtime.attempts.logs import log_directory
from apicas._runtime.environment import boot_id, process_is_gone, process_name
from apicas.exceptions import ConfigError
from apicas.tokens import Token

log = logging.getLogger("apicas")

T = TypeVar("T")
Keep: TypeAlias = Literal["never", "failed", "always"]
"""Of which attempts the directory is kept: of none, of those that failed or went past their time limit, of all."""
SCRATCH: Final = "auto"
"""Stands for the node's own place for files."""
_THREADS: Final = 4
"""Threads that a pilot keeps busy with files at most."""


def check_keep(keep: str) -> None:
    """Check that a word says of which attempts the directory is kept.

    Raises:
        ConfigError: it says nothing.
    """
    if keep not in get_args(Keep):
        raise ConfigError(f"keep is {shown(keep)}: it is one of {', '.join(get_args(Keep))}")


class WorkDirectories:
    """The directories of a pilot's attempts.

    Args:
        base: where they are made and kept; `auto` for the node's scratch directory.
        keep: of which attempts they are kept.
    """

    def __init__(self, base: str | os.PathLike[str] = SCRATCH, keep: Keep = "never") -> None:
        check_keep(keep)
        self._base = base
        self._keep = keep
        self._numbers = itertools.count()
        self._opening = threading.Lock()
        self._place: Path | None = None
        self._sweeper: threading.Thread | None = None
        self._limiter = CapacityLimiter(_THREADS)

    @cached_property
    def base(self) -> Path:
        """Where they are made and kept.

        Raises:
            ConfigError: there is no such place.
        """
        path = _scratch() if self._base == SCRATCH else Path(self._base).absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise ConfigError(f"work directories cannot be made in {shown(str(path))}: {error}") from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise ConfigError(f"work directories cannot be made in {shown(str(path))}: it cannot be written")
        return path

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Call a function that waits for the file system. It is not abandoned: it may be moving results."""
        return await to_thread.run_sync(function, limiter=self._limiter)

    async def make(self) -> Path:
        """Make an empty directory.

        Raises:
            OSError: there is no room for one.
            ConfigError: there is no place for them.
        """
        return await self.in_thread(self._make)

    async def leave(self, directory: Path, token: Token, *, failed: bool) -> Path | None:
        """Remove a directory, or keep it; answers where.

        Args:
            directory: of an attempt that has ended, with all its processes.
            token: whose.
            failed: whether it failed.
        """
        kept = self._keep == "always" or (failed and self._keep == "failed")
        if not kept:
            await self.in_thread(partial(_remove, directory))
            return None
        return await self.in_thread(partial(self._put_aside, directory, token))

    async def close(self) -> None:
        """Remove what is left."""
        if self._place is not None:
            await self.in_thread(partial(_remove, self._place))
            self._place = None

    async def swept(self) -> None:
        """Wait until what others left is removed."""
        if self._sweeper is not None:
            await self.in_thread(self._sweeper.join)

    def _make(self) -> Path:
        with self._opening:
            if self._place is None:
                self._place = self._open()
            directory = self._place / str(next(self._numbers))
            directory.mkdir(mode=0o700)
        return directory

    def _open(self) -> Path:
        everybodys = private_directory(self.base / f".apicas-{os.geteuid()}")
        place = everybodys / f"{process_name(os.getpid())}.{secrets.token_hex(4)}"
        place.mkdir(mode=0o700)
        self._sweeper = threading.Thread(target=_sweep, args=(everybodys,), name="apicas-sweep", daemon=True)
        self._sweeper.start()
        return place

    def _put_aside(self, directory: Path, token: Token) -> Path | None:
        wanted = log_directory(self.base, token.id, token.attempt)
        try:
            wanted.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A token that was reset begins again with a number that it had.
            path = wanted
            for number in itertools.count(2):
                if not path.exists():
                    break
                path = wanted.with_name(f"{wanted.name}.{number}")
            directory.rename(path)
        except OSError as error:
            log.warning("the work directory of token %s is not kept: %s", token.id, error)
            _remove(directory)
            return None
        return path


def _scratch() -> Path:
    """A directory of this user's in the node's place for files."""
    scratch = find_scratch(Surroundings())
    if scratch is None:
        raise ConfigError("there is no scratch directory on this node: name one for the work directories")
    return scratch.directory.value / f"apicas-work-{os.geteuid()}"


def _sweep(everybodys: Path) -> None:
    """Remove what pilots left that are gone. Of another boot or another node nobody can tell, so that stays."""
    try:
        places = list(everybodys.iterdir())
    except OSError:
        return
    for place in places:
        if process_is_gone({"apicas": {"process": place.name.rpartition(".")[0]}}, boot_id()):
            _remove(place)


def _remove(directory: Path) -> None:
    """Remove a tree, whatever modes its directories have."""
    shutil.rmtree(directory, onerror=_forced)
    if directory.exists():
        log.warning("the directory %s cannot be removed", directory)


def _forced(function: Callable[..., Any], name: str, _error: Any) -> None:
    """Once more what failed in a tree, where a mode may have been in the way."""
    path = Path(name)
    try:
        if path.is_symlink() or not path.exists():
            return
        path.parent.chmod(0o700)
        if path.is_dir():
            path.chmod(0o700)
            shutil.rmtree(path, ignore_errors=True)
        else:
            function(name)
    except OSError:
        return  # said at the end, once
