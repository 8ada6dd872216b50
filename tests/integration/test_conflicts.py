"""Tokens of which a server has several live leaves, made as a cluster makes them: past the check of revisions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest

from apicas._documents import Document
from apicas.clients.couch import CouchClient, conflicts
from apicas.clients.couch.conflicts import delete_all_leaves
from apicas.clients.couch.designs import OWN_NAME
from apicas.clients.port import SaveResult, SaveStatus, ViewQuery
from tests.couchdb import SERVERS, Server, server

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
        await client.setup()
        for _ in range(LOOKS // 10 if client.replicated else 0):
            await client.counts()
        yield client


Split = Callable[..., Any]


@pytest.fixture
def split(client: CouchClient, couch: Server, database: str) -> Split:
    async def split(token_id: str, *contents: dict[str, Any]) -> list[Document]:
        """Make a token, and a leaf of it for each content; answers with them, the last made shown."""
        await client.upload([{"_id": token_id}])
        (root,) = await client.get([token_id])
        assert root is not None
        number, _, digest = root["_rev"].partition("-")
        leaves = []
        for place, content in enumerate(contents):
            name = f"{place:x}" * 32
            revisions = {"start": int(number) + 1, "ids": [name, digest]}
            leaves.append({**root, **content, "_rev": f"{int(number) + 1}-{name}", "_revisions": revisions})
        couch.request("POST", f"{database}/_bulk_docs", {"new_edits": False, "docs": leaves})
        return [{key: value for key, value in leaf.items() if key != "_revisions"} for leaf in leaves]

    return split


async def sees(client: CouchClient, expected: Any, read: Callable[[], Any]) -> None:
    found = await read()
    for _ in range(LOOKS if client.replicated else 0):
        if found == expected:
            break
        found = await read()
    assert found == expected


async def test_all_leaves_are_read_the_shown_one_first(client: CouchClient, split: Split) -> None:
    one, two, three = await split("t", {"n": 1}, {"n": 2}, {"n": 3})
    await client.upload([{"_id": "whole"}])
    (whole,) = await client.get(["whole"])
    assert await client.leaves(["whole", "t", "nothing", "t"]) == [
        [whole],
        [three, two, one],
        [],
        [three, two, one],
    ]
    others = [[two["_rev"], one["_rev"]], [one["_rev"], two["_rev"]]]  # in no order
    (read,) = await client.get(["t"])
    assert read in [{**three, "_conflicts": revisions} for revisions in others]
    (row,) = await client.query("todo", ViewQuery(include_docs=True, start_key="t", end_key="t"))
    assert row.document == read
    (sampled,) = [found for found in await client.sample("todo", 5, 0.0, fresh=True) if found["_id"] == "t"]
    assert sampled == read


async def test_a_leaf_that_is_not_shown_is_written_and_discarded(client: CouchClient, split: Split) -> None:
    """A write goes to the branch that it names, whichever is shown; the longer one shows from then on."""
    one, two = await split("t", {"n": 1}, {"n": 2})
    (written,) = await client.save([{**one, "n": 11}])
    assert written.written
    eleven = {**one, "n": 11, "_rev": written.rev}
    assert await client.leaves(["t"]) == [[eleven, two]]
    late, old = await client.save([{**one, "n": 12}, {**one, "n": 11}])
    assert late.status is SaveStatus.CONFLICT
    assert old.status is SaveStatus.CONFLICT
    (gone,) = await client.discard([eleven])
    assert gone.written
    assert await client.leaves(["t"]) == [[two]]
    assert await client.get(["t"]) == [two]


async def remove_own_views(couch: Server, database: str) -> None:
    rev = couch.request("GET", f"{database}/_design/{OWN_NAME}")["_rev"]
    couch.request("DELETE", f"{database}/_design/{OWN_NAME}?rev={rev}")


@pytest.mark.parametrize("has_view", [True, False])
async def test_conflicted_tokens_are_listed(
    client: CouchClient, split: Split, couch: Server, database: str, monkeypatch: pytest.MonkeyPatch, *, has_view: bool
) -> None:
    """Of our types, as long as they have several live leaves; with the view, and without it from the feed."""
    monkeypatch.setattr(conflicts, "_PAGE", 3)
    if not has_view:
        await remove_own_views(couch, database)
    await client.upload({"_id": f"whole{number}"} for number in range(10))
    assert await client.conflicted() == []
    one, _ = await split("a", {"n": 1}, {"n": 2})
    _, _, three = await split("b", {"n": 1}, {"n": 2}, {"n": 3})
    await split("other", {"type": "note"}, {"type": "note", "n": 1})
    await split("d", {"type": "task"}, {"type": "task", "n": 1})

    async def listed() -> list[str]:
        return sorted(await client.conflicted())

    await sees(client, ["a", "b", "d"], listed)
    assert len(await client.conflicted(1)) == 1
    await client.discard([one, three])
    await sees(client, ["b", "d"], listed)
    await sees(client, ["b", "d"], listed)
    await split("c", {"n": 1}, {"n": 2})
    await sees(client, ["b", "c", "d"], listed)
    (document,) = await client.get(["b"])
    assert document is not None
    (deleted,) = await client.delete([document])
    assert deleted.written
    await sees(client, ["c", "d"], listed)


async def test_without_the_view_a_second_look_reads_only_what_is_new(
    client: CouchClient, split: Split, couch: Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await remove_own_views(couch, database)
    await split("t", {"n": 1}, {"n": 2})
    await client.upload({"_id": f"whole{number}"} for number in range(10))
    await sees(client, ["t"], client.conflicted)
    monkeypatch.setattr(conflicts, "_PAGE", 1)
    pages = 0
    ask = client._transport.ask

    async def counted(method: str, path: str, *arguments: Any, **options: Any) -> Any:
        nonlocal pages
        pages += "_changes" in path
        return await ask(method, path, *arguments, **options)

    monkeypatch.setattr(client._transport, "ask", counted)
    assert await client.conflicted() == ["t"]
    assert pages <= 2 or client.replicated  # a cluster's feed may repeat itself


async def test_deleting_a_token_deletes_every_leaf(client: CouchClient, split: Split) -> None:
    """By the revision that is shown, or by that of another leaf; one that is gone, or edited, is a conflict."""
    for name, chosen in (("a", -1), ("b", 0)):
        leaves = await split(name, {"n": 1}, {"n": 2}, {"n": 3})
        (result,) = await client.delete([leaves[chosen]])
        assert result.written
        assert await client.leaves([name]) == [[]]
        assert await client.get([name]) == [None]
    one, two = await split("c", {"n": 1}, {"n": 2})
    (edited,) = await client.save([{**one, "n": 11}])
    assert edited.written
    results = await client.delete([one, {"_id": "a", "_rev": one["_rev"]}, {"_id": "nothing", "_rev": one["_rev"]}])
    assert [result.status for result in results] == [SaveStatus.CONFLICT] * 3
    assert len((await client.leaves(["c"]))[0]) == 2
    first, second = await client.delete([two, two])
    assert (first.status, second.status) == (SaveStatus.WRITTEN, SaveStatus.CONFLICT)
    assert await client.get(["c"]) == [None]


async def test_delete_from_view_leaves_no_leaf(client: CouchClient, split: Split) -> None:
    """Else another leaf would show, and be deleted as one more token."""
    for number in range(5):
        await split(f"t{number}", {"n": 1}, {"n": 2}, {"n": 3})
    await sees(client, 5, lambda: _count(client))
    assert await client.delete_from_view("todo") == 5
    assert await client.get([f"t{number}" for number in range(5)]) == [None] * 5


async def _count(client: CouchClient) -> int:
    return (await client.counts())["todo"]


# What others do while a document is deleted. --------------------------------------------------------------------------


class Store:
    """The leaves of one document, with what happens at each attempt to delete some."""

    def __init__(self, *revisions: str) -> None:
        self.revisions = list(revisions)
        self.order: list[str] = []
        self.interfere: list[Callable[[list[str]], SaveStatus | None]] = []

    async def leaves(self, ids: Sequence[str]) -> list[list[Document]]:
        return [[{"_id": "t", "_rev": revision} for revision in self.revisions] for _ in ids]

    async def discard(self, leaves: Sequence[Any]) -> list[SaveResult]:
        named = [leaf["_rev"] for leaf in leaves]
        status = self.interfere.pop(0)(named) if self.interfere else None
        return [SaveResult(status or self._remove(revision)) for revision in named]

    def _remove(self, revision: str) -> SaveStatus:
        if revision not in self.revisions:
            return SaveStatus.CONFLICT
        self.revisions.remove(revision)
        self.order.append(revision)
        return SaveStatus.WRITTEN

    async def delete(self, revision: str) -> SaveStatus:
        (result,) = await delete_all_leaves([{"_id": "t", "_rev": revision}], leaves=self.leaves, discard=self.discard)
        return result.status

    def replace(self, old: str, new: str) -> None:
        self.revisions[self.revisions.index(old)] = new


async def test_the_shown_leaf_goes_last() -> None:
    store = Store("3-a", "2-b", "2-a")
    assert await store.delete("2-b") is SaveStatus.WRITTEN
    assert store.order[-1] == "3-a"


async def test_a_leaf_that_was_written_meanwhile_is_deleted_too() -> None:
    """A pilot that beats on a losing leaf must not bring the token back."""
    store = Store("3-a", "2-b")
    store.interfere = [lambda _: store.replace("2-b", "3-aa")]
    assert await store.delete("3-a") is SaveStatus.WRITTEN
    assert store.revisions == []


async def test_a_revision_that_was_written_meanwhile_stays() -> None:
    """Somebody claimed the token between the look and the deletion."""
    store = Store("3-a", "2-b")
    store.interfere = [lambda _: None, lambda _: store.replace("3-a", "4-c")]
    assert await store.delete("3-a") is SaveStatus.CONFLICT
    assert store.revisions == ["4-c"]


async def test_a_deletion_without_an_answer_is_looked_up() -> None:
    store = Store("3-a")

    def done(named: list[str]) -> SaveStatus:
        store.revisions.clear()
        return SaveStatus.UNKNOWN

    store.interfere = [lambda _: SaveStatus.UNKNOWN, done]
    assert await store.delete("3-a") is SaveStatus.WRITTEN


async def test_a_deletion_without_an_answer_may_have_been_overtaken() -> None:
    store = Store("3-a")

    def overtaken(named: list[str]) -> SaveStatus:
        store.replace("3-a", "4-c")
        return SaveStatus.UNKNOWN

    store.interfere = [overtaken]
    assert await store.delete("3-a") is SaveStatus.CONFLICT
    assert store.revisions == ["4-c"]


async def test_deleting_gives_up_after_a_while() -> None:
    store = Store("3-a")
    store.interfere = [lambda _: SaveStatus.UNKNOWN] * 100
    assert await store.delete("3-a") is SaveStatus.UNKNOWN
    assert store.revisions == ["3-a"]
