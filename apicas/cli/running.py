"""The work of `apicas run`: a pilot on a pool, watched while it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import anyio

from apicas._documents import Document
from apicas._runtime.dedicated import loop_factory, tune
from apicas._runtime.options import RunOptions
from apicas._runtime.reports import Report
from apicas.actors import run_pilot, work_maker
from apicas.cli.exits import ExitCode
from apicas.cli.forecast import Forecast
from apicas.cli.opening import opened, patiently
from apicas.cli.run_display import RunDisplay, run_display
from apicas.cli.terminal import say
from apicas.clients.base import PoolClient
from apicas.configuration import Configuration
from apicas.exceptions import ConfigError, InvalidTokenError, PoolUnavailableError
from apicas.iterators import EndlessViewIterator, PrioritizedViewIterator, ViewIterator

COUNT_INTERVAL: Final = 5.0
"""Seconds between two looks at how many tokens wait."""
MAX_COUNT_INTERVAL: Final = 60.0
_LOOKED_AT: Final = 5
"""Tokens at each end of a view that a command is tried with before the first is claimed."""
_FEWEST: Final = 6
"""Looks that say something of the other tokens, of small pools two at each: fewer may just be bad ones."""
# Of a pilot's time, and so of the server's with many pilots, counting may take no more than a hundredth.
_COUNT_SHARE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a pilot is to do."""

    work: Callable[..., Any]
    options: RunOptions
    views: Sequence[str]
    endless: bool = False
    linger: bool = True
    in_order: bool = False
    lock_timeout: float | None = None
    foreign_lock_timeout: float | None = None
    outbox: str | None = None

    def iterator(self, client: PoolClient) -> ViewIterator:
        """What claims the tokens."""
        iterator = PrioritizedViewIterator(
            client,
            views=self.views,
            linger=self.linger,
            in_order=self.in_order,
            lock_timeout=self.lock_timeout,
            foreign_lock_timeout=self.foreign_lock_timeout,
            outbox=self.outbox,
        )
        return EndlessViewIterator(iterator) if self.endless else iterator


def execute(configuration: Configuration, plan: Plan) -> ExitCode:
    """Run a pilot to its end, and say what it did."""
    report = worked(configuration, plan)
    say(f"{report}: {report.reason}")
    return exit_code_of(report)


def worked(configuration: Configuration, plan: Plan) -> Report:
    """Run a pilot to its end; this process is nothing else."""
    tune()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_run(configuration, plan))


def exit_code_of(report: Report) -> ExitCode:
    """The exit code, by how the pilot ended."""
    if not report.signals:
        return ExitCode.OK
    return ExitCode.DRAINED if report.signals == 1 and not report.held else ExitCode.CUT


async def _run(configuration: Configuration, plan: Plan) -> Report:
    async with opened(configuration) as client:
        # Also tells, before anything is claimed, that the database or a view does not exist.
        waiting = await patiently(lambda: _waiting(client, plan.views))
        if waiting:
            await patiently(lambda: check_command(client, plan.work, plan.views))
        forecast = Forecast()
        forecast.count(waiting, Report())
        iterator = plan.iterator(client)
        make_work = work_maker(plan.work, iterator)
        with run_display(forecast) as display:
            watcher = _Watcher(client, plan.views, forecast, display)
            options = replace(plan.options, on_progress=watcher.show)
            return await watcher.during(lambda: run_pilot(iterator, make_work, options))


async def check_command(client: PoolClient, work: Callable[..., Any], views: Sequence[str]) -> None:
    """Refuse a command that none of the first and last tokens has the fields for: it would fail them all in a moment.

    Args:
        client: the pool, open.
        work: what is to be run; anything but a command passes.
        views: what is claimed from.

    Raises:
        ConfigError: there is no token among them that the command can be made for.
    """
    from apicas._runtime.commands.command import CommandRunner

    if not isinstance(work, CommandRunner):
        return
    documents = [document for view in views for document in await _ends(client, view)]
    problems = []
    for document in documents:
        try:
            work.check(document)
        except InvalidTokenError as error:
            problems.append(str(error))
    if len(problems) == len(documents) >= _FEWEST:
        number = len({document["_id"] for document in documents})
        raise ConfigError(f"{problems[0]}; so it is with all {number} tokens that were looked at: nothing was run")


async def _ends(client: PoolClient, view: str) -> list[Document]:
    """The first tokens of a view, and the last: odd ones often stand together."""
    rows = [
        row
        for descending in (False, True)
        for row in await client.view(view, limit=_LOOKED_AT, include_docs=True, reduce=False, descending=descending)
    ]
    return [row.document for row in rows if row.document is not None]


async def _waiting(client: PoolClient, views: Sequence[str]) -> int:
    """How many tokens wait in these views."""
    return sum((await client.counts(views)).values())


@dataclass(slots=True)
class _Watcher:
    """Shows what a pilot reports, and now and then counts what is still to do."""

    client: PoolClient
    views: Sequence[str]
    forecast: Forecast
    display: RunDisplay
    _report: Report = field(default_factory=Report)

    def show(self, report: Report) -> None:
        """Take in and show a report."""
        self._report = report
        self.forecast.note(report)
        self.display.show(report)

    async def during(self, pilot: Callable[[], Any]) -> Report:
        """Count while a pilot runs."""
        failure: Exception | None = None
        report = Report()
        async with anyio.create_task_group() as group:
            group.start_soon(self._count)
            try:
                report = await pilot()
            except Exception as error:  # noqa: BLE001 - it comes out as itself, and in no group
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return report

    async def _count(self) -> None:
        pause = COUNT_INTERVAL
        while True:
            await anyio.sleep(pause)
            began = time.monotonic()
            try:
                waiting = await _waiting(self.client, self.views)
            except PoolUnavailableError:
                continue  # the pilot itself says so
            self.forecast.count(waiting, self._report)
            pause = min(max(pause * 1.2, _COUNT_SHARE * (time.monotonic() - began)), MAX_COUNT_INTERVAL)
