"""A process that runs, and the group that it leads: followed, and ended with all that it has started.

Rules:
- What leaves the session on purpose (a daemon that calls setsid) is known by its mark, and ended too: supervision.py.
- Whatever ends the wait for it, the way out is the same: TERM to the group if its leader still runs, KILL after the
  grace period, and the proof that nobody is left.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from signal import SIGCONT, SIGKILL, SIGTERM, Signals
from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from apicas._runtime.processes import groups
from apicas._runtime.processes.attempt import Attempt, MemoryLimit
from apicas._runtime.processes.children import Child
from apicas._runtime.processes.readers import running_readers
from apicas.exceptions import TokenMemoryError

if TYPE_CHECKING:
    from apicas._runtime.processes.attempt import Attempt
    from apicas._runtime.processes.supervision import Supervision

log = logging.getLogger("apicas")

UNKNOWN: Final = 255
"""The exit code of a process whose own was taken by somebody else: SIGCHLD is ignored, or other code waits for all."""
SIGNAL_BASE: Final = 128
"""What shells add to a signal's number to make an exit code of it."""

STRAGGLER_TIME: Final = 0.25
"""Seconds for those that hold the pipes when the leader has ended, as the `tee` of a script does for a moment."""
KILL_TIME: Final = 5.0
"""Seconds until a group that had its KILL is given up. One that hangs in the kernel, on a dead file server for
instance, ends when that call does, and not before."""
MIN_PAUSE: Final = 0.001
MAX_PAUSE: Final = 0.05
"""Seconds between two looks where the kernel sends no word: the first ones are close, most commands are short."""
_MAXRSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024

_left_behind: list[Child] = []


