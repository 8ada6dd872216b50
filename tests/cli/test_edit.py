"""Changing tokens by hand: in an editor, and by a script."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from apicas.cli import editor
from apicas.cli.editing import GUARDED
from apicas.clients.sqlite import SQLiteClient
from apicas.tokens import Token
from tests.cli.program import Program, as_of_now
from tests.cli.test_commands import fill
from tests.cli.test_terminal import Start, terminal  # noqa: F401 - a fixture
from tests.cli.test_tokens import store

NOW = int(time.time())
HELD = {
    "_id": "held",
    "lock": NOW,
    "hostname": "node7",
    "input": 1,
    "apicas": {"claim": "c", "lock": NOW, "generation": 1, "lease": 60.0},
}


def fetch(program: Program, name: str) -> Token:
    async def read() -> Token:
        async with SQLiteClient(program.directory / "apicas.db") as client:
            return await client.fetch(name)

    return asyncio.run(read())


def change(program: Program, name: str, **fields: Any) -> None:
    """Change a token as somebody else does."""

    async def write() -> None:
        async with SQLiteClient(program.directory / "apicas.db") as client:
            await client.edit(name, lambda token: token.update(fields))

    asyncio.run(write())


@pytest.fixture
def filled(apicas: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Some tokens; texts that are kept stay in the directory of the test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store(
        apicas,
        {"_id": "t", "input": {"size": 3, "kind": "julia"}, "note": "x"},
        as_of_now(HELD, NOW),
        {"_id": "bad", "lock": 99, "done": 99, "exit_code": 1, "input": {"size": 3}},
    )
    return apicas


def edit_with(monkeypatch: pytest.MonkeyPatch, program: Program, body: str) -> None:
    """Make an editor of a few lines of Python, with the text in `text`; what is left there is what it writes."""
    script = program.write(
        "editor.py",
        f"""
import pathlib, sys
path = pathlib.Path(sys.argv[1])
text = path.read_text()
{body}
path.write_text(text)
""",
    )
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"{shlex.quote(sys.executable)} {shlex.quote(str(script))}")


# By a script. ---------------------------------------------------------------------------------------------------------


def test_fields_are_set_and_taken_out(filled: Program) -> None:
    result = filled(
        *("edit", "t", "--set", "input.size=4", "--set", "input.deep.er=[1,2]", "--set", "name=a=b", "--unset", "note")
    )
    assert (result.code, result.out, result.err) == (0, "edited 1 token\n", "")
    token = fetch(filled, "t")
    assert token.input == {"size": 4, "kind": "julia", "deep": {"er": [1, 2]}}
    assert (token["name"], "note" in token) == ("a=b", False)


def test_a_selection_is_edited(filled: Program) -> None:
    assert filled("edit", "todo", "error", "--where", "input.size=3", "--set", "cores=2").out == "edited 2 tokens\n"
    assert (fetch(filled, "t")["cores"], fetch(filled, "bad")["cores"]) == (2, 2)
    assert "cores" not in fetch(filled, "held")
    assert filled("edit", "todo", "--set", "cores=3", "--dry-run").out == "would edit 1 token of sqlite:///apicas.db\n"
    assert fetch(filled, "t")["cores"] == 2


def test_many_are_asked_about(apicas: Program) -> None:
    fill(apicas, todo=11)
    assert (
        "Change 11 tokens of sqlite:///apicas.db? There is no terminal" in apicas("edit", "todo", "--set", "a=1").error
    )
    assert apicas("edit", "todo", "--set", "a=1", "--yes").out == "edited 11 tokens\n"


@pytest.mark.parametrize("name", [*GUARDED, "apicas.claim"])
def test_what_says_who_holds_it_is_guarded(filled: Program, name: str) -> None:
    before = fetch(filled, "held").document
    result = filled("edit", "held", "--set", f"{name}=7")
    assert (result.code, result.out) == (1, "edited 0 tokens\n")
    assert "not for editing" in result.err
    assert "--force" in result.err
    assert fetch(filled, "held").document == before


def test_force_changes_it_all_the_same(filled: Program) -> None:
    assert filled("edit", "bad", "--set", "exit_code=0", "--force").code == 0
    assert fetch(filled, "bad").state == "done"


@pytest.mark.parametrize("name", ["_id", "_rev", "_attachments", "_foo"])
def test_what_belongs_to_the_store_is_never_changed(filled: Program, name: str) -> None:
    before = fetch(filled, "t").document
    assert filled("edit", "t", "--set", f"{name}=1-a", "--force").code == 1
    assert fetch(filled, "t").document == before


@pytest.mark.parametrize(
    "arguments", [["t", "--set", "x"], ["t", "--set", "=1"], ["todo"], ["t", "u"], [], ["--set", "a=1"]]
)
def test_bad_usage(filled: Program, arguments: list[str]) -> None:
    result = filled("edit", *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.error.startswith("apicas: ")


def test_a_field_that_has_no_place_is_said(filled: Program) -> None:
    result = filled("edit", "t", "--set", "note.inner=1")
    assert (result.code, "t: there is no field 'inner'" in result.err) == (1, True)


def test_an_edit_wins_over_heartbeats(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A beat between look and write: the field is set in the token as it is then."""
    beats: list[int] = []
    original = SQLiteClient.save

    async def save(self: SQLiteClient, documents: Any) -> Any:
        if len(beats) < 2:
            beats.append(1)
            async with self.fork() as other:
                (document,) = await other.get(["held"])
                assert document is not None
                assert (await original(other, [{**document, "lock": NOW + len(beats)}]))[0].written
        return await original(self, documents)

    monkeypatch.setattr(SQLiteClient, "save", save)
    assert filled("edit", "held", "--set", "input=2").code == 0
    token = fetch(filled, "held")
    assert (token.input, token["lock"]) == (2, NOW + 2)


