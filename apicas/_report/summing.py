"""Sums events up, in memory that is bounded by what a page can show, however many there are and in whatever order."""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from apicas._report.reading import Line

MAX_BINS: Final = 600
"""Bins along the time axis at most; with one more, two become one."""
MAX_LANES: Final = 128
"""Worker slots in the timeline; those beyond count in the sums only."""
MAX_BARS: Final = 8_000
"""Single bars in the timeline; with more, it shows how busy each bin was."""
MAX_REASONS: Final = 1_000
MAX_PILOTS: Final = 1_000
SLOWEST: Final = 20
PER_DECADE: Final = 100
"""Bins of durations in a factor of ten: percentiles are right to 2 %."""
ENDINGS: Final = ("done", "failed", "scrubbed", "crashed", "released", "lost")
BAD: Final = frozenset({"failed", "scrubbed", "crashed"})
OTHER: Final = "other reasons"
_VARIES: Final = re.compile(r"\b(?:0x)?[0-9a-f]*\d[0-9a-f]*\b")


class Bins:
    """Sums over time. The width of a bin is a power of two of a second, and doubles when there are too many."""

    def __init__(self) -> None:
        self.exponent = -6
        self.first = math.inf
        self.last = -math.inf
        self.counts: dict[tuple[str, int], float] = {}
        """By series and bin."""

    @property
    def width(self) -> float:
        """Seconds of a bin."""
        return 2.0**self.exponent

    def reach(self, start: float, end: float) -> None:
        """Have room for a stretch of time."""
        self.first, self.last = min(self.first, start), max(self.last, end)
        while int(self.last / self.width) - int(self.first / self.width) >= MAX_BINS:
            self.exponent += 1
            merged: dict[tuple[str, int], float] = {}
            for (series, place), value in self.counts.items():
                merged[series, place >> 1] = merged.get((series, place >> 1), 0.0) + value
            self.counts = merged

    def add(self, series: str, time: float, value: float = 1.0) -> None:
        """Add to one bin."""
        key = series, int(time / self.width)
        self.counts[key] = self.counts.get(key, 0.0) + value

    def spread(self, series: str, start: float, end: float) -> None:
        """Add the seconds of a stretch to the bins that it touches."""
        width = self.width
        for place in range(int(start / width), int(end / width) + 1):
            inside = min(end, (place + 1) * width) - max(start, place * width)
            if inside > 0:
                self.counts[series, place] = self.counts.get((series, place), 0.0) + inside


class Durations:
    """A histogram in logarithmic bins."""

    def __init__(self) -> None:
        self.bins: Counter[int] = Counter()
        self.count = 0
        self.total = 0.0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Take one in; below a microsecond all are alike."""
        self.bins[math.floor(math.log10(max(seconds, 1e-6)) * PER_DECADE)] += 1
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def percentile(self, share: float) -> float:
        """The duration that such a share of all does not exceed, from 0 to 1."""
        left = share * self.count
        for place, count in sorted(self.bins.items()):
            left -= count
            if left <= 0:
                return min(float(10 ** ((place + 0.5) / PER_DECADE)), self.longest)
        return self.longest


@dataclass(slots=True)
class PilotSum:
    """One pilot."""

    hostname: str = ""
    workers: int = 0
    first: float = math.inf
    last: float = -math.inf
    busy: float = 0.0
    slots: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    reason: str = ""
    """How it ended; empty where nobody knows."""

    @property
    def utilisation(self) -> float | None:
        """The share of its workers' time in which they worked."""
        room = max(self.workers, 1 if self.slots else 0) * (self.last - self.first)
        return min(1.0, self.busy / room) if room > 0 else None


@dataclass(slots=True)
class Bar:
    """The work on one token."""

    start: float
    seconds: float
    ending: str
    token: str


