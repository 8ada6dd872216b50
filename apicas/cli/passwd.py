"""`apicas passwd`: keep the password for a pool, or change it on the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apicas.cli.parameters import PoolOption
from apicas.cli.terminal import say, tell

if TYPE_CHECKING:
    from apicas._secrets import Secret
    from apicas.configuration import Configuration

EPILOG = """\b
The password is kept for the pool's server and your name there: in the system's keyring if there is one (`pip install
'apicas[keyring]'`), else in the file passwords.json of your configuration directory, which only you can read. Batch
nodes have no keyring, but they have your home directory: --file. It is tried on the server before it is kept.

\b
With --server it is changed there first, which takes the one that is configured now. Servers since CouchDB 3 leave that
to their admins unless they are told otherwise: `apicas users password NAME`.

\b
Examples:
  apicas passwd --pool https://me@couch.example:6984/survey
  apicas passwd --file
  apicas passwd --server
  apicas passwd --forget
"""


def passwd(
    *,
    pool: PoolOption = None,
    server: Annotated[bool, typer.Option("--server", help="Change the password of your account, too.")] = False,
    file: Annotated[bool, typer.Option("--file", help="Keep it in the file, not in the keyring.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Keep it no longer.")] = False,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read the password from standard input.")] = False,
) -> None:
    """Keep the password for a pool, or change it on the server."""
    import asyncio

    from apicas.configuration import configure
    from apicas.exceptions import ConfigError

    if forget and (server or file or stdin):
        raise ConfigError("--forget goes with none of --server, --file and --stdin")
    configuration = configure(pool)
    if not configuration.is_remote:
        raise ConfigError(f"{configuration.pool} takes no password: say which server with --pool")
    if configuration.username is None:
        raise ConfigError(f"whose password? Write https://NAME@... for {configuration.pool}, or set $APICAS_USERNAME")
    if forget:
        _forget(configuration, configuration.username)
    elif server:
        asyncio.run(_change(pool, configuration.username, in_file=file, stdin=stdin))
    else:
        asyncio.run(_keep(configuration, configuration.username, in_file=file, stdin=stdin))


def _forget(configuration: Configuration, username: str) -> None:
    from apicas.configuration import user_directory
    from apicas.configuration.addresses import origin_of
    from apicas.configuration.stored import forget

    places = forget(user_directory(), origin_of(configuration.pool), username)
    whose = f"{username} on {origin_of(configuration.pool)}"
    say(f"forgot the password of {whose}, from {' and '.join(places)}" if places else f"no password of {whose} is kept")


async def _keep(configuration: Configuration, username: str, *, in_file: bool, stdin: bool) -> None:
    """Ask for the password, try it, and keep it."""
    from dataclasses import replace

    from apicas.cli.accounts import new_password, server_of

    password = new_password(f"Password of {username} on {configuration.pool}", from_stdin=stdin, twice=False)
    async with server_of(replace(configuration, password=password)):
        pass  # it is the right one
    _store(configuration, username, password, in_file=in_file)


async def _change(pool: str | None, username: str, *, in_file: bool, stdin: bool) -> None:
    """Change the password on the server, and keep the new one."""
    from apicas.cli.accounts import new_password, server_of
    from apicas.cli.opening import configured

    configuration = configured(pool)
    async with server_of(configuration) as client:
        password = new_password(f"New password of {username} on {configuration.pool}", from_stdin=stdin)
        await client.accounts.change_password(username, password)
    say(f"the password of {username} is changed on the server")
    _store(configuration, username, password, in_file=in_file)


def _store(configuration: Configuration, username: str, password: Secret, *, in_file: bool) -> None:
    from apicas.configuration import configure, user_directory
    from apicas.configuration.addresses import origin_of
    from apicas.configuration.stored import store

    place = store(user_directory(), origin_of(configuration.pool), username, password, in_file=in_file)
    say(f"the password of {username} on {origin_of(configuration.pool)} is kept in {place}")
    if in_file or "/" in place:
        tell("it is readable by you and by the system's administrators; batch jobs with your home directory find it")
    found = configure(_address(configuration, username))
    if found.password != password:
        tell(f"the password of {found.origins.get('password')} comes before it: take that out")


def _address(configuration: Configuration, username: str) -> str:
    """The pool's address with the name, as the command line would say it."""
    from urllib.parse import quote

    scheme, _, rest = configuration.pool.partition("://")
    return f"{scheme}://{quote(username, safe='')}@{rest}"
