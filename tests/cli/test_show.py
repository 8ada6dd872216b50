"""Single tokens, whole, and their files."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from apicas._documents import decode
from apicas.clients.sqlite import SQLiteClient
from tests.cli.program import Program
from tests.cli.test_commands import SLOW, modules_after
from tests.cli.test_terminal import Start, terminal  # noqa: F401 - a fixture
from tests.cli.test_tokens import HELD, NOW, store

CONTENT = bytes(range(256)) * 20_000
EVIL = "\x1b]52;c;cm0gLXJm\x07\x1b[2J"


def attach(program: Program, token: str, name: str, content: bytes, kind: str = "x/y") -> None:
    async def put() -> None:
        async with SQLiteClient(program.directory / "apicas.db") as client:
            rev = (await client.fetch(token)).rev or ""
            assert (await client.put_attachment(token, rev, name, content, kind)).written

    asyncio.run(put())


def told(apicas: Program, *arguments: str) -> dict[str, str]:
    """What is shown of a token by the names on the left; what follows a name is with it."""
    result = apicas("show", *arguments)
    assert result.code == 0, result.err
    found: dict[str, str] = {}
    name = ""
    for line in result.out.splitlines():
        label = line[2:14].strip() if line.startswith("  ") else "id"
        name = label if label and not line.startswith("    ") else name
        found[name] = f"{found.get(name, '')}\n{line.strip()}".lstrip("\n")
    return found


def test_a_token_that_is_worked(apicas: Program) -> None:
    store(apicas, {"_id": "t1", "slurm_job_id": "4711", "input": {"x": 1}, **HELD})
    shown = told(apicas, "t1")
    assert shown["id"] == "t1"
    assert shown["state"].startswith("state       locked, since 2023-11-14T22:13:20Z (")
    assert shown["owner"].startswith("owner       pilot  on node7, last heartbeat 2023-11-14T22:14:20Z (")
    assert shown["owner"].endswith("silent for longer than its lease")
    assert shown["jobs"] == "jobs        slurm_job_id 4711"
    assert shown["attempts"] == "attempts    2"
    assert shown["progress"] == "progress    40% imaging"
    assert 'input      {"x":1}' in shown["fields"]


def test_a_token_that_failed(apicas: Program) -> None:
    errors = [
        {"time": NOW, "message": "first\nand more", "exception": "Traceback\n  line 1"},
        {"message": "second"},
    ]
    history = [{"event": "released", "time": NOW, "hostname": "node1"}, "odd"]
    entries = {"generation": 5, "crashes": 1, "releases": 2, "history": history, "usage": {"cpu_seconds": 12.3}}
    entries["workdir"] = "/scratch/t1"
    failed = {"lock": 99, "done": 99, "exit_code": 137, "error": errors, "scrub_count": 2}
    store(apicas, {"_id": "t1", "hostname": "node7", **failed, "apicas": entries})
    attach(apicas, "t1", "stdout.txt", b"x" * 1234, "text/plain")
    shown = told(apicas, "t1")
    assert shown["state"].startswith("state       error, exit code 137, since 2023-11-14T22:13:20Z")
    assert shown["owner"] == "owner       nobody; the last was on node7"
    assert shown["attempts"] == "attempts    3, 2 x failed, 1 x crashed, 2 x handed back"
    assert shown["files"] == "files       /scratch/t1"
    assert shown["took"] == "took        12.3 s of CPU time"
    assert shown["history"] == "history     2023-11-14T22:13:20Z released on node1"
    assert shown["errors"].splitlines() == ["errors      2023-11-14T22:13:20Z first", "and more", "second"]
    assert shown["attached"] == "attached    stdout.txt  1,234 bytes, text/plain"
    assert "Traceback" in told(apicas, "t1", "--tracebacks")["errors"]


def test_a_token_that_waits(apicas: Program) -> None:
    later = int(time.time()) + 5000
    store(apicas, {"_id": "t1", "apicas": {"not_before": later}}, {"_id": "t2", "apicas": {"not_before": NOW}})
    assert told(apicas, "t1")["waits"].endswith(("4999s more", "83m more"))
    assert "waits" not in told(apicas, "t2")


def test_fields_are_lines_and_long_ones_are_opened(apicas: Program) -> None:
    wide = {f"name{number}": "x" * 20 for number in range(5)}
    store(apicas, {"_id": "t1", "input": {"wide": wide, "short": [1]}, "text": "two\nlines"})
    lines = apicas("show", "t1").out.splitlines()
    assert "    input" in lines
    assert "      short      [1]" in lines
    assert f"        name3      {'x' * 20}" in lines
    assert lines[lines.index("    text       two") + 1] == f"{' ' * 15}lines"


def test_json_is_the_document(apicas: Program) -> None:
    store(apicas, {"_id": "t1", **HELD}, {"_id": "t2"})
    result = apicas("show", "t1", "t2", "--json")
    first, second = map(decode, result.out.splitlines())
    assert (first["_id"], first["apicas"], second["_id"]) == ("t1", HELD["apicas"], "t2")


def test_several_and_one_that_does_not_exist(apicas: Program) -> None:
    store(apicas, {"_id": "t1"}, {"_id": "t2"})
    result = apicas("show", "t1", "none", "t2")
    assert (result.code, result.error) == (1, "apicas: there is no token 'none'")
    assert [line for line in result.out.splitlines() if not line.startswith(" ")] == ["t1", "", "t2"]


@pytest.mark.parametrize(
    "odd",
    [
        {"apicas": 7},
        {"apicas": {"history": [{"time": "x"}, {}], "progress": [], "not_before": 1e300, "usage": 5}},
        {"lock": "x", "error": [{"message": 5, "time": "x"}, 7]},
        {"lock": 1e300, "hostname": {"a": EVIL}},
        {"input": EVIL, EVIL: {EVIL: EVIL * 50}, "error": [{"message": EVIL, "exception": EVIL}]},
    ],
)
def test_odd_fields_are_shown_and_drive_no_terminal(apicas: Program, odd: dict[str, Any]) -> None:
    store(apicas, {"_id": "t1", **odd})
    for options in ([], ["--tracebacks"], ["--json"]):
        result = apicas("show", "t1", *options)
        assert (result.code, result.err) == (0, "")
        assert "\x1b" not in result.out
        assert "\x07" not in result.out


def test_show_waits_for_no_library_that_it_does_not_need(apicas: Program) -> None:
    store(apicas, {"_id": "t1"})
    assert modules_after("show", "t1", directory=apicas.directory) & SLOW == set()


# Attachments. ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(apicas: Program) -> Program:
    store(apicas, {"_id": "t1"}, {"_id": "t2", **HELD})
    attach(apicas, "t1", "data.bin", CONTENT)
    attach(apicas, "t1", "a.txt", f"text {EVIL}\n".encode(), "text/plain")
    return apicas


def test_attachments_are_listed(filled: Program) -> None:
    assert [line.split() for line in filled("attachments", "t1").out.splitlines()] == [
        ["a.txt", "26", "bytes", "text/plain"],
        ["data.bin", "5,120,000", "bytes", "x/y"],
    ]
    lines = [decode(line) for line in filled("attachments", "t1", "--json").out.splitlines()]
    assert lines[1] == {"name": "data.bin", "content_type": "x/y", "length": 5_120_000}
    assert filled("attachments", "t2").error == "apicas: t2 has no attachments"
    assert filled("attachments", "none").code == 2


def test_an_attachment_is_written_to_standard_output_or_a_file(filled: Program) -> None:
    with Path("out").open("wb") as out:
        assert filled.finish(filled.start("attachments", "t1", "data.bin", stdout=out)).code == 0
    assert Path("out").read_bytes() == CONTENT
    assert filled("attachments", "t1", "data.bin", "-o", "copy.bin").code == 0
    assert Path("copy.bin").read_bytes() == CONTENT
    Path("there").mkdir()
    assert filled("attachments", "t1", "a.txt", "-o", "there").error == "apicas: wrote there/a.txt"
    assert Path("there/a.txt").exists()


def test_on_a_terminal_an_attachment_drives_nothing(filled: Program, terminal: Start) -> None:  # noqa: F811
    screen = terminal("attachments", "t1", "a.txt")
    assert screen.finish() == 0
    assert "text \\x1b]52" in screen.seen
    assert "\x1b" not in screen.seen


def test_an_attachment_that_does_not_exist_leaves_no_file(filled: Program) -> None:
    result = filled("attachments", "t1", "none", "-o", "file")
    assert (result.code, "none" in result.error) == (2, True)
    assert not Path("file").exists()
    assert filled("attachments", "t1", "none").code == 2
    assert filled("attachments", "t1", "-o", "file").code == 2
    assert filled("attachments", "t1", "a.txt", "-o", "no/such/file").code == 2
    assert filled("attachments", "t1", "a.txt", "-o", "nowhere/").code == 2


def test_a_name_that_would_leave_the_directory_is_refused(filled: Program) -> None:
    Path("there").mkdir()
    result = filled("attachments", "t1", "../a.txt", "-o", "there")
    assert (result.code, "leave its directory" in result.error) == (1, True)
    assert not Path("a.txt").exists()


def test_a_file_is_attached(filled: Program) -> None:
    filled.write("new.txt", "one")
    assert filled("attachments", "t2", "--put", "new.txt").out == "attached new.txt to t2\n"
    assert filled("attachments", "t2", "other.dat", "--put", "new.txt").code == 0
    lines = [decode(line) for line in filled("attachments", "t2", "--json").out.splitlines()]
    assert [(line["name"], line["content_type"]) for line in lines] == [
        ("new.txt", "text/plain"),
        ("other.dat", "application/octet-stream"),
    ]
    assert filled("attachments", "t2", "new.txt").out == "one"


def test_a_file_is_replaced_after_a_question(filled: Program) -> None:
    filled.write("a.txt", "new")
    refused = filled("attachments", "t1", "--put", "a.txt")
    assert (refused.code, "replace it? There is no terminal" in refused.error) == (2, True)
    assert filled("attachments", "t1", "--put", "a.txt", "--yes").code == 0
    assert filled("attachments", "t1", "a.txt").out == "new"


def test_a_file_is_attached_to_a_token_that_changes(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a running pilot does with each heartbeat."""
    changed: list[int] = []
    original = SQLiteClient.put_attachment

    async def put(self: SQLiteClient, document_id: str, rev: str, *arguments: Any) -> Any:
        if len(changed) < 3:
            changed.append(1)
            async with self.fork() as other:
                await other.edit(document_id, lambda token: token.update(n=len(changed)))
        return await original(self, document_id, rev, *arguments)

    monkeypatch.setattr(SQLiteClient, "put_attachment", put)
    filled.write("new.txt", "one")
    assert filled("attachments", "t2", "--put", "new.txt").code == 0
    assert filled("attachments", "t2", "new.txt").out == "one"


@pytest.mark.parametrize(
    "arguments",
    [["--put", "none"], ["--put", "."], ["_x", "--put", "f"], ["a/b", "--put", "f"], ["x", "--put", "f", "-o", "g"]],
)
def test_what_cannot_be_attached_is_one_line(filled: Program, arguments: list[str]) -> None:
    filled.write("f", "x")
    result = filled("attachments", "t2", *arguments)
    assert result.code in {1, 2}
    assert result.error.startswith("apicas: ")
    assert filled("attachments", "none", "--put", "f").code == 2
