"""`apicas ls`: list tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apicas.cli.parameters import PoolOption
from apicas.cli.selecting import IdOption, IdsFromOption, Names, OlderOption, WhereOption, states
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from apicas.cli.listing import Listing
    from apicas.configuration import Configuration

EPILOG = """\b
Without a name all tokens are listed, in the order of their ids; with todo, locked, done, error or Design/view those of
that view; any other name is a token's id. A table has the input of tokens, or the first of their own fields where the
first ones have no input.

\b
A field is named by its path: input, input.x, error.-1.message, apicas.pilot. Worked out of the token are
  id, state, attempt  as they say; attachments: how many it has
  age     seconds in its state: since its claim, its end, or its way back to todo; a new token has none
  beat    seconds since the last heartbeat of its pilot
  reason  the message of the last of its errors
A field of yours with such a name has a dot before it: .state, .age

\b
Conditions: FIELD=VALUE, != < <= > >=, and FIELD~TEXT for a text with TEXT in it. Several must all be fulfilled. 5 means
the number and the text 5, "5" in quotes the text alone. A token without the field fulfils none, but FIELD=null; and
FIELD!=null is one that has it. age and beat take times: age>2h.

\b
Sorting reads all tokens first; --sort=-FIELD begins with the greatest, tokens without the field come last. Everything
else is written as it is read, at any size of the pool. A field of --columns, --sort or --where that no token has may be
misspelt, and is said. --json writes the whole token in each line, and nothing on the side; with --columns it writes
an object of these.

\b
Examples:
  apicas ls
  apicas ls error --where 'reason~out of memory'
  apicas ls locked --sort=-beat --columns id,hostname,age,beat
  apicas ls todo --where 'input.cores>=8' --limit 5
  apicas ls done --older 7d --json --columns id | apicas delete --ids-from - --dry-run
  apicas ls --json | jq -c .input
"""

LIMIT = 50
"""Tokens of a table where nothing else is asked: what a screen or two hold."""


def ls(  # noqa: PLR0913 - typer makes an option of each
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VIEW|ID", help="Views, and ids of tokens.", show_default="all tokens", autocompletion=states
        ),
    ] = None,
    *,
    pool: PoolOption = None,
    ids: IdOption = False,
    ids_from: IdsFromOption = None,
    where: WhereOption = None,
    older: OlderOption = None,
    sort: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Sort by this field; -FIELD: the greatest first.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="FIELD,...", help="What to show.", show_default="by the view")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", metavar="N", help="Tokens at most; 0 for all.", show_default="50; all of --json"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write a line of JSON for each token.")] = False,
) -> None:
    """List tokens: by state, field and age; sorted, in columns of your choice, or as JSON."""
    import asyncio

    from apicas.cli.listing import Listing, columns_of
    from apicas.cli.opening import configured

    if limit is not None and limit < 0:
        raise ConfigError(f"--limit {limit}: it is a number of tokens, or 0 for all")
    wanted = Names(names=names or (), only_ids=ids, ids_from=ids_from, conditions=where or (), older=older)
    most = (None if as_json else LIMIT) if limit is None else limit or None
    fields = columns_of(columns, wanted.names, as_json=as_json)
    listing = Listing(fields, sort, most, as_json=as_json, asked=[] if columns is None else fields)
    asyncio.run(_list(configured(pool), wanted, listing))


async def _list(configuration: Configuration, names: Names, listing: Listing) -> None:
    from apicas.cli.opening import opened

    async with opened(configuration) as client:
        await listing.write(client, await names.select(client, otherwise_all=True))
