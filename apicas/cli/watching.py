"""`apicas status --watch`: look again and again. On a terminal a table that moves, on a pipe a line for each look."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

import typer

from apicas.cli.holders import Holder, Sign, holders_in
from apicas.cli.pilots import brief
from apicas.cli.terminal import one_line, plural, results, say_json
from apicas.exceptions import PoolUnavailableError
from apicas.views import STATES

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from apicas.clients.base import PoolClient
    from apicas.configuration import Configuration

INTERVAL: Final = 2.0
"""Seconds between two looks. One is a request that counts."""
LEAST_INTERVAL: Final = 0.1
HOLDERS_INTERVAL: Final = 10.0
"""Seconds between two looks at who holds what: they read every locked token."""
WINDOW: Final = 60.0
"""Seconds over which a rate is measured, at most: short enough to follow what happens, long enough to stand still."""
_PILOTS_SHOWN: Final = 12
_STUCK_SHOWN: Final = 5


@dataclass(slots=True)
class Pace:
    """How many tokens end per second, lately."""

    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, at: float, ended: int) -> None:
        """Take in a count.

        Args:
            at: when, in monotonic seconds.
            ended: tokens that are done or in error. Fewer than before were reset or deleted: it begins anew.
        """
        if self._seen and ended < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((at, ended))
        while self._seen[-1][0] - self._seen[0][0] > WINDOW and len(self._seen) > 2:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """Tokens per second; None before the second count."""
        (begin, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - begin) if end > begin else None


@dataclass(slots=True)
class Look:
    """What was seen."""

    at: datetime
    counts: dict[str, int]
    rate: float | None
    found: Sequence[Holder]
    now: float
    """Store time, unix seconds."""
    problem: str = ""
    """Why this is an old look."""

    @property
    def left(self) -> float | None:
        """Seconds until all tokens have ended, at this rate; None where nobody knows."""
        waiting = self.counts["todo"] + self.counts["locked"]
        if not waiting:
            return 0.0
        return waiting / self.rate if self.rate else None

    @property
    def stuck(self) -> list[str]:
        """The ids of tokens whose owner gives no sign of life, and of locks of other tools that are two days old."""
        ids: list[str] = []
        for holder in self.found:
            ids += holder.stuck(self.now)
        return ids

    @property
    def at_work(self) -> list[Holder]:
        """Pilots that live."""
        return [holder for holder in self.found if holder.sign is Sign.ALIVE]


class Screen(Protocol):
    """Shows looks."""

    def show(self, look: Look) -> None:
        """Show one."""
        ...


async def watch_pool(configuration: Configuration, interval: float, *, as_json: bool) -> None:
    """Look at a pool until the process is interrupted.

    Args:
        configuration: where it is.
        interval: seconds between two looks.
        as_json: write JSON.
    """
    import anyio

    from apicas.cli.opening import opened

    async with opened(configuration) as client:
        watch = _Watch(client)
        with _screen(client.address, as_json=as_json) as screen:
            while True:
                screen.show(await watch.look())
                await anyio.sleep(max(interval, LEAST_INTERVAL))


class _Watch:
    """Looks at one pool."""

    def __init__(self, client: PoolClient) -> None:
        self._client = client
        self._pace = Pace()
        self._found: Sequence[Holder] = ()
        self._found_at = -HOLDERS_INTERVAL
        self._last: Look | None = None

    async def look(self) -> Look:
        """Look once. While the server does not answer, the last look is shown on."""
        try:
            return await self._look()
        except PoolUnavailableError as error:
            if self._last is None:
                raise
            self._last.problem = str(error)
            return self._last

    async def _look(self) -> Look:
        counts = await self._client.counts()
        states = {str(state): counts.get(str(state), 0) for state in STATES}
        at = time.monotonic()
        self._pace.note(at, states["done"] + states["error"])
        if not states["locked"]:
            # Whoever comes next is seen at the next look.
            self._found, self._found_at = (), -HOLDERS_INTERVAL
        elif at - self._found_at >= HOLDERS_INTERVAL:
            self._found, self._found_at = await holders_in(self._client), at
        now = datetime.now().astimezone()
        self._last = Look(now, states, self._pace.rate, self._found, self._client.time())
        return self._last


@contextmanager
def _screen(address: str, *, as_json: bool) -> Iterator[Screen]:
    if as_json:
        yield _Json(address)
    elif not sys.stdout.isatty():
        yield _Lines()
    else:
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(highlight=False), auto_refresh=False) as live:
            yield _Moving(address, live)


def summary(look: Look) -> str:
    """A look in one line."""
    from apicas.cli.run_display import clock

    parts = [f"{number:,} {state}" for state, number in look.counts.items()]
    if look.rate is not None:
        parts.append(f"{look.rate:.1f}/s")
    if look.left is not None:
        parts.append(f"ETA {clock(look.left)}")
    parts.append(plural(len(look.at_work), "pilot"))
    if look.stuck:
        parts.append(f"{len(look.stuck):,} stuck")
    if look.problem:
        parts.append(look.problem)
    return ", ".join(parts)


class _Lines:
    def show(self, look: Look) -> None:
        """Write a line."""
        with results():
            typer.echo(one_line(f"{look.at.isoformat(sep=' ', timespec='seconds')} {summary(look)}"))


class _Json:
    def __init__(self, address: str) -> None:
        self._address = address

    def show(self, look: Look) -> None:
        """Write an object."""
        from apicas._documents import encode

        entry: dict[str, Any] = {
            "time": look.at.timestamp(),
            "pool": self._address,
            **look.counts,
            "rate": look.rate,
            "left": look.left,
            "pilots": len(look.at_work),
            "stuck": look.stuck,
            "problem": look.problem,
        }
        say_json(encode({name: value for name, value in entry.items() if value not in (None, "")}))


class _Moving:
    def __init__(self, address: str, live: Live) -> None:
        self._address = address
        self._live = live

    def show(self, look: Look) -> None:
        """Draw the table."""
        self._live.update(self._table(look), refresh=True)

    def _table(self, look: Look) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        total = sum(look.counts.values())
        ended = look.counts["done"] + look.counts["error"]
        table = Table.grid(padding=(0, 0))
        table.add_row(Text(one_line(self._address), style="bold", overflow="ellipsis", no_wrap=True))
        table.add_row(ProgressBar(total=max(total, 1), completed=ended, width=60))
        for text, style in _rows(look):
            table.add_row(Text(one_line(text), style=style, overflow="ellipsis", no_wrap=True))
        return table


def _rows(look: Look) -> Iterator[tuple[str, str]]:
    """The lines of the table, and how each is painted."""
    colours = {"done": "green", "error": "red", "locked": "yellow"}
    for state, number in look.counts.items():
        yield f"  {state:8}{number:>14,}", colours.get(state, "") if number else ""
    rate = "" if look.rate is None else f"{look.rate:,.1f} tokens/s"
    yield f"  {_forecast(look)}{'  ' if rate else ''}{rate}", ""
    yield f"{plural(len(look.at_work), 'pilot')} at work", "bold"
    for holder in look.found[:_PILOTS_SHOWN]:
        yield f"  {brief(holder, look.now)}", "" if holder.sign is Sign.ALIVE else "yellow"
    if len(look.found) > _PILOTS_SHOWN:
        yield f"  and {len(look.found) - _PILOTS_SHOWN:,} more: `apicas pilots`", ""
    if look.stuck:
        names = ", ".join(look.stuck[:_STUCK_SHOWN])
        more = f" and {len(look.stuck) - _STUCK_SHOWN:,} more" if len(look.stuck) > _STUCK_SHOWN else ""
        yield f"{plural(len(look.stuck))} stuck: {names}{more}; `apicas explain TOKEN` says why", "red"
    if look.problem:
        yield f"seen at {look.at:%H:%M:%S}: {look.problem}", "red"


def _forecast(look: Look) -> str:
    from apicas.cli.run_display import clock

    if look.left is None:
        return "ETA unknown" if look.rate is not None else "ETA after the next look"
    return "nothing is left" if look.left == 0 else f"ETA {clock(look.left)}"
