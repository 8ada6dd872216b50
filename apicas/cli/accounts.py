"""What commands about accounts share: a client of a server, and new passwords."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from apicas._secrets import Secret
from apicas.cli.terminal import ask_unseen, is_interactive
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from apicas.clients.couch import CouchClient
    from apicas.configuration import Configuration

_LONGEST: Final = 4096
"""Characters of a password: a longer one is a file that was meant for something else."""


@asynccontextmanager
async def server_of(configuration: Configuration) -> AsyncIterator[CouchClient]:
    """A client of the pool's server that has logged in, whether or not we may use the database.

    Raises:
        ConfigError: the pool is on no server.
        AccessDeniedError: name or password are wrong.
    """
    from apicas.cli.opening import patiently
    from apicas.clients.couch import CouchClient

    if not configuration.is_remote:
        raise ConfigError(f"{configuration.pool} is no CouchDB database: a file belongs to whoever may write it")
    client = configuration.connect()
    if not isinstance(client, CouchClient):
        raise TypeError(type(client).__name__)
    try:
        await patiently(client.inspection.session)
        yield client
    finally:
        await client.aclose()


def new_password(whose: str, *, from_stdin: bool, twice: bool = True) -> Secret:
    """A password that somebody types in, unseen; or the first line of standard input.

    Args:
        whose: for the question.
        from_stdin: read standard input, for scripts.
        twice: ask again, since nobody sees what is typed.

    Raises:
        ConfigError: there is nobody to ask, it is empty, or the second one differs.
    """
    if from_stdin:
        return _checked(Secret(sys.stdin.readline(_LONGEST + 2).rstrip("\r\n")))
    if not is_interactive():
        raise ConfigError("there is no terminal to ask for the password on: add --stdin, and send it there")
    password = _checked(_asked(f"{whose}: "))
    if twice and _asked("once more: ") != password:
        raise ConfigError("the two are not the same: nothing was changed")
    return password


def _checked(password: Secret) -> Secret:
    length = len(password.reveal())
    if not length:
        raise ConfigError("the password is empty: nothing was changed")
    if length > _LONGEST:
        raise ConfigError(f"the password has more than {_LONGEST:,} characters: nothing was changed")
    return password


def _asked(question: str) -> Secret:
    answer = ask_unseen(question)
    if answer is None:
        raise ConfigError("this terminal would show the password: add --stdin, and send it there")
    return answer
