"""Discrete events in virtual time: a heap of callbacks, and processes written as generators.

A process yields seconds to sleep, the wait for a `Signal`, or a function that is given what to call with the answer.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator
from itertools import count
from typing import Any, Protocol, TypeAlias

Callback: TypeAlias = Callable[..., object]
Process: TypeAlias = Generator[Any, Any, Any]


class Clock(Protocol):
    """What the model of a server asks of time: the engine has it, and an event loop in virtual time."""

    def time(self) -> float:
        """Seconds."""
        ...

    def call_at(self, when: float, callback: Callback, *arguments: Any) -> object:
        """Call a function at that time."""
        ...


class Signal:
    """What a process waits for. Kept if nobody waits: the next wait ends at once."""

    __slots__ = ("_engine", "_is_set", "_turn", "_waiter")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiter: Process | None = None
        self._is_set = False
        self._turn = 0

    def set(self) -> None:
        """Wake whoever waits."""
        self._is_set = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._turn += 1
            self._is_set = False
            self._engine.call_at(self._engine.now, self._engine.step, waiter, True)

    def wait(self, seconds: float | None = None) -> Wait:
        """Wait, at most so long; the answer says whether it was set."""

        def ask(waiter: Process) -> None:
            if self._is_set:
                self._is_set = False
                self._engine.call_at(self._engine.now, self._engine.step, waiter, True)
                return
            self._waiter = waiter
            self._turn += 1
            if seconds is not None:
                self._engine.call_at(self._engine.now + seconds, self._time_out, self._turn, waiter)

        return Wait(ask)

    def _time_out(self, turn: int, waiter: Process) -> None:
        if turn == self._turn and self._waiter is waiter:
            self._waiter = None
            self._engine.step(waiter, False)


class Wait:
    """A wait, which needs the process itself and not a function to call."""

    __slots__ = ("ask",)

    def __init__(self, ask: Callable[[Process], None]) -> None:
        self.ask = ask


class Engine:
    """The clock, and what is to happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callback, tuple[Any, ...]]] = []
        self._order = count()

    def time(self) -> float:
        """Seconds since the start."""
        return self.now

    def call_at(self, when: float, callback: Callback, *arguments: Any) -> None:
        """Call a function at that time, after what was asked for earlier."""
        heapq.heappush(self._heap, (when, next(self._order), callback, arguments))

    def start(self, process: Process, at: float = 0.0) -> None:
        """Run a process from that time on."""
        self.call_at(max(at, self.now), self.step, process, None)

    def step(self, process: Process, answer: Any = None) -> None:
        """Let a process go on until it waits."""
        try:
            asked = process.send(answer)
        except StopIteration:
            return
        if isinstance(asked, float):
            self.call_at(self.now + asked, self.step, process, None)
        elif isinstance(asked, Wait):
            asked.ask(process)
        else:
            asked(lambda answer=None: self.step(process, answer))

    def run(self, until: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Let things happen until a time, until nothing is left, or until `stop` says so (asked after each)."""
        heap = self._heap
        while heap and heap[0][0] <= until and not stop():
            self.now, _, callback, arguments = heapq.heappop(heap)
            callback(*arguments)
        if not stop():
            self.now = max(self.now, until)
