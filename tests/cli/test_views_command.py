"""`apicas views`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from apicas._documents import decode
from tests.cli.program import Program
from tests.couchdb import SERVERS, Server, server


@pytest.fixture(params=["sqlite", *SERVERS])
def pool(request: pytest.FixtureRequest, apicas: Program, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A pool with three tokens, of one, four and eight cores, the last of them done."""
    if request.param == "sqlite":
        monkeypatch.setenv("APICAS_POOL", "sqlite:///apicas.db")
        fill(apicas)
        yield "sqlite:///apicas.db"
        return
    couch = server(request.config, request.param)
    if couch.username and couch.password:
        monkeypatch.setenv("APICAS_USERNAME", couch.username)
        monkeypatch.setenv("APICAS_PASSWORD", couch.password)
    with couch.database() as name:
        monkeypatch.setenv("APICAS_POOL", f"{couch.url}/{name}")
        fill(apicas)
        yield f"{couch.url}/{name}"


def fill(apicas: Program) -> None:
    assert apicas("init").code == 0
    done = '{"_id": "c", "cores": 8, "lock": 1500000000, "done": 1500000001, "exit_code": 0}'
    tokens = f'{{"_id": "a", "cores": 1}}\n{{"_id": "b", "cores": 4}}\n{done}\n'
    assert apicas("push", stdin=tokens).code == 0


def numbers(apicas: Program) -> dict[str, int]:
    result = apicas("views", "list", "--json")
    assert result.code == 0, result.err
    return {entry["name"]: entry["tokens"] for entry in map(decode, result.out.splitlines())}


def test_views_are_listed_with_their_numbers(apicas: Program, pool: str) -> None:
    found = numbers(apicas)
    assert {name: found[f"Monitor/{name}"] for name in ("todo", "locked", "done", "error")} == {
        "todo": 2,
        "locked": 0,
        "done": 1,
        "error": 0,
    }
    lines = apicas("views", "list").out.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("Monitor/todo")] == [["Monitor/todo", "2"]]
    assert "2" not in apicas("views", "list", "--no-numbers").out


def test_a_view_with_a_condition_lists_what_fulfils_it(apicas: Program, pool: str) -> None:
    assert apicas("views", "add", "Big/todo", "cores >= 4").code == 0
    assert apicas("views", "add", "Large/done", "cores > 4").code == 0
    assert apicas("views", "add", "Mine/waiting", "--state", "todo").code == 0
    found = numbers(apicas)
    assert (found["Big/todo"], found["Large/done"], found["Mine/waiting"]) == (1, 1, 2)


def test_a_view_that_is_there_is_replaced_after_a_question(apicas: Program, pool: str) -> None:
    assert apicas("views", "add", "Big/todo", "cores >= 4").code == 0
    asked = apicas("views", "add", "Big/todo", "cores >= 1")
    assert (asked.code, "Replace Big/todo" in asked.error, "add --yes" in asked.error) == (2, True, True)
    assert apicas("views", "add", "Big/todo", "cores >= 1", "--dry-run").out.startswith("would replace Big/todo in ")
    assert numbers(apicas)["Big/todo"] == 1
    assert apicas("views", "add", "Big/todo", "cores >= 1", "--yes").out.startswith("replaced Big/todo in ")
    assert numbers(apicas)["Big/todo"] == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("Monitor/todo", "cores == 1"), "views of Monitor are fixed"),
        (("Big/soon",), "say --state todo"),
        (("Big/todo", "cores"), "no comparison"),
        (("a/b/c",), "is no view's name"),
        (("Big/todo", "--reduce", "_sum"), "--reduce is for a view with --map"),
        (("Big/x", "--map", "missing.js"), "cannot be read"),
        (("Big/x", "a == 1", "--map", "missing.js"), "has no condition"),
        (("Big/x", "--type", "task", "--map", "missing.js"), "has no condition"),
        (("Big/todo", "--type", "note"), "of type token or task"),
        (("Big/todo", "--type", "task"), "task"),  # a file has none
    ],
)
def test_what_makes_no_view_is_one_line(apicas: Program, arguments: tuple[str, ...], reason: str) -> None:
    fill(apicas)
    result = apicas("views", "add", *arguments)
    assert (result.code, reason.lower() in result.error.lower()) == (2, True), result.err


def test_a_file_runs_no_javascript(apicas: Program) -> None:
    fill(apicas)
    apicas.write("map.js", "function (doc) { emit(doc.cores, 1); }")
    assert "give a condition instead of --map" in apicas("views", "add", "Some/cores", "--map", "map.js").error


@pytest.mark.parametrize("name", SERVERS)
def test_a_map_and_a_reduce_function_are_installed(
    apicas: Program, name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    couch = server(request.config, name)
    if couch.username and couch.password:
        monkeypatch.setenv("APICAS_USERNAME", couch.username)
        monkeypatch.setenv("APICAS_PASSWORD", couch.password)
    with couch.database() as database:
        monkeypatch.setenv("APICAS_POOL", f"{couch.url}/{database}")
        fill(apicas)
        apicas.write("map.js", "function (doc) { if (doc.cores) emit(doc.cores, 1); }")
        result = apicas("views", "add", "Some/cores", "--map", "map.js", "--reduce", "_sum")
        assert (result.code, result.out.startswith("added Some/cores in ")) == (0, True), result.err
        assert numbers(apicas)["Some/cores"] == 3
        assert "map function, reduce _sum" in apicas("views", "list").out
        assert apicas("views", "add", "Tasks/todo", "--type", "task").code == 0
        asyncio.run(_save(couch, database, {"_id": "of-picas", "type": "task", "lock": 0, "done": 0}))
        assert numbers(apicas)["Tasks/todo"] == 1


async def _save(couch: Server, database: str, document: dict[str, Any]) -> None:
    async with couch.client(database) as client:
        (result,) = await client.save([document])
    assert result.written
