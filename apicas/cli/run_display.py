"""What is seen of a pilot: one line that moves on a terminal, else a plain line now and then."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from apicas._runtime.reports import Report
from apicas.cli.forecast import Forecast
from apicas.cli.terminal import is_watched, tell

if TYPE_CHECKING:
    from rich.live import Live

LINE_INTERVAL: Final = 5.0
"""Seconds to the first plain line."""
_OTHERS: Final = 1.25
"""How much faster all must be than this pilot to be told: what it has claimed ahead is no other pilot's."""
MAX_LINE_INTERVAL: Final = 60.0
"""Seconds between plain lines of a long run: its log is to stay readable."""


class RunDisplay(Protocol):
    """Shows how far a pilot has come."""

    def show(self, report: Report) -> None:
        """Show a report; called a few times a second."""
        ...


@contextmanager
def run_display(forecast: Forecast) -> Iterator[RunDisplay]:
    """A display for standard error, whatever that is."""
    if not is_watched():
        yield _Lines(forecast)
        return
    from rich.console import Console
    from rich.live import Live

    # What tokens print goes above the display; but not what goes into a file.
    with Live(
        console=Console(stderr=True, highlight=False),
        auto_refresh=False,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ) as live:
        yield _Moving(forecast, live)


def summary(report: Report, forecast: Forecast) -> str:
    """How far a pilot has come, in one line."""
    left, seconds = forecast.left(report), forecast.seconds(report)
    parts = [f"{report.done:,} done", f"{report.running:,} running", f"{report.failed:,} failed"]
    parts += [
        f"{number:,} {name}"
        for name in ("scrubbed", "crashed", "released", "lost")
        if (number := getattr(report, name))
    ]
    if left is not None:
        parts.append(f"{left:,} left")
    parts.append(_rate(forecast))
    if seconds is not None and left:
        parts.append(f"ETA {clock(seconds)}")
    return ", ".join(parts)


def _rate(forecast: Forecast) -> str:
    """This pilot's rate, and that of all where others do a good part: the ETA is by that one."""
    others = f" of {forecast.pool_rate:.1f}/s" if forecast.pool_rate > _OTHERS * forecast.own_rate else ""
    return f"{forecast.own_rate:.1f}/s{others}"


def clock(seconds: float) -> str:
    """Seconds as `0:00:41`; days from 100 hours on."""
    whole = round(seconds)
    if whole >= 360_000:
        return f"{whole / 86_400:.0f} days"
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


class _Lines:
    def __init__(self, forecast: Forecast) -> None:
        self._forecast = forecast
        self._interval = self._next = LINE_INTERVAL

    def show(self, report: Report) -> None:
        """Write a line if it is time."""
        if report.seconds >= self._next:
            tell(summary(report, self._forecast))
            self._interval = min(self._interval * 1.2, MAX_LINE_INTERVAL)
            self._next = report.seconds + self._interval


class _Moving:
    def __init__(self, forecast: Forecast, live: Live) -> None:
        self._forecast = forecast
        self._live = live

    def show(self, report: Report) -> None:
        """Draw a bar and the line."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        left = self._forecast.left(report)
        total = None if left is None else max(report.ended + left, 1)
        row = Table.grid(padding=(0, 1))
        row.add_row(
            ProgressBar(total=total, completed=report.ended, width=24),
            Text(summary(report, self._forecast), overflow="ellipsis", no_wrap=True),
        )
        self._live.update(row, refresh=True)
