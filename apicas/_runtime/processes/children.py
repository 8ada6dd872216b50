"""Child processes: how they are started, watched and reaped.

Where nothing speaks against it a command is started by posix_spawn, which takes half of what subprocess does of the
loop's time. Both leave the child its standard streams and no other descriptor of ours, a session of its own, and the
default action for the signals that Python ignores. What posix_spawn cannot do everywhere is left to subprocess: another
working directory, a PATH that is not ours, and closing what has to be closed where /proc does not tell it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from signal import SIGPIPE, SIGXFSZ
from typing import Any, Final, TypeAlias

from apicas._runtime.processes.allotment import Environment, on_cores

LOOK_AGE: Final = 0.02
"""Seconds that a look at our own descriptors is good for: starting a thousand processes a second must not cost as many
looks. Python makes no descriptor that a child would get; a library in another language may."""
_DESCRIPTORS: Final = "/proc/self/fd"
_SEPARATOR: Final = os.fsencode(os.sep)
_FIRST_OTHER: Final = 3
"""The first descriptor behind the standard streams."""


@dataclass(frozen=True, slots=True)
class Start:
    """What is to be started.

    Args:
        arguments: the program and its arguments.
        cwd: its directory; None for ours.
        environment: its whole environment; None for ours.
        takes_input: whether its standard input is a pipe, and not /dev/null.
        cores: the CPUs that it is kept to, from its first instruction on; none for all of ours.
    """

    arguments: Sequence[str | os.PathLike[str]]
    cwd: str | os.PathLike[str] | None = None
    environment: Environment = None
    takes_input: bool = False
    cores: tuple[int, ...] = ()

    @property
    def can_be_spawned(self) -> bool:
        """Whether posix_spawn does all that is asked for."""
        if self.cwd is not None or not _HAS_SPAWN:
            return False
        return _SEPARATOR in os.fsencode(self.arguments[0]) or self._has_our_path

    @property
    def _has_our_path(self) -> bool:
        """Whether the program is to be looked for where the system looks for it."""
        given: Mapping[Any, Any] | None = self.environment
        ours = os.environb.get(b"PATH")
        if given is None:
            return ours is not None
        path = given.get(b"PATH", given.get("PATH"))
        return path is not None and os.fsencode(path) == ours


class Child:
    """A process that was started, and our ends of its pipes.

    Args:
        pid: its id.
        stdin: what it reads; None for a pipe that it does not have.
        stdout: what it writes.
        stderr: the same for its errors.
    """

    def __init__(
        self, pid: int, *, stdin: int | None = None, stdout: int | None = None, stderr: int | None = None
    ) -> None:
        self.pid = pid
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self.usage: resource.struct_rusage | None = None
        """What it took, with those of its children that it has waited for; known when it is reaped by us."""
        self._reaped = False
        self._status: int | None = None

    def look(self) -> tuple[bool, int | None]:
        """Whether it has ended, and how: its exit code, the negative number of a signal, None if nobody can know.

        It stays a zombie where the system allows that, so that its id names nobody else.
        """
        if self._reaped or not hasattr(os, "waitid"):  # macOS before Python 3.13: it cannot be left a zombie there
            return self.reap(), self._status
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # reaped by somebody else
            return True, None
        if found is None:
            return False, None
        return True, found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def reap(self) -> bool:
        """Let it go if it has ended; whether it is gone."""
        if not self._reaped:
            try:
                found, status, usage = os.wait4(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else did
                self._reaped = True
            else:
                self._reaped = found == self.pid
                self._status = os.waitstatus_to_exitcode(status) if self._reaped else None
                self.usage = usage if self._reaped else None
        return self._reaped

    @property
    def reaped(self) -> bool:
        """Whether it is gone."""
        return self._reaped

    def open_watch(self) -> int | None:
        """What becomes readable when it ends; None where there is no such thing, and one has to look now and then."""
        try:
            return os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not Linux, or older than 5.3, or forbidden by a sandbox
            return None


def start_child(start: Start) -> Child:
    """Start a process with its outputs in pipes.

    Args:
        start: what it is.

    Raises:
        OSError: it cannot be started.
        ValueError: it cannot be started: an argument or a variable holds what none can.
    """
    ours: list[int] = []
    theirs: list[int] = []
    try:
        for _ in range(2):
            _add_pipe(ours, theirs)
        stdin = None
        if start.takes_input:
            _add_pipe(theirs, ours)
            stdin = theirs[2]
        # The pipes would get in the way of each other where a standard stream of ours is closed.
        by_spawn = min(theirs) >= _FIRST_OTHER and start.can_be_spawned
        with on_cores(start.cores):
            pid = (_spawn if by_spawn else _popen)(start, (stdin, theirs[0], theirs[1]))
    except BaseException:
        close(*ours)
        raise
    finally:
        close(*theirs)
    return Child(pid, stdout=ours[0], stderr=ours[1], stdin=ours[2] if start.takes_input else None)


def adopted(process: subprocess.Popen[bytes]) -> Child:
    """A process without pipes that subprocess has started. It is ours to wait for from now on."""
    process.returncode = 0  # whatever it will be: else the object would wait for it, too, or say that nobody did
    return Child(process.pid)


def close(*descriptors: int | None) -> None:
    """Close descriptors; None is none."""
    for descriptor in descriptors:
        if descriptor is not None:
            os.close(descriptor)


def _add_pipe(readers: list[int], writers: list[int]) -> None:
    reader, writer = os.pipe()
    readers.append(reader)
    writers.append(writer)


_Streams: TypeAlias = tuple[int | None, int, int]
"""What becomes the child's standard input, None for /dev/null, output and error."""


