"""What the CouchDB client does beyond the port, on a server: setup beside PiCaS, views of users, permissions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from apicas.clients.couch import CouchClient
from apicas.clients.couch.designs import OWN_NAME
from apicas.clients.port import Permissions, SaveStatus
from apicas.exceptions import AccessDeniedError, ConfigError, ViewNotFoundError
from apicas.iterators import BasicViewIterator
from apicas.tokens import TokenState
from apicas.views import MONITOR_VIEWS, View, field
from tests.couchdb import SERVERS, Server, guarded_server, server

PICAS_TODO = 'function(doc) {if(doc.type == "token") {if(doc.lock == 0 && doc.done == 0) {emit(doc._id, doc._id);}}}'
LOOKS = 500  # as in the conformance suite: a cluster may take a moment


@pytest.fixture(params=SERVERS)
def couch(request: pytest.FixtureRequest) -> Server:
    return server(request.config, request.param)


@pytest.fixture
def database(couch: Server) -> Iterator[str]:
    with couch.database() as name:
        yield name


@pytest.fixture
async def client(couch: Server, database: str) -> AsyncIterator[CouchClient]:
    async with couch.client(database) as client:
        yield client


def monitor(couch: Server, database: str) -> dict[str, Any]:
    views: dict[str, Any] = couch.request("GET", f"{database}/_design/Monitor")["views"]
    return views


def install_picas(couch: Server, database: str, *names: str) -> None:
    """A Monitor as PiCaS's own script makes it, with these of the five views, and one of a user's."""
    views = {name: {"map": PICAS_TODO} for name in (*names, "mine")}
    couch.request("PUT", database)
    couch.request("PUT", f"{database}/_design/Monitor", {"language": "javascript", "views": views})


FIVE = ("todo", "locked", "done", "error", "overview_total")


# Setup. ---------------------------------------------------------------------------------------------------------------


async def test_setup_creates_what_is_missing(client: CouchClient, couch: Server, database: str) -> None:
    """A database and both design documents; a second setup finds them there."""
    report = await client.setup()
    assert (report.created, report.installed, report.kept) == (True, ("Monitor", OWN_NAME), ())
    again = await client.setup()
    assert (again.created, again.installed, again.kept) == (False, (), ())
    assert sorted(monitor(couch, database)) == sorted(FIVE)


async def test_setups_at_the_same_time_agree(couch: Server, database: str) -> None:
    """Many pilots that start on an empty server end up with one pool."""
    created: list[bool] = []

    async def set_up() -> None:
        async with couch.client(database) as client:
            created.append((await client.setup()).created)
            assert await client.view("todo") == []

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(set_up)
    assert any(created)  # PouchDB tells several that they did
    assert sorted(monitor(couch, database)) == sorted(FIVE)


async def test_setup_keeps_what_picas_installed(client: CouchClient, couch: Server, database: str) -> None:
    """A Monitor with the five views is not touched, since that would index a live pool anew; unless asked to."""
    install_picas(couch, database, *FIVE)
    before = couch.request("GET", f"{database}/_design/Monitor")
    report = await client.setup()
    assert (report.created, report.installed, report.kept) == (False, (OWN_NAME,), ("Monitor",))
    assert couch.request("GET", f"{database}/_design/Monitor") == before
    replaced = await client.setup(replace_views=True)
    assert (replaced.installed, replaced.kept) == (("Monitor",), ())
    views = monitor(couch, database)
    assert views["todo"]["map"] == MONITOR_VIEWS["Monitor/todo"].map_function()
    assert views["mine"] == {"map": PICAS_TODO}
    assert not (await client.setup(replace_views=True)).installed


async def test_setup_completes_a_monitor(client: CouchClient, couch: Server, database: str) -> None:
    """The views that Monitor lacks are added; those that it has stay, ours or not."""
    install_picas(couch, database, "todo")
    report = await client.setup()
    assert (report.installed, report.kept) == (("Monitor", OWN_NAME), ("Monitor",))
    views = monitor(couch, database)
    assert sorted(views) == sorted((*FIVE, "mine"))
    assert views["todo"] == {"map": PICAS_TODO}


async def test_a_name_that_couchdb_refuses(couch: Server) -> None:
    """A database's name in capitals is an error of the configuration."""
    async with couch.client("Not-A-Name") as client:
        if couch.password is None:
            pytest.skip("PouchDB takes any name")
        with pytest.raises(ConfigError, match="Not-A-Name"):
            await client.setup()


