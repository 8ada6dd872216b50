"""`apicas archive`: move tokens out of the pool, into an archive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apicas.cli.exits import ExitCode
from apicas.cli.parameters import DryRunOption, PoolOption, YesOption
from apicas.cli.selecting import SELECTING, IdOption, IdsFromOption, Names, OlderOption, WhereOption, states
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from apicas.configuration import Configuration

EPILOG = f"""\b
{SELECTING}

\b
The archive is a tar of JSON Lines, compressed as its name says: .tar.gz, .tar.xz or .tar. It is written, forced to the
disk, read again and compared with what was meant; only then are tokens deleted, and of these only the ones that nobody
has changed since: the others stay, are in the archive as well, and make the exit code 1. After a break nothing is
lost: the same command archives what is left, under another name. `apicas import` brings tokens back.

\b
Examples:
  apicas archive done
  apicas archive done --older 30d -o survey-2026-11.tar.gz
  apicas archive error --where input.year=2025 -o failed-2025.tar.xz --dry-run
"""


def archive(  # noqa: PLR0913 - typer makes an option of each
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="VIEW|ID", help="Views, and ids of tokens.", show_default=False, autocompletion=states),
    ] = None,
    *,
    pool: PoolOption = None,
    ids: IdOption = False,
    ids_from: IdsFromOption = None,
    where: WhereOption = None,
    older: OlderOption = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="The archive.", show_default="tokens-<time>.tar.gz"),
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Move tokens out of the pool, into a compressed archive."""
    import asyncio

    from apicas.cli.archiving import default_name
    from apicas.cli.opening import configured
    from apicas.cli.sources import ARCHIVES

    wanted = Names(names=names or (), only_ids=ids, ids_from=ids_from, conditions=where or (), older=older)
    wanted.check()
    path = default_name() if output is None else output
    if not path.endswith(ARCHIVES):
        raise ConfigError(f"--output {path!r}: the name of an archive ends in {', '.join(ARCHIVES)}")
    asyncio.run(_archive(configured(pool), wanted, path, dry_run=dry_run, yes=yes))


async def _archive(configuration: Configuration, names: Names, path: str, *, dry_run: bool, yes: bool) -> None:
    from apicas.cli.archiving import Archiving
    from apicas.cli.opening import opened
    from apicas.cli.selection import Survey, tell_missing
    from apicas.cli.terminal import agree, plural, say

    async with opened(configuration) as client:
        selection = await names.select(client)
        survey = await Survey.of(client, selection)
        tell_missing(survey.missing)
        survey.warn()
        what = f"{plural(survey.number)} of {client.address}"
        if dry_run or not survey.number:
            say(f"would archive {what}" if survey.number else f"nothing to archive: {what}")
        else:
            agree(f"Move {what} into {path}? They are deleted from the pool.", yes=yes)
            await Archiving(client, selection, path).run()
    if survey.missing:
        raise typer.Exit(ExitCode.INCOMPLETE)
