"""What is said of a command that failed, or could not be started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from apicas._documents import shown
from apicas._runtime.commands.options import Command, CommandOptions, CommandResult
from apicas._runtime.processes.running import signal_name
from apicas.exceptions import CommandError

NOT_FOUND: Final = 127
"""The exit code of a command that does not exist, as shells have it."""
NOT_EXECUTABLE: Final = 126
"""The exit code of a command that could not be started for any other reason."""
MAX_COMPLAINT: Final = 2_000
"""Characters of stderr in a message: the message goes into the token, and stderr is attached beside it."""


def complaint(command: Command, result: CommandResult) -> str:
    """What a failed command has to say, in a message: its exit code and the end of its stderr."""
    how = f"exit code {result.exit_code}" if result.signal is None else f"ended by {signal_name(result.signal)}"
    if result.out_of_memory:
        how += " (the node ran out of memory, or the batch job did)"
    last_words = result.stderr[-4 * MAX_COMPLAINT :].decode("utf-8", "replace").strip()[-MAX_COMPLAINT:]
    return f"{name_of(command)}: {how}: {last_words}" if last_words else f"{name_of(command)}: {how}"


def not_started(command: Command, options: CommandOptions, error: OSError | ValueError) -> CommandError:
    """The error for a command that the system did not start."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(error, FileNotFoundError):
        if options.cwd is None or Path(options.cwd).is_dir():
            return CommandError(f"{name_of(command)}: not found, or the interpreter that it names is not", NOT_FOUND)
        reason = f"there is no directory {shown(os.fspath(options.cwd))}"
    return CommandError(f"{name_of(command)}: cannot be started: {reason}", NOT_EXECUTABLE)


def name_of(command: Command) -> str:
    """The command in a message: its program only, since arguments may hold secrets, and be long."""
    if isinstance(command, str):
        return "the shell command"
    name = os.fspath(command[0])
    return name if len(name) <= 200 else f"...{name[-200:]}"
