"""`--json`: on standard output JSON and nothing else, with the same keys each time; errors on standard error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
import typer.core
import typer.main

from apicas.cli.application import application
from apicas.cli.exits import ExitCode
from tests.cli.program import Program
from tests.cli.test_tokens import store
from tests.couchdb import Server, guarded_server

TOKEN: Final = {"_id", "_rev", "type"}
CASES: Final[dict[str, tuple[list[str], set[str]]]] = {
    "attachments": (["a"], {"name", "content_type", "length"}),
    "bench": (["--yes", "--repeats", "1", "--tokens", "5", "--workload", "noop"], {"pool", "measurements"}),
    "config show": (
        [],
        {
            "pool",
            "username",
            "password",
            "auth",
            "ca_file",
            "lock_timeout",
            "foreign_lock_timeout",
            "outbox",
            "log_format",
        },
    ),
    "doctor": ([], {"check", "status", "text", "advice"}),
    "explain": (["a"], {"id", "state", "claimable", "facts", "reasons", "asks", "seconds"}),
    "flush": ([], {"outbox", "written", "settled", "waiting", "lost"}),
    "ls": ([], TOKEN),
    "pilots": ([], {"pilot", "sign", "hostname", "job", "since", "beat", "tokens", "silent"}),
    "show": (["a", "b"], TOKEN),
    "status": ([], {"pool", "todo", "locked", "done", "error", "no_view", "total"}),
    "views list": ([], {"name", "tokens", "state"}),
}
"""Of each command what it is called with, and the keys that all its objects have."""
ON_A_SERVER: Final = {"users list"}


@pytest.fixture
def filled(apicas: Program) -> Program:
    """A token with an attachment, a locked one, and one that no view lists."""
    store(apicas, {"_id": "a"}, {"_id": "b", "lock": 1_700_000_000}, {"_id": "odd", "lock": None})
    path = apicas.write("log.txt", "text")
    assert apicas("attachments", "a", "--put", str(path)).code == 0
    return apicas


def commands(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """All commands below one, with their names."""
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, (*before, name))
        else:
            yield " ".join((*before, name)), command


def test_each_command_with_json_is_tried_here() -> None:
    group = typer.main.get_command(application)
    found = {name for name, command in commands(group) if any("--json" in option.opts for option in command.params)}
    assert found == CASES.keys() | ON_A_SERVER


@pytest.mark.parametrize("name", CASES)
def test_json_is_all_that_is_written_and_its_keys_are_the_same_each_time(filled: Program, name: str) -> None:
    arguments, keys = CASES[name]
    result = filled(*name.split(), *arguments, "--json")
    assert result.code in {ExitCode.OK, ExitCode.INCOMPLETE}, result.err
    objects = [json.loads(line) for line in result.out.splitlines()]
    assert objects
    for found in objects:
        assert keys == found.keys() if keys != TOKEN else keys <= found.keys()
    assert all(line.startswith("apicas: ") for line in result.err.splitlines())


@pytest.mark.parametrize("name", CASES)
def test_an_error_leaves_standard_output_to_json(filled: Program, name: str) -> None:
    """Nothing, or what was found before: `doctor` tells of the error in its own way."""
    arguments, _ = CASES[name]
    filled.write("apicas.toml", 'pool = "sqlite:///none.db"\n' if name != "config show" else "no TOML")
    result = filled(*name.split(), *arguments, "--json")
    assert result.code == ExitCode.REFUSED or name in {"flush", "bench"}
    assert all(isinstance(json.loads(line), dict) for line in result.out.splitlines())


@pytest.mark.couchdb
def test_who_may_use_a_database_is_json_too(apicas: Program, request: pytest.FixtureRequest) -> None:
    server: Server = guarded_server(request.config)
    pool = f"{server.url.replace('://', f'://{server.username}@')}/json"
    apicas.patch.setenv("APICAS_PASSWORD", server.password or "")
    try:
        assert apicas("init", "--pool", pool).code == 0
        (line,) = apicas("users", "list", "--json", "--pool", pool).out.splitlines()
    finally:
        server.drop("json")
    assert json.loads(line).keys() == {"database", "members", "member_roles", "admins", "admin_roles", "accounts"}
