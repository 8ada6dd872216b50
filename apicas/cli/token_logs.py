"""`apicas logs`: what a token's command or worker process has printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apicas.cli.parameters import PoolOption

if TYPE_CHECKING:
    from apicas.configuration import Configuration

EPILOG = """\b
Output goes to standard output, errors to standard error. While a token runs its pilot keeps what it prints in files on
its node, a second after its start: they are shown where they can be seen, elsewhere the last lines, as of the last
heartbeat. When it has ended the output is in its attachments stdout.txt and stderr.txt, or in the pilot's --logs.
Earlier attempts that did not end well are kept, the last three.

\b
Examples:
  apicas logs token_17
  apicas logs -f token_17
  apicas logs --attempt 1 token_17 2>&1 | less
"""


def logs(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The id of a token.")],
    *,
    pool: PoolOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the token has ended.")] = False,
    attempt: Annotated[
        int | None, typer.Option(metavar="N", help="An earlier attempt, the first is 1.", show_default="the last one")
    ] = None,
) -> None:
    """Show what a token's command or worker process has printed, also while it runs."""
    import asyncio

    from apicas.cli.opening import configured

    asyncio.run(_show(configured(pool), token, follow=follow, attempt=attempt))


async def _show(configuration: Configuration, token: str, *, follow: bool, attempt: int | None) -> None:
    from apicas.cli.log_reader import LogReader
    from apicas.cli.opening import opened

    async with opened(configuration) as client:
        reader = LogReader(client, token)
        if attempt is not None:
            await reader.show_attempt(attempt)
        else:
            await reader.show(follow=follow)
