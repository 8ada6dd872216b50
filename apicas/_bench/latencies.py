"""Latencies in constant memory, of several pilots together: counts in buckets that each are 2 % wide."""

from __future__ import annotations

import math
from collections.abc import Mapping

from apicas._bench.records import Spread

_GROWTH = math.log(1.02)
_LEAST = 1e-6
"""Seconds; what is shorter counts as this."""


class Latencies:
    """Counts latencies.

    Args:
        counts: of others, to go on from: the number of latencies per bucket.
    """

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: dict[int, int] = dict(counts or {})

    def add(self, seconds: float) -> None:
        """Count one."""
        bucket = int(math.log(max(seconds, _LEAST) / _LEAST) / _GROWTH)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1

    def merge(self, counts: Mapping[int, int]) -> None:
        """Count those of another."""
        for bucket, number in counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + number

    def percentile(self, share: float) -> float:
        """The latency in seconds, to 1 %, that this share of all does not exceed.

        Raises:
            ValueError: there is none.
        """
        total = sum(self.counts.values())
        if not total:
            raise ValueError("no latency was counted")
        rank, seen = math.ceil(share * total), 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                break
        # The middle of the bucket that has it.
        return _LEAST * math.exp((bucket + 0.5) * _GROWTH)

    def spread(self) -> Spread | None:
        """The percentiles that are shown; None where there is no latency."""
        if not self.counts:
            return None
        return Spread(p50=self.percentile(0.5), p95=self.percentile(0.95), p99=self.percentile(0.99))