def _spawn(start: Start, streams: _Streams) -> int:
    stdin, stdout, stderr = streams
    actions: list[Any] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0) if stdin is None else (os.POSIX_SPAWN_DUP2, stdin, 0),
        (os.POSIX_SPAWN_DUP2, stdout, 1),
        (os.POSIX_SPAWN_DUP2, stderr, 2),
        *_others.closing(),
    ]
    environment: Any = os.environb if start.environment is None else start.environment
    return os.posix_spawnp(  # without a separator in the program it is the same as posix_spawn
        start.arguments[0],
        list(start.arguments),
        environment,
        file_actions=actions,
        setsid=True,
        setsigdef=_IGNORED_BY_PYTHON,
    )


def _popen(start: Start, streams: _Streams) -> int:
    stdin, stdout, stderr = streams
    process = subprocess.Popen(  # noqa: S603 - the command is the user's
        start.arguments,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=start.cwd,
        env=start.environment,
        start_new_session=True,
    )
    return adopted(process).pid


class _Others:
    """Our descriptors that a child would get, beyond the standard streams."""

    def __init__(self) -> None:
        self._seen = -LOOK_AGE
        self._closing: list[Any] = []

    def closing(self) -> Iterable[Any]:
        """What makes posix_spawn close them."""
        if hasattr(os, "POSIX_SPAWN_CLOSEFROM"):  # Python 3.13
            return [(os.POSIX_SPAWN_CLOSEFROM, _FIRST_OTHER)]
        now = time.monotonic()
        if now - self._seen >= LOOK_AGE:
            self._closing = [(os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in _inheritable()]
            self._seen = now
        return self._closing


_others = _Others()
_IGNORED_BY_PYTHON: Final = (SIGPIPE, SIGXFSZ)
# Of other systems it is not known whether they know sessions there, and say what could not be started.
_HAS_SPAWN: Final = sys.platform == "linux" and os.path.isdir(_DESCRIPTORS)  # noqa: PTH112 - once, at the start


def _inheritable() -> Iterable[int]:
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - it runs on the event loop, and often
        descriptor = int(name)
        with suppress(OSError):  # the one of this look
            if descriptor >= _FIRST_OTHER and os.get_inheritable(descriptor):
                yield descriptor
