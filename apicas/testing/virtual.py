"""Virtual time: an asyncio loop whose clock jumps to the next timer, so that an hour passes in milliseconds.

    def test_a_lease_outlives_its_work() -> None:
        async def main() -> None:
            ...
            await anyio.sleep(3600)

        run_virtual(main)

The clock stands still while a thread works, one of asyncio's or anyio's pools or any other that was started since: it
jumps only when nothing can happen before the next timer. Sockets and processes are beyond what it can see.

A `Group` is what runs as one process of its own would: it can be stopped and woken, and the rest of the loop goes on.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, TypeVar

from typing_extensions import TypeVarTuple, Unpack, override

from apicas._runtime.environment import Environment
from apicas.modifiers import Owner

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH = 1_800_000_000.0
"""The virtual unix time at which every virtual loop starts."""
PATIENCE = 60.0
"""Real seconds that the loop waits for a thread before it says that this one does not end."""
_LOOK = 0.02
"""Real seconds between two looks at whether a thread still works."""


class Deadlock(AssertionError):  # noqa: N818 - it names what happened
    """Nothing is ready, no timer is set: the code under test would wait for ever."""


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing but threads: it moves the clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.executors: list[Any] = []
        self._known = set(threading.enumerate())
        self._looks = 0

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._looks += 1
        if timeout == 0:  # callbacks are ready: a look now and then does
            return [] if self._looks % 64 else super().select(0)
        if self._has_threads() and self._working() and (ready := self._wait()):
            return ready
        # Only now: a thread that told the loop something may have ended before it was seen to work.
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Deadlock("nothing is ready and no timer is set: this would wait for ever")
        self.now += timeout
        return []

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        deadline = time.monotonic() + PATIENCE
        while True:
            # In short: a thread that has told the loop already may still be about to end, and wakes nobody by that.
            ready: list[tuple[selectors.SelectorKey, int]] = super().select(_LOOK)
            working = [] if ready else self._working()
            if not working:
                return ready
            if time.monotonic() >= deadline:
                names = ", ".join(thread.name for thread in working)
                raise Deadlock(f"threads have worked for {PATIENCE:g} s while virtual time stood still: {names}")

    def _has_threads(self) -> bool:
        """Whether one was started since the loop was made; a count does not tell, since an older one may have ended."""
        return any(thread not in self._known for thread in threading.enumerate())

    def _working(self) -> list[threading.Thread]:
        """The threads that were started since the loop was made, and may yet have something to tell it."""
        idle = {
            thread
            for executor in self.executors
            if not executor.pending
            for thread in getattr(executor.executor, "_threads", ())
        }
        return [
            thread
            for thread in threading.enumerate()
            # A worker of anyio's is put among the idle ones by the loop, after its result has arrived there.
            if thread not in self._known and thread not in idle and thread not in getattr(thread, "idle_workers", ())
        ]


class _Executor:
    """A thread pool, and how many calls it has yet to answer."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        self.pending = 0

    def answered(self, _future: Any) -> None:
        """One call less."""
        self.pending -= 1


class Group:
    """What runs as one process of its own: everything that was started in it, and whatever that starts.

    While it is paused none of its callbacks runs, as in a process that was sent SIGSTOP: its timers are due when it
    wakes, and the answers to what it had asked are waiting.

    Args:
        loop: the virtual loop.
        name: for people.
    """

    def __init__(self, loop: VirtualTimeLoop, name: str) -> None:
        self._loop = loop
        self.name = name
        self.paused = False
        self._parked: list[_Gated] = []
        self._context = copy_context()
        self._context.run(_group.set, self)
        loop.has_groups = True

    def __repr__(self) -> str:
        return f"<Group {self.name}>"

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine in this group."""
        return self._loop.create_task(coroutine, name=self.name, context=self._context.copy())

    def call(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Call a function in this group soon: as a signal handler would be, once it is awake."""
        self._loop.call_soon(callback, *arguments, context=self._context.copy())

    def pause(self) -> None:
        """Stop, between two callbacks."""
        self.paused = True

    def resume(self) -> None:
        """Wake up: what came due meanwhile runs now, in the order in which it came due."""
        self.paused = False
        parked, self._parked = self._parked, []
        for gated in parked:
            self._loop.release(gated)

    def park(self, gated: _Gated) -> None:
        """Keep a callback that came due while paused."""
        self._parked.append(gated)