class Summary:
    """All that a page shows."""

    def __init__(self) -> None:
        self.bins = Bins()
        self.durations = Durations()
        self.ended: Counter[str] = Counter()
        self.pilots: dict[str, PilotSum] = {}
        self.lanes: dict[tuple[str, int], list[Bar]] = {}
        """Bars by pilot and slot; without bars once there are too many."""
        self.bars = 0
        self.reasons: dict[str, tuple[int, str, str]] = {}
        """How often, the first such reason in full, and a token that has it."""
        self.slowest: list[tuple[float, str, str, str]] = []
        """Seconds, token, pilot, ending; a heap."""
        self.open: dict[tuple[str, int], Line] = {}
        """What began in a slot, and of whose end nothing was read."""
        self.reclaimed = 0
        self.dropped = 0

    @property
    def is_thinned(self) -> bool:
        """Whether there are too many bars to show single ones."""
        return self.bars > MAX_BARS

    def take(self, lines: Iterable[Line]) -> None:
        """Take events in."""
        for line in lines:
            self._take(line)

    def finish(self) -> None:
        """Take what never ended for running until its pilot was last heard of."""
        for (pilot, _), line in self.open.items():
            seconds = max(0.0, self._pilot(pilot).last - line.time)
            self._work(line, line.time, seconds, "running")
        self.open = {}

    def _take(self, line: Line) -> None:
        pilot = self._pilot(line.pilot)
        self.bins.reach(line.time, line.time)
        pilot.first, pilot.last = min(pilot.first, line.time), max(pilot.last, line.time)
        match line.event:
            case "started" if line.worker is not None and self._has_lane(line.pilot, line.worker):
                self.open[line.pilot, line.worker] = line
            case "pilot_started":
                pilot.hostname, pilot.workers = line.hostname, int(line.workers)
            case "pilot_ended":
                pilot.reason = line.reason or "ended"
            case "reclaimed":
                self.reclaimed += 1
            case "events_dropped":
                self.dropped += int(line.count)
            case ending if ending in ENDINGS:
                self._end(line, pilot)

    def _pilot(self, name: str) -> PilotSum:
        if name not in self.pilots and len(self.pilots) >= MAX_PILOTS:
            name = "others"
        return self.pilots.setdefault(name, PilotSum())

    def _has_lane(self, pilot: str, worker: int) -> bool:
        if (pilot, worker) in self.lanes:
            return True
        if len(self.lanes) < MAX_LANES:
            self.lanes[pilot, worker] = []
            return True
        return False

    def _end(self, line: Line, pilot: PilotSum) -> None:
        ending = line.event
        self.ended[ending] += 1
        pilot.ended[ending] += 1
        self.bins.add(ending, line.time)
        if ending in BAD:
            self._note_reason(line)
        if line.began is None or line.worker is None:
            return
        key = line.pilot, line.worker
        if key in self.open and self.open[key].token == line.token:
            del self.open[key]
        pilot.slots = max(pilot.slots, line.worker + 1)
        pilot.busy += line.seconds
        pilot.first = min(pilot.first, line.began)
        self._work(line, line.began, line.seconds, ending)
        if ending in {"done", "failed", "scrubbed"}:
            self.durations.add(line.seconds)
            slow = line.seconds, line.token, line.pilot, ending
            (heapq.heappush if len(self.slowest) < SLOWEST else heapq.heappushpop)(self.slowest, slow)

    def _work(self, line: Line, start: float, seconds: float, ending: str) -> None:
        self.bins.reach(start, start + seconds)
        self.bins.spread("busy", start, start + seconds)
        key = line.pilot, line.worker or 0
        if not self._has_lane(*key):
            return
        lane = f"{line.pilot}/{line.worker}"
        self.bins.spread(f"lane {lane}", start, start + seconds)
        if ending in BAD:
            self.bins.spread(f"bad {lane}", start, start + seconds)
        self.bars += 1
        if not self.is_thinned:
            self.lanes[key].append(Bar(start, seconds, ending, line.token))
        elif self.bars == MAX_BARS + 1:
            for bars in self.lanes.values():
                bars.clear()

    def _note_reason(self, line: Line) -> None:
        full = (line.reason.splitlines() or [""])[0][:300] or "no reason was given"
        kind = _VARIES.sub("#", full)
        if kind not in self.reasons and len(self.reasons) >= MAX_REASONS:
            kind = full = OTHER
        count, first, token = self.reasons.get(kind, (0, full, line.token))
        self.reasons[kind] = count + 1, first, token
