"""The work of `apicas edit` on one token: the editor, and what becomes of the text."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

import msgspec
import typer

from apicas._documents import Document, check_fields, decode, encode
from apicas.cli.editing import STORED, OvertakenError, apply, changes, check
from apicas.cli.exits import ExitCode
from apicas.cli.opening import opened, patiently
from apicas.cli.selection import is_held
from apicas.cli.terminal import is_interactive, one_line, printable_json, say, tell
from apicas.configuration import Configuration
from apicas.exceptions import ApicasError, ConfigError, InvalidTokenError, TokenNotFoundError
from apicas.tokens import Token


def edit_one(configuration: Configuration, token_id: str, *, force: bool) -> None:
    """Edit a token. The pool is not kept open while somebody thinks.

    Raises:
        ConfigError: there is no editor, or its text is no token.
        TokenNotFoundError: there is no such token.
        typer.Exit: the text could not be written, and is kept.
    """
    before = asyncio.run(_read(configuration, token_id))
    text = _text_of(before)
    with _Draft(text) as draft:
        after = _edited(draft, before, force=force)
        edited = changes(before, after)
        if not edited:
            tell("nothing was changed")
            return
        draft.keep = True
        try:
            asyncio.run(_write(configuration, token_id, before, edited))
        except OvertakenError as error:
            tell(f"somebody else has changed {error} meanwhile: nothing was written, and your text is in {draft.path}")
            raise typer.Exit(ExitCode.INCOMPLETE) from None
        except ApicasError:
            tell(f"nothing was written, and your text is in {draft.path}")
            raise
        draft.keep = False
    say(f"changed {', '.join(edited)} of {token_id}")


async def _read(configuration: Configuration, token_id: str) -> Document:
    async with opened(configuration) as client:
        (document,) = await patiently(lambda: client.get([token_id]))
        if document is None:
            raise TokenNotFoundError(f"there is no token {token_id!r} in {client.address}")
        if is_held(document, client.time(), client.default_lease):
            tell("a pilot works on this token: of what it changes itself, its own values stay")
        return document


async def _write(configuration: Configuration, token_id: str, before: Document, edited: dict[str, Any]) -> None:
    def change(token: Token) -> None:
        apply(token.document, before, edited)

    async with opened(configuration) as client:
        await patiently(lambda: client.edit(token_id, change))


def _text_of(document: Document) -> bytes:
    plain = {name: value for name, value in document.items() if name not in STORED[1:]}
    # Escaped, should the editor pass on what it reads.
    return msgspec.json.format(printable_json(encode(plain)).encode(), indent=2) + b"\n"


class _Draft:
    """A text in a file that nobody else can read, removed at the end unless it is to be kept.

    Args:
        text: what it is at first.
    """

    def __init__(self, text: bytes) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="apicas-edit-"))
        self.path = self._directory / "token.json"
        self.path.write_bytes(text)
        self.text = text
        self.keep = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if not self.keep:
            shutil.rmtree(self._directory, ignore_errors=True)  # with what the editor kept beside it

    def edit(self) -> None:
        """Have somebody edit it.

        Raises:
            ConfigError: there is no editor, or it failed.
        """
        named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
        if named is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise ConfigError("there is no terminal for an editor: change fields with --set, or set $EDITOR")
        named = named or "vi"
        # Ctrl-C is the editor's. A handler, and not SIG_IGN, which the editor would inherit.
        previous = signal.signal(signal.SIGINT, lambda _number, _frame: None)
        try:
            code = subprocess.run([*shlex.split(named), str(self.path)], check=False).returncode  # noqa: S603 - the user's own editor
        except (OSError, ValueError) as error:
            raise ConfigError(f"the editor {named!r} cannot be started: set $EDITOR") from error
        finally:
            signal.signal(signal.SIGINT, previous)
        try:
            self.text = self.path.read_bytes()
        except OSError as error:
            raise ConfigError(f"the editor has left no text: {error.strerror}") from error
        if code:
            raise ConfigError(f"the editor {named!r} ended with exit code {code}: nothing was changed")


def _edited(draft: _Draft, before: Document, *, force: bool) -> Document:
    """What somebody makes of a token; asked again, on a terminal, as long as it is none."""
    while True:
        draft.edit()
        try:
            return _token_of(draft.text, before, force=force)
        except (ConfigError, InvalidTokenError) as error:
            if not is_interactive():
                draft.keep = True
                raise ConfigError(f"{error}: nothing was changed, and your text is in {draft.path}") from None
            draft.keep = True
            tell(error)
            if not typer.confirm(one_line("Edit again?"), default=True, err=True):
                tell(f"nothing was changed, and your text is in {draft.path}")
                raise typer.Exit(ExitCode.INCOMPLETE) from None
            draft.keep = False


def _token_of(text: bytes, before: Document, *, force: bool) -> Document:
    value = decode(text)
    if not isinstance(value, dict):
        raise InvalidTokenError("a token is a JSON object")
    if value.get("_id") != before["_id"]:
        raise ConfigError("_id cannot be edited: `apicas export` and `apicas import` make a copy of another id")
    encode(value)
    check_fields({name: field for name, field in value.items() if name not in {"_rev", "_attachments"}})
    check(before, {**value, **{name: before[name] for name in STORED if name in before}}, force=force)
    return value
