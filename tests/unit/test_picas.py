"""The adapter for PiCaS actors, as far as it goes without PiCaS: what it refuses, and what it makes of an iterator."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import apicas
import apicas.picas
from apicas.clients.memory import MemoryClient
from apicas.exceptions import ConfigError
from apicas.iterators import BasicViewIterator, EndlessViewIterator, PrioritizedViewIterator
from apicas.picas.adapter import work_of
from apicas.picas.guard import GuardedDatabase, Place, held, place_of
from apicas.picas.running import iterator_for


class Database:
    """The part of couchdb.Database that is asked where it is."""

    def __init__(self, *, verifies: bool = True) -> None:
        session = SimpleNamespace(_disable_ssl_verification=not verifies)
        self.resource = SimpleNamespace(
            url="https://couch.example/survey", credentials=("me", "s3cret"), session=session
        )
        self.name = "survey"


class Actor:
    def __init__(self, *, verifies: bool = True, **view: Any) -> None:
        self.db = SimpleNamespace(db=Database(verifies=verifies))
        self.iterator = SimpleNamespace(view="todo", **view)

    def process_task(self, token: Any) -> None: ...


class Strange(Actor):
    def process_task(self, key: Any, token: Any, more: Any) -> None:  # type: ignore[override]
        ...


class Idle:
    db = SimpleNamespace(db=Database())


def test_the_signature_says_whether_there_is_a_key() -> None:
    seen: list[Any] = []

    class Old:
        def process_token(self, key: str, token: Any, verbose: bool = False) -> None:
            seen.append((key, token, verbose))

    class New:
        def process_task(self, token: Any, *rest: Any) -> None:
            seen.append((token, rest))

    work_of(Old())("id", {})
    work_of(New())("id", {})
    assert seen == [("id", {}, False), ({}, ())]


@pytest.mark.parametrize(
    ("actor", "options", "message"),
    [
        (Actor, {}, "Actor is a class: make the actor first"),
        (Strange(), {}, "needs more"),
        (Idle(), {}, "neither a process_task nor a process_token"),
        (Actor(verifies=False), {}, "does not verify the server's certificate"),
        (Actor(), {"max_taks": 3}, "max_taks"),
        (Actor(), {"executor": "auto"}, "leave out executor"),
        (Actor(view_params={"startkey": "a", "design_doc": "Mine"}), {}, "asks its view for startkey"),
    ],
)
async def test_what_cannot_run_is_refused_before_anything_is_claimed(
    actor: Any, options: dict[str, Any], message: str
) -> None:
    pool = None if "certificate" in message else MemoryClient()
    with pytest.raises(ConfigError, match=message):
        await apicas.picas.run_async(actor, pool, **options)


async def test_an_actor_needs_a_client() -> None:
    class Lost(Actor):
        def __init__(self) -> None:
            super().__init__()
            del self.db

    with pytest.raises(ConfigError, match="has no PiCaS client"):
        await apicas.picas.run_async(Lost(), MemoryClient())


async def test_iterators_are_translated() -> None:
    client = MemoryClient()
    simple = SimpleNamespace(view="todo", view_params={"design_doc": "Mine"})
    ours = iterator_for(SimpleNamespace(iterator=simple), client, {})
    assert isinstance(ours, BasicViewIterator)
    assert ours.views == ("Mine/todo",)
    two = SimpleNamespace(high_priority_view="urgent", low_priority_view="todo", view_params={})
    prioritized = iterator_for(SimpleNamespace(iterator=two), client, {})
    assert isinstance(prioritized, PrioritizedViewIterator)
    assert prioritized.views == ("Monitor/urgent", "Monitor/todo")
    endless = SimpleNamespace(iterator=two, stop_callback=lambda limit: limit < 3, stop_callback_args={"limit": 2})
    outer = iterator_for(SimpleNamespace(iterator=endless), client, {})
    assert isinstance(outer, EndlessViewIterator)
    assert outer.stop_callback is not None
    assert await outer.stop_callback() is True
    with pytest.raises(ConfigError, match="no iterator that apicas knows"):
        iterator_for(SimpleNamespace(iterator=object()), client, {})


def test_a_place_shows_no_password() -> None:
    place = place_of(Database())
    assert place == Place("https://couch.example/survey", "survey", ("me", "s3cret"), True)
    assert "s3cret" not in repr(place)


class Store(dict[str, Any]):
    """What a database does with documents that nobody works."""

    def __init__(self) -> None:
        super().__init__()
        self.deleted: list[str] = []

    def update(self, documents: Any) -> Any:  # type: ignore[override]
        return [(True, document["_id"], "1-x") for document in documents]

    def delete(self, document: Any) -> None:
        self.deleted.append(document["_id"])


class Guarded(GuardedDatabase, Store):  # type: ignore[misc]  # as the adapter makes them, of classes that it meets
    """As in a worker process."""


@pytest.fixture
def working() -> Iterator[dict[str, Any]]:
    document: dict[str, Any] = {"_id": "own", "_rev": "2-b", "list": [1], "apicas": {"claim": "c"}}
    held.begin(document)
    yield document
    held.end()


def test_a_bulk_write_goes_to_the_store_but_for_the_own_token(working: dict[str, Any]) -> None:
    answers = Guarded().update([{"_id": "a"}, {"_id": "own", "new": 1, "list": [1]}, {"_id": "b"}])
    assert answers == [(True, "a", "1-x"), (True, "own", "2-b"), (True, "b", "1-x")]
    assert working["new"] == 1


def test_a_copy_changes_only_what_was_changed_in_it(working: dict[str, Any]) -> None:
    """Neither what the work has changed meanwhile in place, nor the claim."""
    copy = Guarded().get("own")
    working["list"].append(2)
    copy["apicas"], copy["_rev"], copy["other"] = {}, "9-z", True
    assert Guarded().save(copy) == ("own", "2-b")
    assert working == {"_id": "own", "_rev": "2-b", "list": [1, 2], "apicas": {"claim": "c"}, "other": True}


def test_attachments_of_the_own_token_are_part_of_it(working: dict[str, Any]) -> None:
    database = Guarded()
    database.put_attachment({"_id": "own"}, "text", "a.txt")
    assert database.get_attachment("own", "a.txt").read() == b"text"
    database.delete_attachment({"_id": "own"}, "a.txt")
    assert working["_attachments"] == {}
    with pytest.raises(ValueError, match="needs a name"):
        database.put_attachment({"_id": "own"}, b"x")
    with pytest.raises(apicas.InvalidTokenError):
        database.put_attachment({"_id": "own"}, b"x", "../x")


def test_only_other_documents_are_deleted(working: dict[str, Any]) -> None:
    database = Guarded()
    database.delete({"_id": "other"})
    assert database.deleted == ["other"]
    with pytest.raises(RuntimeError, match="while it is worked"):
        database.delete(working)
    with pytest.raises(RuntimeError, match="while it is worked"):
        del database["own"]
