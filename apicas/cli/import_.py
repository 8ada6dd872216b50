"""`apicas import`: put exported or archived tokens into the pool."""

from __future__ import annotations

from typing import Annotated

import typer

from apicas.cli.parameters import DryRunOption, PoolOption

EPILOG = """\b
Reads what `apicas export` and `apicas archive` write: .jsonl, .jsonl.gz, .tar.gz; standard input is JSON Lines. Tokens
keep their ids, contents, counters and attachments. New tokens without ids are for `apicas push`.

\b
A locked token comes into todo, uncharged, since no pilot holds it in the new pool; --as-is leaves its lock: it is then
reclaimed when its lease is over, as after a crash.

\b
A token whose id is in the pool is left as it is there: told, and counted apart if it differs. So after a break the same
command goes on. Bad lines are told, and left out. The exit code is 1 if there were such, or tokens that differ. Import
large attachments before pilots start: they come a moment after their token.

\b
Examples:
  apicas import survey.jsonl.gz
  apicas import done-2026.tar.gz --pool sqlite:///looked-at.db
  jq -c 'select(.input.year == 2026)' survey.jsonl | apicas import
"""


def import_(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Files to read; - or none for standard input.", show_default=False),
    ] = None,
    *,
    pool: PoolOption = None,
    as_is: Annotated[bool, typer.Option("--as-is", help="Leave locked tokens locked.")] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Put exported or archived tokens into the pool, as they were."""
    import asyncio

    from apicas.cli.importing import run
    from apicas.cli.opening import configured

    asyncio.run(run(configured(pool), files or ["-"], as_is=as_is, dry_run=dry_run))
