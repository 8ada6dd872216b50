"""`apicas views`: which views a pool has, and new ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apicas.cli.parameters import DryRunOption, PoolOption, YesOption
from apicas.cli.terminal import agree, one_line, results, say, say_json
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apicas.clients.base import PoolClient
    from apicas.clients.port import StoredView
    from apicas.configuration import Configuration
    from apicas.views import View

EPILOG = """\b
A view lists the tokens of one state, and of these only those that fulfil a condition. A pilot claims from one with
`apicas run --view Big/todo`.

\b
Examples:
  apicas views list
  apicas views add Big/todo 'cores >= 4'
"""
_LIST = """\b
The number behind each is that of its tokens. To count, CouchDB brings the view up to date first, which takes long for
one that is new on a big pool: --no-numbers does without.

\b
Examples:
  apicas views list
  apicas views list --json | jq -r .name
"""
_ADD = """\b
NAME is Design/view. The tokens listed are those of the state that the view is called after (todo, locked, done, error),
or of --state. In a condition stand fields (cores, input.cores, input["n cores"]), texts, numbers, true and false,
== != < <= > >=, in [...], and, or, not. A field that is missing, or of another type, fulfils no comparison.

\b
On CouchDB it is for an admin of the database. All views of a design document are indexed anew when one changes, and
pilots that claim from them wait meanwhile: give a new view a design document of its own on a big pool.

\b
Examples:
  apicas views add SingleCore/todo 'cores == 1'
  apicas views add Deep/error 'input.survey in ["deep", "wide"] and not urgent == true'
  apicas views add Mine/waiting --state todo
  apicas views add Tasks/todo --type task
  apicas views add Survey/by_night --map by_night.js --reduce _sum
"""


def list_views(
    *,
    pool: PoolOption = None,
    numbers: Annotated[bool, typer.Option("--numbers/--no-numbers", help="Count the tokens of each.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object for each.")] = False,
) -> None:
    """List the views of the pool, with the number of tokens of each."""
    import asyncio

    from apicas._documents import encode
    from apicas.cli.opening import configured

    found = asyncio.run(_list(configured(pool), numbers=numbers))
    with results():
        if as_json:
            for view, number in found:
                say_json(encode(_as_json(view, number)))
            return
        width = max((len(view.name) for view, _ in found), default=0)
        for view, number in found:
            shown = "" if number is None else f"{number:>12,}"
            typer.echo(one_line(f"{view.name:{width}}{shown}  {_described(view)}").rstrip())


async def _list(configuration: Configuration, *, numbers: bool) -> list[tuple[StoredView, int | None]]:
    from apicas.cli.opening import opened, patiently

    async with opened(configuration) as client:
        views = await patiently(client.views)
        counts = await _counts(client, views) if numbers else {}
    return [(view, counts.get(view.name)) for view in views]


async def _counts(client: PoolClient, views: list[StoredView]) -> Mapping[str, int]:
    """The number of rows of each; without those that the server cannot make, as where a function does not run."""
    from apicas.cli.opening import patiently
    from apicas.exceptions import PoolError, PoolUnavailableError

    counts: dict[str, int] = {}
    for view in views:
        try:
            counts |= await patiently(lambda view=view: client.counts([view.name]))  # type: ignore[misc]
        except PoolUnavailableError:
            raise
        except PoolError:
            continue
    return counts


def _as_json(view: StoredView, number: int | None) -> dict[str, Any]:
    entry = {
        "name": view.name,
        "tokens": number,
        "state": view.state,
        "where": None if view.where is None else _condition(view),
        "map": view.map_function,
        "reduce": view.reduce_function,
    }
    return {name: value for name, value in entry.items() if value not in {None, ""}}


def _described(view: StoredView) -> str:
    if view.state:
        return view.state if view.where is None else f"{view.state} where {_condition(view)}"
    if view.name.startswith("Monitor/"):
        return ""
    return f"map function{f', reduce {view.reduce_function}' if view.reduce_function else ''}"


def _condition(view: StoredView) -> str:
    from apicas.cli.conditions import condition_text

    return condition_text(view.where)


def add(  # noqa: PLR0913 - typer makes an option of each
    name: Annotated[str, typer.Argument(metavar="NAME", help="Design/view.")],
    condition: Annotated[
        str | None, typer.Argument(metavar="CONDITION", help="Which tokens of the state.", show_default="all")
    ] = None,
    *,
    pool: PoolOption = None,
    state: Annotated[
        str | None,
        typer.Option(metavar="STATE", help="todo, locked, done or error.", show_default="what the view is called"),
    ] = None,
    type_: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="token, or task for what PiCaS's Task makes, on CouchDB.")
    ] = "token",
    map_file: Annotated[
        str | None, typer.Option("--map", metavar="FILE", help="A map function in JavaScript instead, on CouchDB.")
    ] = None,
    reduce: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="With --map: _count, _sum, _stats, or a function.")
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Add a view; one of the same name is replaced."""
    import asyncio

    from apicas.cli.opening import configured
    from apicas.views import full_name

    full = full_name(name)
    if map_file is None:
        if reduce is not None:
            raise ConfigError("--reduce is for a view with --map")
        asyncio.run(_add(configured(pool), full, _view(full, condition, state, type_), dry_run=dry_run, yes=yes))
        return
    if condition is not None or state is not None or type_ != "token":
        raise ConfigError("a view with --map has no condition, no --state and no --type: the function says it all")
    functions = (_text_of(map_file), _reduce(reduce))
    asyncio.run(_add(configured(pool), full, functions, dry_run=dry_run, yes=yes))


def _view(name: str, condition: str | None, state: str | None, type_: str) -> View:
    from apicas.cli.conditions import parse_condition
    from apicas.tokens import TokenState
    from apicas.views import STATES, View

    named = name.partition("/")[2] if state is None else state
    if named not in STATES:
        raise ConfigError(f"of which state are the tokens of {name}? Say --state {'|'.join(STATES)}")
    return View(name, TokenState(named), None if condition is None else parse_condition(condition), type_)


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'no UTF-8'}") from None


def _reduce(text: str | None) -> str | None:
    return text if text is None or text.startswith("_") else _text_of(text)


async def _add(
    configuration: Configuration, name: str, new: View | tuple[str, str | None], *, dry_run: bool, yes: bool
) -> None:
    from apicas.cli.opening import opened, patiently

    async with opened(configuration) as client:
        design = name.partition("/")[0]
        there = [view.name for view in await patiently(client.views) if view.name.partition("/")[0] == design]
        verb = "replace" if name in there else "add"
        if dry_run:
            say(f"would {verb} {name} in {client.address}")
            return
        if there and hasattr(client, "inspection"):
            agree(f"{verb.capitalize()} {name}? The server then indexes all views of {design} anew.", yes=yes)
        elif verb == "replace":
            agree(f"Replace {name} of {client.address}?", yes=yes)
        await patiently(lambda: _install(client, name, new))
        say(f"{'replaced' if verb == 'replace' else 'added'} {name} in {client.address}")


async def _install(client: PoolClient, name: str, new: View | tuple[str, str | None]) -> None:
    if not isinstance(new, tuple):
        await client.add_view(new)
        return
    from apicas.clients.couch import CouchClient

    if not isinstance(client, CouchClient):
        raise ConfigError(f"{client.address} runs no JavaScript: give a condition instead of --map")
    await client.add_view(name, *new)


SUBCOMMANDS = {"list": (list_views, _LIST), "add": (add, _ADD)}
