"""`apicas edit`: change fields of tokens, in an editor or by a script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from apicas.cli.parameters import DryRunOption, PoolOption, YesOption
from apicas.cli.selecting import IdOption, IdsFromOption, Names, OlderOption, WhereOption, states
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from apicas.cli.editing import Assignments
    from apicas.configuration import Configuration

EPILOG = """\b
With --set or --unset it changes these fields of tokens, or of all tokens of views. Without, it opens one token as JSON
in $VISUAL, else $EDITOR, else vi. A field is named by its path, input.x; its value is JSON, or text where it is none.

\b
It writes only what you changed, and only if nobody else changed the same fields meanwhile; else it says which, and
keeps your text in a file. The token may be running: of a field that its pilot changes, too, the pilot's value stays.

\b
Who holds a token and in which state it is is not for editing: lock, done, exit_code, hostname, type, job ids, apicas.
`apicas reset` and `apicas release` change the state as it should be; --force changes these fields all the same, and a
pilot that holds the token may lose it. _id and _rev never change; files are for `apicas attachments`. It asks before it
changes more than 10 tokens.

\b
Examples:
  apicas edit token_17
  apicas edit token_17 --set input.iterations=500 --set 'tags=["late", "big"]'
  apicas edit todo --where 'input.size>4096' --set memory=16G
  apicas edit error --unset input.cache --dry-run
"""

MANY: Final = 10
"""Tokens; more are not changed without asking."""


def edit(  # noqa: PLR0913 - typer makes an option of each
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID|VIEW",
            help="A token; with --set any number, and views.",
            show_default=False,
            autocompletion=states,
        ),
    ] = None,
    *,
    pool: PoolOption = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Give a field this value.")
    ] = None,
    unset: Annotated[list[str] | None, typer.Option("--unset", metavar="FIELD", help="Take a field out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also what says who holds it, and its state.")] = False,
    ids: IdOption = False,
    ids_from: IdsFromOption = None,
    where: WhereOption = None,
    older: OlderOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Change fields of tokens, in your editor or with --set."""
    import asyncio

    from apicas.cli.editing import Assignments
    from apicas.cli.opening import configured

    wanted = Names(names=names or (), only_ids=ids, ids_from=ids_from, conditions=where or (), older=older)
    wanted.check()
    if set_ or unset:
        assignments = Assignments.read(set_ or [], unset or [], force=force)
        asyncio.run(_set(configured(pool), wanted, assignments, dry_run=dry_run, yes=yes))
        return
    if len(wanted.names) != 1 or ids_from or where or older or dry_run:
        raise ConfigError("the editor takes one token by its id; for others, and for views, say --set FIELD=VALUE")
    from apicas.cli.editor import edit_one

    edit_one(configured(pool), wanted.names[0], force=force)


async def _set(
    configuration: Configuration, names: Names, assignments: Assignments, *, dry_run: bool, yes: bool
) -> None:
    from apicas.cli.changing import Deed, carry_out, save_changed
    from apicas.cli.opening import opened
    from apicas.cli.selection import Survey, tell_missing

    async with opened(configuration) as client:
        selection = await names.select(client)
        survey = await Survey.of(client, selection)
        tell_missing(survey.missing)
        deed = Deed(
            verb="edit",
            done="edited",
            question="Change {}?",
            change=lambda page: save_changed(client, page, assignments.applied),
            unasked=MANY,
        )
        await carry_out(client, selection, deed, survey, dry_run=dry_run, yes=yes)
