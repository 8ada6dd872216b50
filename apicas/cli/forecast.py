"""How much is left, and how long that takes: arithmetic on what a pilot reports and the pool counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from apicas._runtime.reports import Report

_LEAST_SPAN: Final = 1.0
"""Seconds over which a rate is measured, at least."""
_WEIGHT: Final = 0.3
"""Of the latest rate against those before: a display that jumps tells nothing."""


@dataclass(slots=True)
class Forecast:
    """What is known of the rest of a run."""

    waiting: int | None = None
    """Tokens to be claimed, at the last count."""
    own_rate: float = 0.0
    """Tokens that this pilot ends per second, lately."""
    pool_rate: float = 0.0
    """By how much the waiting ones became fewer per second between two counts: other pilots work too."""
    _noted: Report = field(default_factory=Report)
    _counted: Report = field(default_factory=Report)

    def note(self, report: Report) -> None:
        """Take in a report of the pilot."""
        span = report.seconds - self._noted.seconds
        if span < _LEAST_SPAN:
            return
        latest = (report.ended - self._noted.ended) / span
        self.own_rate = latest if not self._noted.seconds else _WEIGHT * latest + (1 - _WEIGHT) * self.own_rate
        self._noted = report

    def count(self, waiting: int, report: Report) -> None:
        """Take in a count of the waiting tokens, and what the pilot had reported by then."""
        span = report.seconds - self._counted.seconds
        if self.waiting is not None and span >= _LEAST_SPAN:
            self.pool_rate = max(0.0, (self.waiting - waiting) / span)
        self.waiting = waiting
        self._counted = report

    def left(self, report: Report) -> int | None:
        """Tokens still to be ended: those that run here, and those that wait; None before the first count."""
        if self.waiting is None:
            return None
        begun_since = (report.ended + report.running) - (self._counted.ended + self._counted.running)
        return max(self.waiting - max(begun_since, 0), 0) + report.running

    def seconds(self, report: Report) -> float | None:
        """Seconds until nothing is left; None while that cannot be known."""
        left = self.left(report)
        rate = max(self.own_rate, self.pool_rate)
        return left / rate if left is not None and rate > 0 else None
