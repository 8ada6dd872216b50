"""The command line: one file per command. What a command needs it imports when it runs, so that `--help` is quick."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; None for those of this process.

    Returns:
        The exit code, see apicas.cli.exits.ExitCode.
    """
    from apicas.cli.application import execute

    return execute(arguments)
