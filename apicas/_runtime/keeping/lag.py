"""Watches the pilot's loop from the heartbeat's thread: says who blocks it, and tells the pilot to take it easy.

User code on the loop may block it: `time.sleep`, a loop in pure Python, a file on a slow disk. The heartbeat has its
own thread, so no lease is lost by that, but nothing else goes on meanwhile. A call that holds the GIL stops even the
thread; when that took longer than the lease, leases may be lost, and all one can do is to say why.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import sysconfig
import threading
from collections import deque
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from apicas._runtime.attempts.current import running_token
from apicas._runtime.environment import Environment
from apicas.policies.lag import LAG_LIMIT, LoopLag

log = logging.getLogger("apicas.lag")

TICK: Final = 0.1
"""Seconds between two signs of life of the loop."""
LOOK: Final = 0.25
"""Seconds between two looks at them."""
NOBODY: Final = "something that is no token's work"

_HERE: Final = str(Path(__file__).parents[2])
_LIBRARIES: Final = tuple(
    {_HERE, *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))}
)


@dataclass(slots=True)
class _Block:
    """One time that the loop stood still."""

    since: float
    """Monotonic seconds: when it should have given a sign of life."""
    who: str


class LoopWatch:
    """Watches the loop that it was made in.

    Args:
        environment: clocks.
        lease: seconds.
    """

    def __init__(self, environment: Environment, lease: float) -> None:
        self._environment = environment
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._due = environment.monotonic() + TICK
        self._lag = LoopLag()
        self._said: _Block | None = None
        self._over: deque[tuple[float, float]] = deque(maxlen=100)
        """When each block should have ended, and how long it took: what the loop has to tell the thread."""

    @property
    def lags(self) -> bool:
        """Whether the loop stands still, or did so a moment ago. To be asked on the loop."""
        now = self._environment.monotonic()
        return self._lag.after(now, now - self._due).blocked

    async def tick(self) -> None:
        """Show for ever that the loop lives. Runs there."""
        while True:
            self._note_sign()
            await self._environment.sleep(TICK)

    def finish(self) -> None:
        """Say what is still to be said, when the thread has ended. To be called on the loop."""
        self.look(self._note_sign())

    def _note_sign(self) -> float:
        now = self._environment.monotonic()
        lateness = now - self._due
        self._lag = self._lag.after(now, lateness)
        if lateness > LAG_LIMIT:
            self._over.append((self._due, lateness))
        self._due = now + TICK
        return now

    async def run(self) -> None:
        """Look at the loop for ever. Runs in the heartbeat's thread."""
        while True:
            asked = self._environment.monotonic()
            await self._environment.sleep(LOOK)
            now = self._environment.monotonic()
            self.look(now)
            if now - asked - LOOK > self._lease:
                self._say_stood_still(now - asked - LOOK)

    def look(self, now: float) -> None:
        """Say what there is to say about the loop at `now`, in monotonic seconds."""
        due = self._due
        while self._over:
            since, seconds = self._over.popleft()
            who = self._said.who if self._said is not None and self._said.since == since else NOBODY
            self._said = None
            log.warning("%s blocked the event loop for %.1f s", who, seconds)
        if now - due > LAG_LIMIT and self._said is None:
            self._said = _Block(due, self._who())
            log.warning(
                "%s blocks the event loop%s: leases are kept, but nothing else goes on; a plain `def` runs in a thread",
                self._said.who,
                self._where(),
            )

    def _say_stood_still(self, seconds: float) -> None:
        log.error(
            "the interpreter stood still for %.0f s, longer than the lease of %g s, so leases may be lost. It was "
            "stopped, or a call held the GIL for so long: such work belongs in a process of its own "
            '(executor="process"), or in a command. Running now: %s%s',
            seconds,
            self._lease,
            self._who(),
            self._where(),
        )

    def _who(self) -> str:
        task = asyncio.current_task(self._loop)
        context = _context_of(task) if task is not None else None
        token = context.get(running_token) if context is not None else None
        return NOBODY if token is None else f"token {token.id}"

    def _where(self) -> str:
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001 - documented, for just this
        place = _place(frame) if frame is not None else None
        return f", at {place}" if place is not None else ""


def _context_of(task: asyncio.Task[Any]) -> Context | None:
    """The context of a task: the tasks that the user's code starts inherit the token from the one that works it."""
    if sys.version_info >= (3, 12):
        return task.get_context()
    # Python 3.11 does not tell, but the garbage collector knows what belongs to a task.
    return next((found for found in gc.get_referents(task) if isinstance(found, Context)), None)


def _place(frame: FrameType) -> str | None:
    """The innermost line of the user's own code, else of a library; None where there is neither."""
    found: str | None = None
    inner: FrameType | None = frame
    while inner is not None:
        name = inner.f_code.co_filename
        place = f"{name}:{inner.f_lineno} in {inner.f_code.co_name}"
        if not name.startswith((*_LIBRARIES, "<")):
            return place
        if found is None and not name.startswith((_HERE, "<")):
            found = place
        inner = inner.f_back
    return found
