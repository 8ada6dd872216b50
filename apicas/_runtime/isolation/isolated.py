"""The far side of isolation: a process that has one worker's hooks to itself, and works the tokens that it is sent.

Rules:
- What the pilot sends about the work is unpickled: it comes from the same user. Tokens come and go as JSON, and nothing
  that this process says is unpickled.
- The loop hears the pilot. A thread sleeps until the pilot is gone, which ends this process soon, whatever it does: it
  does not wake for tokens, since it would ask work for the interpreter's lock.
- What happens before `ready` is no fault of a token's; nor is it between two tokens, until the next one is counted as
  taken.

The pilot sends frames of 8 bytes of length and a body: what to import, the work, then messages in JSON with one token
each, and an empty frame at last. The answers are `ready`, or `unfit` with the reason, and then what became of each
token. Before that it may say how far the work is, any number of times. In a file that the pilot has open, too, it
counts the tokens that it has taken: the loop that is to work one does so before it looks at it.
"""

from __future__ import annotations

import asyncio
import faulthandler
import io
import os
import pickle
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import process, spawn
from pathlib import Path
from typing import IO, Any, Final, cast

from typing_extensions import override

from apicas._documents import Document, decode, encode
from apicas._runtime.attempts.notes import Usage
from apicas._runtime.attempts.progress import VARIABLE as PROGRESS
from apicas._runtime.executor import Executor, ExecutorOptions
from apicas._runtime.hooks import Work
from apicas._runtime.isolation.frames import COUNT_BYTES, HEADER_BYTES, FrameBuffer, framed
from apicas._runtime.isolation.remote import RemoteLease
from apicas._runtime.isolation.verdicts import told, told_usage
from apicas._runtime.keeping.outcomes import describe
from apicas._runtime.processes.allotment import heard_allocation, in_force
from apicas._runtime.processes.supervision import be_supervised
from apicas.tokens import Token

CHUNK: Final = 262_144
"""Bytes of one read."""
_GONE: Final = getattr(select, "POLLRDHUP", 0)
_HAS_MORE: Final = select.POLLIN
LAST_TIME: Final = 5.0
"""Seconds that the work has, and the commands that it started, when the pilot is gone."""
_STATUS_BYTES: Final = 8192
"""More than the kernel tells."""
KILL_ME_FIRST: Final = 500
"""Half of the node's memory, in the kernel's reckoning of whom to kill when there is none left: us before the pilot."""


def main(pilot: IO[bytes], connection: int, report: int, taken: int) -> None:
    """Work tokens until the pilot says that it was the last.

    Args:
        pilot: what the pilot sends.
        connection: the descriptor of the same, where the answers go.
        report: a descriptor for what a crash has to say.
        taken: that of the file in which the tokens are counted that were taken.
    """
    for descriptor in (connection, report, taken):
        os.set_inheritable(descriptor, False)
    faulthandler.enable(file=report)
    _be_the_first_to_go()
    be_supervised()
    _memory.open()
    with asyncio.Runner() as runner:
        place = Place(connection, taken, runner.get_loop())
        modules, work = _frame(pilot) or b"", _frame(pilot) or b""
        threading.Thread(target=place.guard, name="apicas-pilot", daemon=True).start()
        try:
            make_work = _rebuilt(modules, work, place.store_time)
        except BaseException as error:  # noqa: BLE001 - also what a module exits with when it is imported
            place.say({"unfit": f"{describe(error)}{_where(error)}"})
            return
        runner.run(place.work(make_work))
        if place.cut:  # a thread of the work's may go on; the pilot has no time to wait for it
            _flush()
            place.end()