_group: ContextVar[Group | None] = ContextVar("apicas_virtual_group", default=None)


def current_group() -> Group | None:
    """The group that the running code belongs to; None outside of all groups."""
    return _group.get()


class _Gated:
    """A callback of a group, held back while the group is paused."""

    __slots__ = ("arguments", "callback", "context", "group", "handle")

    def __init__(
        self, group: Group, callback: Callable[..., Any], arguments: tuple[Any, ...], context: Context
    ) -> None:
        self.group = group
        self.callback = callback
        self.arguments = arguments
        self.context = context
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        if self.group.paused:
            self.group.park(self)
            return
        self.handle = None  # no cycle is left for the collector
        self.callback(*self.arguments)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, which starts at 0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        self._own_thread = threading.get_ident()
        self.has_groups = False
        super().__init__(self._jumping)

    @override
    def time(self) -> float:
        return self._jumping.now

    @property
    def unix_time(self) -> float:
        """The virtual time in unix seconds."""
        return EPOCH + self._jumping.now

    def group(self, name: str) -> Group:
        """A new group, of which everything can be paused at once."""
        return Group(self, name)

    def release(self, gated: _Gated) -> None:
        """Run what was held back, unless it was cancelled meanwhile."""
        if gated.handle is not None and not gated.handle.cancelled():
            gated.handle = super().call_soon(gated, context=gated.context)

    @override
    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        gated = self._gate(callback, args, context) if self.has_groups else None
        if gated is None:
            return super().call_soon(callback, *args, context=context)
        gated.handle = super().call_soon(gated, context=gated.context)
        return gated.handle

    @override
    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        gated = self._gate(callback, args, context) if self.has_groups else None
        if gated is None:
            return super().call_at(when, callback, *args, context=context)
        handle = super().call_at(when, gated, context=gated.context)
        gated.handle = handle
        return handle

    def _gate(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None) -> _Gated | None:
        if context is None:
            context = copy_context()
        group = context.get(_group)
        return None if group is None else _Gated(group, callback, args, context)

    @override
    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if threading.get_ident() == self._own_thread:
            return self.call_soon(callback, *args, context=context)
        return super().call_soon_threadsafe(callback, *args, context=context)

    @override
    def run_in_executor(self, executor: Any, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        used = executor or self._default_executor  # type: ignore[attr-defined]  # made by the call
        watched = next((one for one in self._jumping.executors if one.executor is used), None)
        if watched is None:
            watched = _Executor(used)
            self._jumping.executors.append(watched)
        watched.pending += 1
        future.add_done_callback(watched.answered)
        return future


def unix_time() -> float:
    """The virtual unix time of the running loop."""
    return virtual_loop().unix_time


def virtual_loop() -> VirtualTimeLoop:
    """The running loop, which is one in virtual time."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop), "not in a virtual loop"
    return loop


def run_virtual(main: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function in virtual time, and return what it returns."""

    async def call() -> T:
        return await main()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(call())


def virtual_environment(
    name: str = "pilot", *, seed: int = 0, gone: Callable[[Any], bool] = lambda _document: False, **owner: Any
) -> Environment:
    """An environment for a pilot in the running virtual loop.

    Args:
        name: the pilot's id, and the name of its node.
        seed: of its dice.
        gone: says of a document whether the process of its claim is known to be gone.
        owner: further fields of Owner.
    """
    ids = Random(f"{name} {seed}")
    return Environment(
        owner=Owner(pilot=name, hostname=f"{name}-node", **owner),
        monotonic=asyncio.get_running_loop().time,
        rng=Random(seed),
        new_id=lambda: f"{ids.getrandbits(64):016x}",
        owner_is_gone=gone,
        threads=False,
    )
