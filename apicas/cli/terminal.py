"""What a person sees: lines on standard output for results, on standard error for everything else, and questions."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from unicodedata import category, combining

import typer

from apicas._secrets import Secret
from apicas.cli.exits import ExitCode
from apicas.exceptions import ApicasError, ConfigError

MAX_LINE: Final = 20_000
"""Characters of one message: a traceback fits, and what somebody wrote into a token by the megabyte does not."""
_MAX_MARKS: Final = 4
"""Marks on one letter that scripts need; hundreds of them paint over the lines around."""


def one_line(text: object) -> str:
    r"""A text without line breaks and whatever else drives a terminal, or shows a line as what it is not.

    Content of tokens, names of files and answers of servers get into messages. Control characters, and those that no
    font shows (as marks of direction), are written as in Python: `\x1b`, `\u202e`.
    """
    line = str(text)
    if len(line) > MAX_LINE:
        line = f"{line[:MAX_LINE]}... ({len(line) - MAX_LINE:,} more characters)"
    return line if line.isascii() and line.isprintable() else "".join(_printable(line))


def printable_json(body: bytes) -> str:
    """JSON that drives no terminal, and means the same."""
    text = body.decode()
    if text.isprintable():
        return text
    return "".join(character if _is_shown(character) else json.dumps(character)[1:-1] for character in text)


def printable_text(text: str) -> str:
    """A text of several lines that drives no terminal."""
    return "".join(
        character if character.isprintable() or character in "\n\t\r" else character.encode("unicode_escape").decode()
        for character in text
    )


def _is_shown(character: str) -> bool:
    return character.isprintable() or category(character) == "Zs"


def _printable(line: str) -> Iterator[str]:
    marks = 0
    for character in line:
        marks = marks + 1 if combining(character) else 0
        if marks > _MAX_MARKS or not _is_shown(character):
            yield character.encode("unicode_escape").decode()
        else:
            yield character


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
        typer.echo(one_line(text))


def painted(line: str, colour: str) -> str:
    """A line in a colour, or `bold`; typer takes that away again where nobody would see it.

    Not by rich: to import it takes longer than to count a pool.
    """
    if not colour or os.environ.get("NO_COLOR") or os.environ.get("TERM") in {"dumb", "unknown"}:
        return line
    return typer.style(line, bold=True) if colour == "bold" else typer.style(line, fg=colour)


def say_json(body: bytes) -> None:
    """Write a line of JSON, of any length."""
    with results():
        typer.echo(printable_json(body))


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
    with _hearing_interrupts():
        agreed = typer.confirm(one_line(question), err=True)
    if not agreed:
        tell("nothing was changed")
        raise typer.Exit(ExitCode.INCOMPLETE)


def ask_unseen(question: str) -> Secret | None:
    """What somebody types in without seeing it; None where the terminal would show it."""
    import warnings
    from getpass import GetPassWarning, getpass

    with warnings.catch_warnings(), _hearing_interrupts():
        warnings.simplefilter("error", GetPassWarning)
        try:
            return Secret(getpass(one_line(question)))
        except GetPassWarning:  # the terminal cannot be told not to show what is typed
            return None


@contextmanager
def _hearing_interrupts() -> Iterator[None]:
    """Let Ctrl-C end a question: the event loop takes it for itself, and would act on it only after the answer."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def plural(number: int, noun: str = "token") -> str:
    """`1 token`, `2,000 tokens`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
