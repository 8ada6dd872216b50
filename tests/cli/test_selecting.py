"""Which tokens reset, delete, edit and archive mean: views, ids, files with ids, and conditions."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from apicas.clients.sqlite import SQLiteClient
from tests.cli.program import Program
from tests.cli.test_ls import listed
from tests.cli.test_tokens import store

NOW = int(time.time())
ENDED = {"lock": NOW - 100, "done": NOW - 90}


@pytest.fixture
def filled(apicas: Program) -> Program:
    store(
        apicas,
        {"_id": "new"},
        {"_id": "good", **ENDED, "exit_code": 0},
        {"_id": "bad", **ENDED, "exit_code": 1, "input": {"x": 1}},
        {"_id": "worse", "lock": NOW - 9000, "done": NOW - 8000, "exit_code": 137, "input": {"x": 2}},
        {"_id": "held", "lock": NOW - 7200, "hostname": "node7"},
        {"_id": "odd", "lock": None},
    )
    return apicas


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["error"], {"bad", "worse"}),
        (["Monitor/error", "good"], {"bad", "worse", "good"}),
        (["error", "bad"], {"bad", "worse"}),
        (["bad", "good"], {"bad", "good"}),
        (["error", "--where", "input.x>1"], {"worse"}),
        (["error", "done", "--older", "2h"], {"worse"}),
        (["--ids-from", "ids"], {"bad", "held"}),
        (["good", "--ids-from", "ids"], {"bad", "held", "good"}),
        (["--ids-from", "ids", "--where", "state=error"], {"bad"}),
        (["locked", "--older-than", "1"], {"held"}),
        (["locked", "bad", "--older-than", "1"], {"held"}),
        (["locked", "--older-than", "3"], set()),
    ],
)
def test_a_reset_means(filled: Program, arguments: list[str], expected: set[str]) -> None:
    filled.write("ids", "bad\nheld\n")
    number = len(expected)
    dry = filled("reset", *arguments, "--dry-run").out
    assert dry.startswith(f"would reset {number} token" if number else "nothing to reset: 0 tokens")
    assert set(listed(filled, "todo")) == {"new"}
    assert filled("reset", *arguments).code == 0
    assert set(listed(filled, "todo")) == {"new", *expected}


def test_ids_can_come_through_a_pipe(filled: Program) -> None:
    assert filled("reset", "--ids-from", "-", stdin="bad\ngood\n").out == "reset 2 tokens\n"
    assert filled("delete", "--ids-from", "-", "--yes", stdin='{"id": "bad"}\n').out == "deleted 1 token\n"
    assert set(listed(filled)) == {"new", "good", "worse", "held", "odd"}


def test_a_reset_says_that_finished_work_is_done_again(filled: Program) -> None:
    assert filled("reset", "good", "bad").error == "apicas: 1 token of these is done, and will be worked again"
    assert filled("reset", "worse").err == ""


def test_a_token_that_cannot_be_reset_is_told_and_the_others_are(filled: Program) -> None:
    result = filled("reset", "odd", "bad")
    assert (result.code, result.out) == (1, "reset 1 token\n")
    assert result.err.splitlines() == [
        "apicas: odd: cannot reset a token that is no view: no view -> todo is no transition",
        "apicas: 1 token not reset: see above",
    ]


def test_ids_that_do_not_exist_are_counted(filled: Program) -> None:
    filled.write("ids", "".join(f"none{number}\n" for number in range(30)) + "bad\n")
    result = filled("delete", "--ids-from", "ids", "--yes")
    assert (result.code, result.out) == (1, "deleted 1 token\n")
    assert result.err.splitlines()[0] == "apicas: there is no token 'none0'"
    assert result.err.splitlines()[-1] == "apicas: nor are there 10 more tokens of those that were named"
    assert len(result.err.splitlines()) == 21


@pytest.mark.parametrize("command", ["reset", "delete", "archive", "edit", "release"])
def test_nothing_named_means_nothing(filled: Program, command: str) -> None:
    """No command changes a whole pool because somebody pressed enter too early."""
    before = listed(filled)
    for arguments in ([], ["--yes"], ["--older", "0s", "--yes"]):
        result = filled(command, *arguments)
        assert (result.code, result.out) == (2, "")
        assert "which tokens?" in result.error
    assert listed(filled) == before


@pytest.mark.parametrize("command", ["reset", "delete", "archive", "edit", "release", "ls", "export", "import", "show"])
def test_the_help_of_a_command_has_examples(apicas: Program, command: str) -> None:
    result = apicas(command, "--help")
    assert result.code == 0
    assert f"  apicas {command}" in result.out.partition("Examples:")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls"],
        ["show", "t"],
        ["attachments", "t"],
        ["edit", "t"],
        ["release", "t"],
        ["archive", "t", "--yes"],
        ["export"],
        ["import", "--dry-run"],
    ],
)
def test_a_pool_that_does_not_exist_is_not_made(apicas: Program, arguments: list[str]) -> None:
    result = apicas(*arguments)
    assert (result.code, "apicas init" in result.error) == (2, True)
    assert not (apicas.directory / "apicas.db").exists()


def test_a_token_that_left_its_view_while_that_was_read_is_left_alone(
    filled: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server reads the documents of a view after its rows: one of todo may be running by then."""
    original = SQLiteClient.query

    async def query(self: SQLiteClient, view: str, options: Any) -> Any:
        rows = await original(self, view, options)
        if view != "todo":
            return rows
        (other,) = await original(self, "locked", options)
        return [*rows, other]

    monkeypatch.setattr(SQLiteClient, "query", query)
    assert filled("delete", "todo", "--yes").out == "deleted 1 token\n"
    assert "held" in listed(filled)


def test_a_token_that_no_longer_fulfils_the_condition_is_left_alone(
    filled: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SQLiteClient.save
    changed: list[int] = []

    async def save(self: SQLiteClient, documents: Any) -> Any:
        if not changed:
            changed.append(1)
            async with self.fork() as other:
                (document,) = await other.get(["bad"])
                assert document is not None
                assert (await original(other, [{**document, "input": {"x": 7}}]))[0].written
        return await original(self, documents)

    monkeypatch.setattr(SQLiteClient, "save", save)
    result = filled("reset", "error", "--where", "input.x<5")
    assert (result.code, result.out) == (1, "reset 1 token\n")
    assert listed(filled, "error") == ["bad"]


def test_an_empty_list_says_so(filled: Program) -> None:
    assert filled("ls", "--where", "lock=1").error == "apicas: there are no such tokens"
    assert filled("ls", "--where", "lock=1", "--sort", "id").error == "apicas: there are no such tokens"
    assert filled("ls", "--where", "x=1", "--json").err == ""


@pytest.mark.parametrize("command", ["ls", "reset", "delete", "archive", "export", "edit"])
def test_the_shell_completes_views(apicas: Program, command: str) -> None:
    """Without a look at a pool, which there need not be."""
    line = {"_APICAS_COMPLETE": "complete_bash", "COMP_WORDS": f"apicas {command} lo", "COMP_CWORD": "2"}
    apicas = replace(apicas, environ=line)
    assert apicas.finish(apicas.start()).out.split() == ["locked"]
