"""What an admin does to a database, through aiocouch: create it, install views, set permissions.

aiocouch's errors are KeyErrors and ValueErrors. They stay in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from aiocouch import BadRequestError, ConflictError, Database, NotFoundError, PreconditionFailedError

from apicas.clients.couch.designs import Views
from apicas.clients.couch.failures import AnswerLostError, ServerFailedError
from apicas.clients.couch.transport import Transport
from apicas.clients.port import Permissions
from apicas.exceptions import AccessDeniedError, ConfigError, PoolNotFoundError, PoolUnavailableError

# Each look that ends in a conflict means that somebody else's change went through.
_LOOKS: Final = 20


class Administration:
    """The admin's side of one database.

    Args:
        transport: to the server.
        database: its name.
    """

    def __init__(self, transport: Transport, database: str) -> None:
        self._transport = transport
        self._name = database

    @property
    def _database(self) -> Database:
        return Database(self._transport.couch, self._name)

    async def info(self) -> Mapping[str, Any] | None:
        """What the server says about the database; None where there is none."""

        async def look() -> Mapping[str, Any]:
            found: Mapping[str, Any] = await self._database.info()
            if "db_name" not in found:  # whether the pool is replicated must not be learned from anybody else
                raise AnswerLostError(f"{self._transport.address}: an answer that is not CouchDB's, as a proxy gives")
            return found

        try:
            return await self._transport.repeat(look)
        except NotFoundError:
            return None

    async def create(self) -> None:
        """Create the database.

        Raises:
            ConfigError: the name is no name of a database.
        """
        try:
            await self._transport.repeat(lambda: self._transport.couch.create(self._name))
        except PreconditionFailedError:
            pass  # it is there: made by others at the same time, or by an attempt whose answer got lost
        except BadRequestError as error:
            raise ConfigError(f"{self._transport.address}: {self._name!r} cannot be the name of a database") from error

    async def delete(self) -> None:
        """Delete the database, with all that is in it; one that does not exist is no error."""
        with suppress(NotFoundError):  # deleted by others, or by an attempt whose answer got lost
            await self._transport.repeat(self._database.delete)

    async def views(self, design: str) -> Views:
        """The views of a design document, none where there is no such document.

        Raises:
            PoolNotFoundError: there is no such database.
        """
        document = await self._transport.repeat(lambda: self._database.design_doc(design, exists_ok=True))
        views: Views = document.get("views") or {}
        return views

    async def install(
        self, design: str, change: Callable[[Views], Views], settings: Mapping[str, Any] | None = None
    ) -> bool:
        """Change the views of a design document, looking again as long as others change it too.

        Args:
            design: its name.
            change: makes the views wanted from those that are there; where they are the same, nothing is written.
            settings: other fields of the document.

        Returns:
            Whether it was written; or by somebody else, after we had seen that it was missing.
        """
        tried = False
        for look in range(_LOOKS):
            document = await self._transport.repeat(lambda: self._database.design_doc(design, exists_ok=True))
            stored = document.get("views") or {}
            wanted = change(stored)
            if wanted == stored:
                return tried
            # aiocouch leaves the prefix out of a new document's id, and PouchDB believes the body more than the URL.
            fields = {"_id": f"_design/{design}", "language": "javascript", **(settings or {}), "views": dict(wanted)}
            document.update(fields)
            try:
                await self._transport.administer(document.save)
            except (ConflictError, PoolUnavailableError) as error:
                # Also after a lost answer: the next look shows whether it was written.
                tried = True
                if look == _LOOKS - 1:
                    raise PoolUnavailableError(f"{self._transport.address}: {design} could not be written") from error
                await self._transport.pause(look)
            except NotFoundError as error:
                raise self._missing() from error
            except BadRequestError as error:
                # aiocouch's own message leaves out why, as where a function does not compile.
                reason = " ".join(str(getattr(error.__cause__, "reason", None) or error).split())
                raise ConfigError(f"{self._transport.address} refuses the views of {design}: {reason}") from error
            else:
                return True
        return False

    async def permissions(self) -> Permissions:
        """Who may use the database."""
        security = await self._security()
        return Permissions(
            members=tuple(security.members or ()),
            member_roles=tuple(security.member_roles or ()),
            admins=tuple(security.admins or ()),
            admin_roles=tuple(security.admin_roles or ()),
        )

    async def set_permissions(self, lists: Mapping[tuple[str, str], Iterable[str] | None]) -> None:
        """Replace lists of the security document, by their two keys; one that is None is left as it is."""
        security = await self._security()
        for (part, kind), names in lists.items():
            if names is not None:
                security.setdefault(part, {})[kind] = list(names)
        try:
            await self._transport.repeat(security.save)
        except ServerFailedError as error:
            # CouchDB refuses those without the right with a 500 that a cluster without a majority gives too.
            if await self._is_admin(security):
                raise
            raise AccessDeniedError(
                f"{self._transport.address}: only an admin of the database changes who may use it"
            ) from error

    async def _is_admin(self, security: Any) -> bool:
        session = (await self._transport.ask("GET", "_session")).value()["userCtx"]
        roles = {"_admin", *(security.admin_roles or ())}
        return session["name"] in (security.admins or ()) or not roles.isdisjoint(session["roles"])

    async def _security(self) -> Any:
        try:
            return await self._transport.repeat(self._database.security)
        except NotFoundError as error:
            raise self._missing() from error

    def _missing(self) -> PoolNotFoundError:
        return PoolNotFoundError(f"{self._transport.address} does not exist: run `apicas init`")
