"""What is looked at on a server: whether it answers, who we are to it, and what it knows of the database."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from apicas.cli.examining import examine_tokens
from apicas.cli.exits import ExitCode, exit_code_of
from apicas.cli.findings import DO, Finding, Findings, fine, skipped, wrong
from apicas.cli.terminal import plural
from apicas.exceptions import (
    AccessDeniedError,
    ConfigError,
    PoolError,
    PoolUnavailableError,
    ViewNotFoundError,
)
from apicas.tokens import state_of
from apicas.views import MONITOR_VIEWS, OVERVIEW

if TYPE_CHECKING:
    from apicas._documents import Document
    from apicas.clients.couch import CouchClient
    from apicas.configuration import Configuration

SKEW: Final = 5.0
"""Seconds that the clocks may differ: a Date header is cut to whole seconds, and a slow answer blurs it."""
LAG: Final = 10_000
"""Writes that an index may be behind: the server indexes some ten thousand a second."""
_ROWS: Final = 50
"""Rows of a view that are compared with their documents."""
_SERVER_ADMIN: Final = "_admin"
_SPLIT_SHOWN: Final = 100
_NAME: Final = re.compile(r"[a-z][a-z0-9_$()+/-]*", re.ASCII)
_PATIENCE: Final = {"attempts": 2, "timeout": 15.0}


async def examine_server(configuration: Configuration) -> Findings:
    """Look at a server, and at the database on it."""
    server = await _server(configuration)
    yield server
    if server.is_last:
        return
    configuration, login = _with_password(configuration)
    if login is not None:
        yield login
        return
    client = _client(configuration)
    try:
        async for finding in _logged_in(client, configuration):
            yield finding
    finally:
        await client.aclose()


def _client(configuration: Configuration) -> CouchClient:
    """A client that waits for no server that is away: that is what is to be found out."""
    from apicas.clients.connect import connect

    names = ("username", "password", "auth", "ca_file")
    options: dict[str, Any] = {name: getattr(configuration, name) for name in names}
    client: Any = connect(
        configuration.pool, **_PATIENCE, **{name: value for name, value in options.items() if value is not None}
    )
    return client  # type: ignore[no-any-return]  # the address is a server's


async def _server(configuration: Configuration) -> Finding:
    """Ask the server who it is, as nobody: that needs no password, and costs no attempt."""
    client = _client(replace(configuration, username=None, password=None))
    try:
        found = await client.inspection.server()
    except AccessDeniedError:
        return fine("server", f"{configuration.pool} answers, and says nothing of itself to strangers")
    except PoolUnavailableError as error:
        advice = (
            "is the address right, is the server up, and may this node reach it? On batch nodes a firewall may stand "
            f"between; a proxy of the environment is not used. {_other_scheme(configuration)}"
        )
        return wrong("server", str(error), advice, code=ExitCode.UNAVAILABLE, is_last=True)
    except (ConfigError, PoolError) as error:
        advice = "is that the address of a CouchDB server, with its database?"
        if "expired" in str(error):
            advice = "who runs the server renews its certificate; there is no way around that"
        elif "certificate" in str(error):
            advice = (
                "who runs the server has the file that says whom to trust: `apicas config set ca_file FILE`; and the "
                "certificate has to be for the name in the address"
            )
        return wrong("server", str(error), advice, code=exit_code_of(error), is_last=True)
    finally:
        await client.aclose()
    return fine("server", _named(configuration, found))


def _other_scheme(configuration: Configuration) -> str:
    if configuration.pool.startswith("https:"):
        return "Does the server speak https on that port? CouchDB's own are 6984 for https, and 5984 for http"
    return "A server that wants https gives no answer to http either"


def _named(configuration: Configuration, found: Mapping[str, Any]) -> str:
    from apicas.configuration.addresses import is_encrypted, origin_of

    name = "CouchDB" if "couchdb" in found else next(iter(found), "a server")
    how = "" if is_encrypted(configuration.pool) else ", not encrypted: others on the way can read the password"
    return f"{name} {found.get('version', 'of no known version')} at {origin_of(configuration.pool)}{how}"


def _with_password(configuration: Configuration) -> tuple[Configuration, Finding | None]:
    """The configuration with its password, asked for where there is somebody to ask."""
    from apicas.cli.opening import with_password

    try:
        return with_password(configuration), None
    except ConfigError as error:
        more = "; or is it in the file that is told of above?" if configuration.notes else ""
        advice = f"`apicas passwd` keeps it for you{more}"
        return configuration, wrong("login", str(error), advice, code=ExitCode.REFUSED, is_last=True)


async def _logged_in(client: CouchClient, configuration: Configuration) -> Findings:
    try:
        name, roles = await client.inspection.session()
    except AccessDeniedError as error:
        yield _refused(configuration, str(error))
        return
    who = "nobody: no name is configured" if name is None else str(name)
    yield fine("login", f"{who}{', admin of the server' if _SERVER_ADMIN in roles else ''}")
    yield _clock(client.time() - time.time())
    try:
        info = await client.inspection.database()
    except AccessDeniedError as error:
        yield _no_member(configuration, name, str(error))
        return
    if info is None:
        yield _no_database(client, is_admin=_SERVER_ADMIN in roles)
        return
    await client.open()  # from here on the client knows whether the database is replicated
    yield await _database(client, info)
    yield await _rights(client, name, roles)
    async for finding in _in_database(client):
        yield finding


def _refused(configuration: Configuration, problem: str) -> Finding:
    origin = configuration.origins.get("password")
    where = f" The one that was refused is from {origin}." if origin else ""
    if "temporarily locked" in problem:
        advice = f"wait for some minutes: the account is locked after wrong passwords.{where}"
    elif configuration.username is None:
        advice = "say who you are: https://NAME@... as the pool, and `apicas passwd`"
    else:
        advice = f"`apicas passwd` asks for the right one, tries it and keeps it.{where}"
    return wrong("login", problem, advice, code=ExitCode.REFUSED, is_last=True)


def _clock(ahead: float) -> Finding:
    """Judge by how many seconds the server's clock is ahead of this node's."""
    if abs(ahead) <= SKEW:
        return fine("clock", f"within {max(1, round(abs(ahead)))} s of the server's")
    how = "behind" if ahead > 0 else "ahead of"
    return wrong(
        "clock",
        f"this node's clock is {abs(ahead):,.0f} s {how} the server's",
        "let NTP set both. Pilots of apicas stamp locks by the server's clock, so their leases hold; PiCaS's "
        "stamp them by the node's, and ages of locks are then wrong by so much",
    )


def _no_member(configuration: Configuration, name: str | None, problem: str) -> Finding:
    if name is None:
        advice = "say who you are: https://NAME@... as the pool, and `apicas passwd`"
    else:
        advice = f"an admin of the database lets you in: `apicas users grant {name} --pool {configuration.pool}`"
    return wrong("database", problem, advice, code=ExitCode.REFUSED, is_last=True)


def _no_database(client: CouchClient, *, is_admin: bool) -> Finding:
    advice = "`apicas init` makes it" if is_admin else "an admin of the server makes it with `apicas init`"
    text = f"{client.address} does not exist"
    if not _NAME.fullmatch(unquote(client.address.rpartition("/")[2])):
        advice = "put the name right: CouchDB has lower-case letters, digits and _$()+-/ in it, a letter first"
        return wrong("database", text, advice, code=ExitCode.REFUSED, is_last=True)
    return wrong("database", text, f"{advice}; or is its name another?", code=ExitCode.REFUSED, is_last=True)


async def _database(client: CouchClient, info: Mapping[str, Any]) -> Finding:
    cluster = info.get("cluster")
    size = f"{info.get('doc_count', 0):,} documents"
    if not isinstance(cluster, Mapping) or cluster.get("n", 1) <= 1:
        return fine("database", f"{size}, one copy of each")
    nodes = await client.inspection.nodes()
    text = f"{size}, {cluster['n']} copies of each"
    if nodes is None:
        return fine("database", text)
    up, known = nodes
    if up < known:
        advice = "ask who runs the cluster: without a majority of the copies nothing is claimed"
        return wrong("database", f"{text}; only {up} of {known} nodes are up", advice)
    return fine("database", f"{text}, on a cluster of {plural(known, 'node')}")


async def _rights(client: CouchClient, name: str | None, roles: frozenset[str]) -> Finding:
    from apicas.cli.users import is_open

    try:
        lists = await client.permissions()
    except (AccessDeniedError, PoolError) as error:
        return skipped("permissions", str(error))
    if _SERVER_ADMIN in roles or name in lists.admins or not roles.isdisjoint(lists.admin_roles):
        right = "admin: you may change views and who uses it"
    elif is_open(lists):
        right = "everybody may read and write it"
    else:
        right = "member: you may read and write tokens, which is all that pilots need"
    if is_open(lists):
        advice = "`apicas users grant NAME` gives it members, and shuts it for others"
        return wrong("permissions", "the database has no members: everybody who reaches the server may use it", advice)
    return fine("permissions", right)


# In the database. -----------------------------------------------------------------------------------------------------


async def _in_database(client: CouchClient) -> Findings:
    designs = await client.inspection.designs()
    wanted, own = client.inspection.expected()
    missing = [name for name in wanted if name not in designs.get("Monitor", {})]
    if missing:
        text = "Monitor is missing" if len(missing) == len(wanted) else f"Monitor lacks {', '.join(sorted(missing))}"
        advice = "an admin of the database runs `apicas init`: without these views no pilot finds a token"
        yield wrong("views", text, advice, code=ExitCode.REFUSED, is_last=True)
        return
    lag = await _lag(client, designs)
    yield lag
    if lag.status == DO:
        yield skipped("views", "they are asked only when their index has caught up, since that waits for it")
        return
    yield await _views(client)
    if own in designs:
        yield await _split(client)
    else:
        text = f"the views of apicas ({own}) are missing: counting all tokens and finding split ones is slow"
        yield wrong("own views", text, "an admin of the database runs `apicas init`")
        yield skipped("split tokens", "to find them takes these views")
    async for finding in examine_tokens(client, counts_all=own in designs):
        yield finding


async def _lag(client: CouchClient, designs: Mapping[str, Any]) -> Finding:
    """How far the views are behind. Those that nobody asks stay behind, and cost nothing: only Monitor matters."""
    pending = {name: await client.inspection.pending(name) for name in designs if not name.startswith("apicas-")}
    lag = pending.get("Monitor")
    if lag is None:
        return skipped("index", "the server does not say how far its views are behind")
    behind = [f"{name} {number:,}" for name, number in pending.items() if number and number > LAG and name != "Monitor"]
    others = f"; views that are built when somebody asks for them: {', '.join(behind)}" if behind else ""
    if lag <= LAG:
        return fine("index", f"Monitor is {plural(lag, 'write')} behind{others}")
    return wrong(
        "index",
        f"Monitor is {lag:,} writes behind: whoever asks it next waits for that, pilots too{others}",
        "`apicas status` waits until it has caught up; then look again. If it is behind while pilots run, the server "
        "is too slow for what is written to it",
    )


async def _split(client: CouchClient) -> Finding:
    split = await client.conflicted(_SPLIT_SHOWN)
    if not split:
        return fine("split tokens", "none")
    number = f"{len(split)} or more" if len(split) == _SPLIT_SHOWN else str(len(split))
    return wrong(
        "split tokens",
        f"{number} stored in several versions, as {split[0]}",
        "running pilots heal them after a lease; without pilots: `apicas heal`",
    )


async def _views(client: CouchClient) -> Finding:
    """Whether the views list what they should, by their rows: PiCaS's text differs from ours, and means the same."""
    strays: list[str] = []
    try:
        for name in MONITOR_VIEWS:
            strays += await _strays(client, name)
        overview = await _overview_is_right(client)
    except (ViewNotFoundError, PoolError) as error:
        if isinstance(error, PoolUnavailableError):
            raise
        return wrong("views", str(error), "`apicas init --replace-views`, by an admin of the database")
    if strays:
        advice = "`apicas init --replace-views`, by an admin of the database, puts those of apicas in their place"
        return wrong("views", "; ".join(strays), advice)
    if not overview:
        advice = "`apicas init --replace-views`, by an admin of the database, puts that of apicas in its place"
        return wrong("views", f"{OVERVIEW} counts otherwise than the views that it is about", advice)
    return fine("views", "todo, locked, done, error and overview_total list what they should")


async def _strays(client: CouchClient, name: str) -> list[str]:
    """What is wrong with the first rows of a view. A token that has just changed is no stray."""
    view = MONITOR_VIEWS[name]
    strays: list[Document] = []
    for _ in range(2):
        rows = await client.view(name, limit=_ROWS, include_docs=True)
        strays = [row.document for row in rows if row.document is not None and not view.matches(row.document)]
        if not strays:
            return []
    return [f"{name} lists {strays[0]['_id']}, which is in {state_of(strays[0])}"]


async def _overview_is_right(client: CouchClient) -> bool:
    """Whether the totals are those of the views, at one of a few looks: others write meanwhile."""
    for _ in range(3):
        overview = await client.counts()
        rows = {str(view.state): len(await client.view(name, limit=_ROWS)) for name, view in MONITOR_VIEWS.items()}
        if all(min(overview.get(state, 0), _ROWS) == number for state, number in rows.items()):
            return True
    return False
