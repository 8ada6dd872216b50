"""`apicas reset`: put the tokens of a view back to todo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from apicas.cli.parameters import DryRunOption, PoolOption, YesOption, seconds
from apicas.cli.terminal import agree, plural, say
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apicas._documents import Document
    from apicas.cli.selection import Selection
    from apicas.clients.base import PoolClient
    from apicas.clients.port import SaveResult
    from apicas.configuration import Configuration

EPILOG = """\b
Counters go back to zero; attached logs, errors and outputs are kept. It asks before it touches more than 10 tokens.
A locked token is taken from its pilot, whose work on it is lost. Pilots reclaim stale locks by themselves: locked
tokens need a reset only where other tools have set the lock.

\b
Examples:
  apicas reset error
  apicas reset locked --older-than 24h
  apicas reset Monitor/done --dry-run
"""

MANY: Final = 10
"""Tokens; more are not touched without asking."""


def reset(
    view: Annotated[str, typer.Argument(metavar="VIEW", help="error, locked, done, or Design/view.")],
    *,
    pool: PoolOption = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only tokens locked for longer than this: 30m, 24h, 2d; a bare number is hours, as in PiCaS.",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Put the tokens of a view back to todo, as if they were new."""
    import asyncio

    from apicas.cli.opening import configured
    from apicas.cli.selection import Selection

    _check(view, older_than)
    selection = Selection(views=[view], older_than=seconds(older_than, "--older-than", unit="h"))
    asyncio.run(_reset(configured(pool), selection, dry_run=dry_run, yes=yes))


def _check(view: str, older_than: str | None) -> None:
    from apicas.views import MONITOR_VIEWS, full_name

    name = full_name(view)
    if older_than is not None and name in MONITOR_VIEWS.keys() - {"Monitor/locked"}:
        raise ConfigError(f"--older-than is the age of a lock, and tokens in {name} have none: use it with locked")


async def _reset(configuration: Configuration, selection: Selection, *, dry_run: bool, yes: bool) -> None:
    from apicas.cli.opening import opened
    from apicas.cli.selection import Survey, change_all, conclude

    async with opened(configuration) as client:
        survey = await Survey.of(client, selection)
        survey.warn()
        what = f"{plural(survey.number)} of {selection.views[0]} in {client.address}"
        if dry_run or not survey.number:
            say(f"would reset {what}" if survey.number else f"nothing to reset: {what}")
            return
        agree(f"Put {what} back to todo?", yes=yes or survey.number <= MANY)

        async def put_back(page: Sequence[Document]) -> list[SaveResult]:
            return await _put_back(client, page)

        tally = await change_all(client, selection, put_back, "reset")
    conclude(tally, "reset")


async def _put_back(client: PoolClient, page: Sequence[Document]) -> list[SaveResult]:
    from apicas.modifiers import BasicTokenModifier

    modifier, now = BasicTokenModifier(), client.time()
    return await client.save([modifier.reset(dict(document), now) for document in page])
