"""What is shown of several samples: medians, and figures per token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from apicas._bench.records import Sample
from apicas._bench.statistics import summarize


def median_of(samples: Sequence[Sample], value: Callable[[Sample], float | None]) -> float | None:
    """The median of a figure; None where no sample has it."""
    summary = summarize([known for sample in samples if (known := value(sample)) is not None])
    return None if summary is None else summary.median


def per_token(sample: Sample, name: str) -> float | None:
    """A field of a sample for each token; None where it is not known."""
    total = getattr(sample, name)
    return None if total is None or not sample.tokens else total / sample.tokens


def latency(sample: Sample, name: str) -> float | None:
    """A percentile in seconds, where it was measured."""
    return None if sample.latency is None else getattr(sample.latency, name)


def twice(samples: Sequence[Sample]) -> int | None:
    """Executions beyond one per token; None where nobody counted."""
    counted = [sample.executions - sample.tokens for sample in samples if sample.executions is not None]
    return sum(counted) if counted else None


def duration(seconds: float | None) -> str:
    """Seconds for people; empty for None."""
    if seconds is None:
        return ""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def number(value: float | None, form: str, factor: float = 1.0) -> str:
    """A figure for people; empty for None."""
    return "" if value is None else form.format(value * factor)
