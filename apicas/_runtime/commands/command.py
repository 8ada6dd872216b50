"""Tokens as commands: no Python needed for the work itself."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from apicas._documents import encode
from apicas._runtime.attempts.logs import AttemptLog
from apicas._runtime.commands.files import CommandFiles, FileOptions
from apicas._runtime.commands.messages import complaint
from apicas._runtime.commands.options import CommandOptions, CommandResult
from apicas._runtime.commands.running import perform
from apicas._runtime.commands.templates import fill, fill_line, parse, parse_line
from apicas.exceptions import CommandError, ConfigError, InvalidTokenError
from apicas.modifiers import JOB_ID_FIELDS
from apicas.tokens import Token

STDOUT: Final = "stdout.txt"
STDERR: Final = "stderr.txt"
ID_VARIABLE: Final = "APICAS_TOKEN_ID"
"""The variable in which a command finds the id of its token."""
ATTEMPT_VARIABLE: Final = "APICAS_ATTEMPT"
"""The number of the attempt: the first is 1."""
DIRECTORY_VARIABLE: Final = "APICAS_SUBMIT_DIR"
"""Where the pilot was started: a command in a work directory is elsewhere."""
FIELD_VARIABLE: Final = "APICAS_FIELD_"
"""What the names of the variables begin with that hold the fields of the token."""
MAX_FIELD: Final = 32_000
"""Characters of a field that a variable holds: a program that starts has room for 128 KiB in each, and 2 MiB in all."""
MAX_FIELDS: Final = 128_000
"""Characters of all of them. What is longer travels as an argument, where the command asks for it."""
_OWN_FIELDS: Final = frozenset(
    {
        "type",
        "lock",
        "done",
        "hostname",
        "scrub_count",
        "exit_code",
        "error",
        "output",
        "uploads",
        "apicas",
        *JOB_ID_FIELDS,
    }
)
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)


class CommandRunner:
    """Works a token by a command: a process_token for those who have a script.

    stdout and stderr are attached to the token, also when the command fails or is ended from outside. A time limit is
    the pilot's, and so is the end at a shutdown: a cancellation ends the command and all that it started.

    Args:
        command: the program and its arguments, with placeholders such as `{input}`; a string, with `shell=True`. See
            apicas._runtime.commands.templates.
        options: how it is run. `env` is added to this process's environment, without what is apicas's own in it: a
            pool's address may hold a password. `timeout` and `check` are not used.
        files: which files it gets and leaves, in a work directory of its own; None to run it where this process is.

    Raises:
        ConfigError: the command cannot be understood.
    """

    def __init__(
        self, command: Sequence[str] | str, options: CommandOptions | None = None, files: FileOptions | None = None
    ) -> None:
        self._options = replace(options or CommandOptions(), timeout=None)
        self._files = None if files is None else CommandFiles(files)
        self._variables = _encoded(self._options.env or {})
        self._inherited = _Inherited()
        self.on_result: Callable[[Token, CommandResult], None] | None = None
        """Called with the result of each command that has come to its end by itself."""
        if isinstance(command, str) is not self._options.shell:
            raise ConfigError(
                "a command is a string with shell=True, or a list of the program and its arguments without"
            )
        if not command:
            raise ConfigError("the command is empty")
        self._line = parse_line(command) if isinstance(command, str) else None
        self._arguments = [] if isinstance(command, str) else [parse(argument) for argument in command]
        if self._files is not None:
            if self._options.cwd is not None:
                raise ConfigError("a command in a work directory of its own has no other one")
            self._files.check()
            self._variables = {**self._variables, **_encoded({DIRECTORY_VARIABLE: str(Path.cwd())})}
            if not isinstance(command, str) and "/" in command[0] and not command[0].startswith("/"):
                self._arguments[0] = (f"{Path.cwd()}/", *self._arguments[0])  # `./cmd` is where the pilot was started

    async def __call__(self, token: Token) -> None:
        """Run the command for a token, and set the token's exit code.

        Raises:
            CommandError: its exit code is not 0, or it could not be started. The message has the end of its stderr.
            InvalidTokenError: the token lacks a field that the command needs, or names files that it cannot have.
            OutputError: it ended well, but what it was to make is not there.
        """
        if self._files is None:
            await self._run(token, self._options)
        else:
            async with self._files.around(token) as directory:
                await self._run(token, replace(self._options, cwd=directory))
        token.exit_code = 0

    def check(self, document: Mapping[str, object]) -> None:
        """Whether the command can be made for a token, without running it.

        Raises:
            InvalidTokenError: the token lacks a field that the command needs, or no argument can hold its value.
        """
        self._filled(document)

    async def close(self) -> None:
        """Remove what is left of its work directories."""
        if self._files is not None:
            await self._files.close()

    async def _run(self, token: Token, options: CommandOptions) -> None:
        command, variables = self._filled(token)
        own = _encoded(
            {**variables_of(token), **variables, ID_VARIABLE: token.id, ATTEMPT_VARIABLE: str(token.attempt)}
        )
        environment = {**self._inherited.now(), **self._variables, **own}
        output = AttemptLog(self._options.capture)
        on_end: Callable[[CommandResult], None] = partial(_attach, token)
        if token.lease is not None:
            notes = token.lease.note()
            if notes.log is not None and notes.log.is_own:  # what was logged before goes ahead of its output
                output, notes.log.is_own = notes.log, False
            notes.log = output
            on_end = on_end if token.lease.attaches else _leave
        result = await perform(command, options, on_end, environment, output)
        if self.on_result is not None:
            self.on_result(token, result)
        if not result.ok:
            token.exit_code = result.exit_code
            raise CommandError(complaint(command, result), result.exit_code)

    def _filled(self, token: Mapping[str, object]) -> tuple[list[str] | str, Mapping[str, str]]:
        if self._line is None:
            return fill(self._arguments, token), {}
        return fill_line(self._line, token)


def variables_of(token: Token) -> dict[str, str]:
    """The fields of a token as variables: strings as they are, anything else as JSON.

    Fields of which the name is no plain word, and values that no variable can hold, are left out. What apicas and PiCaS
    write into tokens is none of the user's fields.
    """
    variables: dict[str, str] = {}
    room = MAX_FIELDS
    for name, value in token.peek().items():
        if name in _OWN_FIELDS or not _NAME.fullmatch(name):
            continue
        try:
            text = value if isinstance(value, str) else encode(value).decode()
            text.encode()
        except (InvalidTokenError, UnicodeEncodeError):
            continue
        if "\0" not in text and len(text) <= min(MAX_FIELD, room):
            variables[f"{FIELD_VARIABLE}{name}"] = text
            room -= len(text)
    return variables


class _Inherited:
    """This process's environment, as it is at the moment, without what is apicas's own in it.

    In bytes, as the system has it: to decode and encode it again for every command would cost a tenth of the command.
    """

    # The dictionary behind it, where there is one: a copy of the mapping takes a call for each variable.
    _live: Mapping[bytes, bytes] = getattr(os.environb, "_data", os.environb)

    def __init__(self) -> None:
        self._seen: dict[bytes, bytes] = {}
        self._kept: dict[bytes, bytes] = {}

    def now(self) -> Mapping[bytes, bytes]:
        if self._live != self._seen:
            self._seen = dict(self._live)
            self._kept = {name: value for name, value in self._seen.items() if not _is_ours(name)}
        return self._kept


def _encoded(variables: Mapping[str, str]) -> dict[bytes, bytes]:
    return {os.fsencode(name): os.fsencode(value) for name, value in variables.items()}


def _is_ours(name: bytes) -> bool:
    return name.startswith(b"APICAS_") or name == b"PICAS_PASSWORD"


def _leave(_result: CommandResult) -> None:
    """Leave the output to whoever writes it into files."""


def _attach(token: Token, result: CommandResult) -> None:
    for name, content in ((STDOUT, result.stdout), (STDERR, result.stderr)):
        # An earlier attempt's output must not pass for this one's.
        if content or name in token.attachments:
            token.put_attachment(name, content, "text/plain")
