"""The store's clock, read from the `Date` header of its answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from email.utils import parsedate_to_datetime

from apicas.tokens import FIRST_LOCK_TIME


class StoreClock:
    """This process's clock plus what it is off from the store's.

    An answer that was stamped D by the store, asked for at t0 and received at t1, was stamped between the two, and a
    stamp is cut to whole seconds: so the offset lies between D - t1 and D + 1 - t0. What answers have in common narrows
    it down to well below a second; an answer that contradicts (a clock was set) starts again.

    Args:
        now: this process's clock, in unix seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._least = -math.inf
        self._most = math.inf

    def time(self) -> float:
        """Unix seconds by the store's clock; by this process's own until the store has answered."""
        return self.now() + self.offset

    @property
    def offset(self) -> float:
        """By how many seconds the store's clock is ahead."""
        return 0.0 if math.isinf(self._least) else (self._least + self._most) / 2

    def learn(self, date: str | None, sent: float, received: float) -> None:
        """Take in one answer.

        Args:
            date: its `Date` header; what is no date, or one from before there were pools, is ignored.
            sent: when the request left, by this process's clock.
            received: when the answer came.
        """
        stamp = _unix_seconds(date)
        if stamp is None or received < sent:
            return
        least, most = stamp - received, stamp + 1 - sent
        narrowed = max(least, self._least), min(most, self._most)
        self._least, self._most = narrowed if narrowed[0] <= narrowed[1] else (least, most)


def _unix_seconds(date: str | None) -> float | None:
    try:
        stamp = parsedate_to_datetime(date or "").timestamp()
    except (ValueError, OverflowError):
        return None
    return stamp if stamp >= FIRST_LOCK_TIME else None