# In an editor. --------------------------------------------------------------------------------------------------------


def test_an_editor_changes_a_token(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_with(monkeypatch, filled, "text = text.replace('julia', 'mandel')")
    result = filled("edit", "t")
    assert (result.code, result.out, result.err) == (0, "changed input of t\n", "")
    assert fetch(filled, "t").input == {"size": 3, "kind": "mandel"}


def test_a_text_that_is_left_alone_changes_nothing(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fetch(filled, "t").rev
    edit_with(monkeypatch, filled, "pass")
    assert filled("edit", "t").error == "apicas: nothing was changed"
    assert fetch(filled, "t").rev == before


def test_only_what_was_changed_is_written(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else changes another field while the editor is open, and attaches a file."""
    edit_with(monkeypatch, filled, "text = text.replace('julia', 'mandel')")
    during(monkeypatch, lambda: change(filled, "t", note="y", more=1))
    assert filled("edit", "t").code == 0
    token = fetch(filled, "t")
    assert (token.input["kind"], token["note"], token["more"]) == ("mandel", "y", 1)


def test_the_same_field_changed_by_two_keeps_the_text(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_with(monkeypatch, filled, "text = text.replace('julia', 'mandel')")
    during(monkeypatch, lambda: change(filled, "t", input={"size": 5}))
    result = filled("edit", "t")
    assert (result.code, result.out) == (1, "")
    assert "somebody else has changed input meanwhile: nothing was written" in result.error
    assert '"mandel"' in kept(result.error).read_text()
    assert fetch(filled, "t").input == {"size": 5}


def test_the_same_change_by_two_is_no_conflict(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_with(monkeypatch, filled, "text = text.replace('julia', 'mandel')")
    during(monkeypatch, lambda: change(filled, "t", input={"size": 3, "kind": "mandel"}))
    assert filled("edit", "t").code == 0


def test_a_token_that_is_deleted_meanwhile_keeps_the_text(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_with(monkeypatch, filled, "text = text.replace('julia', 'mandel')")
    during(monkeypatch, lambda: filled("delete", "t", "--yes"))
    result = filled("edit", "t")
    assert result.code == 2
    assert '"mandel"' in kept(result.err.splitlines()[0]).read_text()


def during(monkeypatch: pytest.MonkeyPatch, action: Any) -> None:
    """Have something happen while the editor is open."""
    original = editor._Draft.edit

    def edit(self: Any) -> None:
        original(self)
        action()

    monkeypatch.setattr(editor._Draft, "edit", edit)


def kept(line: str) -> Path:
    return Path(line.rpartition("your text is in ")[2])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("text = text[:-5]", "not JSON"),
        ("text = '[1]'", "a token is a JSON object"),
        ("text = text.replace('\"t\"', '\"u\"')", "_id cannot be edited"),
        ("text = text.replace('\"lock\": 0', '\"lock\": 5')", "lock: not for editing"),
        ("text = text.replace('\"note\"', '\"_note\"')", "reserved"),
        ("text = text.replace('\"type\": \"token\",', '')", "type: not for editing"),
    ],
)
def test_a_text_that_is_no_token_is_kept(
    filled: Program, monkeypatch: pytest.MonkeyPatch, body: str, reason: str
) -> None:
    before = fetch(filled, "t").document
    edit_with(monkeypatch, filled, body)
    result = filled("edit", "t")
    assert (result.code, reason in result.error) == (2, True)
    assert kept(result.error).exists()
    assert kept(result.error).stat().st_mode & 0o077 == 0 or kept(result.error).parent.stat().st_mode & 0o077 == 0
    assert fetch(filled, "t").document == before


def test_an_editor_that_fails_changes_nothing(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_with(monkeypatch, filled, "path.write_text('{}'); sys.exit(3)")
    assert "ended with exit code 3: nothing was changed" in filled("edit", "t").error
    monkeypatch.setenv("EDITOR", "no-such-editor-anywhere")
    assert "set $EDITOR" in filled("edit", "t").error
    assert filled("edit", "none").code == 2


def test_without_a_terminal_no_editor_is_started_that_nobody_named(
    filled: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    result = filled("edit", "t")
    assert (result.code, "change fields with --set, or set $EDITOR" in result.error) == (2, True)


def test_no_text_is_left_behind(filled: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path / "drafts"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    edit_with(
        monkeypatch, filled, "text = text.replace('julia', 'mandel'); pathlib.Path(str(path) + '~').write_text('x')"
    )
    assert filled("edit", "t").code == 0
    assert list(place.iterdir()) == []


def test_a_running_token_may_be_edited_and_it_is_said(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_with(monkeypatch, filled, "text = text.replace('\"input\": 1', '\"input\": 2')")
    result = filled("edit", "held")
    assert (result.code, "a pilot works on this token" in result.error) == (0, True)
    assert fetch(filled, "held").input == 2


def test_on_a_terminal_a_bad_text_is_edited_again(filled: Program, terminal: Start) -> None:  # noqa: F811
    """The first time it is spoilt, the second time it is put right."""
    whole = {"_id": "t", "type": "token", "lock": 0, "done": 0, "hostname": "", "exit_code": "", "new": 1}
    script = filled.write(
        "editor.py",
        "import pathlib, sys\n"
        "path = pathlib.Path(sys.argv[1])\n"
        f"path.write_text('spoilt' if 'julia' in path.read_text() else {json.dumps(whole)!r})\n",
    )
    screen = terminal("edit", "t", EDITOR=f"{shlex.quote(sys.executable)} {shlex.quote(str(script))}", VISUAL="")
    screen.read_until("Edit again?")
    screen.type("y\n")
    assert screen.finish() == 0
    assert "not JSON" in screen.seen
    assert fetch(filled, "t")["new"] == 1
