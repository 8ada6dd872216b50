"""Supervision: what this process has started, who of it has left its session, and how much memory it takes.

Rules:
- All that is needed for it comes with the first attempt: the supervisor, one thread, and the end of what dead pilots
  have left on this node.
- An attempt is known before its process exists, until nothing of it is to be left. A process with the mark of an
  attempt that is not known any more was left behind, and is killed.
- Looking at all processes takes long where there are many. So nobody who starts or ends a process waits for a look,
  unless the process was ended by force: then there is one for all who wait for one at that time.
- How often the thread looks without being asked depends on how long it takes.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import logging
import math
import os
import secrets
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from apicas._runtime.environment import boot_id
from apicas._runtime.processes import memory
from apicas._runtime.processes.attempt import Attempt
from apicas._runtime.processes.marks import (
    Look,
    Mark,
    carrying,
    end_all,
    inherited,
    left_by_the_dead,
    orphaned,
    own_job,
    start_of,
    together,
)
from apicas._runtime.processes.supervisor import SessionTable, Supervisor

log = logging.getLogger("apicas")

INTERVAL: Final = 2.0
"""Seconds at least between two looks, for what attempts have left that ended by themselves, and how much memory is
taken."""
SHARE: Final = 0.005
"""How much of one core these looks may take, at most: where there are many processes they are rarer."""
SELDOM: Final = 10
"""How many times as long worker processes wait: there are many, and the pilot above them looks too."""
LIMIT_INTERVAL: Final = 0.25
LIMIT_SHARE: Final = 0.05
"""The same where an attempt has a limit of memory."""
END_LIMIT: Final = 5.0
"""Seconds after KILL until those that do not die, because they hang in the kernel, are given up for now."""
ORPHAN_GRACE: Final = 5.0
"""Seconds between TERM and KILL for what a dead pilot has left."""
_EXISTS: Final = sys.platform == "linux" and os.path.isdir("/proc/self/fd")  # noqa: PTH112 - once, at the start


class Supervision:
    """Of this process."""

    kernel_kills: Final = memory.kills
    """Those of others, for want of memory."""

    def __init__(self) -> None:
        own = os.getpid()
        self._mark = Mark(boot_id(), own, start_of(own) or 0, secrets.token_hex(8), own_job(), 0)
        self._value = together(inherited(boot_id()), self._mark)[:-1]
        """Of the variable, up to the number of an attempt."""
        self._numbers = itertools.count(1)
        self._known: dict[int, Attempt] = {}
        self._table = SessionTable()
        self._supervisor: Supervisor | None = None
        self._is_below = False
        self._has_left = False
        """Whether an attempt has ended since the last look."""
        self._is_looking = False
        self._sampler = memory.Sampler(self._mark.pilot)
        self._waiting: deque[Callable[[], None]] = deque()
        """Never another object: who appends may be held up between reading this name and appending."""
        self._is_asleep = self._is_slow = False
        """Whether the thread waits for a word, and for nothing else; and whether it waits for long."""
        self._wakes, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        os.set_blocking(self._wakes, False)

    def start(self, *, supervised: bool) -> None:
        """Begin.

        Args:
            supervised: whether there is a supervisor above us already, and none is needed.
        """
        self._is_below = supervised
        if not supervised:
            self._start_supervisor()
            threading.Thread(target=self._end_orphans, name="apicas-orphans", daemon=True).start()
        threading.Thread(target=self._watch, name="apicas-watch", daemon=True).start()

    @property
    def supervisor_pid(self) -> int | None:
        """The process id of the supervisor; None where there is none."""
        return None if self._supervisor is None else self._supervisor.pid

    # What is asked of it, from any thread. ----------------------------------------------------------------------------

    def attempt(self) -> Attempt:
        """A new attempt, whose process is to be started now."""
        number = next(self._numbers)
        attempt = Attempt(number, f"{self._value}{number}")
        self._known[number] = attempt
        return attempt

    def holds(self, attempt: Attempt, session: int) -> None:
        """Note the session that the process of an attempt leads."""
        attempt.session = session
        attempt.place = self._table.add(session)
        self.look_soon(attempt)

    def look_soon(self, attempt: Attempt) -> None:
        """Have the thread look at an attempt that is new to it, or has a new limit."""
        if self._is_asleep or (attempt.limit is not None and self._is_slow):
            self._wake()

    def let_go(self, attempt: Attempt) -> None:
        """Note that the process of an attempt has had its KILL, and may be reaped."""
        place, attempt.place, attempt.session = attempt.place, None, 0
        self._table.remove(place)

    def forget(self, attempt: Attempt) -> None:
        """Note that nothing of an attempt is to be left. What is, is ended soon."""
        if self._known.pop(attempt.number, None) is not None:
            self._has_left = True
            if self._is_asleep:
                self._wake()

    def cleared(self, attempt: Attempt | None = None) -> asyncio.Future[None]:
        """Done when nothing is left of an attempt, and of all others that have ended.

        What does not die of a KILL is given up after END_LIMIT.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if attempt is not None:
            self.forget(attempt)
        if self._has_left or self._is_looking:
            self._waiting.append(partial(_tell, loop, future))
            self._wake()
        else:
            future.set_result(None)
        return future

    # The thread. ------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        looked, cost = time.monotonic(), 0.0
        while True:
            try:
                due = looked + self._pause_after(cost)
                if self._waiting:
                    self._sweep()
                elif self._is_busy and time.monotonic() >= due:
                    cost = _cost(self._look_around)
                    looked = time.monotonic()
                else:
                    self._wait_until(due)
            except Exception:  # the next look may succeed: descriptors may have run out
                log.exception("a look at what was started has failed")
                self._has_left = True
                time.sleep(1.0)

    @property
    def _is_busy(self) -> bool:
        """Whether there is something to look at."""
        return self._has_left or bool(self._known)

    def _pause_after(self, cost: float) -> float:
        """Seconds until the next look, after one that took so many of a core."""
        if any(attempt.limit is not None for attempt in list(self._known.values())):
            return max(LIMIT_INTERVAL, cost / LIMIT_SHARE)
        return max(INTERVAL, cost / SHARE) * (SELDOM if self._is_below else 1)

    def _wait_until(self, due: float) -> None:
        """Wait for a word, or until it is time to look, if there is something to look at."""
        poll = select.poll()
        poll.register(self._wakes, select.POLLIN)
        watch = None if self._supervisor is None else self._supervisor.watch
        if watch is not None:
            poll.register(watch, select.POLLIN)
        self._is_asleep = self._is_slow = True  # from here on whoever changes what is read next has to wake us
        left = 0.0 if self._waiting else max(due - time.monotonic(), 0.0) if self._is_busy else math.inf
        self._is_asleep, self._is_slow = left == math.inf, left > LIMIT_INTERVAL
        ready = poll.poll(None if left == math.inf else math.ceil(left * 1000))
        self._is_asleep = self._is_slow = False
        with suppress(BlockingIOError):
            os.read(self._wakes, 4096)
        if any(descriptor == watch for descriptor, _ in ready) or watch is None:
            self._replace_supervisor()

    def _wake(self) -> None:
        self._is_asleep = self._is_slow = False
        with suppress(BlockingIOError):
            os.write(self._waker, b"!")

    def _look_around(self) -> None:
        """Look at the memory of attempts, and whether one that has ended has left something; end that."""
        self._is_looking, self._has_left = True, False
        try:
            processes = self._sampler.sample(list(self._known.values()))
            if any(self._was_left(mark) for process in processes for mark in process.marks):
                self._sweep()
        finally:
            self._is_looking = False

    def _sweep(self) -> None:
        """Kill what attempts have left that are not known any more."""
        waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        self._is_looking, self._has_left = True, False
        look = Look()
        try:
            end_all(lambda: carrying(look.take(), self._was_left), grace=0.0, limit=END_LIMIT)
        finally:
            self._is_looking = False
            for tell in waiting:
                tell()

    def _was_left(self, mark: Mark) -> bool:
        return mark.pilot == self._mark.pilot and mark.attempt not in self._known and mark.attempt > 0

    def _end_orphans(self) -> None:
        """End what dead pilots of the same user have left on this node."""
        look, is_orphaned = Look(), orphaned(self._mark.boot)
        try:
            found = end_all(
                lambda: left_by_the_dead(look.take(), is_orphaned, self._mark.boot),
                grace=ORPHAN_GRACE,
                limit=END_LIMIT,
            )
        except OSError:
            log.warning("what dead pilots have left on this node could not be looked for", exc_info=True)
        else:
            if found:
                log.warning("ended %d processes that dead pilots had left on this node", len(found))

    # The supervisor. --------------------------------------------------------------------------------------------------

    def _start_supervisor(self) -> None:
        try:
            self._supervisor = Supervisor(self._mark, self._table)
        except OSError as error:
            log.warning("no supervisor could be started: %s; if this process is killed, its commands go on", error)

    def _replace_supervisor(self) -> None:
        supervisor = self._supervisor
        if supervisor is not None and supervisor.has_ended():
            log.warning("the supervisor (process %d) was ended from outside: another one is started", supervisor.pid)
            supervisor.leave()
            self._supervisor = None
            self._start_supervisor()

    def leave(self) -> None:
        """Let the supervisor end, at the end of this process; what may be left is for it to look for."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            (supervisor.leave if self._known or self._has_left else supervisor.dismiss)()

    def forget_all(self) -> None:
        """In a forked process: nothing of all this is ours."""
        if self._supervisor is not None:
            self._supervisor.leave()


class Unsupervised(Supervision):
    """Where the system tells nothing about processes: a group is all that can be ended."""

    def __init__(self) -> None:
        self._supervisor = None

    def attempt(self) -> Attempt:
        """One without a mark."""
        return Attempt()

    def holds(self, attempt: Attempt, session: int) -> None:
        """Do nothing."""

    def look_soon(self, attempt: Attempt) -> None:
        """Do nothing."""

    def let_go(self, attempt: Attempt) -> None:
        """Do nothing."""

    def forget(self, attempt: Attempt) -> None:
        """Do nothing."""

    def cleared(self, attempt: Attempt | None = None) -> asyncio.Future[None]:
        """Done at once."""
        del attempt
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future


_lock = threading.Lock()
_current: Supervision | None = None
_is_below = False


def supervision() -> Supervision:
    """That of this process; it begins with the first call."""
    if _current is not None:
        return _current
    return _begin()


def has_begun() -> bool:
    """Whether this process has begun to look after any."""
    return _current is not None


def be_supervised() -> None:
    """Say that a supervisor of another process looks after this one, and all that it starts."""
    global _is_below  # noqa: PLW0603 - it is the process that is meant
    _is_below = True


def _begin() -> Supervision:
    global _current  # noqa: PLW0603 - there is one for the process
    with _lock:
        if _current is None:
            begun = Supervision() if _EXISTS else Unsupervised()
            if _EXISTS:
                begun.start(supervised=_is_below)
                atexit.register(begun.leave)
            _current = begun
    return _current


def _forget() -> None:
    global _current, _lock  # noqa: PLW0603 - this is another process now
    _lock = threading.Lock()
    if _current is not None:
        atexit.unregister(_current.leave)
        _current.forget_all()
        _current = None


os.register_at_fork(after_in_child=_forget)


def _cost(look: Callable[[], object]) -> float:
    """Seconds of a core that a look takes."""
    begun = time.thread_time()
    look()
    return time.thread_time() - begun


def _tell(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    with suppress(RuntimeError):  # its loop is closed
        loop.call_soon_threadsafe(_resolve, future)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
