"""What is seen of a push: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from apicas.cli.terminal import is_watched, one_line, plural, tell

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from apicas.cli.pushing import Source

_LINE_INTERVAL: Final = 10.0
"""Seconds between two plain lines."""


class PushDisplay(Protocol):
    """Shows how far a push has come."""

    def show(self, source: Source, pushed: int | None = None) -> None:
        """Show how far a source has been read, and how many tokens were pushed in all."""
        ...


@contextmanager
def push_display(action: str, sources: Sequence[Source]) -> Iterator[PushDisplay]:
    """Show `checking` or `pushing`."""
    if not is_watched():
        yield _Lines(action)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bars(action, progress, {source.name: _add(progress, action, source) for source in sources})


def _add(progress: Progress, action: str, source: Source) -> TaskID:
    from rich.markup import escape

    size = source.size
    here = source.file.tell() if size is not None else 0
    return progress.add_task(f"{action} {escape(one_line(source.name))}", total=size, completed=here)


class _Bars:
    def __init__(self, action: str, progress: Progress, tasks: dict[str, TaskID]) -> None:
        self._action = action
        self._progress = progress
        self._tasks = tasks

    def show(self, source: Source, pushed: int | None = None) -> None:
        del pushed
        if source.file.seekable():
            self._progress.update(self._tasks[source.name], completed=source.file.tell())
        else:
            self._progress.update(self._tasks[source.name], total=None)


class _Lines:
    def __init__(self, action: str) -> None:
        self._action = action
        self._next = time.monotonic() + _LINE_INTERVAL

    def show(self, source: Source, pushed: int | None = None) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_INTERVAL
            tell(f"{self._action} {source.name}" + (f": {plural(pushed)}" if pushed is not None else ""))