class Ended(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How a process ended.

    Args:
        exit_code: its own; 128 + n where signal n ended it, as in a shell; 255 where it cannot be known.
        signal: the number of the signal that ended it, else None.
        seconds: from its start to its end.
        cpu_seconds: user and system time on all cores, with that of its children which it has waited for; None where it
            cannot be known.
        peak_memory: bytes, as far as is known; None where nothing is.
        out_of_memory: whether it was killed, and the kernel has just killed somebody for want of memory.
    """

    exit_code: int
    signal: int | None
    seconds: float
    cpu_seconds: float | None
    peak_memory: int | None
    out_of_memory: bool


class RunningGroup:
    """A process that leads a group of its own, from its start until nothing of the group is left.

    Args:
        leader: the process.
        attempt: what its processes are known by.
        grace: seconds between TERM and KILL.
        memory: how much memory they may take.
        silence: done when nobody holds the leader's pipes any more; None where it has none.
    """

    def __init__(
        self,
        leader: Child,
        attempt: Attempt,
        *,
        grace: float,
        memory: MemoryLimit,
        silence: asyncio.Future[None] | None = None,
    ) -> None:
        self._leader = leader
        self._attempt = attempt
        self._grace = grace
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._supervision = running_supervision()
        self._heed(memory)
        self._supervision.holds(attempt, leader.pid)
        self._was_stopped = False
        """Whether it was ended by us."""
        self.leaves_nothing = False
        """Whether what it left is not left for later: it did not end by itself, or somebody held its pipes."""
        self.excess: int | None = None
        """Bytes of memory that its token took, where that was too much."""
        self._started = time.monotonic()
        self._ended: float | None = None
        self._status: int | None = None
        self._exit_watch = leader.open_watch()

    # Memory. --------------------------------------------------------------------------------------------------------

    def limit_memory(self, memory: MemoryLimit) -> None:
        """Have it heed another limit from now on, and note anew how much it takes."""
        self._heed(memory)
        self._supervision.look_soon(self._attempt)
        self._attempt.peak = 0

    @property
    def sampled_peak(self) -> int:
        """Bytes of memory that it took, with all that it had started, as far as looks have shown."""
        return self._attempt.peak

    def excess_error(self, name: str) -> TokenMemoryError:
        """What ends a token whose processes took too much memory; only where `excess` is known."""
        taken, limit = _gigabytes(self.excess or 0), _gigabytes(self._attempt.limit or 0)
        return TokenMemoryError(f"{name}: used {taken}, limit {limit}")

    def _heed(self, memory: MemoryLimit) -> None:
        attempt = self._attempt
        attempt.limit = memory.most
        if attempt.limit is not None:
            attempt.group = attempt.number if memory.shared_by is None else memory.shared_by
            attempt.on_excess = partial(_call_soon, self._loop, self._exceed)

    def _exceed(self, taken: int) -> None:
        """End it for the memory that its token takes: at once, since a grace period would let it take more."""
        if self.excess is None and not self.has_ended():
            self.excess = taken
            self.leaves_nothing = self._was_stopped = True
            groups.signal_group(self._leader.pid, SIGKILL)

    # The end of the leader. -----------------------------------------------------------------------------------------

    def has_ended(self) -> bool:
        """Whether the leader has ended. It stays a zombie, so that its id names nobody else."""
        if self._ended is None:
            ended, self._status = self._leader.look()
            if ended:
                self._ended = time.monotonic()
        return self._ended is not None

    def open_end_watch(self) -> int | None:
        """What becomes readable when it ends, to be closed by the caller; None where there is no such thing."""
        return self._leader.open_watch()

    async def wait_until(self, timeout: float | None) -> bool:
        """Return True when the leader has ended, False after so many seconds."""
        if timeout is None:
            await self.wait()
            return True
        with anyio.move_on_after(timeout) as timer:
            await self.wait()
        return not timer.cancelled_caught

    async def wait(self) -> None:
        """Return when the leader has ended."""
        if self._exit_watch is not None and self._ended is None:
            await self._word_of_its_end(self._exit_watch)
        pause = MIN_PAUSE
        while not self.has_ended():
            await anyio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE)

    async def _word_of_its_end(self, descriptor: int) -> None:
        ended: asyncio.Future[None] = self._loop.create_future()
        readers = running_readers()
        readers.add(descriptor, partial(resolve, ended))
        try:
            await ended
        finally:
            readers.remove(descriptor)

    def how_it_ended(self) -> Ended:
        """How the leader ended; one that does not end counts as killed."""
        self.has_ended()
        status = -SIGKILL if self._ended is None else self._status
        usage = self._leader.usage
        return Ended(
            exit_code=UNKNOWN if status is None else status if status >= 0 else SIGNAL_BASE - status,
            signal=-status if status is not None and status < 0 else None,
            seconds=(self._ended or time.monotonic()) - self._started,
            cpu_seconds=None if usage is None else usage.ru_utime + usage.ru_stime,
            peak_memory=self._peak_memory(),
            out_of_memory=status == -SIGKILL and not self._was_stopped and self._supervision.kernel_kills.lately(),
        )

    def _peak_memory(self) -> int | None:
        """What is known of it. A program begins with the peak of the process that has started it: ours."""
        usage = self._leader.usage
        peak = 0 if usage is None or _ours.reaches(usage.ru_maxrss) else usage.ru_maxrss
        return max(peak * _MAXRSS_UNIT, self._attempt.peak) or None

    # The end of the group. ------------------------------------------------------------------------------------------

    async def end(self) -> None:
        """End what is still there of the group, and return when it is gone, or after KILL_TIME.

        Not to be cut short by a cancel scope. A bare `Task.cancel()` shortens the grace period.
        """
        if self._is_silent and self.has_ended() and not self.leaves_nothing:  # as most have
            await self._kill()
            self._supervision.forget(self._attempt)
            return
        with anyio.CancelScope(shield=True):
            try:
                if self.has_ended():
                    await self._fall_silent()
                else:
                    await self._stop()
            finally:
                try:
                    await self._kill()
                finally:
                    if self.leaves_nothing:
                        await self._clear()

    def close(self) -> None:
        """Let go of it, and of what tells its end."""
        self._supervision.let_go(self._attempt)
        self._supervision.forget(self._attempt)
        if self._exit_watch is not None:
            os.close(self._exit_watch)
            self._exit_watch = None
        if not self._leader.reaped:
            log.warning("process %d was killed and does not end", self._leader.pid)
            _left_behind.append(self._leader)

    @property
    def _is_silent(self) -> bool:
        return self._silence is None or self._silence.done()

    async def _fall_silent(self) -> None:
        if self._silence is not None and not self._silence.done():
            with anyio.move_on_after(STRAGGLER_TIME):
                await asyncio.wait([self._silence])
                return
            self.leaves_nothing = True

    async def _stop(self) -> None:
        self.leaves_nothing = self._was_stopped = True
        groups.signal_group(self._leader.pid, SIGTERM)
        groups.signal_group(self._leader.pid, SIGCONT)  # a stopped process takes TERM only when it goes on
        with anyio.move_on_after(self._grace):
            await self.wait()
            pause = MIN_PAUSE
            while groups.living.has(self._leader.pid, self._started):
                await anyio.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE)

    async def _kill(self) -> None:
        groups.signal_group(self._leader.pid, SIGKILL)
        self._supervision.let_go(self._attempt)
        killed = time.monotonic()
        if not self._is_gone(killed):
            with anyio.CancelScope(shield=True):
                await self._be_gone(killed)

    async def _be_gone(self, killed: float) -> None:
        """Return when the leader has been reaped and no other member of the group lives, or after KILL_TIME.

        What had its KILL is gone in a moment. A cancellation in that moment is kept for afterwards: it would leave a
        zombie, and gain nothing.
        """
        kept: asyncio.CancelledError | None = None
        pause = MIN_PAUSE
        while not self._is_gone(killed) and time.monotonic() < killed + KILL_TIME:
            try:
                await anyio.sleep(pause)
            except asyncio.CancelledError as error:
                kept = error
            pause = min(2 * pause, MAX_PAUSE)
        if kept is not None:
            raise kept

    def _is_gone(self, killed: float) -> bool:
        if not self.has_ended():
            return False
        self._leader.reap()
        return groups.is_gone(self._leader.pid, killed)

    async def _clear(self) -> None:
        """Return when nothing is left of it in other sessions either. A cancellation is kept for afterwards."""
        kept: asyncio.CancelledError | None = None
        cleared = self._supervision.cleared(self._attempt)
        while not cleared.done():
            try:
                await asyncio.wait([cleared])
            except asyncio.CancelledError as error:
                kept = error
        if kept is not None:
            raise kept


class _OwnPeak:
    """The most memory that this process has ever had; the system is asked only when that may matter."""

    def __init__(self) -> None:
        self._known = 0

    def reaches(self, size: int) -> bool:
        """Whether we had as much, in the unit of ru_maxrss."""
        if size > self._known:
            self._known = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size <= self._known


_ours: Final = _OwnPeak()


def running_supervision() -> Supervision:
    """What looks after the processes that this one starts."""
    from apicas._runtime.processes.supervision import supervision  # noqa: PLC0415 - most pilots start no process

    return supervision()


async def leave_nothing() -> None:
    """Return when nothing is left of all commands and worker processes that have ended."""
    watch = sys.modules.get("apicas._runtime.processes.supervision")
    if watch is not None and watch.has_begun():  # else nothing was started, and nothing is to be begun for it
        await running_supervision().cleared()


def reap_left_behind() -> None:
    """Reap those that were given up, as far as they have ended since."""
    if _left_behind:
        _left_behind[:] = [child for child in _left_behind if not child.reap()]


def signal_name(number: int) -> str:
    """A signal in a message."""
    with suppress(ValueError):
        return Signals(number).name
    return f"signal {number}"


def resolve(future: asyncio.Future[None]) -> None:
    """Have a future be done, if it is not."""
    if not future.done():
        future.set_result(None)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[int], None], number: int) -> None:
    """Call a function of a loop, from another thread."""
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(call, number)
