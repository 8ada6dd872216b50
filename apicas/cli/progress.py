"""`apicas progress`: what a command tells of its token. It needs no pool, and starts as fast as a Python can."""

from __future__ import annotations

import os
from typing import Annotated, Any, Final

import typer

from apicas.cli.commands import Command
from apicas.exceptions import ConfigError

EPILOG = """\b
A command of `apicas run` finds in $APICAS_PROGRESS the path of a file; this appends a line to it, and so does echo,
which is quicker. The last line counts. The next heartbeat carries it to the pool, where `apicas status TOKEN` shows
it. Outside of a command of a pilot nothing is written.

\b
Examples:
  apicas progress 0.4
  apicas progress 40% imaging field 12
  echo "0.4 imaging" >> "$APICAS_PROGRESS"
"""


class ProgressCommand(Command):
    """Takes all words after the first for one message."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the words together."""
        if not any(word.startswith("-") for word in args):
            args = [*args[:1], " ".join(args[1:])] if len(args) > 1 else args
        return super().parse_args(ctx, args)


COMMAND: Final = ProgressCommand


def progress(
    fraction: Annotated[str, typer.Argument(metavar="FRACTION", help="How far it is: 0 to 1, or 0% to 100%.")],
    message: Annotated[
        str | None, typer.Argument(metavar="MESSAGE...", help="What it is at.", show_default=False)
    ] = None,
) -> None:
    """Tell, from a command, how far the work on its token is."""
    from apicas._runtime.attempts.progress import VARIABLE, read_line

    try:
        told = read_line(f"{fraction} {message or ''}")
    except ValueError as error:
        raise ConfigError(f"{fraction!r} is no progress: it is 0 to 1, or 0% to 100%") from error
    path = os.environ.get(VARIABLE)
    if not path:  # a script that is tried out without a pilot
        return
    try:
        with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123 - pathlib has no such import time
            file.write(f"{told['fraction']} {told['message']}\n")
    except OSError as error:
        raise ConfigError(f"the progress cannot be told: {path}: {error.strerror}") from error
