"""`apicas status`: how many tokens are in which state, and how single tokens are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apicas.cli.exits import ExitCode
from apicas.cli.parameters import PoolOption, seconds
from apicas.cli.terminal import one_line, painted, results, say_json, tell
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from apicas._documents import Document
    from apicas.configuration import Configuration

EPILOG = """\b
Tokens in no view are those whose lock or done is missing or no number: pilots leave them alone.
With an id it shows that token: who holds it, how far it is, what its last attempt took, what went wrong.
With --watch it goes on, until Ctrl-C: numbers, how many tokens end per second, when they will all have ended at that
rate, who is at work, and which tokens are stuck. On a pipe each look is a line.

\b
Examples:
  apicas status
  apicas status --json | jq .todo
  apicas status token_17
  apicas status --running
  apicas status --watch
  apicas status --watch --interval 60s >> progress.log
"""

_STATES = ("todo", "locked", "done", "error")
_NO_VIEW = "no view"
_MOST_RUNNING = 1000


def status(
    token: Annotated[str | None, typer.Argument(metavar="TOKEN", help="The id of a token.", show_default=False)] = None,
    *,
    pool: PoolOption = None,
    running: Annotated[bool, typer.Option("--running", help="Show the tokens that are being worked.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, until Ctrl-C.")] = False,
    interval: Annotated[
        str | None, typer.Option(metavar="TIME", help="With --watch: time between two looks.", show_default="2s")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON object, or one for each token, or for each look.")
    ] = False,
) -> None:
    """Show how many tokens are in todo, locked, done and error, or how single tokens are."""
    import asyncio

    from apicas.cli.opening import configured

    pause = seconds(interval, "--interval")
    if watch:
        _watch(pool, token, pause, running=running, as_json=as_json)
        return
    if interval is not None:
        raise ConfigError("--interval is for --watch")
    if token is not None or running:
        _show_tokens(configured(pool), token, running=running, as_json=as_json)
        return
    address, counts = asyncio.run(_count(configured(pool)))
    if as_json:
        _write_json(address, counts)
    else:
        with results():
            _write_table(address, counts)
        _advise(counts)


def _watch(pool: str | None, token: str | None, pause: float | None, *, running: bool, as_json: bool) -> None:
    import asyncio

    from apicas.cli.opening import configured
    from apicas.cli.watching import INTERVAL, watch_pool

    if token is not None or running:
        raise ConfigError("--watch is for the whole pool: it goes with no TOKEN, and not with --running")
    asyncio.run(watch_pool(configured(pool), INTERVAL if pause is None else pause, as_json=as_json))


def _show_tokens(configuration: Configuration, token: str | None, *, running: bool, as_json: bool) -> None:
    import asyncio

    from apicas._documents import encode
    from apicas.cli.token_status import lines_of, summary_of

    documents = asyncio.run(_read(configuration, token, running=running))
    if running and not documents:
        tell("no token is being worked")
    with results():
        for document in documents.values():
            if as_json:
                say_json(encode(summary_of(document)))
            else:
                for line in lines_of(document):
                    typer.echo(one_line(line))
    if token is not None and token not in documents:
        tell(f"there is no token {token!r}")
        raise typer.Exit(ExitCode.INCOMPLETE)


async def _read(configuration: Configuration, token: str | None, *, running: bool) -> dict[str, Document]:
    """The token of that id, and those that are locked; by their ids."""
    from apicas.cli.opening import opened, patiently

    async with opened(configuration) as client:
        names = [] if token is None else [token]
        if running:
            rows = await patiently(lambda: client.view("locked", limit=_MOST_RUNNING))
            names += [row.id for row in rows if row.id is not None and row.id not in names]
        found = await patiently(lambda: client.get(names)) if names else []
    return {name: document for name, document in zip(names, found, strict=True) if document is not None}


async def _count(configuration: Configuration) -> tuple[str, dict[str, int]]:
    """The pool's address, and its numbers of tokens."""
    from apicas.cli.opening import opened, patiently

    async with opened(configuration) as client:
        counts = await patiently(client.counts)
        total = await patiently(client.total)
    states = {state: counts.get(state, 0) for state in _STATES}
    # Pilots go on while we count, so the total may be of a moment before.
    outside = max(total - sum(states.values()), 0)
    return client.address, {**states, _NO_VIEW: outside, "total": total}


def _write_json(address: str, counts: dict[str, int]) -> None:
    from apicas._documents import encode

    names = {_NO_VIEW: "no_view"}
    say_json(encode({"pool": address, **{names.get(name, name): number for name, number in counts.items()}}))


def _write_table(address: str, counts: dict[str, int]) -> None:
    typer.echo(one_line(f"pool {address}"))
    width = max(len(f"{number:,}") for number in counts.values())
    for name, number in counts.items():
        if name == _NO_VIEW and not number:  # as it is in most pools
            continue
        typer.echo(painted(f"  {name:8}{number:>{width},}", _colour(name) if number else ""))


def _advise(counts: dict[str, int]) -> None:
    if not counts["total"]:
        tell("the pool is empty: `apicas push FILE` puts tokens into it")
    elif counts["error"] and not counts["todo"] and not counts["locked"]:
        tell("`apicas reset error` puts failed tokens back to todo")


def _colour(name: str) -> str:
    return {"done": "green", "error": "red", "locked": "yellow", _NO_VIEW: "magenta", "total": "bold"}.get(name, "")
