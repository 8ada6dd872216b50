"""How long tokens of a kind take, learned from those that this pilot has worked."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import Final

QUANTILE: Final = 0.9
"""What is asked is whether a token would be over in time: one in ten taking longer is a token in ten worked in vain."""
RECENT: Final = 64
"""Durations that are remembered of a kind: enough for the quantile, and few enough to follow a change."""
MAX_KINDS: Final = 256
"""Kinds that are remembered, the last seen. A field with a value for each token of its own is no kind."""


class Durations:
    """Recent durations by kind.

    Args:
        quantile: the share of recent tokens of a kind that took no longer than the estimate.
    """

    def __init__(self, quantile: float = QUANTILE) -> None:
        self._quantile = quantile
        self._recent: OrderedDict[str, deque[float]] = OrderedDict()
        self._estimates: dict[str, float | None] = {}

    def ended(self, kind: str, seconds: float) -> None:
        """A token has ended by itself after so many seconds."""
        self._add(kind, seconds)

    def cut(self, kind: str, seconds: float) -> None:
        """A token was ended from outside after so many seconds: it takes longer. That tells only more than is known."""
        known = self.estimate(kind)
        if known is None or seconds > known:
            self._add(kind, seconds)

    def estimate(self, kind: str) -> float | None:
        """Seconds that a token of a kind may be expected to take; None while nothing is known.

        Of a few only that were seen it is the longest.
        """
        if kind not in self._estimates:
            recent = sorted(self._recent.get(kind, ()))
            if not recent:
                return None
            self._estimates[kind] = recent[math.ceil(self._quantile * len(recent)) - 1]
        return self._estimates[kind]

    def _add(self, kind: str, seconds: float) -> None:
        self._estimates.pop(kind, None)
        if kind not in self._recent:
            self._recent[kind] = deque(maxlen=RECENT)
        self._recent[kind].append(seconds)
        self._recent.move_to_end(kind)
        if len(self._recent) > MAX_KINDS:
            forgotten, _ = self._recent.popitem(last=False)
            self._estimates.pop(forgotten, None)
