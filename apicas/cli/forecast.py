"""How much is left, and how long that takes: arithmetic on what a pilot reports and the pool counts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from apicas._runtime.reports import Report

_LEAST_SPAN: Final = 1.0
"""Seconds over which a rate is measured, at least."""
_WINDOW: Final = 60.0
"""Seconds over which it is measured where there are as many: workers that began together end together, in bursts."""

_FEWEST: Final = 10
"""Tokens by which it is measured, at least: of work that takes hours none ends in most minutes."""


@dataclass(slots=True)
class Rate:
    """By how much a number grew per second, lately."""

    value: float = 0.0
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, seconds: float, number: int) -> None:
        """Take in the number at a time."""
        if not self._seen or (number != self._seen[-1][1] and seconds - self._seen[-1][0] >= _LEAST_SPAN):
            self._seen.append((seconds, number))
        while len(self._seen) > 2 and self._is_enough(*self._seen[1], seconds, number):
            self._seen.popleft()
        begin, first = self._seen[0]
        if seconds - begin >= _LEAST_SPAN:
            self.value = max(0.0, (number - first) / (seconds - begin))

    @staticmethod
    def _is_enough(begin: float, first: int, seconds: float, number: int) -> bool:
        """Whether what came since then makes a rate: also where each token takes hours."""
        return seconds - begin >= _WINDOW and abs(number - first) >= _FEWEST


@dataclass(slots=True)
class Forecast:
    """What is known of the rest of a run."""

    waiting: int | None = None
    """Tokens to be claimed, at the last count."""
    _own: Rate = field(default_factory=Rate)
    _pool: Rate = field(default_factory=Rate)
    _counted: Report = field(default_factory=Report)

    def __post_init__(self) -> None:
        self._own.note(0.0, 0)

    @property
    def own_rate(self) -> float:
        """Tokens that this pilot ends per second, lately."""
        return self._own.value

    @property
    def pool_rate(self) -> float:
        """By how much those that wait or are held here became fewer per second between counts: others work, too."""
        return self._pool.value

    def note(self, report: Report) -> None:
        """Take in a report of the pilot."""
        self._own.note(report.seconds, report.ended)

    def count(self, waiting: int, report: Report) -> None:
        """Take in a count of the waiting tokens, and what the pilot had reported by then."""
        self._pool.note(report.seconds, -(waiting + _held(report)))
        self.waiting = waiting
        self._counted = report

    def left(self, report: Report) -> int | None:
        """Tokens still to be ended: those that are held here, and those that wait; None before the first count."""
        if self.waiting is None:
            return None
        begun_since = (report.ended + _held(report)) - (self._counted.ended + _held(self._counted))
        return max(self.waiting - max(begun_since, 0), 0) + _held(report)

    def seconds(self, report: Report) -> float | None:
        """Seconds until nothing is left; None while that cannot be known."""
        left = self.left(report)
        rate = max(self.own_rate, self.pool_rate)
        return left / rate if left is not None and rate > 0 else None


def _held(report: Report) -> int:
    """Tokens that the pilot has claimed and not ended: those that run, and those in stock."""
    return max(report.running, report.held)
