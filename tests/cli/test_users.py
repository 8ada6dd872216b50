"""`apicas users`: who may use a database, and accounts, on servers that ask who one is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from apicas._documents import decode
from tests.cli.program import Program
from tests.cli.test_terminal import Start, terminal  # noqa: F401 - a fixture
from tests.couchdb import SERVERS, Server, guarded_server, server


@pytest.fixture(params=SERVERS)
def couch(request: pytest.FixtureRequest) -> Server:
    return guarded_server(request.config) if request.param == "pouchdb" else server(request.config, request.param)


@pytest.fixture
def pool(couch: Server, apicas: Program, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database with its views; we are the admin."""
    assert couch.username
    assert couch.password
    monkeypatch.setenv("APICAS_PASSWORD", couch.password)
    with couch.database() as name:
        address = f"{couch.url.replace('://', f'://{couch.username}@')}/{name}"
        monkeypatch.setenv("APICAS_POOL", address)
        assert apicas("init").code == 0
        couch.request("PUT", f"{name}/_security", {})
        yield address


def listed(apicas: Program) -> dict[str, Any]:
    result = apicas("users", "list", "--json")
    assert result.code == 0, result.err
    found: dict[str, Any] = decode(result.out)
    return found


def test_granted_and_revoked_users_are_listed(apicas: Program, pool: str) -> None:
    assert apicas("users", "grant", "ann", "bob", "--yes").out == f"added ann, bob to the members of {pool}\n"
    assert apicas("users", "grant", "ann", "--admin", "--yes").out == f"added ann to the admins of {pool}\n"
    assert apicas("users", "grant", "team", "--role", "--yes").out == f"added team to the member roles of {pool}\n"
    assert apicas("users", "grant", "ann", "bob").out == f"nothing to change: they are members of {pool}\n"
    found = listed(apicas)
    assert (found["members"], found["admins"], found["member_roles"]) == (["ann", "bob"], ["ann"], ["team"])
    assert apicas("users", "revoke", "bob", "eve", "--yes").out == f"took bob from the members of {pool}\n"
    assert listed(apicas)["members"] == ["ann"]
    assert "  members       ann\n" in apicas("users", "list").out


def test_nothing_is_changed_without_a_yes(apicas: Program, pool: str) -> None:
    asked = apicas("users", "grant", "ann")
    assert (asked.code, "then to its members alone" in asked.error, "add --yes" in asked.error) == (2, True, True)
    assert apicas("users", "grant", "ann", "--dry-run").out == f"would add ann to the members of {pool}\n"
    assert listed(apicas)["members"] == []
    apicas("users", "grant", "ann", "--yes")
    assert apicas("users", "revoke", "ann", "--dry-run").out == f"would take ann from the members of {pool}\n"
    assert "add --yes" in apicas("users", "revoke", "ann").error
    assert listed(apicas)["members"] == ["ann"]


def test_a_database_without_members_is_said_to_be_open(apicas: Program, pool: str) -> None:
    assert "everybody who reaches the server may read and write it" in apicas("users", "list").error
    apicas("users", "grant", "ann", "--yes")
    assert "everybody" not in apicas("users", "list").err


def test_with_the_last_member_a_database_is_shut_and_not_opened(apicas: Program, pool: str) -> None:
    apicas("users", "grant", "ann", "--yes")
    result = apicas("users", "revoke", "ann", "--yes")
    assert "for admins of the server now (role _admin)" in result.error
    assert listed(apicas)["member_roles"] == ["_admin"]


def test_a_user_who_was_granted_it_can_use_the_database_and_no_other_can(
    apicas: Program, couch: Server, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, word = f"ann{pool[-6:]}", "ann's own"
    added = apicas("users", "add", name, "--member", "--stdin", "--yes", stdin=f"{word}\n")
    assert (added.code, word in added.out + added.err) == (0, False), added.err
    assert added.out == f"added the account {name}\n{name} is a member of {pool}\n"
    try:
        again = apicas("users", "add", name, "--stdin", "--yes", stdin="x\n")
        assert (again.code, f"there is an account '{name}'" in again.error) == (2, True)
        assert name in listed(apicas)["accounts"]
        theirs = pool.replace(f"{couch.username}@", f"{name}@")
        monkeypatch.setenv("APICAS_POOL", theirs)
        monkeypatch.setenv("APICAS_PASSWORD", word)
        assert apicas("push", stdin="x\n").code == 0
        assert apicas("users", "grant", "eve", "--yes").code != 0
        assert couch.password
        monkeypatch.setenv("APICAS_POOL", pool)
        monkeypatch.setenv("APICAS_PASSWORD", couch.password)
        assert apicas("users", "password", name, "--stdin", stdin="another\n").code == 0
        monkeypatch.setenv("APICAS_POOL", theirs)
        monkeypatch.setenv("APICAS_PASSWORD", word)
        assert apicas("status").code == 2
        monkeypatch.setenv("APICAS_PASSWORD", "another")
        assert apicas("status").code == 0
    finally:
        document = couch.request("GET", f"_users/org.couchdb.user:{name}")
        couch.request("DELETE", f"_users/org.couchdb.user:{name}?rev={document['_rev']}")


def test_adding_an_account_can_be_tried(apicas: Program, pool: str) -> None:
    result = apicas("users", "add", "zoe", "--member", "--admin", "--dry-run")
    assert result.out == f"would add the account zoe, member of {pool}, admin of {pool}\n"
    assert "zoe" not in listed(apicas)["accounts"]


@pytest.mark.parametrize("name", ["", "a:b", "_a"])
def test_names_that_nobody_could_log_in_with_are_refused(apicas: Program, pool: str, name: str) -> None:
    assert "cannot be an account's name" in apicas("users", "add", name, "--stdin", "--yes", stdin="x\n").error


def test_a_new_password_is_typed_twice_and_unseen(
    apicas: Program,
    pool: str,
    terminal: Start,  # noqa: F811
) -> None:
    screen = terminal("users", "add", "zoe", "--yes")
    screen.read_until("Password of zoe: ")
    screen.type("0pen-sesame\n")
    screen.read_until("once more: ")
    screen.type("0pen-sesam\n")
    assert screen.finish() == 2
    assert "the two are not the same" in screen.seen
    assert "0pen" not in screen.seen
    assert "zoe" not in listed(apicas)["accounts"]


def test_a_password_for_an_account_that_is_not_there(apicas: Program, pool: str) -> None:
    assert "there is no account 'zoe'" in apicas("users", "password", "zoe", "--stdin", stdin="x\n").error


def test_a_file_has_no_users(apicas: Program) -> None:
    for arguments in (("list",), ("add", "ann"), ("grant", "ann"), ("revoke", "ann")):
        result = apicas("users", *arguments)
        assert (result.code, "is no CouchDB database" in result.error) == (2, True)
