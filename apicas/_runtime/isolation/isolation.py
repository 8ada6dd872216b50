"""Isolation: one token's hooks in a process of their own, so that what kills it kills nothing else.

The work is sent once, pickled, as it was before prepare_env; the iterator, the client and the keeper stay behind.

A process works many tokens, one after the other: see process.py for the pilot's side of it, isolated.py for what it
hears and says, and pool.py for how long it is kept.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, MethodType
from typing import IO, Any, Final

from typing_extensions import override

from apicas._runtime.hooks import Work
from apicas._runtime.isolation.frames import framed
from apicas._runtime.isolation.process import IsolatedProcess
from apicas.clients.base import PoolClient

MAX_STATE: Final = 100_000_000
"""Bytes of the work's state: it is kept from the start on, in case that a token needs it."""
_GUARD: Final = re.compile(r"^if\s+.*__name__", re.MULTILINE)


class Isolation:
    """Starts processes for tokens.

    Args:
        work: what is to be done there.
        stays: what is not sent: instances of these classes, by what they are called.
        store_time: the store's clock, in unix seconds.
    """

    def __init__(self, work: Work, stays: dict[str, type | tuple[type, ...]], store_time: Callable[[], float]) -> None:
        self._work = work
        self._stays = {"client": PoolClient, **stays}
        self._store_time = store_time
        self._state = b""
        self._needs_main = False
        self.unfit: str | None = "it was not asked to be sent"
        """Why the work cannot be sent to a process; None where it can."""

    def snapshot(self) -> None:
        """Keep the work as it is now."""
        state = _Bounded(MAX_STATE)
        sender = _Sender(state, self._stays)
        try:
            sender.dump(self._work.remake)
            if sender.needs_main:
                _check_main()
        except Exception as error:  # noqa: BLE001 - any class of the user's may be asked for its state
            self.unfit = str(error) or type(error).__name__
        else:
            self._state, self._needs_main, self.unfit = state.getvalue(), sender.needs_main, None

    def start(self) -> IsolatedProcess:
        """Start a process.

        Raises:
            OSError: the system has no room for one.
        """
        from multiprocessing import spawn  # noqa: PLC0415 - few pilots ever need it

        modules: dict[str, Any] = spawn.get_preparation_data("apicas token")
        modules.pop("authkey", None)  # a secret that nobody needs there
        if not self._needs_main:
            modules = {name: value for name, value in modules.items() if not name.startswith("init_main")}
        path = modules.get("sys_path", sys.path)
        frames = (framed(pickle.dumps(modules)), framed(self._state))
        return IsolatedProcess(pickle.dumps(path) + b"".join(frames), self._store_time)


class UnfitError(Exception):
    """The work cannot be done in a process of its own; the message says why."""


class CannotBeSentError(Exception):
    """The work cannot be sent to a process; the message says why."""


class _Bounded(io.BytesIO):
    """A buffer that is not to grow for ever."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    @override
    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._most:
            raise CannotBeSentError(f"its state has more than {self._most:,} bytes")
        return super().write(data)


class _Sender(pickle.Pickler):
    """Pickles the work without what stays with the pilot."""

    def __init__(self, file: IO[bytes], stays: dict[str, Any]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._stays = stays
        self.needs_main = False

    @override
    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, (type, FunctionType)):
            if "<" in obj.__qualname__:
                raise CannotBeSentError(f"{obj.__qualname__} has no name in a module by which it could be imported")
            self.needs_main |= obj.__module__ == "__main__"
            return None
        if isinstance(obj, MethodType) and obj.__name__ == "time" and isinstance(obj.__self__, PoolClient):
            return "clock"  # a modifier's
        for name, kind in self._stays.items():
            if isinstance(obj, kind):
                return name
        return None


def _check_main() -> None:
    """Check that the main module can be imported once more.

    Raises:
        CannotBeSentError: it cannot, or importing it would run it.
    """
    name = getattr(sys.modules["__main__"], "__file__", None)
    try:
        text = Path(name or "").read_text(encoding="utf-8", errors="replace")
    except OSError:
        raise CannotBeSentError("it is defined in a notebook or an interactive session, and not in a module") from None
    if not _GUARD.search(text):
        raise CannotBeSentError(
            f'it is defined in {os.path.basename(name or "")}, which has no `if __name__ == "__main__":`, '  # noqa: PTH119
            "so importing it would run it once more"
        )
