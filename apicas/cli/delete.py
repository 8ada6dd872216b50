"""`apicas delete`: delete tokens, those of a view or single ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apicas.cli.parameters import DryRunOption, PoolOption, YesOption
from apicas.cli.selecting import SELECTING, IdOption, IdsFromOption, Names, OlderOption, WhereOption, states

if TYPE_CHECKING:
    from apicas.configuration import Configuration

EPILOG = f"""\b
{SELECTING}
It always asks. Attachments go with their tokens. `apicas archive` keeps a copy of what it deletes.

\b
Examples:
  apicas delete done
  apicas delete done --older 30d --dry-run
  apicas delete error --where exit_code=137
  apicas delete token_17 token_18
  apicas delete --id todo
  apicas delete --ids-from bad.txt --yes
"""


def delete(  # noqa: PLR0913 - typer makes an option of each
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
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Delete the tokens of views, or single tokens."""
    import asyncio

    from apicas.cli.opening import configured

    wanted = Names(names=names or (), only_ids=ids, ids_from=ids_from, conditions=where or (), older=older)
    wanted.check()
    asyncio.run(_delete(configured(pool), wanted, dry_run=dry_run, yes=yes))


async def _delete(configuration: Configuration, names: Names, *, dry_run: bool, yes: bool) -> None:
    from apicas.cli.changing import Deed, carry_out
    from apicas.cli.opening import opened
    from apicas.cli.selection import Survey, tell_missing

    async with opened(configuration) as client:
        selection = await names.select(client)
        survey = await Survey.of(client, selection)
        tell_missing(survey.missing)
        survey.warn()
        deed = Deed(verb="delete", done="deleted", question="Delete {}? This cannot be undone.", change=client.delete)
        await carry_out(client, selection, deed, survey, dry_run=dry_run, yes=yes)
