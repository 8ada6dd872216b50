"""Several repeats as one line: the median, and how far they lie apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Repeats of one measurement."""

    number: int
    median: float
    low: float
    """The lowest."""
    high: float
    """The highest."""
    lower_quartile: float
    upper_quartile: float

    @property
    def spread(self) -> float:
        """The interquartile range as a share of the median: how much a single figure may be trusted."""
        return (self.upper_quartile - self.lower_quartile) / abs(self.median) if self.median else 0.0


def summarize(values: Sequence[float]) -> Summary | None:
    """The summary of values; None where there is none."""
    if not values:
        return None
    ordered = sorted(values)
    return Summary(
        number=len(ordered),
        median=quantile(ordered, 0.5),
        low=ordered[0],
        high=ordered[-1],
        lower_quartile=quantile(ordered, 0.25),
        upper_quartile=quantile(ordered, 0.75),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which a share of sorted values lies, between two of them where none is at that place."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    low, high = ordered[below], ordered[above]
    # So that rounding never leaves the two.
    return min(max(low + (high - low) * (place - below), low), high)


def paired_ratios(values: Sequence[float | None], baselines: Sequence[float | None]) -> list[float]:
    """The ratios of values to baselines that were measured side by side; pairs that lack one are left out.

    On a machine whose speed changes from minute to minute, the median of these says more than the ratio of two medians.
    """
    pairs = zip(values, baselines, strict=False)
    return [value / baseline for value, baseline in pairs if value is not None and baseline]
