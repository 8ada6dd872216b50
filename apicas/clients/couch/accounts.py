"""The accounts of a server's users: documents of its database `_users`.

An admin of the server adds accounts; each user may change the own password. Admins of the server have no such document.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from apicas._documents import encode
from apicas._secrets import Secret
from apicas.clients.couch.answers import reason_of
from apicas.clients.couch.transport import Answer, Transport
from apicas.exceptions import AccessDeniedError, ApicasError, ConfigError, PoolError, PoolNotFoundError

_PREFIX: Final = "org.couchdb.user:"
_LOOKS: Final = 5
"""Each that ends in a conflict means that somebody else has changed the account."""


class Accounts:
    """The accounts of one server.

    Args:
        transport: to the server; opened here where it is not open yet.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def names(self) -> list[str]:
        """All of them.

        Raises:
            AccessDeniedError: that is for admins of the server.
        """
        bounds = {"startkey": f'"{_PREFIX}"', "endkey": f'"{_PREFIX}\ufff0"'}
        answer = await self._ask("GET", f"_users/_all_docs?{urlencode(bounds)}")
        return [str(row["id"]).removeprefix(_PREFIX) for row in answer.value()["rows"]]

    async def exists(self, name: str) -> bool:
        """Whether there is such an account, as far as we may see."""
        return await self._document(name) is not None

    async def add(self, name: str, password: Secret) -> bool:
        """Add an account; answers with False where there is one of that name.

        Raises:
            AccessDeniedError: we are no admin of the server.
            ConfigError: the server takes no such name.
        """
        return await self._put(name, {"name": name, "roles": [], "type": "user"}, password)

    async def change_password(self, name: str, password: Secret) -> None:
        """Change a password: one's own, or as an admin any.

        Raises:
            ConfigError: there is no such account.
            PoolError: it kept changing.
        """
        for _ in range(_LOOKS):
            document = await self._document(name)
            if document is None:
                raise ConfigError(
                    f"{name!r} has no account in the server's _users: an admin of the server is in its configuration"
                )
            if await self._put(name, document, password):
                return
        raise PoolError(f"the account of {name!r} kept changing")

    async def _document(self, name: str) -> Mapping[str, Any] | None:
        answer = await self._ask("GET", _path(name))
        return None if answer.status == 404 else answer.value()

    async def _put(self, name: str, document: Mapping[str, Any], password: Secret) -> bool:
        """Write an account; answers with False where the server has another revision of it."""
        await self._transport.open()
        problem: ApicasError | None = None
        answer: Answer | None = None
        try:
            body = {"_id": f"{_PREFIX}{name}", **document}
            answer = await self._transport.send("PUT", _path(name), encode({**body, "password": password.reveal()}))
        except ApicasError as error:
            problem = self._explained(error)
        if problem is not None:
            # The variables of the functions that it came through hold the password.
            problem.__cause__ = problem.__context__ = None
            raise problem.with_traceback(None)
        return answer is not None and _accepted(answer)

    async def _ask(self, method: str, path: str) -> Answer:
        await self._transport.open()
        try:
            return await self._transport.ask(method, path)
        except AccessDeniedError as error:
            raise self._explained(error) from error
        except PoolNotFoundError as error:
            raise ConfigError(f"{self._transport.address}: the server has no accounts, no database _users") from error

    def _explained(self, error: ApicasError) -> ApicasError:
        """A refusal that says what was refused: to the server it is a database like any other."""
        if not isinstance(error, AccessDeniedError) or "not allowed" not in str(error):
            return error
        return AccessDeniedError(
            f"{self._transport.address}: the accounts of this server are for its admins alone, passwords included"
        )


def _accepted(answer: Answer) -> bool:
    if answer.status == 409:
        return False
    if answer.status >= 400:
        raise ConfigError(f"{answer.address}: {reason_of(answer.status, answer.body)}")
    return True


def _path(name: str) -> str:
    return f"_users/{quote(_PREFIX + name, safe='')}"
