"""`apicas push`: put tokens into the pool, from files or standard input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from apicas.cli.parameters import PoolOption
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from apicas.cli.lines import Format

EPILOG = """\b
A line is one token:
  jsonl  an object is a token as it is: {"input": 5, "cores": 2}; any other value becomes its input
  csv    the first line names the fields; a row's cells become fields of the token, as text
  tsv    the same with tabs
  text   the line becomes the token's input
A file's format is told by its ending, that of standard input by its first line: JSON Lines if it begins with
{, [ or ", else text. Blank lines are left out. All lines are checked before the first is pushed: if one is bad,
nothing is pushed.

\b
Examples:
  apicas push inputs.jsonl
  ls data/*.fits | apicas push
  apicas push galaxies.csv --typed --id-field name
  apicas push inputs.jsonl --set cores=4 --pool sqlite:///survey.db
"""


def push(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Files to read; - or none for standard input.")
    ] = None,
    *,
    pool: PoolOption = None,
    format_: Annotated[
        str, typer.Option("--format", metavar="auto|jsonl|csv|tsv|text", help="How lines are read.")
    ] = "auto",
    typed: Annotated[
        bool, typer.Option("--typed", help="Read numbers, true, false and null in CSV and text as such.")
    ] = False,
    id_field: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Take the token's id from this field.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Put a field into every token; the value is JSON or text."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad lines out and push the others, without checking first.")
    ] = False,
) -> None:
    """Put tokens into the pool: one per line of JSON Lines, CSV or text."""
    import asyncio

    from apicas.cli.lines import Reading
    from apicas.cli.opening import configured
    from apicas.cli.pushing import Push, inputs

    reading = Reading(format=line_format(format_), typed=typed, id_field=id_field, fields=_fields(set_ or []))
    configuration = configured(pool)
    with inputs(files or [], reading, skip_bad=skip_bad) as sources:
        asyncio.run(Push(configuration, sources).run())


def line_format(name: str) -> Format:
    """The format of that name.

    Raises:
        ConfigError: there is none.
    """
    from apicas.cli.lines import Format

    try:
        return Format(name)
    except ValueError:
        raise ConfigError(f"--format {name!r}: there are {', '.join(Format)}") from None


def _fields(settings: list[str]) -> dict[str, Any]:
    """The fields of `--set FIELD=VALUE`."""
    from apicas._documents import decode
    from apicas.exceptions import InvalidTokenError

    fields: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {setting!r}: write FIELD=VALUE")
        try:
            fields[name] = decode(value)
        except InvalidTokenError:
            fields[name] = value
    return fields
