"""`apicas release`: take tokens from pilots that are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apicas.cli.parameters import DryRunOption, PoolOption, YesOption
from apicas.cli.selecting import IdsFromOption, Names, OlderOption, WhereOption
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from apicas.cli.releasing import Whose
    from apicas.configuration import Configuration

EPILOG = """\b
Pilots put back by themselves what dead ones have left: on the same node at once, else after two leases. This is for who
knows it earlier, when a node or a batch job is gone. Nothing is counted against the tokens.

\b
--stale takes what is silent for two leases, or whose process is known to be gone from this node; other names and
options take what they say. Locks of other tools than apicas are taken only where their tokens are named, or --foreign
is given. A token that a cluster stores in several versions is left alone: `apicas heal` comes first.

\b
A pilot that lives after all loses nothing that is done: it stops the work on such a token at its next heartbeat. If it
finishes before that, and nobody has claimed the token since, its result still counts; if somebody has, the result is
kept aside in its outbox, and the work was done twice. A token whose pilot shows a sign of life in that very moment is
left alone. A PiCaS pilot cannot write its result any more.

\b
Examples:
  apicas release --stale
  apicas release --host node7
  apicas release --where slurm_job_id=4711
  apicas release --pilot 3f1c0a9be27d5588 --dry-run
  apicas release token_17
"""


def release(  # noqa: PLR0913 - typer makes an option of each
    names: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Ids of locked tokens.", show_default=False)
    ] = None,
    *,
    pool: PoolOption = None,
    host: Annotated[str | None, typer.Option(metavar="NAME", help="All that pilots on this node hold.")] = None,
    pilot: Annotated[str | None, typer.Option(metavar="ID", help="All that this pilot holds.")] = None,
    stale: Annotated[bool, typer.Option("--stale", help="All whose pilots are silent, or known to be gone.")] = False,
    foreign: Annotated[bool, typer.Option("--foreign", help="Also locks of other tools, as PiCaS.")] = False,
    ids_from: IdsFromOption = None,
    where: WhereOption = None,
    older: OlderOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Put tokens back to todo at once that pilots hold which are gone."""
    import asyncio

    from apicas.cli.opening import configured
    from apicas.cli.releasing import Whose

    if not (names or ids_from or host or pilot or stale or where):
        raise ConfigError("which tokens? Name ids, or --stale, --host, --pilot, or --where")
    whose = Whose(host=host, pilot=pilot, stale=stale, foreign=foreign or bool(names or ids_from))
    # All names are ids: of a view there is only locked.
    wanted = Names(
        names=names or (() if ids_from else ("locked",)),
        only_ids=bool(names),
        ids_from=ids_from,
        conditions=where or (),
        older=older,
    )
    asyncio.run(_release(configured(pool), wanted, whose, dry_run=dry_run, yes=yes))


async def _release(configuration: Configuration, names: Names, whose: Whose, *, dry_run: bool, yes: bool) -> None:
    from dataclasses import replace

    from apicas.cli.changing import carry_out
    from apicas.cli.opening import opened
    from apicas.cli.releasing import deed_of, tell_not_locked, tell_of
    from apicas.cli.selection import Survey, tell_missing

    async with opened(configuration) as client:
        selection = await names.select(client)
        selection = replace(selection, where=[*selection.where, whose.judge(client)])
        survey = await Survey.of(client, selection)
        tell_missing(survey.missing)
        tell_of(survey)
        await tell_not_locked(client, selection.ids)
        await carry_out(client, selection, deed_of(client), survey, dry_run=dry_run, yes=yes)
