"""The charts, as SVG. They have classes and no colours: the page has these, for light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from apicas._report.summing import ENDINGS, PER_DECADE, Summary
from apicas._report.texts import clipped, duration, number

WIDTH: Final = 1000
LEFT: Final = 62
RIGHT: Final = 12
PLOT: Final = WIDTH - LEFT - RIGHT
HEIGHT: Final = 190
TOP: Final = 10
LANE: Final = 16
_STEPS: Final = (
    *(0.001 * 10**power * step for power in range(5) for step in (1, 2, 5)),
    *(60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800),
)


class Scale:
    """Places times on the page."""

    def __init__(self, summary: Summary) -> None:
        bins = summary.bins
        self.width = bins.width
        self.first = int(bins.first / bins.width)
        self.count = int(bins.last / bins.width) - self.first + 1
        self.start = self.first * bins.width
        self.seconds = self.count * bins.width

    def x(self, time: float) -> float:
        """Where a time is."""
        return LEFT + (time - self.start) / self.seconds * PLOT

    def axis(self, bottom: float, top: float = TOP) -> str:
        """The lines and labels of the time axis: seconds since the first event."""
        wanted = self.seconds / 8
        step = next((each for each in _STEPS if each >= wanted), wanted)
        parts = []
        for place in range(int(self.seconds / step) + 1):
            x = self.x(self.start + place * step)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
            if x < WIDTH - 26:
                label = duration(place * step) if place else "0"
                parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{label}</text>')
        return "".join(parts)


def svg(height: float, label: str, parts: Iterable[str]) -> str:
    """A chart."""
    inside = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">{inside}</svg>'


def rectangle(kind: str, x: float, y: float, width: float, height: float, more: str = "") -> str:
    """A rectangle, with something to see of it however small it is."""
    return f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{max(width, 0.6):.2f}" height="{height:.2f}"{more}/>'


def tip(text: str) -> str:
    """The attribute for what is shown on hovering."""
    return f' data-tip="{escape(text)}"'.replace("\n", "&#10;")


def _values(top: float, bottom: float) -> list[str]:
    """The lines and labels of the other axis."""
    parts = []
    for place in range(5):
        y = bottom - place / 4 * (bottom - TOP)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{top * place / 4:,g}</text>')
    return parts


def _nice(value: float) -> float:
    """A round number that is not smaller, of which the quarters are round too."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10, 12) if step * power >= value)


def key(summary: Summary) -> str:
    """What the colours mean."""
    dot = '<svg viewBox="0 0 10 10"><rect class="{}" width="10" height="10" rx="2"/></svg>'
    return (
        '<div class="key">'
        + "".join(f"<span>{dot.format(name)}{name}</span>" for name in ENDINGS if summary.ended[name])
        + "</div>"
    )


def throughput(summary: Summary) -> str:
    """Endings per second, stacked."""
    if not summary.ended:
        return ""
    scale, counts = Scale(summary), summary.bins.counts
    group = max(1, math.ceil(scale.count / 150))
    width = scale.width * group
    stacks = []
    for place in range(0, scale.count, group):
        bins = range(scale.first + place, scale.first + min(place + group, scale.count))
        stacks.append([sum(counts.get((name, each), 0.0) for each in bins) / width for name in ENDINGS])
    top = _nice(max(map(sum, stacks)))
    bottom = HEIGHT - 24
    parts = [scale.axis(bottom), *_values(top, bottom)]
    each = PLOT / scale.count * group
    for place, stack in enumerate(stacks):
        y, x = float(bottom), LEFT + place * each
        said = [f"{name} {number(value)}/s" for name, value in zip(ENDINGS, stack, strict=True) if value]
        label = tip("\n".join([f"at {duration(place * width)}", *said]))
        for name, value in zip(ENDINGS, stack, strict=True):
            height = value / top * (bottom - TOP)
            y -= height
            if value:
                parts.append(rectangle(name, x, y, min(each, WIDTH - RIGHT - x) * 0.94, height, label))
    return svg(HEIGHT, "Tokens that ended, per second", parts)


def at_work(summary: Summary) -> str:
    """Tokens worked at the same time."""
    scale, counts = Scale(summary), summary.bins.counts
    values = [counts.get(("busy", scale.first + place), 0.0) / scale.width for place in range(scale.count)]
    if not any(values):
        return ""
    workers = sum(pilot.workers for pilot in summary.pilots.values())
    highest = max(values)
    top = _nice(max(highest, workers if workers <= 4 * highest else 0))
    bottom = 150 - 24
    parts = [scale.axis(bottom), *_values(top, bottom)]
    each = PLOT / scale.count
    for place, value in enumerate(values):
        if value:
            height = value / top * (bottom - TOP)
            label = tip(f"at {duration(place * scale.width)}\n{number(value)} at work")
            parts.append(rectangle("busy", LEFT + place * each, bottom - height, each + 0.3, height, label))
    if 0 < workers <= top:
        y = bottom - workers / top * (bottom - TOP)
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    return svg(150, "Tokens at work", parts)