# Views and counts. ----------------------------------------------------------------------------------------------------


async def test_views_in_javascript(client: CouchClient) -> None:
    """A user's map and reduce functions can be read by key, by group and by level, beside a condition in Python."""
    await client.setup()
    await client.add_view("by_kind", "function (doc) { emit([doc.kind, doc.size], doc.size); }", "_sum", "Mine")
    await client.add_view(View("Mine/todo", TokenState.TODO, field("size") > 1))
    await client.add_view("plain", "function (doc) { if (doc.kind) emit(doc.size, null); }")
    await client.upload({"_id": f"{kind}{size}", "kind": kind, "size": size} for kind in "ab" for size in (1, 2, 3))
    for _ in range(LOOKS):
        if len(await client.view("plain")) == 6:
            break
    assert [row.id for row in await client.view("Mine/todo")] == ["a2", "a3", "b2", "b3"]
    tokens: dict[str, Any] = {"start_key": ["a"], "end_key": ["b", {}]}
    (total,) = await client.view("Mine/by_kind", **tokens)
    assert (total.id, total.key, total.value) == (None, None, 12)
    by_kind = await client.view("Mine/by_kind", group_level=1, **tokens)
    assert {tuple(row.key): row.value for row in by_kind} == {("a",): 6, ("b",): 6}
    by_size = await client.view("Mine/by_kind", group=True, start_key=["b", 2], end_key=["b", 3])
    assert [(row.key, row.value) for row in by_size] == [(["b", 2], 2), (["b", 3], 3)]
    rows = await client.view("Mine/by_kind", reduce=False, include_docs=True, start_key=["b", 3], limit=1)
    assert [row.document and row.document["kind"] for row in rows] == ["b"]
    assert [row.key for row in await client.view("plain", descending=True, start_key=2)] == [2, 2, 1, 1]
    assert await client.counts(["plain", "todo", "Mine/todo"]) == {"plain": 6, "todo": 6, "Mine/todo": 4}
    with pytest.raises(ConfigError, match="map function"):
        await client.add_view("nothing")


async def test_a_function_that_does_not_compile_is_refused_with_the_reason(couch: Server, client: CouchClient) -> None:
    """What the server says of it, in an error of ours."""
    if couch.password is None:
        pytest.skip("PouchDB compiles a function when it is first used")
    await client.setup()
    with pytest.raises(ConfigError, match=r"refuses the views of Mine: Compilation of the map function in the 'bad'"):
        await client.add_view("bad", "function (doc) { emit(", design_doc="Mine")


async def test_total_without_our_view(client: CouchClient, couch: Server, database: str) -> None:
    """On a pool that only PiCaS has set up, tokens are counted by reading, page by page."""
    await client.setup()
    rev = couch.request("GET", f"{database}/_design/{OWN_NAME}")["_rev"]
    couch.request("DELETE", f"{database}/_design/{OWN_NAME}?rev={rev}")
    await client.upload({"_id": f"t{number:04}", "lock": None if number == 7 else 0} for number in range(1001))
    await client.save([{"_id": "other", "type": "task"}])
    for _ in range(LOOKS):
        if await client.total() == 1001:
            break
    assert await client.total() == 1001


async def test_a_sample_goes_on_past_documents_that_are_gone(client: CouchClient) -> None:
    """A stale view may list what was deleted; a sample has as many documents as there are."""
    await client.setup()
    if client.replicated:
        pytest.skip("which replica answers, with what in its index, is chance")
    await client.upload({"_id": f"t{number}"} for number in range(6))
    for _ in range(LOOKS):
        if len(await client.view("todo")) == 6:
            break
    results = await client.delete([document for document in await client.get(["t0", "t2"]) if document])
    assert all(result.written for result in results)
    found = [document["_id"] for document in await client.sample("todo", 3, 0.5)]
    assert len(found) == 3
    assert set(found) < {"t1", "t3", "t4", "t5"}


