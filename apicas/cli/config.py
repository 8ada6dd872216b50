"""`apicas config`: what is configured, where each value comes from, and how to change it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from apicas.cli.parameters import PoolOption
from apicas.cli.terminal import one_line, results, say, say_json, tell
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from apicas.configuration import Configuration

EPILOG = """\b
The order, for each key: an option of the command, $APICAS_KEY, apicas.toml in this directory, config.toml in your
configuration directory, and for the pool PiCaS's conf.yml and ./picasconfig.py.

\b
Examples:
  apicas config show
  apicas config set pool https://me@couch.example:6984/survey
  apicas config set lock_timeout 300 --here
  apicas config path
"""
_SHOW = """\b
Passwords are not shown. What could not be read is said on standard error.

\b
Examples:
  apicas config show
  apicas config show --json | jq -r .pool.value
"""
_SET = """\b
The keys: pool, username, auth, ca_file, lock_timeout, foreign_lock_timeout, outbox, log_format. What they mean:
docs/configuration.md. A password is none of them, since a command line is public: see `apicas passwd`.

\b
Examples:
  apicas config set pool https://me@couch.example:6984/survey
  apicas config set outbox ~/results --here
"""
_UNSET = """\b
Examples:
  apicas config unset lock_timeout
  apicas config unset pool --here
"""
_PATH = """\b
Examples:
  apicas config path
  $EDITOR "$(apicas config path)"
  apicas config path --all
"""

_UNSAID: Final = "not set"
_HIDDEN: Final = "(hidden)"

HereOption = Annotated[bool, typer.Option("--here", help="In apicas.toml of this directory, not in config.toml.")]


def show(
    *,
    pool: PoolOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
) -> None:
    """Show each value, and where it comes from."""
    from apicas.configuration import configure

    configuration = configure(pool)
    rows = list(_rows(configuration))
    if as_json:
        from apicas._documents import encode

        say_json(encode({key: {"value": value, "source": source} for key, value, source in rows}))
    else:
        width = max(len(str(value)) for _, value, _ in rows)
        with results():
            for key, value, source in rows:
                shown = "-" if value is None else str(value)
                typer.echo(one_line(f"{key:20} {shown:{min(width, 60)}}  {source}"))
    for note in configuration.notes:
        tell(note)


def _rows(configuration: Configuration) -> list[tuple[str, Any, str]]:
    from apicas.configuration import KEYS
    from apicas.configuration.environment import NAME, early

    rows = []
    for key in KEYS:
        value = getattr(configuration, key)
        shown = _HIDDEN if key == "password" and value is not None else value
        rows.append((key, shown, configuration.origins.get(key, _UNSAID if value is None else configuration.source)))
    return [*rows, *((f"${name}", value, NAME) for name, value in early().items())]


def set_value(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="The value.")],
    *,
    here: HereOption = False,
) -> None:
    """Write a value into your config.toml."""
    from apicas.configuration.editing import set_key

    path = _file(here=here)
    set_key(path, key, value)
    say(f"{key} is set in {path}")
    _warn_of_nearer(key, path)


def unset(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key.")],
    *,
    here: HereOption = False,
) -> None:
    """Take a value out of your config.toml."""
    from apicas.configuration.editing import unset_key

    path = _file(here=here)
    say(f"{key} is no longer set in {path}" if unset_key(path, key) else f"{key} was not set in {path}")


def path(
    *,
    everything: Annotated[bool, typer.Option("--all", help="All files that are looked for, in their order.")] = False,
) -> None:
    """Print where your config.toml is, or belongs."""
    if not everything:
        say(str(_file(here=False)))
        return
    from apicas.configuration.environment import surroundings
    from apicas.configuration.keys import PICAS_CONF, PICAS_MODULE
    from apicas.configuration.stored import FILE_NAME as PASSWORDS

    around = surroundings(None)
    conf = None if around.home is None else around.home / PICAS_CONF
    own = _file(here=False)
    paths = [_file(here=True), own, conf, Path.cwd() / PICAS_MODULE, own.with_name(PASSWORDS), around.netrc]
    with results():
        for found in paths:
            if found is not None:
                typer.echo(one_line(f"{'there  ' if found.exists() else 'missing'}  {found}"))


def _file(*, here: bool) -> Path:
    from apicas.configuration import FILE_NAME, USER_FILE_NAME, user_directory

    return Path.cwd() / FILE_NAME if here else user_directory() / USER_FILE_NAME


def _warn_of_nearer(key: str, path: Path) -> None:
    """Say so if another place decides all the same."""
    from apicas.configuration import configure

    try:
        origin = configure().origins.get(key)
    except ConfigError as error:
        tell(error)
        return
    if origin is not None and Path(origin).absolute() != path:
        tell(f"{key} of {origin} comes before it")


SUBCOMMANDS = {"show": (show, _SHOW), "set": (set_value, _SET), "unset": (unset, _UNSET), "path": (path, _PATH)}
