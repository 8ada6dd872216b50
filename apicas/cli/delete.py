"""`apicas delete`: delete tokens, those of a view or single ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apicas.cli.exits import ExitCode
from apicas.cli.parameters import DryRunOption, PoolOption, YesOption
from apicas.cli.terminal import agree, plural, say, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apicas.cli.selection import Selection
    from apicas.clients.base import PoolClient
    from apicas.configuration import Configuration

EPILOG = """\b
todo, locked, done, error and Design/view are views, all of whose tokens are deleted; any other name is a token's id.
It always asks. Attachments go with their tokens.

\b
Examples:
  apicas delete done
  apicas delete token_17 token_18
  apicas delete --id todo
"""


def delete(
    names: Annotated[list[str], typer.Argument(metavar="VIEW|ID", help="Views, and ids of tokens.")],
    *,
    pool: PoolOption = None,
    ids: Annotated[bool, typer.Option("--id", help="Take every name for a token's id.")] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Delete the tokens of views, or single tokens."""
    import asyncio

    from apicas.cli.opening import configured

    asyncio.run(_delete(configured(pool), names, ids=ids, dry_run=dry_run, yes=yes))


async def _delete(configuration: Configuration, names: Sequence[str], *, ids: bool, dry_run: bool, yes: bool) -> None:
    from apicas.cli.opening import opened
    from apicas.cli.selection import Survey, change_all, conclude

    async with opened(configuration) as client:
        selection = await _select(client, names, ids=ids)
        survey = await Survey.of(client, selection)
        survey.warn()
        what = f"{plural(survey.number)} of {client.address}"
        if dry_run or not survey.number:
            say(f"would delete {what}" if survey.number else f"nothing to delete: {what}")
        else:
            agree(f"Delete {what}? This cannot be undone.", yes=yes)
            conclude(await change_all(client, selection, client.delete, "deleted"), "deleted")
    if len(selection.ids) < len([name for name in names if name not in selection.views]):
        raise typer.Exit(ExitCode.INCOMPLETE)


async def _select(client: PoolClient, names: Sequence[str], *, ids: bool) -> Selection:
    """Tell views from ids; an id that does not exist is told, and left out."""
    from apicas.cli.opening import patiently
    from apicas.cli.selection import Selection
    from apicas.views import STATES

    unique = list(dict.fromkeys(names))
    views = [] if ids else [name for name in unique if name in STATES]
    others = [name for name in unique if name not in views]
    found = await patiently(lambda: client.get(others))
    known = [name for name, document in zip(others, found, strict=True) if document is not None]
    for name in others:
        if name in known:
            continue
        if not ids and "/" in name:
            views.append(name)  # a view that does not exist is said so when it is read
        else:
            tell(f"there is no token {name!r}")
    return Selection(views=views, ids=known)
