"""`apicas explain`: why a token does not run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from apicas.cli.parameters import PoolOption, seconds
from apicas.cli.terminal import one_line, results, say_json

if TYPE_CHECKING:
    from apicas._runtime.options import RunOptions
    from apicas.cli.reasons import Explanation
    from apicas.configuration import Configuration

EPILOG = """\b
It says in which state the token is and since when, who holds it, and for one in todo what keeps a pilot on this node
from claiming it now: give the options that the pilot has. What a token asks matters only to pilots with --resources.
How long tokens of a kind take is something that only a running pilot learns: here one that says no time_request is
never too long.

\b
Examples:
  apicas explain token_17
  apicas explain token_17 --resources auto,license=4 --walltime 2h
  apicas explain token_17 --json | jq '.reasons[]'
"""


def explain(  # noqa: PLR0913 - typer makes an option of each
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The id of a token.")],
    *,
    pool: PoolOption = None,
    resources: Annotated[
        str | None,
        typer.Option(metavar="auto|NAME=N,...", help="What there is for tokens.", show_default="auto"),
    ] = None,
    request: Annotated[
        str | None,
        typer.Option(metavar="NAME=N,...", help="What a token asks that does not say.", show_default="cores=1"),
    ] = None,
    request_fields: Annotated[
        str | None,
        typer.Option(metavar="NAME=FIELD,...", help="Where tokens say it, if these fields have other names."),
    ] = None,
    walltime: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Time until the batch job ends.", show_default="what the batch system says"),
    ] = None,
    end_margin: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="A pilot drains so long before that.", show_default="30s"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
) -> None:
    """Say why a token does not run."""
    import asyncio

    from apicas._runtime.options import RunOptions
    from apicas._runtime.survey import check
    from apicas.cli.opening import configured

    options = RunOptions(
        resources="auto" if resources is None else resources,
        request=request,
        request_fields=request_fields,
        walltime=walltime,
        end_margin=seconds(end_margin, "--end-margin"),
    )
    check(options)
    explanation = asyncio.run(_explain(configured(pool), token, options))
    if as_json:
        _write_json(explanation)
    else:
        _write(explanation)


async def _explain(configuration: Configuration, token_id: str, options: RunOptions) -> Explanation:
    from apicas._node.surroundings import Surroundings
    from apicas._runtime.environment import boot_id, process_is_gone
    from apicas._runtime.survey import find_horizon, find_inventory, request_fields
    from apicas.cli.opening import opened, patiently
    from apicas.cli.reasons import Here, explained
    from apicas.cli.terminal import tell
    from apicas.exceptions import TokenNotFoundError

    async with opened(configuration) as client:
        (document,) = await patiently(lambda: client.get([token_id]))
        if document is None:
            raise TokenNotFoundError(f"there is no token {token_id!r} in {client.address}")
        surroundings = Surroundings()
        here = Here(
            now=client.time(),
            default_lease=client.default_lease,
            owner_is_gone=lambda document: process_is_gone(document, boot_id()),
            inventory=await find_inventory(options, surroundings),
            fields=request_fields(options),
            horizon=await find_horizon(options, surroundings),
        )
    for warning in surroundings.warnings:
        tell(warning)
    return explained(document, here)


def _write(explanation: Explanation) -> None:
    with results():
        typer.echo(one_line(f"token {explanation.token_id} is in {explanation.state}"))
        for line in [*explanation.facts, *explanation.reasons]:
            typer.echo(one_line(f"  {line}"))
        if explanation.is_claimable:
            typer.echo("  nothing keeps a pilot on this node from claiming it now")


def _write_json(explanation: Explanation) -> None:
    from apicas._documents import encode

    body: dict[str, Any] = {
        "id": explanation.token_id,
        "state": explanation.state,
        "claimable": explanation.is_claimable,
        "facts": list(explanation.facts),
        "reasons": list(explanation.reasons),
        "asks": explanation.asks,
        "seconds": explanation.seconds,
    }
    say_json(encode(body))
