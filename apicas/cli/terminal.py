"""What a person sees: lines on standard output for results, on standard error for everything else, and questions."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from apicas.cli.exits import ExitCode
from apicas.exceptions import ApicasError, ConfigError

# Content of tokens gets into messages. It must neither break lines nor reach the terminal as a command.
_CONTROLS = {number: f"\\x{number:02x}" for number in (*range(32), *range(127, 160))} | {10: "\\n", 9: "\\t", 13: "\\r"}


def one_line(text: object) -> str:
    """A text without line breaks and other control characters."""
    return str(text).translate(_CONTROLS)


@contextmanager
def results() -> Iterator[None]:
    """Write to standard output inside.

    Raises:
        ApicasError: it takes no more, as on a full disk.
        BrokenPipeError: nobody reads on.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ApicasError(f"standard output cannot be written: {error.strerror}") from error


def say(text: str) -> None:
    """Write a line of the result."""
    with results():
        typer.echo(text)


def tell(text: object) -> None:
    """Write a line about what happens, to standard error."""
    typer.echo(f"apicas: {one_line(text)}", err=True)


def is_watched() -> bool:
    """Whether standard error is a terminal, where a display can move."""
    return sys.stderr.isatty()


def is_interactive() -> bool:
    """Whether there is somebody to answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def agree(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be taken back; ends the command if the answer is no.

    Raises:
        ConfigError: there is nobody to ask.
    """
    if yes:
        return
    if not is_interactive():
        raise ConfigError(f"{question} There is no terminal to ask on: add --yes")
    # The event loop takes Ctrl-C for itself, and would act on it only after the answer.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        agreed = typer.confirm(question, err=True)
    finally:
        signal.signal(signal.SIGINT, previous)
    if not agreed:
        tell("nothing was changed")
        raise typer.Exit(ExitCode.INCOMPLETE)


def plural(number: int, noun: str = "token") -> str:
    """`1 token`, `2,000 tokens`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
