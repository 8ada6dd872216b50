"""The CouchDB client: pools on one server, or on a cluster.

Rules:
- A write that a majority of the replicas did not take (`accepted`, 202), or whose answer got lost, is unknown: read it
  back. Never is `w` or `r` set: with one node hung, a read of all replicas waits for a minute and has no answer.
- Reads are repeated for a bounded number of times; a write only where the first attempt certainly failed, or where a
  conflict on the second is counted as unknown.
- Documents are read with `_bulk_get`, which asks a majority of the replicas and costs a fraction of include_docs. A
  document of several live leaves says so, in `_conflicts`; it is deleted with all of them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from typing_extensions import Unpack
from yarl import URL

from apicas._documents import Document
from apicas._secrets import Secret, secret
from apicas.clients.base import PoolClient
from apicas.clients.bulks import EncodedDocument
from apicas.clients.couch import answers, designs
from apicas.clients.couch.accounts import Accounts
from apicas.clients.couch.administration import Administration
from apicas.clients.couch.attachments import Attachments
from apicas.clients.couch.clock import StoreClock
from apicas.clients.couch.conflicts import SplitFeed, delete_all_leaves
from apicas.clients.couch.credentials import Login
from apicas.clients.couch.feed import await_arrivals, follow
from apicas.clients.couch.gate import Gate
from apicas.clients.couch.history import successor
from apicas.clients.couch.inspection import Inspection
from apicas.clients.couch.options import CouchKeywords, CouchOptions
from apicas.clients.couch.pulse import Pulse
from apicas.clients.couch.reading import Reader
from apicas.clients.couch.stretches import MANY_LOST, Stretches
from apicas.clients.couch.transport import Transport
from apicas.clients.couch.views import Views
from apicas.clients.couch.writing import BulkWriter, tombstone
from apicas.clients.port import (
    Arrival,
    AttachmentInfo,
    Permissions,
    SaveResult,
    SaveStatus,
    SetupReport,
    StoredChange,
    StoredView,
    TokenPage,
    ViewQuery,
    ViewRow,
)
from apicas.exceptions import (
    AccessDeniedError,
    ConfigError,
    TokenNotFoundError,
    ViewNotFoundError,
)
from apicas.views import MONITOR, View, full_name

LOCKED: Final = f"{MONITOR}/locked"


class CouchClient(PoolClient):
    """A pool in CouchDB.

    Args:
        url: the server's. A name and a password in it are taken out, and used.
        db: the database.
        username: who we are; None for nobody.
        password: the secret that goes with it.
        options: the fields of CouchOptions, such as `ca_file="ca.pem"`.

    Raises:
        ConfigError: one of these cannot be used.
    """

    default_lease = 900.0
    # For the repr of a client whose arguments were refused, as tracebacks show it.
    _address = "that was not made"

    def __init__(
        self,
        url: str = "http://localhost:5984",
        db: str = "test",
        username: str | None = None,
        password: str | Secret | None = None,
        **options: Unpack[CouchKeywords],
    ) -> None:
        server, login = _server_and_login(Secret(url), username, secret(password))
        # What is below may raise, and a traceback may show the values of variables.
        del url, password
        if server is None:
            raise ConfigError("the server's URL is not of the form http(s)://host:port")
        self._server, self._login = server, Login(*login) if login else None
        self._options = CouchOptions(**options)
        super().__init__(max_document_bytes=self._options.max_document_bytes)
        self._name = db
        self._path = quote(db, safe="")
        self._address = f"{self._server.with_user(self._login.username if self._login else None)}".rstrip("/")
        self._address += f"/{self._path}"
        self._clock = StoreClock(self._options.now)
        cookie = self._options.auth == "cookie"
        self._gate = Gate(self._address, self._server, self._login, cookie=cookie, clock=self._clock)
        self._transport = Transport(self._address, self._server, self._gate, self._options)
        self._transport.traffic = self.traffic
        self._administration = Administration(self._transport, db)
        self._writer = BulkWriter(self._transport, f"{self._path}/_bulk_docs", self._options)
        self._reader = Reader(self._transport, self._path)
        self._views = Views(self._transport, self._path, self._address, self._options)
        self._split_feed = SplitFeed(self._transport, f"{self._path}/_changes")
        self._pulse = Pulse()
        self._stretches: dict[str, Stretches] = {}
        """Where claims go on, by view."""
        self._attachments = Attachments(self._transport, self._path, self._options)

    @property
    def address(self) -> str:
        """The pool's URL, with the user's name and without the password."""
        return self._address

    def time(self) -> float:
        """Unix seconds by the server's clock, as its answers tell it."""
        return self._clock.time()

    def fork(self) -> CouchClient:
        """A second client of the same pool, with connections of its own."""
        username, password = (self._login.username, self._login.password) if self._login else (None, None)
        fields: CouchKeywords = {name: getattr(self._options, name) for name in CouchKeywords.__optional_keys__}  # type: ignore[assignment]  # the same names
        fork = CouchClient(str(self._server), self._name, username, password, **fields)
        fork.traffic = fork._transport.traffic = self.traffic
        return fork

    async def open(self) -> None:
        """Connect, and ask about the database. One that does not exist is no error: `setup` creates it.

        Raises:
            AccessDeniedError: the credentials are refused. They are not tried again: not by this client.
            PoolUnavailableError: the server does not answer.
            ConfigError: the address, or its certificate, cannot be used.
        """
        if not await self._transport.open():
            return
        try:
            await self._look()
        except BaseException:
            await self.aclose()
            raise

    async def _look(self) -> bool:
        """Whether the database exists; if so, learn whether it is replicated."""
        info = await self._administration.info()
        if info is not None:
            self.replicated = info.get("cluster", {}).get("n", 1) > 1
            self._reader.lists_leaves = "cluster" in info  # CouchDB since 2.0; what only speaks like it says nothing
        return info is not None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    # Administration. ------------------------------------------------------------------------------------------------

    async def setup(self, *, replace_views: bool = False) -> SetupReport:
        """Create the database, the Monitor views and those of our own, where they are missing. Safe to repeat.

        A Monitor that has the five views is PiCaS's, or another pilot's, and stays as it is; one that lacks some gets
        these. Without an admin's rights it is a check.

        Raises:
            AccessDeniedError: something is missing that only an admin can make.
        """
        created = not await self._look()
        if created:
            await self._administration.create()
            await self._look()
        merge = designs.replaced if replace_views else designs.completed
        ours = designs.monitor_views()
        stored = await self._administration.views(MONITOR)
        installed = []
        if merge(stored, ours) != stored and await self._administration.install(MONITOR, lambda now: merge(now, ours)):
            installed.append(MONITOR)
        if await self._install_own():
            installed.append(designs.OWN_NAME)
        kept = (MONITOR,) if designs.differs(stored, ours) and not replace_views else ()
        return SetupReport(created, tuple(installed), kept)

    async def delete_database(self) -> None:
        """Delete the database with all its tokens, if it is there. Nothing asks, and nothing brings it back.

        Raises:
            AccessDeniedError: only an admin of the server can do this.
        """
        await self._administration.delete()

    async def _install_own(self) -> bool:
        """Install the design document that makes `total` cheap. It is a help, so not being allowed to is no error."""
        ours = designs.own_views()
        try:
            return await self._administration.install(designs.OWN_NAME, lambda _: ours, designs.OWN_SETTINGS)
        except AccessDeniedError:
            return False

    async def add_view(
        self,
        view: View | str,
        map_fun: str | None = None,
        reduce_fun: str | None = None,
        design_doc: str = MONITOR,
    ) -> None:
        """Install a view; one of the same name is replaced, and others in its design document stay.

        Args:
            view: a view, or the name of one that is written in JavaScript.
            map_fun: the text of its map function.
            reduce_fun: the text of its reduce function, or one of CouchDB's own: `_count`, `_sum`, `_stats`.
            design_doc: the design document, where the name does not say it (`Design/view`).

        Raises:
            ConfigError: a name without a map function.
            AccessDeniedError: only an admin of the database can do this.
        """
        if isinstance(view, View):
            name, entry = view.name, {"map": view.map_function()}
        elif map_fun is None:
            raise ConfigError(f"view {view!r} needs a map function")
        else:
            name = full_name(view if "/" in view else f"{design_doc}/{view}")
            entry = {"map": map_fun} if reduce_fun is None else {"map": map_fun, "reduce": reduce_fun}
        design, short = name.split("/")
        await self._administration.install(design, lambda stored: {**stored, short: entry})

    async def views(self) -> list[StoredView]:
        """The views that the database has, by name; our own design document, which is not for users, left out."""
        stored = [
            StoredView(
                name=f"{design}/{short}",
                map_function=str(entry.get("map", "")),
                reduce_function=str(entry.get("reduce", "")),
            )
            for design, views in (await self.inspection.designs()).items()
            if not design.startswith("apicas-")
            for short, entry in views.items()
            if isinstance(entry, Mapping)
        ]
        return sorted(stored, key=lambda view: view.name)

    @property
    def inspection(self) -> Inspection:
        """What the server tells of itself, of us and of the database: for `apicas doctor`."""
        return Inspection(self._transport, self._path)

    @property
    def accounts(self) -> Accounts:
        """The accounts of the server's users."""
        return Accounts(self._transport)

    async def permissions(self) -> Permissions:
        """Who may use the database: members read and write, admins also change design documents and these lists."""
        return await self._administration.permissions()

    async def set_permissions(
        self,
        members: Iterable[str] | None = None,
        member_roles: Iterable[str] | None = None,
        admins: Iterable[str] | None = None,
        admin_roles: Iterable[str] | None = None,
    ) -> None:
        """Replace lists of who may use the database; a list that is None stays as it is.

        Raises:
            AccessDeniedError: only an admin can do this.
        """
        await self._administration.set_permissions(
            {
                ("members", "names"): members,
                ("members", "roles"): member_roles,
                ("admins", "names"): admins,
                ("admins", "roles"): admin_roles,
            }
        )

    # Reading. -------------------------------------------------------------------------------------------------------

    async def get(self, ids: Sequence[str]) -> list[Document | None]:
        """Read documents, each as a majority of the replicas has it; attachments are stubs."""
        found = await self._reader.documents(ids)
        # An id that was asked for twice is answered with two documents, which their users may change.
        seen: set[str] = set()
        documents: list[Document | None] = []
        for identifier in ids:
            document = found.get(identifier)
            documents.append(dict(document) if document is not None and identifier in seen else document)
            seen.add(identifier)
        return documents

    async def leaves(self, ids: Sequence[str]) -> list[list[Document]]:
        """Every live version of documents, the shown one first, as a majority of the replicas has them."""
        found = await self._reader.leaves(ids)
        return [[dict(leaf) for leaf in found.get(identifier, ())] for identifier in ids]

    async def conflicted(self, limit: int | None = None) -> list[str]:
        """The ids of tokens that have several live versions.

        From a view of our own; on a pool without it, from the changes feed, which this client reads once from its
        beginning, and then only what is new.
        """
        try:
            return await self._views.conflicted(limit)
        except ViewNotFoundError:
            return (await self._split_feed.ids(self.leaves))[:limit]

    async def query(self, view: str, query: ViewQuery) -> list[ViewRow]:
        """Read rows of a view, and then, where asked for, their documents."""
        answer = await self._views.ask(view, answers.view_parameters(query), fresh=query.fresh)
        rows = answers.view_rows(answer["rows"])
        if not query.include_docs:
            return rows
        documents = await self.get([row.id for row in rows if row.id is not None])
        remaining = iter(documents)
        return [row if row.id is None else ViewRow(row.id, row.key, row.value, next(remaining)) for row in rows]

    async def sample(
        self, view: str, limit: int, place: float, *, window: int = 0, fresh: bool = False
    ) -> list[Document]:
        """Read documents of a view: neighbours, from a random place on. Others than those in todo are of use to nobody.

        A sample goes on where the last one ended, and elsewhere when others have been there; see `stretches`.
        """
        return await self._stretches_of(view).sample(limit, place, window=window, fresh=fresh)

    def portion(self, view: str, wanted: int) -> int:
        """Fewer than wanted where this client has met others, and not much is left."""
        return self._stretches_of(view).portion(wanted)

    def _stretches_of(self, view: str) -> Stretches:
        name = full_name(view)
        if name not in self._stretches:
            self._stretches[name] = Stretches(
                partial(self._views.landed, name),
                partial(self._views.landed, LOCKED),
                self._reader.documents,
                time.monotonic,
            )
        return self._stretches[name]

    async def counts(self, views: Sequence[str] = ()) -> dict[str, int]:
        """The number of tokens per view: one request for all states, and one for each other view."""
        return await self._views.counts(views)

    async def total(self) -> int:
        """How many documents of type token the pool has.

        Counted by a view of our own, whose index catches up when it is asked; on a pool without it (`apicas init` by
        an admin installs it), by reading every document.
        """
        return await self._views.total()

    async def scan(self, after: str | None = None, limit: int = 500) -> TokenPage:
        """Read all documents of type token, page by page: their ids, and then the documents."""
        ids, is_more = await self._views.ids(after, limit)
        read = await self.get([identifier for identifier in ids if not identifier.startswith("_design/")])
        found = [document for document in read if document is not None and document.get("type") == "token"]
        return TokenPage(found, ids[-1] if ids and is_more else None)

    # Writing. -------------------------------------------------------------------------------------------------------

    async def _write_or_bisect(self, batch: Sequence[EncodedDocument], *, uncertain: bool = False) -> list[SaveResult]:
        """Write documents with stubs of attachments apart from the others.

        A stub of nothing is noticed where the document is stored, when other shards have written their part of the bulk
        already: the only refusal that leaves the others in doubt. Few documents have stubs.
        """
        stubbed = [answers.has_stubs(encoded.document) for encoded in batch]
        if len(set(stubbed)) < 2:
            return await super()._write_or_bisect(batch, uncertain=uncertain)
        results: dict[int, SaveResult] = {}
        for kind in (False, True):
            places = [place for place, has_stubs in enumerate(stubbed) if has_stubs is kind]
            part = await super()._write_or_bisect([batch[place] for place in places], uncertain=uncertain)
            results.update(zip(places, part, strict=True))
        return [results[place] for place in range(len(batch))]

    async def _write(self, batch: Sequence[EncodedDocument]) -> list[SaveResult]:
        results = await self._writer.write(batch)
        if len(batch) < MANY_LOST * sum(result.status is SaveStatus.CONFLICT for result in results):
            for stretches in self._stretches.values():
                stretches.leave()
        return results

    async def _successor(self, document_id: str, rev: str | None) -> Document | None:
        return await successor(self._transport, self._path, document_id, rev)

    async def discard(self, leaves: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        """Delete exactly these versions; what stays in the store is their ids."""
        return await self._save_encoded([tombstone(leaf) for leaf in leaves])

    async def delete(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        """Delete documents, all live versions of each: were one left, it would show from then on."""
        return await delete_all_leaves(documents, leaves=self.leaves, discard=self.discard)

    # Attachments and changes. ---------------------------------------------------------------------------------------

    async def attachments(self, document_id: str) -> list[AttachmentInfo]:
        """The attachments of a document, as its stubs describe them."""
        (document,) = await self.get([document_id])
        if document is None:
            raise TokenNotFoundError(f"no token {document_id!r} in {self.address}")
        stubs = sorted((document.get("_attachments") or {}).items())
        return [AttachmentInfo(name, stub["content_type"], stub["length"]) for name, stub in stubs]

    async def stream_attachment(self, document_id: str, name: str) -> AsyncIterator[bytes]:
        """Read an attachment in chunks of at most a megabyte."""
        async with aclosing(self._attachments.stream(document_id, name)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _put_attachment(
        self, document_id: str, rev: str, name: str, data: AsyncIterator[bytes], content_type: str
    ) -> SaveResult:
        return await self._attachments.put(document_id, rev, name, data, content_type)

    async def changes(self, since: str | None = None) -> AsyncIterator[StoredChange]:
        """Follow what is written, those of design documents left out, over broken connections."""
        async with aclosing(follow(self._transport, f"{self._path}/_changes", since, self._options)) as feed:
            async for change in feed:
                yield change

    async def arrivals(self, views: Sequence[str]) -> AsyncIterator[Arrival]:
        """Tell when a write has left a token in todo, whichever views are claimed from: the server filters.

        A server that only speaks like CouchDB may have no such filter; there the documents come here to be looked at.
        """
        del views  # a view of the user's own is a function that only the server can run
        path, selects = f"{self._path}/_changes", self._reader.lists_leaves
        async with aclosing(await_arrivals(self._transport, path, self._options, self._pulse, selects=selects)) as feed:
            async for arrival in feed:
                yield arrival


def _server_and_login(
    url: Secret, username: str | None, password: Secret | None
) -> tuple[URL | None, tuple[str, Secret] | None]:
    """A server's URL without login, None for what is none; and name and password, those of the URL included."""
    try:
        parsed = URL(url.reveal())
    except ValueError:
        parsed = URL()
    name = username or parsed.user
    login = None if name is None else (name, secret(parsed.password if password is None else password) or Secret(""))
    is_server = parsed.scheme in {"http", "https"} and parsed.host
    return (parsed.with_user(None) if is_server else None), login
