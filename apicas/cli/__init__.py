"""The command line: one file per command. What a command needs it imports when it runs, so that `--help` is quick."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Final

_OBJECTS: Final = 10_000
"""New objects after which Python looks for garbage, instead of 700. Nothing of what is imported becomes garbage, and to
look through it 200 times takes a tenth of a short command."""
INTERRUPTED: Final = 130
"""The exit code of Ctrl-C, before there is anything that knows of exit codes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; None for those of this process.

    Returns:
        The exit code, see apicas.cli.exits.ExitCode.
    """
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS, *before[1:])
    try:
        from apicas.cli.application import execute

        return execute(arguments)
    except KeyboardInterrupt:  # while the command was still being imported
        return INTERRUPTED
    finally:
        gc.set_threshold(*before)
        if arguments is None:  # the process ends now, and would look through all that was imported once more
            gc.freeze()
