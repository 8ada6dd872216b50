"""What a server tells of itself, of us and of a database. Everything here only reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from apicas.clients.couch.designs import OWN_NAME, Views, monitor_views
from apicas.clients.couch.transport import Transport
from apicas.exceptions import AccessDeniedError, PoolError, PoolNotFoundError

_DESIGN = "_design/"


class Inspection:
    """Looks at one server, and one database on it.

    Args:
        transport: to the server; opened here where it is not open yet.
        path: of the database.
    """

    def __init__(self, transport: Transport, path: str) -> None:
        self._transport = transport
        self._path = path

    async def server(self) -> Mapping[str, Any]:
        """What the server says of itself: `version`, and `vendor` or the like."""
        await self._transport.open()
        return (await self._transport.ask("GET", "")).value()

    async def session(self) -> tuple[str | None, frozenset[str]]:
        """Who we are to the server: our name, None for nobody, and our roles; `_admin` is an admin's of the server.

        Raises:
            AccessDeniedError: name or password are wrong.
        """
        await self._transport.open()
        context = (await self._transport.ask("GET", "_session")).value()["userCtx"]
        name, roles = context.get("name"), context.get("roles")
        return (name if isinstance(name, str) else None), frozenset(roles if isinstance(roles, list) else ())

    async def database(self) -> Mapping[str, Any] | None:
        """What the server says of the database; None where there is none.

        Raises:
            AccessDeniedError: we may not use it.
        """
        try:
            answer = await self._transport.ask("GET", self._path)
        except PoolNotFoundError:
            return None
        return None if answer.status == 404 else answer.value()

    async def nodes(self) -> tuple[int, int] | None:
        """How many nodes of the cluster are up, and how many there are; None where we are not told."""
        try:
            answer = (await self._transport.ask("GET", "_membership")).value()
        except (AccessDeniedError, PoolError):
            return None
        return len(answer["all_nodes"]), len(answer["cluster_nodes"])

    async def designs(self) -> dict[str, Views]:
        """The views of every design document, by the design document's name.

        Raises:
            PoolNotFoundError: there is no such database.
        """
        bounds = {"startkey": f'"{_DESIGN}"', "endkey": '"_design0"', "include_docs": "true"}
        answer = (await self._transport.ask("GET", f"{self._path}/_all_docs?{urlencode(bounds)}")).value()
        documents = [row["doc"] for row in answer["rows"] if isinstance(row.get("doc"), dict)]
        found = {str(document["_id"]).removeprefix(_DESIGN): document.get("views") for document in documents}
        return {name: views if isinstance(views, dict) else {} for name, views in found.items()}

    async def pending(self, design: str) -> int | None:
        """How many writes a design document's index is behind; None where the server does not tell."""
        answer = await self._transport.ask("GET", f"{self._path}/_design/{quote(design, safe='')}/_info")
        index = answer.value().get("view_index") if answer.status < 400 else None
        pending = index.get("updates_pending") if isinstance(index, Mapping) else None
        number = pending.get("minimum") if isinstance(pending, Mapping) else None
        return number if isinstance(number, int) else None

    @staticmethod
    def expected() -> tuple[Views, str]:
        """The views of Monitor, and the name of our own design document, as a pool should have them."""
        return monitor_views(), OWN_NAME
