"""`apicas init`: make the database and its views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apicas.cli.parameters import PoolOption, YesOption
from apicas.cli.terminal import agree, say

if TYPE_CHECKING:
    from apicas.clients.base import PoolClient
    from apicas.clients.port import SetupReport
    from apicas.configuration import Configuration

EPILOG = """\b
A pool in a SQLite file needs no init. On CouchDB it is for an admin of the server or of the database; pilots need
no such rights. It may be repeated: what is there is kept.

\b
Examples:
  apicas init --pool https://admin@couch.example:6984/survey
  apicas init --replace-views
"""


def init(
    *,
    pool: PoolOption = None,
    replace_views: Annotated[
        bool, typer.Option("--replace-views", help="Also overwrite Monitor views that differ from those of apicas.")
    ] = False,
    yes: YesOption = False,
) -> None:
    """Make the database and the Monitor views where they are missing."""
    import asyncio

    from apicas.cli.opening import configured

    configuration = configured(pool)
    if replace_views:
        agree("Replace the Monitor views? The server then indexes all tokens anew, and pilots wait meanwhile.", yes=yes)
    asyncio.run(_init(configuration, replace_views=replace_views))


async def _init(configuration: Configuration, *, replace_views: bool) -> None:
    from apicas.cli.opening import opened, patiently

    async with opened(configuration, create=True) as client:
        report = await patiently(lambda: client.setup(replace_views=replace_views))
        _tell(client, report)


def _tell(client: PoolClient, report: SetupReport) -> None:
    say(f"{'made' if report.created else 'found'} {client.address}")
    if report.installed:
        say(f"installed {', '.join(report.installed)}")
    if report.kept:
        say(f"kept {', '.join(report.kept)}: the views differ from those of apicas (see --replace-views)")
    if not report.created and not report.installed and not report.kept:
        say("everything was there")