class Place:
    """Where the tokens are worked.

    Args:
        connection: where the answers go.
        taken: where tokens are counted.
        loop: the loop.
    """

    def __init__(self, connection: int, taken: int, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._taken = taken
        self._count = 0
        self._loop = loop
        self._socket = socket.socket(fileno=os.dup(connection))
        self._heard = FrameBuffer()
        self._inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._executor: Executor | None = None
        self._saying = threading.Lock()
        self._offset = 0.0
        self._is_orphan = False
        self.cut = False
        """Whether the pilot has ended the work."""

    def store_time(self) -> float:
        """The store's clock, as the pilot has it."""
        return time.time() + self._offset

    def guard(self) -> None:
        """End this process when the pilot has gone."""
        poll = select.poll()
        poll.register(self._socket, _GONE)
        while not any(events & ~_HAS_MORE for _, events in poll.poll()):
            pass
        self._is_orphan = True
        signal.raise_signal(signal.SIGTERM)
        time.sleep(LAST_TIME)
        self.end()

    def hear(self) -> None:
        """Take in what the pilot has sent."""
        try:
            # The descriptor blocks, as `say` needs it; this look at it must not.
            chunk = self._socket.recv(CHUNK, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionResetError):
            return
        if not chunk:
            self._loop.remove_reader(self._socket)  # it has gone, and the thread knows it
            return
        self._heard.add(chunk)
        while (body := self._heard.next()) is not None:
            self._inbox.put_nowait(body)

    def end(self) -> None:
        """End this process at once; and, where the pilot cannot do so, all that the work started."""
        if self._is_orphan:
            os.killpg(os.getpgrp(), signal.SIGKILL)  # we lead a session
        os._exit(0)

    def say(self, message: Document) -> None:
        """Answer."""
        rest = memoryview(framed(encode(message)))
        # The pilot may be gone, which the thread that listens knows.
        with self._saying, suppress(BrokenPipeError, ConnectionResetError):
            while rest:
                rest = rest[os.write(self._connection, rest) :]

    async def work(self, make_work: Callable[[], Work]) -> None:
        """Prepare, work each token that comes, clean up."""
        try:
            work = make_work()
            if work.prepare_env is not None:
                await work.prepare_env()
        except Exception as error:  # noqa: BLE001 - any code of the user's
            self.say({"unfit": f"{describe(error)}{_where(error)}"})
            return
        self._loop.add_signal_handler(signal.SIGTERM, self._cut)
        # Batch systems send it to all processes of a job ahead of its end; it is for the pilot.
        self._loop.add_signal_handler(signal.SIGUSR1, _pass_over)
        self._loop.add_reader(self._socket, self.hear)
        self.say({"ready": True})
        while (body := await self._inbox.get()) and not self.cut:
            await self._work_one(work, body)
        if work.cleanup_env is not None:
            await work.cleanup_env()

    async def _work_one(self, work: Work, body: bytes) -> None:
        self._count += 1
        os.pwrite(self._taken, self._count.to_bytes(COUNT_BYTES, "big"), 0)
        message = decode(body)
        self._offset = message["now"] - time.time()
        lease = RemoteLease(self.say, self._loop, message.get("progress"))
        _tell_commands(message.get("progress"))
        token: Token = Token(message["token"], lease=lease)
        token.allocation = heard_allocation(message.get("allocation"))
        self._executor = Executor(work, NoLease(), ExecutorOptions(cleanup_time=message["grace"]))
        meter = Meter()
        with in_force(token.allocation):
            verdict = await self._executor.run(token)
        self._executor = None
        lease.end()
        _flush()  # what it printed must not wait for the end of this process, or be lost in the crash of another token
        self.say({**told(verdict, token.document), "usage": told_usage(meter.usage())})

    def _cut(self) -> None:
        self.cut = True
        if self._executor is not None:
            self._executor.cancel()
        self._inbox.put_nowait(b"")


class Meter:
    """What this process takes, with the children that it has waited for, from now on."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._cpu = _cpu_seconds()
        self._children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        _memory.set_back()

    def usage(self) -> Usage:
        """What it was so far."""
        return Usage(
            cpu_seconds=_cpu_seconds() - self._cpu, peak_memory=self._peak(), seconds=time.monotonic() - self._began
        )

    def _peak(self) -> int | None:
        own = _memory.peak()
        # The most that one child ever took; a program begins with the peak of whoever starts it.
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        return max(own or 0, children * 1024 if children > self._children else 0) or None


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


class _Memory:
    """What the kernel tells of the memory of this process. The files stay open: to open them takes longer than to read.

    They are those of the process that opened them, so a fork does not see its own.
    """

    def __init__(self) -> None:
        self._set_back = self._status = -1

    def open(self) -> None:
        """Begin; not at the import, since others import this module too."""
        with suppress(OSError):  # an old system, or another one
            self._status = os.open("/proc/self/status", os.O_RDONLY)
            self._set_back = os.open("/proc/self/clear_refs", os.O_WRONLY)

    def set_back(self) -> None:
        """Forget the peak so far."""
        if self._set_back >= 0:
            with suppress(OSError):  # an old system: the peak is then that of all tokens so far
                os.write(self._set_back, b"5")

    def peak(self) -> int | None:
        """Bytes that this process had at the most since then; None where it is not told."""
        if self._status < 0:
            return None
        try:
            status = os.pread(self._status, _STATUS_BYTES, 0)
        except OSError:
            return None
        _, found, rest = status.partition(b"VmHWM:")
        return int(rest.split(None, 1)[0]) * 1024 if found else None


_memory = _Memory()


class NoLease:
    """A keeper that keeps nothing: the lease is the pilot's, which ends this process when it is lost."""

    held = 1

    def begin(self, token: Token, on_lost: Callable[[], None]) -> bool:
        """Hold on."""
        del token, on_lost
        return True

    def stop_beating(self, token: Token) -> None:
        """Do nothing."""

    async def wait_until_written(self) -> None:
        """Wait for nothing."""


class LeftBehind:
    """What stands in an actor for what stayed with the pilot."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        raise RuntimeError(f"the {self._name} stays with the pilot, and this token runs in a process of its own")


class _Receiver(pickle.Unpickler):
    def __init__(self, file: IO[bytes], store_time: Callable[[], float]) -> None:
        super().__init__(file)
        self._store_time = store_time

    @override
    def persistent_load(self, pid: Any) -> Any:
        return self._store_time if pid == "clock" else LeftBehind(pid)


def _rebuilt(modules: bytes, work: bytes, store_time: Callable[[], float]) -> Callable[[], Work]:
    """What makes the work, with the modules imported that it needs."""
    current = cast("Any", process.current_process())
    current._inheriting = True  # noqa: SLF001 - as multiprocessing does, so that a main module starts no processes now
    try:
        spawn.prepare(pickle.loads(modules))  # noqa: S301 - from our pilot
        return cast("Callable[[], Work]", _Receiver(io.BytesIO(work), store_time).load())
    finally:
        del current._inheriting  # noqa: SLF001 - as above


def _frame(pilot: IO[bytes]) -> bytes | None:
    """The next frame; None where the pilot is gone."""
    try:
        header = pilot.read(HEADER_BYTES)
        size = int.from_bytes(header, "big")
        body = pilot.read(size)
    except ConnectionResetError:  # it was killed before it had read all that we said
        return None
    return body if len(header) == HEADER_BYTES and len(body) == size else None


def _pass_over() -> None:
    """Do nothing. What the work starts has the default action again, which an ignored signal would not."""


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or put out of the way by the work
            stream.flush()


def _tell_commands(path: str | None) -> None:
    """Have all that the work starts find where progress is told, however it starts it."""
    if path is None:
        os.environ.pop(PROGRESS, None)
    else:
        os.environ[PROGRESS] = path


def _be_the_first_to_go() -> None:
    path = Path("/proc/self/oom_score_adj")
    with suppress(OSError, ValueError):  # not Linux
        path.write_text(str(min(1000, int(path.read_text()) + KILL_ME_FIRST)))


def _where(error: BaseException) -> str:
    """The place that an exception comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
