"""Views and listings of a database: asked for by name, and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from apicas._documents import encode
from apicas.clients.base import missing_view
from apicas.clients.couch import designs
from apicas.clients.couch.landing import Update
from apicas.clients.couch.options import CouchOptions
from apicas.clients.couch.reading import READ_AT_ONCE
from apicas.clients.couch.transport import Transport
from apicas.exceptions import ViewNotFoundError
from apicas.views import MONITOR_VIEWS, OVERVIEW, full_name


class Views:
    """Asks a database for the rows of its views.

    Args:
        transport: the connections.
        path: the database's, quoted.
        address: the pool's, for people.
        options: how long an answer may take.
    """

    def __init__(self, transport: Transport, path: str, address: str, options: CouchOptions) -> None:
        self._transport = transport
        self._path = path
        self._address = address
        self._options = options

    async def ask(self, view: str, parameters: Mapping[str, Any], *, fresh: bool) -> Any:
        """The answer of a view, with its `rows`.

        Args:
            view: its name.
            parameters: as CouchDB takes them.
            fresh: whether it waits until the index is built, which may take long; one that is not waits for nothing.

        Raises:
            ViewNotFoundError: the pool has no such view.
        """
        name = full_name(view)
        design, short = (quote(part, safe="") for part in name.split("/"))
        path = f"{self._path}/_design/{design}/_view/{short}"
        timeout = self._options.index_timeout if fresh else None
        answer = await self._transport.ask("POST", path, encode(parameters), timeout=timeout)
        if answer.status == 404:
            raise missing_view(self._address, name)
        return answer.value()

    async def landed(self, view: str, parameters: Mapping[str, Any], update: Update) -> Any:
        """The answer of a view without its reduce function, as up to date as is asked for."""
        body = {"reduce": False, **parameters, **({} if update == "true" else {"update": update})}
        return await self.ask(view, body, fresh=update == "true")

    async def counts(self, views: Sequence[str]) -> dict[str, int]:
        """The number of tokens per view: one request for all states, and one for each other view."""
        names = views or [str(view.state) for view in MONITOR_VIEWS.values()]
        overview = await self._overview() if any(full_name(name) in MONITOR_VIEWS for name in names) else {}
        counts: dict[str, int] = {}
        for name in names:
            known = MONITOR_VIEWS.get(full_name(name))
            counts[name] = await self._count(name) if known is None else overview.get(str(known.state), 0)
        return counts

    async def _overview(self) -> dict[str, int]:
        rows = (await self.ask(OVERVIEW, {"group": True}, fresh=True))["rows"]
        return {row["key"]: row["value"] for row in rows}

    async def _count(self, view: str) -> int:
        answer = await self.ask(view, {"limit": 0, "reduce": False}, fresh=True)
        total: int = answer["total_rows"]
        return total

    async def conflicted(self, limit: int | None) -> list[str]:
        """The ids of tokens that have several live versions, by a view of our own.

        Raises:
            ViewNotFoundError: the pool does not have it.
        """
        parameters = {} if limit is None else {"limit": limit}
        rows = (await self.ask(f"{designs.OWN_NAME}/{designs.CONFLICTS_VIEW}", parameters, fresh=True))["rows"]
        return [row["id"] for row in rows]

    async def total(self) -> int:
        """How many documents of type token there are: by a view of our own; without it by reading every document."""
        try:
            rows = (await self.ask(f"{designs.OWN_NAME}/{designs.TOKENS_VIEW}", {}, fresh=True))["rows"]
        except ViewNotFoundError:
            return await self._count_by_reading()
        return int(rows[0]["value"]) if rows else 0

    async def _count_by_reading(self) -> int:
        number: int = 0
        page: dict[str, Any] = {"include_docs": True, "limit": READ_AT_ONCE}
        while True:
            rows = await self._all(page)
            # The last row of a page is asked for again with the next: skipped unseen, it might be another by then.
            number += sum(row["doc"].get("type") == "token" for row in rows if row["id"] != page.get("startkey"))
            if len(rows) < READ_AT_ONCE:
                return number
            page["startkey"] = rows[-1]["id"]

    async def ids(self, after: str | None, limit: int) -> tuple[list[str], bool]:
        """The ids of all documents behind one, at most so many; and whether there may be more."""
        # The last row of a page is asked for again with the next: skipped unseen, it might be another by then.
        rows = await self._all({"limit": limit + 1} if after is None else {"limit": limit + 1, "startkey": after})
        return [row["id"] for row in rows if row["id"] != after][:limit], len(rows) > limit

    async def _all(self, page: Mapping[str, Any]) -> Any:
        return (await self._transport.ask("POST", f"{self._path}/_all_docs", encode(page))).value()["rows"]
