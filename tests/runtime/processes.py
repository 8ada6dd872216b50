"""What the tests with real processes share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from apicas._runtime.processes.supervision import supervision

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
try:
    import uvloop
except ImportError:
    pass
else:
    LOOPS["uvloop"] = uvloop.new_event_loop
    uvloop.new_event_loop().close()  # the first one opens a pipe that stays open for good


def on_real_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test on every kind of event loop. It takes the fixture `loop_kind`."""

    @wraps(test)
    def call(*arguments: Any, loop_kind: str, **keywords: Any) -> None:
        async def main() -> None:
            await test(*arguments, loop_kind=loop_kind, **keywords)

        with asyncio.Runner(loop_factory=LOOPS[loop_kind]) as runner:
            runner.run(main())

    return call


class Fifo:
    """What a command tells a test while it runs: lines written to a named pipe.

    Args:
        path: where to make it.
    """

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        # Open for writing too, so that it has no end while the command opens and closes it.
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._text = ""

    def close(self) -> None:
        os.close(self._descriptor)

    async def line(self) -> str:
        """The next line; TimeoutError if there is none: a command that should have written it never will."""
        async with asyncio.timeout(30):
            while "\n" not in self._text:
                await self._readable()
                self._text += os.read(self._descriptor, 65_536).decode()
        line, _, self._text = self._text.partition("\n")
        return line

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._descriptor, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._descriptor)


def lives(process: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


_known: set[int] = set()


@contextmanager
def only_new_children() -> Iterator[None]:
    """Let `children` leave out those that there are now."""
    _known.update(children())
    try:
        yield
    finally:
        _known.clear()


def children() -> set[int]:
    """Our children, zombies included, but not the supervisor, which stays as long as we do."""
    found = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            fields = (process / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(process.name))
    return found - _known - {supervision().supervisor_pid}


def open_files() -> set[str]:
    """What our descriptors are, by number; those of the supervision are there by then."""
    supervision()
    numbers = os.listdir("/proc/self/fd")  # noqa: PTH208 - iterdir would leave its own in the list
    names = {number: os.path.realpath(f"/proc/self/fd/{number}") for number in numbers if number_is_open(number)}
    # Its thread looks at processes whenever it likes.
    return {f"{number} {name}" for number, name in names.items() if not f"{name}/".startswith("/proc/")}


def number_is_open(number: str) -> bool:
    """Whether a descriptor is open still: the one that listed them is not."""
    try:
        os.fstat(int(number))
    except OSError:
        return False
    return True


linux_only = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
