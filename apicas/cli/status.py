"""`apicas status`: how many tokens are in which state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apicas.cli.parameters import PoolOption
from apicas.cli.terminal import one_line, painted, results, say_json, tell

if TYPE_CHECKING:
    from apicas.configuration import Configuration

EPILOG = """\b
Tokens in no view are those whose lock or done is missing or no number: pilots leave them alone.

\b
Examples:
  apicas status
  apicas status --json | jq .todo
"""

_STATES = ("todo", "locked", "done", "error")
_NO_VIEW = "no view"


def status(
    *,
    pool: PoolOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
) -> None:
    """Show how many tokens are in todo, locked, done and error."""
    import asyncio

    from apicas.cli.opening import configured

    address, counts = asyncio.run(_count(configured(pool)))
    if as_json:
        _write_json(address, counts)
    else:
        with results():
            _write_table(address, counts)
        _advise(counts)


async def _count(configuration: Configuration) -> tuple[str, dict[str, int]]:
    """The pool's address, and its numbers of tokens."""
    from apicas.cli.opening import opened, patiently

    async with opened(configuration) as client:
        counts = await patiently(client.counts)
        total = await patiently(client.total)
    states = {state: counts.get(state, 0) for state in _STATES}
    # Pilots go on while we count, so the total may be of a moment before.
    outside = max(total - sum(states.values()), 0)
    return client.address, {**states, **({_NO_VIEW: outside} if outside else {}), "total": total}


def _write_json(address: str, counts: dict[str, int]) -> None:
    from apicas._documents import encode

    names = {_NO_VIEW: "no_view"}
    say_json(encode({"pool": address, **{names.get(name, name): number for name, number in counts.items()}}))


def _write_table(address: str, counts: dict[str, int]) -> None:
    typer.echo(one_line(f"pool {address}"))
    width = max(len(f"{number:,}") for number in counts.values())
    for name, number in counts.items():
        typer.echo(painted(f"  {name:8}{number:>{width},}", _colour(name) if number else ""))


def _advise(counts: dict[str, int]) -> None:
    if not counts["total"]:
        tell("the pool is empty: `apicas push FILE` puts tokens into it")
    elif counts["error"] and not counts["todo"] and not counts["locked"]:
        tell("`apicas reset error` puts failed tokens back to todo")


def _colour(name: str) -> str:
    return {"done": "green", "error": "red", "locked": "yellow", _NO_VIEW: "magenta", "total": "bold"}.get(name, "")
