"""The outbox: where finished results are kept that are not in the pool yet, or never will be.

Rules:
- One file per outcome, written under another name, fsynced and renamed: whoever sees it sees all of it. No locks, so it
  works on a network file system, and any number of pilots share it.
- A file that cannot be read is left in its place and said once, with its path: a newer version may know it.
- What waits is in the pool's directory, what will not be written to the pool in `lost` below it, bounded.
- Nobody else may look in. Disk calls are made in a thread: an fsync on a busy disk takes seconds.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit, urlunsplit

import anyio

from apicas._files import check_private, private_directory
from apicas._runtime.outbox.entries import Entry, decode_entry, is_name, pilot_prefix
from apicas.exceptions import ConfigError

log = logging.getLogger("apicas.outbox")
T = TypeVar("T")

PATIENCE: Final = 10.0
"""Seconds that one call of the disk may take: a network file system that hangs must not hold up the commits."""
MAX_LOST_FILES: Final = 1000
MAX_LOST_BYTES: Final = 100_000_000
"""What is kept of results that will not be written: for people, who look at some of them."""
_MAX_WRITES: Final = 50
"""Files in one call: with an fsync each, a slow disk has written them within PATIENCE."""
_LEFTOVER_AGE: Final = 86400.0
"""Seconds."""
_CANNOT_SYNC: Final = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


class Outbox(Protocol):
    """Keeps the outcomes of one pool's tokens through the end of their process.

    Everything may raise OSError and ConfigError: it cannot be read or written.
    """

    @property
    def place(self) -> str:
        """Where it is, for people."""
        ...

    async def check(self) -> None:
        """Make it ready.

        Raises:
            ConfigError: it cannot be used.
        """
        ...

    async def put(self, entries: Sequence[Entry]) -> None:
        """Keep entries; they outlive this process once it returns. One of the same name is replaced."""
        ...

    async def remove(self, names: Sequence[str]) -> None:
        """Forget entries; those that are not there, too."""
        ...

    async def set_aside(self, entries: Sequence[Entry]) -> list[str]:
        """Keep entries where nobody will write them to the pool, the oldest of too many dropped; answers where."""
        ...

    async def names(self, not_of: str | None = None) -> list[str]:
        """The names of what waits.

        Args:
            not_of: a pilot whose entries are left out.
        """
        ...

    async def read(self, names: Sequence[str]) -> list[Entry]:
        """The entries of these names that are there and can be read."""
        ...

    async def lost(self) -> list[tuple[str, Entry]]:
        """What was set aside, the oldest first: where it is, and what."""
        ...

    async def discard_lost(self) -> int:
        """Delete what was set aside, and say how much that was."""
        ...


OutboxSetting: TypeAlias = "Outbox | str | os.PathLike[str] | Literal[False] | None"
"""An outbox, the directory of one, False for none, None for the default."""


def outbox_for(setting: OutboxSetting, address: str, *, default: bool = True) -> Outbox | None:
    """The outbox of a pool.

    Args:
        setting: what the user said.
        address: the pool's.
        default: whether there is one where the user said nothing.
    """
    if setting is False or setting == "":
        return None
    if setting is None:
        # A pool in memory ends with its process: there is nothing to come back to.
        return DiskOutbox(default_directory(), address) if default and not address.startswith("memory:") else None
    if isinstance(setting, (str, os.PathLike)):
        return DiskOutbox(Path(setting), address)
    return setting


def default_directory() -> Path:
    """`$APICAS_OUTBOX`, else a place in the user's state directory."""
    from platformdirs import user_state_path  # noqa: PLC0415 - not needed where the caller says where

    chosen = os.environ.get("APICAS_OUTBOX")
    return Path(chosen) if chosen else user_state_path("apicas") / "outbox"


def writes_ahead(address: str) -> bool:
    """Whether outcomes are kept before the first attempt to write them to the pool.

    Not for SQLite: its commit is itself a write to a disk here.
    """
    return not address.startswith("sqlite:")