def timeline(summary: Summary) -> str:
    """A row for each worker slot."""
    lanes = sorted(lane for lane in summary.lanes)
    if not lanes:
        return ""
    scale = Scale(summary)
    first = {name: pilot.first for name, pilot in summary.pilots.items()}
    lanes.sort(key=lambda lane: (first.get(lane[0], 0.0), lane))
    lane_height = LANE if len(lanes) <= 40 else 9
    bottom = TOP + len(lanes) * lane_height + 4
    parts = [scale.axis(bottom)]
    before = ""
    for row, (pilot, worker) in enumerate(lanes):
        y = TOP + row * lane_height
        name = clipped(pilot, 6) if pilot != before else ""
        if name or (lane_height == LANE and len(lanes) <= 16):
            parts.append(f'<text x="{LEFT - 8}" y="{y + 11}" text-anchor="end">{escape(name or str(worker))}</text>')
        before = pilot
        parts.append(rectangle("track", LEFT, y + 1, PLOT, lane_height - 2, tip(f"pilot {pilot[:40]}\nslot {worker}")))
        if summary.is_thinned:
            parts += _busy_bins(summary, scale, f"{pilot}/{worker}", y + 1, lane_height - 2)
        for bar in summary.lanes[pilot, worker]:
            label = tip(f"{clipped(bar.token, 120)}\n{bar.ending}, {duration(bar.seconds)}\nslot {worker}")
            width = max(scale.x(bar.start + bar.seconds) - scale.x(bar.start) - 0.4, 0.6)
            parts.append(rectangle(bar.ending, scale.x(bar.start), y + 1, width, lane_height - 2, label))
    return svg(bottom + 24, "What each worker did", parts)


def _busy_bins(summary: Summary, scale: Scale, lane: str, y: float, height: float) -> list[str]:
    """How busy a slot was, bin by bin; neighbours that are alike are one rectangle."""
    parts: list[str] = []
    levels = [_level(summary, lane, scale.first + place, scale.width) for place in range(scale.count)]
    each, start = PLOT / scale.count, 0
    for place in range(1, scale.count + 1):
        if place < scale.count and levels[place] == levels[start]:
            continue
        bad, busy = levels[start]
        if busy:
            x, wide = LEFT + start * each, (place - start) * each
            said = f"from {duration(start * scale.width)}\n{busy * 10} % busy, {bad * 10} % with failures"
            parts.append(rectangle("busy", x, y, wide, height, f' fill-opacity="{max(busy, 2) / 10:.1f}"' + tip(said)))
            if bad:
                low = height * bad / 10
                parts.append(rectangle("failed", x, y + height - low, wide, low, tip(said)))
        start = place
    return parts


def _level(summary: Summary, lane: str, place: int, width: float) -> tuple[int, int]:
    """How much of a bin went into failures, and how much was busy, in tenths."""
    counts = summary.bins.counts
    bad, busy = (counts.get((f"{what} {lane}", place), 0.0) / width for what in ("bad", "lane"))
    return min(10, math.ceil(bad * 10 - 0.05)), min(10, math.ceil(busy * 10 - 0.05))


def durations(summary: Summary) -> str:
    """A histogram on a logarithmic axis, with the median."""
    times = summary.durations
    if not times.count:
        return ""
    coarse = PER_DECADE // 10
    counts: dict[int, int] = {}
    for place, count in times.bins.items():
        counts[place // coarse] = counts.get(place // coarse, 0) + count
    low, high = min(counts) - 1, max(counts) + 2
    top, bottom = _nice(max(counts.values()) * 1.12), HEIGHT - 24
    each = PLOT / (high - low)
    parts = _values(top, bottom)
    for place, count in sorted(counts.items()):
        height = count / top * (bottom - TOP)
        label = tip(f"{duration(10 ** (place / 10))} to {duration(10 ** ((place + 1) / 10))}\n{count:,} tokens")
        parts.append(rectangle("busy", LEFT + (place - low) * each, bottom - height, each * 0.92, height, label))
    parts += _decades(low, high, each, bottom)
    x = LEFT + (math.log10(max(times.percentile(0.5), 1e-6)) * 10 - low) * each
    parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
    parts.append(f'<text x="{x + 5:.1f}" y="{TOP + 10}">median</text>')
    return svg(HEIGHT, "How long tokens took", parts)


def _decades(low: int, high: int, each: float, bottom: float) -> Sequence[str]:
    parts = []
    for place in range(low, high + 1):
        if place % 10 in {0, 3, 7}:  # 1, 2, 5 of each factor of ten
            value = round(10 ** (place % 10 / 10)) * 10.0 ** (place // 10)
            x = LEFT + (place - low) * each
            if x < WIDTH - 30:
                parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{duration(value)}</text>')
    return parts
