"""How often a database is written to, from the numbers of its changes: whether a feed with a filter pays.

For each feed the server reads each document that is written, also those that the filter leaves out: some 35
microseconds of its processors per write and feed (CouchDB 3.5). A few idle pilots may well follow. A thousand, beside
others that write hundreds of heartbeats a second, would keep twenty cores busy to learn nothing. So a pilot measures,
and where the pool is busy only some follow, by chance; the others look at intervals, as they do without a feed.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

AFFORDABLE: Final = 20.0
"""Writes a second up to which everybody may follow. Of a thousand feeds the server then notices 0.7 cores."""
_SHORTEST: Final = 0.001
"""Seconds."""


@dataclass(slots=True)
class Pulse:
    """Counts writes.

    Args:
        first: seconds after which a new feed measures.
        interval: seconds between its later measurements; each is a request.
    """

    first: float = 60.0
    interval: float = 240.0
    _number: int | None = None
    _at: float = 0.0
    _next: float = 0.0

    def begin(self, seq: str, now: float) -> float:
        """Begin to follow at a place; answers with the writes a second since the last measurement, 0 if unknown.

        Args:
            seq: the place in the feed.
            now: monotonic seconds.
        """
        rate = self.measure(seq, now)
        self._next = now + self.first
        return rate

    def is_due(self, now: float) -> bool:
        """Whether it is time to measure."""
        return now >= self._next

    def measure(self, seq: str, now: float) -> float:
        """The writes a second since the last measurement; 0 if unknown."""
        before, since = self._number, self._at
        text = seq.partition("-")[0]
        self._number, self._at, self._next = int(text) if text.isdecimal() else None, now, now + self.interval
        if before is None or self._number is None:
            return 0.0
        return max(0, self._number - before) / max(now - since, _SHORTEST)


def may_follow(rate: float, rng: Random) -> bool:
    """Whether to follow a database that is written so often: the busier it is, the fewer do.

    Args:
        rate: writes a second.
        rng: the dice.
    """
    return rng.random() * rate < AFFORDABLE
