"""The supervisor: a process that outlives a killed pilot, and ends all that it had started.

Rules:
- One for each process that starts commands or worker processes, from the first one on; none for those that start none.
- It is a shell that waits for the end of a pipe: less than 2 MB. When the pipe ends without a word, the pilot is dead
  without a farewell, and the shell becomes a small Python that looks for the pilot's marks and ends who carries them.
- Nobody but the pilot holds the pipe: it is closed in what Python forks, and at every exec.
- It has a session of its own and ignores what a terminal or a batch system sends to everybody: it goes on until its
  work is done.
- The sessions of running processes are in a table of shared memory: a place in it costs no call of the system, and
  finds also those that have thrown their environment away.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from apicas._runtime.processes.children import Child, adopted
from apicas._runtime.processes.marks import TICKS, VARIABLE, Mark
from apicas._runtime.processes.supervisor_process import HELD_AT, SESSION

PLACES: Final = 16_384
"""Sessions that can be in the table at once; those beyond are found by their marks only."""
_FAREWELL: Final = b"over\n"
_SHELL: Final = "/bin/sh"
_WAIT: Final = "trap '' HUP INT QUIT TERM USR1 USR2 TSTP TTIN TTOU; cd /; read -r word && exit 0; exec \"$@\""
# Packages without their __init__: these import all that a pilot needs, and it needs two modules. Python says so itself.
_BOOT: Final = """
import sys
for name, path in zip(("apicas", "apicas._runtime", "apicas._runtime.processes"), sys.argv[2:]):
    sys.modules[name] = package = type(sys)(name)
    package.__path__ = [path]
from apicas._runtime.processes.supervisor_process import main
main(int(sys.argv[1]))
"""
_PATHS: Final = [str(path) for path in reversed(Path(__file__).parents[:3])]
"""Of the packages that it is in, the outermost first."""
_MARK: Final = VARIABLE.encode()


class SessionTable:
    """The sessions of running processes, in memory that the supervisor sees too."""

    def __init__(self) -> None:
        self.descriptor = _shared_memory()
        size = HELD_AT.size + PLACES * SESSION.size
        os.ftruncate(self.descriptor, size)
        self._memory = mmap.mmap(self.descriptor, size)
        self._free = list(range(size - SESSION.size, HELD_AT.size - 1, -SESSION.size))

    def add(self, session: int) -> int | None:
        """Register a session whose leader has not been reaped; its place, None where all are taken."""
        try:
            place = self._free.pop()
        except IndexError:
            return None
        HELD_AT.pack_into(self._memory, 0, int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS))
        SESSION.pack_into(self._memory, place, session)
        return place

    def remove(self, place: int | None) -> None:
        """Free a place, before the leader is reaped."""
        if place is not None:
            SESSION.pack_into(self._memory, place, 0)
            self._free.append(place)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        os.close(self.descriptor)


class Supervisor:
    """The process, and what it is told by.

    Args:
        pilot: a mark of this pilot's.
        table: its sessions.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, pilot: Mark, table: SessionTable) -> None:
        theirs, self._pipe = os.pipe()
        try:
            self._child = _start(pilot, table.descriptor, theirs)
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(theirs)
        self.watch = self._child.open_watch()
        """What becomes readable when it ends; None where there is no such thing."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def has_ended(self) -> bool:
        """Whether it has; it is reaped then."""
        return self._child.reap()

    def dismiss(self) -> None:
        """Tell it that nothing was left, and let it go."""
        with suppress(OSError):  # it was killed
            os.write(self._pipe, _FAREWELL)
        self.leave()

    def leave(self) -> None:
        """Hold on to it no longer: it does its work as soon as this process has ended."""
        os.close(self._pipe)
        if self.watch is not None:
            os.close(self.watch)
        self._child.reap()


def _start(pilot: Mark, table: int, pipe: int) -> Child:
    isolated = ["-P", "-s"] if "PYTHONHOME" in os.environ else ["-I"]  # some need it to find their own library
    program = [sys.executable, *isolated, "-S", "-c", _BOOT, str(table), *_PATHS]
    process = subprocess.Popen(  # noqa: S603 - a program of ours
        [_SHELL, "-c", _WAIT, "apicas-supervisor", *program],
        stdin=pipe,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(table,),
        # By this mark others know that its pilot lives.
        env={**{name: value for name, value in os.environb.items() if not _is_ours(name)}, _MARK: str(pilot).encode()},
        start_new_session=True,
    )
    return adopted(process)


def _is_ours(name: bytes) -> bool:
    """Whether a variable is one of apicas: it may hold a password."""
    return name.startswith((b"APICAS_", b"PICAS_"))


def _shared_memory() -> int:
    try:
        return os.memfd_create("apicas-sessions")
    except (AttributeError, OSError):  # older than Linux 3.17, or forbidden by a sandbox
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
