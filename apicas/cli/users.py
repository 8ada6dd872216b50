"""`apicas users`: who may use a CouchDB database, and accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from apicas.cli.parameters import DryRunOption, PoolOption, YesOption
from apicas.cli.terminal import agree, one_line, results, say, say_json, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apicas.clients.couch import CouchClient
    from apicas.clients.port import Permissions
    from apicas.configuration import Configuration

EPILOG = """\b
Members of a database read and write its tokens: pilots need no more. Admins of a database also change views and who may
use it. Admins of the server may do everything, and alone add accounts.

\b
Examples:
  apicas users list
  apicas users add ann --member
  apicas users grant bob
"""
_LIST = """\b
Accounts are listed for admins of the server only.

\b
Examples:
  apicas users list
  apicas users list --json | jq '.members[]'
"""
_ADD = """\b
It asks for the password, twice; with --stdin it is the first line of standard input. It is for admins of the server.

\b
Examples:
  apicas users add ann --member
  pwgen 20 1 | tee ann.txt | apicas users add ann --member --stdin --yes
"""
_RENEW = """\b
It is for admins of the server. Your own account: `apicas passwd --server`, where the server lets users do that.

\b
Examples:
  apicas users password ann
"""
_GRANT = """\b
With --role the names are those of roles. An account that does not exist yet may be granted something, too.

\b
Examples:
  apicas users grant ann bob
  apicas users grant ann --admin
  apicas users grant survey-team --role
"""
_REVOKE = """\b
A database without members is open to everybody who reaches the server: with the last member the role _admin becomes
one, which admins of the server have.

\b
Examples:
  apicas users revoke bob
  apicas users revoke ann --admin --dry-run
"""

_SERVER_ADMIN: Final = "_admin"
"""The role of the server's admins: as a member it closes a database to all others."""

NamesArgument = Annotated[list[str], typer.Argument(metavar="NAME", help="Users, or roles.")]
AdminOption = Annotated[bool, typer.Option("--admin", help="As an admin of the database, not as a member.")]
RoleOption = Annotated[bool, typer.Option("--role", help="The names are those of roles.")]


def list_users(
    *,
    pool: PoolOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
) -> None:
    """List who may use the database, and the accounts of the server."""
    import asyncio

    from apicas.cli.opening import configured

    address, permissions, accounts = asyncio.run(_list(configured(pool)))
    if as_json:
        from apicas._documents import encode

        lists = {name: list(getattr(permissions, name)) for name in _LISTS.values()}
        say_json(encode({"database": address, **lists, "accounts": accounts}))
        return
    with results():
        typer.echo(one_line(f"database {address}"))
        for title, name in _LISTS.items():
            typer.echo(one_line(f"  {title:13} {', '.join(getattr(permissions, name)) or '-'}"))
        if accounts is not None:
            typer.echo(one_line(f"accounts on the server: {', '.join(accounts) or '-'}"))
    if is_open(permissions):
        tell("the database has no members: everybody who reaches the server may read and write it")


_LISTS: Final = {
    "members": "members",
    "member roles": "member_roles",
    "admins": "admins",
    "admin roles": "admin_roles",
}


async def _list(configuration: Configuration) -> tuple[str, Permissions, list[str] | None]:
    from apicas.cli.accounts import server_of
    from apicas.cli.opening import patiently
    from apicas.exceptions import AccessDeniedError, ConfigError, PoolError, PoolUnavailableError

    async with server_of(configuration) as client:
        permissions = await patiently(client.permissions)
        try:
            accounts: list[str] | None = await patiently(client.accounts.names)
        except PoolUnavailableError:
            raise
        except (AccessDeniedError, ConfigError, PoolError):
            accounts = None
        return client.address, permissions, accounts


def is_open(permissions: Permissions) -> bool:
    """Whether everybody who reaches the server may read and write the database."""
    return not permissions.members and not permissions.member_roles


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The account's name.")],
    *,
    pool: PoolOption = None,
    member: Annotated[bool, typer.Option("--member", help="Make it a member of the database.")] = False,
    admin: Annotated[bool, typer.Option("--admin", help="Make it an admin of the database.")] = False,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read the password from standard input.")] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Add an account to the server."""
    import asyncio

    from apicas.cli.opening import configured

    kinds = [kind for kind, wanted in (("member", member), ("admin", admin)) if wanted]
    asyncio.run(_add(configured(pool), name, kinds, stdin=stdin, dry_run=dry_run, yes=yes))


async def _add(
    configuration: Configuration, name: str, kinds: Sequence[str], *, stdin: bool, dry_run: bool, yes: bool
) -> None:
    from apicas.cli.accounts import new_password, server_of
    from apicas.cli.opening import patiently
    from apicas.exceptions import ConfigError

    if not name or ":" in name or name.startswith("_"):
        raise ConfigError(f"{name!r} cannot be an account's name: none is empty, has a colon, or begins with _")
    async with server_of(configuration) as client:
        if await patiently(lambda: client.accounts.exists(name)):
            raise ConfigError(f"there is an account {name!r}: `apicas users grant` lets it use a database")
        rights = "".join(f", {kind} of {client.address}" for kind in kinds)
        if dry_run:
            say(f"would add the account {name}{rights}")
            return
        agree(f"Add the account {name}{rights}?", yes=yes)
        password = new_password(f"Password of {name}", from_stdin=stdin)
        if not await client.accounts.add(name, password):
            raise ConfigError(f"somebody else has added an account {name!r} meanwhile")
        say(f"added the account {name}")
        for kind in kinds:
            await _change(client, {f"{kind}s": [name]}, {})
            say(f"{name} is {'an' if kind == 'admin' else 'a'} {kind} of {client.address}")