def directory_name(address: str) -> str:
    """The name of a pool's directory: the same whoever asks, and from wherever."""
    parts = urlsplit(address)
    if parts.scheme == "sqlite":
        pool = f"sqlite:///{Path(address.removeprefix('sqlite:///')).resolve()}"
    else:
        pool = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
    return sha256(pool.encode("utf-8", "surrogateescape")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept of what will not be written to the pool."""

    files: int = MAX_LOST_FILES
    size: int = MAX_LOST_BYTES
    """Bytes."""


class DiskOutbox:
    """An outbox in a directory.

    Args:
        root: the directory of all outboxes; the pool's own is made below it when there is something to keep.
        address: the pool's.
        bounds: of what is lost.
    """

    def __init__(self, root: Path, address: str, bounds: Bounds | None = None) -> None:
        # Not Path.expanduser, which raises for a user that does not exist.
        self._root = Path(os.path.expanduser(root)).absolute()  # noqa: PTH111
        self._directory = self._root / directory_name(address)
        self._lost = self._directory / "lost"
        self._bounds = bounds or Bounds()
        # One call after the other: what was put is not removed before it is there. Nobody waits for long for a call of
        # a disk that hangs, but its turn goes on: else each of the next ones would leave another thread behind.
        self._turns = anyio.CapacityLimiter(1)
        self._said: set[str] = set()

    @property
    def place(self) -> str:
        """The pool's directory."""
        return str(self._directory)

    async def check(self) -> None:
        """See Outbox.check."""
        await self._call(lambda: private_directory(self._directory))

    async def put(self, entries: Sequence[Entry]) -> None:
        """See Outbox.put."""
        for first in range(0, len(entries), _MAX_WRITES):
            some = [(entry.name, entry) for entry in entries[first : first + _MAX_WRITES]]
            await self._call(partial(self._write, self._directory, some))

    async def remove(self, names: Sequence[str]) -> None:
        """See Outbox.remove."""
        await self._call(lambda: self._remove(names))

    async def set_aside(self, entries: Sequence[Entry]) -> list[str]:
        """See Outbox.set_aside."""
        places: list[str] = []
        for first in range(0, len(entries), _MAX_WRITES):
            places += await self._call(partial(self._set_aside, entries[first : first + _MAX_WRITES]))
        return places

    async def names(self, not_of: str | None = None) -> list[str]:
        """See Outbox.names."""
        return await self._call(lambda: self._names(not_of))

    async def read(self, names: Sequence[str]) -> list[Entry]:
        """See Outbox.read."""
        return await self._call(lambda: [entry for name in names if (entry := self._read(self._directory / name))])

    async def lost(self) -> list[tuple[str, Entry]]:
        """See Outbox.lost."""
        return await self._call(self._read_lost)

    async def discard_lost(self) -> int:
        """See Outbox.discard_lost."""
        return await self._call(self._discard_lost)

    async def _call(self, function: Callable[[], T]) -> T:
        with anyio.move_on_after(PATIENCE):
            turn = object()
            await self._turns.acquire_on_behalf_of(turn)
            return await _in_thread(function, lambda: self._turns.release_on_behalf_of(turn))
        raise TimeoutError(errno.ETIMEDOUT, f"no answer within {PATIENCE:g} s", str(self._directory))

    # In the thread. -----------------------------------------------------------------------------------------------

    @staticmethod
    def _write(directory: Path, entries: Sequence[tuple[str, Entry]]) -> None:
        """Write all that can be written; raises the first failure when it is through."""
        private_directory(directory)
        failure: OSError | None = None
        for name, entry in entries:
            try:
                _write_file(directory, name, entry.encode())
            except OSError as error:
                failure = failure or error
        _sync_directory(directory)
        if failure is not None:
            raise failure

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            (self._directory / name).unlink(missing_ok=True)

    def _set_aside(self, entries: Sequence[Entry]) -> list[str]:
        private_directory(self._directory)
        self._write(self._lost, [(entry.aside_name, entry) for entry in entries])
        # Only now: a crash in between leaves both, and the next replay finds it lost again.
        self._remove([entry.name for entry in entries])
        self._drop_oldest()
        return [str(self._lost / entry.aside_name) for entry in entries]

    def _drop_oldest(self) -> None:
        files = _by_age(self._lost)
        size = sum(found.st_size for _, found in files)
        dropped = 0
        while len(files) - dropped > self._bounds.files or (
            size > self._bounds.size and len(files) - dropped > 1  # the newest stays, however large
        ):
            path, found = files[dropped]
            path.unlink(missing_ok=True)
            size -= found.st_size
            dropped += 1
        if dropped:
            log.warning("%d of the oldest results in %s were deleted: too many", dropped, self._lost)

    def _names(self, not_of: str | None) -> list[str]:
        if self._directory.exists():
            private_directory(self._directory)
        found = _names_in(self._directory)
        self._clean_up(name for name in found if name.endswith(".tmp"))
        own = None if not_of is None else f"{pilot_prefix(not_of)}-"
        return sorted(name for name in found if is_name(name) and not (own and name.startswith(own)))

    def _clean_up(self, leftovers: Any) -> None:
        """Delete what a process that was killed had half written."""
        for name in leftovers:
            path = self._directory / name
            try:
                if time.time() - path.lstat().st_mtime > _LEFTOVER_AGE:
                    path.unlink()
            except OSError:
                continue  # somebody else was faster, or it is none of ours

    def _read(self, path: Path) -> Entry | None:
        try:
            return decode_entry(_read_file(path))
        except FileNotFoundError:  # written to the pool meanwhile
            return None
        except (OSError, ConfigError, ValueError) as error:
            if str(path) not in self._said:
                self._said.add(str(path))
                log.error("%s is left where it is: %s", path, error)  # noqa: TRY400
            return None

    def _read_lost(self) -> list[tuple[str, Entry]]:
        found = [(str(path), self._read(path)) for path, _ in _by_age(self._lost)]
        return [(path, entry) for path, entry in found if entry is not None]

    def _discard_lost(self) -> int:
        files = _by_age(self._lost)
        for path, _ in files:
            path.unlink(missing_ok=True)
        return len(files)


def _in_thread(function: Callable[[], T], ended: Callable[[], None]) -> asyncio.Future[T]:
    """Call a function in a thread that does not keep the process from ending, as those of a pool do.

    Args:
        function: the function.
        ended: called in this loop when it is through, also where nobody waits for it any more.

    Raises:
        OSError: the system has no room for a thread.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(call: Future[T]) -> None:
        ended()
        if answer.done():
            return
        error = call.exception()
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(call.result())

    def work() -> None:
        call: Future[T] = Future()
        try:
            call.set_result(function())
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            call.set_exception(error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, call)

    try:
        threading.Thread(target=work, name="apicas-outbox", daemon=True).start()
    except RuntimeError as error:
        ended()
        raise OSError(errno.EAGAIN, "the system has no room for a thread") from error
    return answer


def _write_file(directory: Path, name: str, body: bytes) -> None:
    path = directory / f".{name}.{secrets.token_hex(4)}.tmp"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0) as file:
            view = memoryview(body)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        path.rename(directory / name)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _sync_directory(directory: Path) -> None:
    """Make the names in a directory durable, where its file system knows how."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def _read_file(path: Path) -> bytes:
    """Read a file that is ours alone.

    Raises:
        ConfigError: it is somebody else's, or others may read it.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        check_private(path, os.fstat(file.fileno()), "holds a result")
        return file.read()


def _names_in(directory: Path) -> list[str]:
    try:
        return [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []


def _by_age(directory: Path) -> list[tuple[Path, os.stat_result]]:
    """The files of a directory, the oldest first."""
    files: list[tuple[Path, os.stat_result]] = []
    for name in _names_in(directory):
        path = directory / name
        if name.endswith(".json"):
            try:
                files.append((path, path.lstat()))
            except FileNotFoundError:
                continue
    return sorted(files, key=lambda file: (file[1].st_mtime_ns, file[0].name))
