"""`apicas reset`: put the tokens of a view, or single ones, back to todo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from apicas.cli.parameters import DryRunOption, PoolOption, YesOption, seconds
from apicas.cli.selecting import SELECTING, IdOption, IdsFromOption, Names, OlderOption, WhereOption, states
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apicas._documents import Document
    from apicas.cli.changing import Deed
    from apicas.clients.base import PoolClient
    from apicas.clients.port import SaveResult
    from apicas.configuration import Configuration

EPILOG = f"""\b
{SELECTING}

\b
Counters go back to zero; attached logs, errors and outputs are kept. It asks before it touches more than 10 tokens.
A locked token is taken from its pilot, whose work on it is lost. Pilots reclaim stale locks by themselves: locked
tokens need a reset only where other tools have set the lock. For pilots that are gone there is `apicas release`.

\b
Examples:
  apicas reset error
  apicas reset error --where 'reason~out of memory'
  apicas reset locked --older-than 24h
  apicas reset token_17 token_18
  apicas reset --ids-from again.txt
  apicas reset Monitor/done --dry-run
"""

MANY: Final = 10
"""Tokens; more are not touched without asking."""


def reset(  # noqa: PLR0913 - typer makes an option of each
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VIEW|ID",
            help="error, locked, done, Design/view, or ids.",
            show_default=False,
            autocompletion=states,
        ),
    ] = None,
    *,
    pool: PoolOption = None,
    ids: IdOption = False,
    ids_from: IdsFromOption = None,
    where: WhereOption = None,
    older: OlderOption = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only locks of which nothing was heard for longer than this; a bare number is hours, as in PiCaS.",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Put tokens back to todo, as if they were new: those of views, or single ones."""
    import asyncio

    from apicas.cli.opening import configured

    _check(names or (), older_than)
    wanted = Names(names=names or (), only_ids=ids, ids_from=ids_from, conditions=where or (), older=older)
    wanted.check()
    age = seconds(older_than, "--older-than", unit="h")
    asyncio.run(_reset(configured(pool), wanted, age, dry_run=dry_run, yes=yes))


def _check(names: Sequence[str], older_than: str | None) -> None:
    from apicas.views import MONITOR_VIEWS, STATES

    known = {*STATES, *MONITOR_VIEWS}
    if older_than is not None and known.intersection(names) - {"locked", "Monitor/locked"}:
        name = next(name for name in names if name in known)
        raise ConfigError(f"--older-than is the age of a lock, and tokens in {name} have none: use it with locked")


async def _reset(
    configuration: Configuration, names: Names, older_than: float | None, *, dry_run: bool, yes: bool
) -> None:
    from dataclasses import replace

    from apicas.cli.changing import carry_out
    from apicas.cli.opening import opened
    from apicas.cli.selection import Survey, tell_missing

    async with opened(configuration) as client:
        selection = replace(await names.select(client), older_than=older_than)
        survey = await Survey.of(client, selection)
        tell_missing(survey.missing)
        survey.warn()
        survey.warn_of_done()
        one_view = len(selection.views) == 1 and not selection.ids
        deed = _deed(client, f"of {selection.views[0]} in" if one_view else "of")
        await carry_out(client, selection, deed, survey, dry_run=dry_run, yes=yes)


def _deed(client: PoolClient, meant: str) -> Deed:
    from apicas.cli.changing import Deed, save_changed
    from apicas.modifiers import BasicTokenModifier

    async def put_back(page: Sequence[Document]) -> list[SaveResult]:
        modifier, now = BasicTokenModifier(), client.time()
        return await save_changed(client, page, lambda document: modifier.reset(document, now))

    question = "Put {} back to todo?"
    return Deed(verb="reset", done="reset", question=question, change=put_back, unasked=MANY, meant=meant)