def password(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The account's name.")],
    *,
    pool: PoolOption = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read the password from standard input.")] = False,
) -> None:
    """Give an account a new password."""
    import asyncio

    from apicas.cli.opening import configured

    asyncio.run(_password(configured(pool), name, stdin=stdin))


async def _password(configuration: Configuration, name: str, *, stdin: bool) -> None:
    from apicas.cli.accounts import new_password, server_of
    from apicas.cli.opening import patiently
    from apicas.exceptions import ConfigError

    async with server_of(configuration) as client:
        if not await patiently(lambda: client.accounts.exists(name)):
            raise ConfigError(f"there is no account {name!r} in the server's _users")
        new = new_password(f"New password of {name}", from_stdin=stdin)
        await client.accounts.change_password(name, new)
    say(f"the password of {name} is changed on the server")


def grant(
    names: NamesArgument,
    *,
    pool: PoolOption = None,
    admin: AdminOption = False,
    role: RoleOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Let users use the database."""
    import asyncio

    from apicas.cli.opening import configured

    asyncio.run(_grant(configured(pool), names, _list_name(admin=admin, role=role), dry_run=dry_run, yes=yes))


async def _grant(configuration: Configuration, names: Sequence[str], which: str, *, dry_run: bool, yes: bool) -> None:
    from apicas.cli.accounts import server_of
    from apicas.cli.opening import patiently

    async with server_of(configuration) as client:
        permissions = await patiently(client.permissions)
        new = [name for name in dict.fromkeys(names) if name not in getattr(permissions, which)]
        what = f"{', '.join(new)} to the {_title(which)} of {client.address}"
        if not new:
            say(f"nothing to change: they are {_title(which)} of {client.address}")
        elif dry_run:
            say(f"would add {what}")
        else:
            closes = which.startswith("member") and is_open(permissions)
            others = " It is open to everybody now, and then to its members alone." if closes else ""
            agree(f"Add {what}?{others}", yes=yes)
            await _change(client, {which: new}, {})
            say(f"added {what}")


def revoke(
    names: NamesArgument,
    *,
    pool: PoolOption = None,
    admin: AdminOption = False,
    role: RoleOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Let users use the database no longer."""
    import asyncio

    from apicas.cli.opening import configured

    asyncio.run(_revoke(configured(pool), names, _list_name(admin=admin, role=role), dry_run=dry_run, yes=yes))


async def _revoke(configuration: Configuration, names: Sequence[str], which: str, *, dry_run: bool, yes: bool) -> None:
    from apicas.cli.accounts import server_of
    from apicas.cli.opening import patiently

    async with server_of(configuration) as client:
        permissions = await patiently(client.permissions)
        old = [name for name in dict.fromkeys(names) if name in getattr(permissions, which)]
        what = f"{', '.join(old)} from the {_title(which)} of {client.address}"
        if not old:
            say(f"nothing to change: none of them is among the {_title(which)} of {client.address}")
        elif dry_run:
            say(f"would take {what}")
        else:
            myself = " That is you." if configuration.username in old and not role_list(which) else ""
            agree(f"Take {what}?{myself}", yes=yes)
            if await _change(client, {}, {which: old}):
                tell("no member was left: the database is for admins of the server now (role _admin)")
            say(f"took {what}")


async def _change(client: CouchClient, added: dict[str, list[str]], removed: dict[str, list[str]]) -> bool:
    """Change the lists of the database; answers whether it had to be closed because no member was left."""
    from apicas.cli.opening import patiently

    permissions = await patiently(client.permissions)
    changed: dict[str, Any] = {}
    for name in (*added, *removed):
        kept = [each for each in getattr(permissions, name) if each not in removed.get(name, ())]
        changed[name] = [*kept, *(each for each in added.get(name, ()) if each not in kept)]
    members = changed.get("members", permissions.members), changed.get("member_roles", permissions.member_roles)
    closes = bool(removed) and not any(members) and not is_open(permissions)
    if closes:
        changed["member_roles"] = [_SERVER_ADMIN]
    await patiently(lambda: client.set_permissions(**changed))
    return closes


def role_list(which: str) -> bool:
    """Whether a list is one of roles."""
    return which.endswith("_roles")


def _list_name(*, admin: bool, role: bool) -> str:
    who = "admin" if admin else "member"
    return f"{who}_roles" if role else f"{who}s"


def _title(which: str) -> str:
    return which.replace("_", " ")


SUBCOMMANDS = {
    "list": (list_users, _LIST),
    "add": (add, _ADD),
    "password": (password, _RENEW),
    "grant": (grant, _GRANT),
    "revoke": (revoke, _REVOKE),
}
