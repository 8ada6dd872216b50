"""Two results beside each other: what got faster, what got slower, and whether the figures can tell."""

from __future__ import annotations

from apicas._bench.statistics import Summary
from benchmarks.suite.results import Case, Result
from benchmarks.suite.tables import grid, rate_summary


def compare(old: Result, new: Result) -> str:
    """A table in Markdown of the cases that both have."""
    rows = [_row(case, before, after) for case, before, after in common(old, new)]
    if not rows:
        return "The two have no case in common that was measured.\n"
    head = ["case", f"tokens/s, {old.commit[:8]}", f"tokens/s, {new.commit[:8]}", "ratio", "says"]
    return grid(head, rows) + "\n" + _warning(old, new)


def common(old: Result, new: Result) -> list[tuple[Case, Summary, Summary]]:
    """The cases that were measured in both."""
    found = []
    for case in new.cases():
        before, after = rate_summary(old, case), rate_summary(new, case)
        if before is not None and after is not None:
            found.append((case, before, after))
    return found


def _row(case: Case, before: Summary, after: Summary) -> list[str]:
    ratio = after.median / before.median if before.median else 0.0
    return [str(case), f"{before.median:,.0f}", f"{after.median:,.0f}", f"{ratio:.3g} x", verdict(before, after)]


def verdict(before: Summary, after: Summary) -> str:
    """What two sets of repeats say: nothing, where the middle halves of them overlap."""
    if min(before.number, after.number) < 3:
        return "too few repeats"
    if after.lower_quartile > before.upper_quartile:
        return "faster"
    if after.upper_quartile < before.lower_quartile:
        return "slower"
    return "within the noise"


def _warning(old: Result, new: Result) -> str:
    same = ("processor", "cores", "file_system")
    differing = [name for name in same if getattr(old.machine, name) != getattr(new.machine, name)]
    return f"\nNot the same machine: {', '.join(differing)} differ.\n" if differing else ""
