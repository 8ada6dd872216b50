"""Hostile tokens, names and files, in the commands that deal with tokens."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.security.test_terminal import EVIL, NAMES, assert_all_harmless, push


def test_no_command_drives_the_terminal(apicas: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    push(apicas)
    monkeypatch.setenv("EDITOR", "cat")
    monkeypatch.setattr("tempfile.tempdir", str(apicas.directory))
    name = f"f{EVIL}".replace("/", "").replace("\x00", "")
    apicas.write(name, f"{{{EVIL}\n")
    for arguments in (
        ["ls"],
        ["ls", "--json"],
        ["ls", "--columns", f"id,{EVIL.replace(',', '')},hostname,input"],
        ["ls", "--where", f"x{EVIL}=1"],
        ["ls", "--where", EVIL],
        ["ls", "--sort", EVIL, "--older", EVIL],
        ["ls", "--ids-from", name],
        ["ls", f"none{EVIL}", f"X{EVIL}/y"],
        ["show", *NAMES, f"none{EVIL}"],
        ["show", NAMES[0], "--json"],
        ["attachments", NAMES[0]],
        ["attachments", NAMES[0], EVIL],
        ["attachments", NAMES[0], "--put", name],
        ["attachments", NAMES[1], f"ok{EVIL}", "--put", name],
        ["edit", NAMES[0]],
        ["edit", NAMES[0], "--set", f"{EVIL}=1"],
        ["edit", NAMES[0], "--set", f"lock={EVIL}"],
        ["edit", NAMES[0], "--unset", EVIL],
        ["release", NAMES[0], f"none{EVIL}", "--host", EVIL, "--yes"],
        ["export", "-o", f"new{name}"],
        ["export", f"none{EVIL}"],
        ["import", name],
        ["import", f"none{EVIL}"],
        ["archive", "todo", "-o", EVIL, "--yes"],
        ["archive", "todo", "-o", f"{name}.tar.gz", "--yes"],
    ):
        result = assert_all_harmless(apicas(*arguments))
        assert "Traceback" not in result.err, (arguments, result.err)


def test_a_hostile_archive_writes_nothing_anywhere(apicas: Program, tmp_path: Path) -> None:
    """Its members are read, never extracted: no path, link or device of it is made."""
    line = json.dumps({"_id": "t", "type": "token", "lock": 0, "done": 0}).encode()
    with tarfile.open(apicas.directory / "evil.tar.gz", "w:gz") as tar:
        for name, kind in (
            ("../../escaped.jsonl", tarfile.REGTYPE),
            ("/absolute.jsonl", tarfile.REGTYPE),
            ("link.jsonl", tarfile.SYMTYPE),
            ("device.jsonl", tarfile.CHRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            member.size = len(line) if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(line))
    before = set(apicas.directory.iterdir())
    result = apicas("import", "evil.tar.gz")
    assert "imported 1 token" in result.out
    made = set(apicas.directory.iterdir()) - before
    assert all(path.name.startswith("apicas.db") for path in made)
    assert not (apicas.directory.parent / "escaped.jsonl").exists()
    assert not Path("/absolute.jsonl").exists()


def test_an_attachment_is_not_written_over_a_link(apicas: Program) -> None:
    """The file gets its name by a rename: a link that stands there is replaced, and not followed."""
    apicas("push", stdin='{"_id": "t"}\n')
    apicas.write("f", "content")
    assert apicas("attachments", "t", "--put", "f").code == 0
    apicas.write("precious", "kept")
    Path("there").symlink_to("precious")
    assert apicas("attachments", "t", "f", "-o", "there").code == 0
    assert Path("precious").read_text() == "kept"


def test_an_edited_text_is_nobody_else_s(apicas: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens may hold what is not everybody's business."""
    apicas("push", stdin='{"_id": "t"}\n')
    script = apicas.write("look.sh", f'stat -c %a "$(dirname "$1")" > "{apicas.directory}/mode"\n')
    monkeypatch.setenv("EDITOR", f"sh {script}")
    monkeypatch.delenv("VISUAL", raising=False)
    assert apicas("edit", "t").code == 0
    assert (apicas.directory / "mode").read_text() == "700\n"