async def test_claims_begin_somewhere_and_go_on_from_there(client: CouchClient) -> None:
    await client.setup()
    if client.replicated:
        pytest.skip("which replica answers, with what in its index, is chance")
    await client.upload({"_id": f"t{number:05}"} for number in range(600))
    async with BasicViewIterator(client, outbox=False) as tokens:
        claimed = [token.id for _ in range(5) for token in await tokens.claim(20)]
    assert len(set(claimed)) == 100
    breaks = sum(later != f"t{int(one[1:]) + 1:05}" for one, later in pairwise(claimed))
    assert breaks <= 1  # from the last one to the first


@pytest.fixture
async def ranked(client: CouchClient) -> list[str]:
    """Ids in the order of a view with keys that many tokens share."""
    await client.setup()
    function = 'function (doc) {if (doc.type == "token" && !doc.lock) {emit(-doc.rank, null);}}'
    await client.add_view("Ranked/todo", function)
    await client.upload({"_id": f"t{number:04}", "rank": number // 100} for number in range(400))
    return [f"t{100 * rank + number:04}" for rank in (3, 2, 1, 0) for number in range(100)]


async def test_a_view_with_keys_of_its_own_is_claimed_in_their_order(client: CouchClient, ranked: list[str]) -> None:
    if client.replicated:
        pytest.skip("which replica answers, with what in its index, is chance")
    async with BasicViewIterator(client, view="Ranked/todo", in_order=True, outbox=False) as tokens:
        claimed: list[str] = []
        while some := await tokens.claim(100):  # fewer, where the server is slow
            claimed += [token.id for token in some]
    assert claimed == ranked


async def test_such_a_view_is_claimed_nearly_in_order_by_default(client: CouchClient, ranked: list[str]) -> None:
    """From a window at its beginning, in which pilots keep apart."""
    async with BasicViewIterator(client, view="Ranked/todo", outbox=False) as tokens:
        for number in range(1, 4):
            claimed = [token.id for token in await tokens.claim(20)]
            assert set(claimed) <= set(ranked[: 20 * number + 64])


async def test_many_that_wait_and_share_a_key_do_not_hide_others(client: CouchClient, ranked: list[str]) -> None:
    """A page after the other begins with the same key."""
    later = {"apicas": {"not_before": client.time() + 10_000}}
    documents = [document for document in await client.get(ranked[:-1]) if document]
    assert all(result.written for result in await client.save([{**document, **later} for document in documents]))
    async with BasicViewIterator(client, view="Ranked/todo", in_order=True, outbox=False) as tokens:
        assert [token.id for token in await tokens.claim(10)] == ranked[-1:]


async def test_a_view_of_nobody(client: CouchClient) -> None:
    """It is missing for `counts` and `sample` too."""
    await client.setup()
    with pytest.raises(ViewNotFoundError):
        await client.counts(["Nobody/knows"])
    with pytest.raises(ViewNotFoundError):
        await client.sample("Nobody/knows", 1, 0.0)


# Documents. -----------------------------------------------------------------------------------------------------------


async def test_an_id_twice_in_one_bulk(client: CouchClient) -> None:
    """The first of the two is written, the second meets it."""
    await client.setup()
    first, second, other = await client.save([{"_id": "t", "n": 1}, {"_id": "t", "n": 2}, {"_id": "u"}])
    assert (first.status, other.status) == (SaveStatus.WRITTEN, SaveStatus.WRITTEN)
    assert second.status is SaveStatus.CONFLICT
    documents = await client.get(["t", "t"])
    assert [document and document["n"] for document in documents] == [1, 1]
    assert documents[0] is not documents[1]


async def test_a_bad_stub_leaves_no_doubt_about_the_others(client: CouchClient) -> None:
    """It is noticed when other shards have written; so documents with stubs go apart, and keep the order."""
    await client.setup()
    stub = {"log": {"stub": True, "content_type": "text/plain", "revpos": 1}}
    batch: list[dict[str, Any]] = [{"_id": f"t{number:02}"} for number in range(20)]
    batch[5]["_attachments"] = stub
    results = await client.save(batch)
    assert [result.status is SaveStatus.WRITTEN for result in results] == [number != 5 for number in range(20)]
    assert results[5].status is SaveStatus.REJECTED


async def test_a_deleted_token_leaves_nothing_but_its_id(client: CouchClient, couch: Server, database: str) -> None:
    """Tombstones are kept for ever, and replicated: nobody's data should be in them."""
    await client.setup()
    await client.upload([{"_id": "t", "input": "private"}])
    (token,) = await client.get(["t"])
    assert token is not None
    (result,) = await client.delete([token])
    assert result.written
    gone = couch.request("GET", f"{database}/t?rev={result.rev}")
    assert gone == {"_id": "t", "_rev": result.rev, "_deleted": True}
    no_revision, no_id = await client.delete([{"_id": "t"}, {"_id": 5, "_rev": "1-a"}])
    assert (no_revision.status, no_id.status) == (SaveStatus.CONFLICT, SaveStatus.REJECTED)


async def test_of_stored_conflicts_the_shown_one_is_read(client: CouchClient, couch: Server, database: str) -> None:
    """With several leaves, deleted ones too, a client reads what CouchDB shows to everybody."""
    await client.setup()
    for leaves in (("1-b", "1-a"), ("2-a", "10-0", "9-f"), ("3-c", "4-d")):
        couch.request(
            "POST",
            f"{database}/_bulk_docs",
            {"new_edits": False, "docs": [{"_id": f"t{leaves[0]}", "_rev": _padded(rev), "n": rev} for rev in leaves]},
        )
    couch.request("DELETE", f"{database}/t3-c?rev={_padded('4-d')}")
    for name in ("t1-b", "t2-a", "t3-c"):
        assert await client.get([name]) == [couch.request("GET", f"{database}/{name}?conflicts=true")]


def _padded(rev: str) -> str:
    """A revision with a digest as long as CouchDB's."""
    number, _, digest = rev.partition("-")
    return f"{number}-{digest * 32}"


# Access. --------------------------------------------------------------------------------------------------------------


async def test_permissions(client: CouchClient) -> None:
    """A list that is not given stays as it is."""
    await client.setup()
    before = await client.permissions()
    await client.set_permissions(members=["ann", "bob"], admin_roles=["keepers"])
    expected = replace(before, members=("ann", "bob"), admin_roles=("keepers",))
    assert await permissions(client, expected) == expected
    await client.set_permissions(members=["ann"])
    expected = replace(expected, members=("ann",))
    assert await permissions(client, expected) == expected


async def permissions(client: CouchClient, expected: Permissions) -> Permissions:
    """Read them: each node of a cluster has its own copy."""
    found = await client.permissions()
    for _ in range(LOOKS if client.replicated else 0):
        if found == expected:
            break
        found = await client.permissions()
    return found


@pytest.mark.couchdb
@pytest.mark.parametrize("auth", ["basic", "cookie"])
async def test_a_guarded_server(request: pytest.FixtureRequest, auth: str) -> None:
    """With the right password everything works, with a wrong one, or none, nothing does."""
    couch = guarded_server(request.config)
    with couch.database() as database:
        async with couch.client(database, auth=auth) as client, client.fork() as fork:
            await client.setup()
            await client.upload([{"_id": "t"}])
            token = await fork.fetch("t")
            assert token.rev is not None
            assert (await fork.put_attachment("t", token.rev, "log", b"lines")).written
            assert await client.get_attachment("t", "log") == b"lines"
        with pytest.raises(AccessDeniedError, match="incorrect"):
            await couch.client(database, auth=auth, password="guess").open()
        async with couch.client(database, username=None, password=None) as nobody:
            with pytest.raises(AccessDeniedError):
                await nobody.setup(replace_views=True)
                await nobody.add_view("x", "function (doc) {}")
