"""Tokens out of a pool and into another: nothing is lost, nothing is there twice."""

from __future__ import annotations

import asyncio
import errno
import gzip
import io
import os
import random
import subprocess
import tarfile
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apicas._documents import Document, decode, encode
from apicas.cli import archiving, carrying, files
from apicas.clients.sqlite import SQLiteClient
from apicas.modifiers import BasicTokenModifier
from apicas.tokens import annex, state_of
from tests.cli.program import Program
from tests.cli.test_ls import listed
from tests.cli.test_tokens import store

NOW = int(time.time())
BIG = random.Random(7).randbytes(2_500_000)
OTHER = "sqlite:///other.db"
TOKENS: list[dict[str, Any]] = [
    {"_id": "new", "input": {"size": 3, "text": "Grüße\n\u2028"}},
    {
        "_id": "held",
        "lock": NOW - 60,
        "hostname": "node7",
        "scrub_count": 2,
        "apicas": {"claim": "c", "lock": NOW - 60, "generation": 3, "pilot": "p"},
    },
    {"_id": "good/1", "lock": NOW - 100, "done": NOW - 90, "exit_code": 0, "output": {"y": 1.5, "n": 10**200}},
    {"_id": "bad", "lock": 99, "done": 99, "exit_code": 137, "error": [{"time": NOW, "message": "why"}]},
    {"_id": "odd", "lock": None, "apicas": {"history": []}},
]


def pool(program: Program, name: str = "apicas.db") -> SQLiteClient:
    return SQLiteClient(program.directory / name)


def attach(program: Program, token: str, **files: bytes) -> None:
    """Attach files to a token, under names with a dot for each underscore."""

    async def put() -> None:
        async with pool(program) as client:
            for name, content in files.items():
                rev = (await client.fetch(token)).rev or ""
                assert (await client.put_attachment(token, rev, name.replace("_", "."), content, "x/y")).written

    asyncio.run(put())


def contents(program: Program, name: str = "apicas.db") -> dict[str, Any]:
    """All that a pool holds, but for revisions: documents, and attachments with their types."""

    async def read() -> dict[str, Any]:
        found: dict[str, Any] = {}
        async with pool(program, name) as client:
            for document in (await client.scan(limit=1000)).documents:
                files = {}
                for info in await client.attachments(document["_id"]):
                    files[info.name] = (info.content_type, await client.get_attachment(document["_id"], info.name))
                plain = {key: value for key, value in document.items() if key not in {"_rev", "_attachments"}}
                found[document["_id"]] = (plain, files)
        return found

    return asyncio.run(read())


def lines(program: Program, *arguments: str) -> list[str]:
    """What a command writes; a line ends nowhere but at a line feed."""
    return program(*arguments).out.removesuffix("\n").split("\n")


@pytest.fixture
def filled(apicas: Program) -> Program:
    """Tokens of every kind, some with attachments."""
    store(apicas, *TOKENS)
    attach(apicas, "good/1", log_txt=b"a log\n", empty_txt=b"", big_bin=BIG)
    attach(apicas, "new", small_txt=b"small")
    return apicas


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz"])
def test_a_round_trip_is_exact(filled: Program, name: str) -> None:
    result = filled("export", "-o", name)
    assert (result.code, result.out, result.error) == (0, "", "apicas: exported 5 tokens with 4 attachments")
    assert [path.name for path in filled.directory.iterdir() if path.name.endswith(".part")] == []
    imported = filled("import", name, "--pool", OTHER, "--as-is")
    assert (imported.code, imported.out, imported.err) == (0, "imported 5 tokens into sqlite:///other.db\n", "")
    assert contents(filled, "other.db") == contents(filled)


def test_a_pipe_from_pool_to_pool(filled: Program) -> None:
    written = filled("export", "--pool", "sqlite:///apicas.db").out
    assert filled("import", "--pool", OTHER, "--as-is", stdin=written).code == 0
    assert contents(filled, "other.db") == contents(filled)


def test_a_lock_becomes_todo_uncharged_elsewhere(filled: Program) -> None:
    filled("export", "held", "-o", "held.jsonl")
    result = filled("import", "held.jsonl", "--pool", OTHER)
    assert (result.code, result.error) == (0, "apicas: 1 token was locked, and came into todo")
    token, _ = contents(filled, "other.db")["held"]
    assert (state_of(token), token["scrub_count"], annex(token).get("claim")) == ("todo", 2, None)
    assert annex(token)["taken"] == "c"  # should its owner live, and this be its pool: its result is welcome
    again = filled("import", "held.jsonl", "--pool", OTHER)
    assert (again.code, "1 token was in the pool already" in again.err) == (0, True)


def test_what_is_there_is_left_as_it_is_and_told(filled: Program) -> None:
    filled("export", "-o", "all.jsonl")
    filled("import", "all.jsonl", "--pool", OTHER, "--as-is")
    filled("edit", "new", "--set", "input.size=4", "--pool", OTHER)
    filled("delete", "bad", "--yes", "--pool", OTHER)
    before = contents(filled, "other.db")
    result = filled("import", "all.jsonl", "--pool", OTHER, "--as-is")
    assert (result.code, result.out) == (1, "imported 1 token into sqlite:///other.db\n")
    assert "all.jsonl:5: token 'new' is in the pool already" in result.err.splitlines()[0]
    assert "1 token not imported: in the pool already, with other content" in result.err
    assert "3 tokens were in the pool already, as in the file" in result.err
    after = contents(filled, "other.db")
    assert {name: after[name] for name in before} == before
    assert after["bad"] == contents(filled)["bad"]


def test_a_dry_run_only_looks(filled: Program) -> None:
    filled("export", "-o", "all.jsonl")
    filled("init", "--pool", OTHER)
    assert filled("import", "all.jsonl", "--pool", OTHER, "--dry-run").out.startswith("would import 5 tokens")
    assert filled.status(OTHER)["total"] == 0
    assert filled("import", "all.jsonl", "--dry-run").out.startswith("would import 0 tokens")


def test_an_import_that_broke_off_in_an_attachment_goes_on(filled: Program) -> None:
    filled("export", "-o", "all.jsonl")
    written = (filled.directory / "all.jsonl").read_bytes().splitlines(keepends=True)
    cut = next(number for number, line in enumerate(written) if b'"_attachment"' in line)
    assert b'"last"' in written[cut]  # all of it in one line: cut it off
    filled.write("half.jsonl", b"".join(written[:cut]) + written[cut][:1000])
    assert filled("import", "half.jsonl", "--pool", OTHER, "--as-is").code == 1
    assert "big.bin" not in contents(filled, "other.db")["good/1"][1]
    assert filled("import", "all.jsonl", "--pool", OTHER, "--as-is").code == 0
    assert contents(filled, "other.db") == contents(filled)


def test_large_attachments_come_in_parts(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "PART_BYTES", 1_000_000)
    attach(filled, "good/1", more_bin=BIG[::-1][:2_000_000])
    filled("export", "-o", "all.jsonl")
    written = (filled.directory / "all.jsonl").read_bytes().splitlines()
    parts = [decode(line) for line in written if b'"_attachment"' in line]
    assert [(part["_attachment"], part["part"], "last" in part) for part in parts] == [
        *(("big.bin", number, number == 2) for number in range(3)),
        *(("more.bin", number, number == 1) for number in range(2)),
    ]
    assert max(map(len, written)) < 1_400_000
    filled("import", "all.jsonl", "--pool", OTHER, "--as-is")
    assert contents(filled, "other.db") == contents(filled)


@pytest.mark.parametrize("spoil", ["drop", "swap", "data", "token"])
def test_an_attachment_with_a_part_missing_is_told_and_left_out(
    filled: Program, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    monkeypatch.setattr(carrying, "PART_BYTES", 1_000_000)
    filled("export", "-o", "all.jsonl")
    written = (filled.directory / "all.jsonl").read_bytes().splitlines()
    first = next(number for number, line in enumerate(written) if b'"_attachment"' in line)
    if spoil == "drop":
        del written[first + 1]
    elif spoil == "swap":
        written[first], written[first + 1] = written[first + 1], written[first]
    elif spoil == "data":
        written[first] = written[first].replace(b'"data":"', b'"data":"*')
    else:
        written[first] = written[first].replace(b"good/1", b"bad")
    filled.write("spoilt.jsonl", b"\n".join(written))
    result = filled("import", "spoilt.jsonl", "--pool", OTHER, "--as-is")
    assert (result.code, "of attachment 'big.bin'" in result.err) == (1, True)
    after = contents(filled, "other.db")
    assert set(after["good/1"][1]) == {"log.txt", "empty.txt"}
    assert after["bad"] == contents(filled)["bad"]


def test_attachments_can_be_left_out(filled: Program) -> None:
    result = filled("export", "--no-attachments")
    assert result.err.splitlines() == [
        "apicas: exported 5 tokens with 0 attachments",
        "apicas: 4 attachments left out",
    ]
    assert "_attachments" not in result.out


def test_a_selection_is_exported(filled: Program) -> None:
    ids = [decode(line)["_id"] for line in lines(filled, "export", "done", "new", "--no-attachments")]
    assert ids == ["good/1", "new"]
    result = filled("export", "new", "none", "--no-attachments")
    assert (result.code, result.out.count("\n")) == (1, 1)
    assert "there is no token 'none'" in result.err


def test_an_attachment_that_changes_meanwhile_is_read_again(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    original = SQLiteClient.get_attachment

    async def get(self: SQLiteClient, token: str, name: str) -> bytes:
        if not done and token == "new":
            done.append(1)
            async with self.fork() as other:
                await other.edit("new", lambda token: token.put_attachment("small.txt", "another", "x/y"))
        return await original(self, token, name)

    monkeypatch.setattr(SQLiteClient, "get_attachment", get)
    line = decode(filled("export", "new").out)
    assert line["_attachments"]["small.txt"]["data"] == b64encode(b"another").decode()


BAD = [
    (b"{", "not JSON"),
    (b"[1]", "no token: a token is a JSON object"),
    (b'{"type": "token"}', "no _id"),
    (b'{"_id": "x"}', "new ones are for `apicas push`"),
    (b'{"_id": "x", "type": "task"}', "its `type` is not token"),
    (b'{"_id": "x", "lock": 0}', "its `type` is not token"),
    (b'{"_id": "_x", "type": "token"}', "reserved"),
    (b'{"_id": "x", "type": "token", "_foo": 1}', "reserved"),
    (b'{"_id": "x", "type": "token", "_attachments": 5}', "_attachments is no mapping"),
    (b'{"_id": "x", "type": "token", "_attachments": {"../x": {"data": ""}}}', "could leave its directory"),
    (b'{"_id": "x", "type": "token", "_attachments": {"a": {"stub": true}}}', "stub of nothing"),
    (b'{"_id": "x", "type": "token", "n": 1e999}', "beyond the range"),
    (b'{"_id": "x", "_attachment": "a", "part": 1, "data": ""}', "no part 0"),
    (b'{"_id": "x", "_attachment": "a", "part": 0, "data": 5}', "no part 0"),
    (b"\xff\xfe", "not JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_line_is_told_and_the_others_come_in(apicas: Program, line: bytes, reason: str) -> None:
    good = encode({"_id": "a", "type": "token", "lock": 0, "done": 0})
    apicas.write("in.jsonl", b"\n".join([b"", line, good, b""]))
    result = apicas("import", "in.jsonl")
    assert (result.code, result.out) == (1, "imported 1 token into sqlite:///apicas.db\n")
    first, *_, last = result.err.splitlines()
    assert first.startswith("in.jsonl:2: ")
    assert reason in first
    assert last == "apicas: 1 token not imported"


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.tar.gz", "x.tar"])
def test_a_file_that_is_damaged_or_none_is_one_line(apicas: Program, name: str) -> None:
    apicas.write(name, b"nothing of the kind" * 100)
    result = apicas("import", name)
    assert (result.code, name in result.error) == (2, True)
    whole = io.BytesIO()
    with gzip.GzipFile(fileobj=whole, mode="wb") as packed:
        packed.write(random.Random(1).randbytes(100_000))
    apicas.write("x.jsonl.gz", whole.getvalue()[:50_000])
    assert "damaged" in apicas("import", "x.jsonl.gz").err
    assert apicas("import", "nowhere.jsonl").error == "apicas: nowhere.jsonl: No such file or directory"


def test_a_file_that_ends_too_soon_is_imported_as_far_as_it_goes(filled: Program) -> None:
    filled("export", "--no-attachments", "-o", "all.jsonl")
    packed = gzip.compress((filled.directory / "all.jsonl").read_bytes() + random.Random(1).randbytes(100_000))
    filled.write("cut.jsonl.gz", packed[:50_000])
    result = filled("import", "cut.jsonl.gz", "--pool", OTHER)
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[-2] == (
        "apicas: 5 tokens were imported before that; the same again goes on from there"
    )
    assert "cut.jsonl.gz is damaged" in result.err.splitlines()[-1]
    assert filled.status(OTHER)["total"] == 5


def test_two_archives_of_one_name_do_not_replace_each_other(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins while the first is being written, which nobody sees under its name yet."""
    codes: list[int] = []

    async def fill(self: Any, *arguments: Any) -> None:
        monkeypatch.setattr(archiving.Archiving, "_fill", original)
        process = filled.start("archive", "error", "-o", "a.tar.gz", "--yes")
        codes.append(filled.finish(process).code)
        await original(self, *arguments)

    original = archiving.Archiving._fill
    monkeypatch.setattr(archiving.Archiving, "_fill", fill)
    assert filled("archive", "done", "-o", "a.tar.gz", "--yes").code == 0
    assert codes == [2]
    assert set(contents(filled)) == {"bad", "held", "new", "odd"}
    filled("import", "a.tar.gz")
    assert "good/1" in contents(filled)


def test_a_pipe_that_stands_there_is_written_to(filled: Program) -> None:
    """And not replaced by a file, as /dev/null would be."""
    pipe = filled.directory / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        assert filled("export", "new", "-o", "pipe").code == 0
        assert reader.stdout is not None
        assert decode(reader.stdout.read())["_id"] == "new"
    assert pipe.is_fifo()
    assert filled("export", "new", "-o", ".").code in {1, 2}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_device_that_takes_nothing_is_one_line(filled: Program) -> None:
    result = filled("export", "-o", "/dev/full")
    assert (result.code, result.error) == (1, "apicas: /dev/full cannot be written: No space left on device")


class _FullDisk(io.BytesIO):
    def write(self, _content: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_directory_for_temporary_files_is_said_to_be_that(
    filled: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert filled("export", "-o", "all.jsonl").code == 0
    monkeypatch.setattr("tempfile.TemporaryFile", _FullDisk)
    for command in (["export", "-o", "again.jsonl"], ["import", "all.jsonl", "--pool", OTHER]):
        result = filled(*command)
        assert result.code == 1
        assert "takes no more: No space left on device; $TMPDIR names another" in result.err
        assert "Traceback" not in result.err
    assert not (filled.directory / "again.jsonl").exists()


def test_a_pipe_whose_reader_goes_is_one_line(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(filled.directory / "pipe")
    reader = os.open(filled.directory / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    original = carrying.Carrier.add

    async def add(carrier: carrying.Carrier, documents: Any) -> None:
        os.close(reader)
        monkeypatch.undo()
        await original(carrier, documents)

    monkeypatch.setattr(carrying.Carrier, "add", add)
    result = filled("export", "-o", "pipe")
    assert (result.code, result.error) == (1, "apicas: pipe cannot be written: Broken pipe")


def test_an_export_under_the_name_of_an_archive_is_refused(filled: Program) -> None:
    assert "`apicas archive` archives" in filled("export", "-o", "x.tar.gz").error


def test_a_file_that_cannot_be_written_leaves_nothing(filled: Program) -> None:
    result = filled("export", "-o", "no/such/file.jsonl")
    assert (result.code, result.error) == (2, "apicas: no/such/file.jsonl: No such file or directory")
    filled.write("all.jsonl", "before")
    assert filled("export", "nothing", "-o", "all.jsonl").code == 2
    assert (filled.directory / "all.jsonl").read_text() == "before"
    assert list(filled.directory.glob("*.part")) + list(filled.directory.glob(".*.part")) == []


# Archives. ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar", "a.tgz", "a.tar.xz"])
def test_an_archive_is_moved_out_and_brought_back(filled: Program, name: str) -> None:
    before = contents(filled)
    result = filled("archive", "done", "error", "-o", name, "--yes")
    assert result.code == 0, result.err
    assert result.out.splitlines() == [
        f"wrote 2 tokens to {name}, and read it again: it is complete",
        "deleted 2 tokens of sqlite:///apicas.db",
    ]
    assert sorted(contents(filled)) == ["held", "new", "odd"]
    with tarfile.open(filled.directory / name) as tar:
        assert tar.getnames() == ["a/tokens-000001.jsonl"]
    assert filled("import", name).out == "imported 2 tokens into sqlite:///apicas.db\n"
    assert contents(filled) == before


def test_a_long_archive_has_several_files_inside(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiving, "MEMBER_BYTES", 500)
    monkeypatch.setattr("apicas.cli.selection.PAGE", 1)
    before = contents(filled)
    assert filled("archive", "todo", "done", "error", "-o", "a.tar.gz", "--yes").code == 0
    with tarfile.open(filled.directory / "a.tar.gz") as tar:
        assert len(tar.getnames()) == 2  # the small ones together
    filled("import", "a.tar.gz")
    assert contents(filled) == before


def test_an_archive_asks_and_has_a_name_of_its_own(filled: Program) -> None:
    assert "deleted from the pool. There is no terminal" in filled("archive", "done").error
    assert filled("archive", "done", "--dry-run").out == "would archive 1 token of sqlite:///apicas.db\n"
    assert list(filled.directory.glob("*tokens-*")) == []
    assert filled("archive", "done", "--yes").code == 0
    (path,) = filled.directory.glob("tokens-*.tar.gz")
    refused = filled("archive", "error", "-o", path.name, "--yes")
    assert (refused.code, "there is such a file" in refused.error) == (2, True)
    assert filled("archive", "error", "-o", "a.zip", "--yes").code == 2
    assert filled("archive").code == 2
    assert set(contents(filled)) == {"bad", "held", "new", "odd"}


def test_what_changes_while_it_is_archived_stays(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare-and-swap on what is in the archive, and not on what is there by now."""
    meddle(monkeypatch, lambda client: client.edit("good/1", lambda token: token.update(note="late")))
    result = filled("archive", "done", "error", "-o", "a.tar.gz", "--yes")
    assert (result.code, result.out.splitlines()[1]) == (1, "deleted 1 token of sqlite:///apicas.db")
    assert result.error == "apicas: 1 token changed meanwhile: in the archive as before, and still in the pool"
    assert contents(filled)["good/1"][0]["note"] == "late"


def test_what_is_deleted_meanwhile_is_no_problem(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    async def delete(client: SQLiteClient) -> None:
        await client.delete([(await client.fetch("bad")).document])

    meddle(monkeypatch, delete)
    assert filled("archive", "done", "error", "-o", "a.tar.gz", "--yes").code == 0
    assert set(contents(filled)) == {"held", "new", "odd"}


def meddle(monkeypatch: pytest.MonkeyPatch, change: Callable[[SQLiteClient], Any]) -> None:
    """Have somebody else change the pool between the check of the archive and the deletion."""
    done: list[int] = []
    original = SQLiteClient.discard

    async def discard(self: SQLiteClient, leaves: Any) -> Any:
        if not done:
            done.append(1)
            async with self.fork() as other:
                monkeypatch.setattr(SQLiteClient, "discard", original)
                await change(other)
        return await original(self, leaves)

    monkeypatch.setattr(SQLiteClient, "discard", discard)


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_an_archive_that_is_not_what_was_written_deletes_nothing(
    filled: Program, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """A disk that lies: what is read back differs."""
    before = contents(filled)
    original = files.forget_cached

    def spoil(file: Any) -> None:
        length = file.seek(0, os.SEEK_END)
        if damage == "cut":
            file.truncate(length // 2)
        else:
            file.seek(700)
            byte = file.read(1)
            file.seek(700)
            file.write(bytes([byte[0] ^ 1]))
        file.flush()
        original(file)

    monkeypatch.setattr(archiving, "forget_cached", spoil)
    result = filled("archive", "done", "error", "-o", "a.tar", "--yes")
    assert (result.code, "nothing was deleted" in result.error) == (1, True)
    assert contents(filled) == before
    assert list(filled.directory.glob("*.tar*")) + list(filled.directory.glob(".*.part")) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_deletes_nothing(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = contents(filled)
    monkeypatch.setattr(os, "fsync", full)
    result = filled("archive", "done", "-o", "a.tar.gz", "--yes")
    assert (result.code, result.error) == (1, "apicas: a.tar.gz cannot be written: No space left on device")
    monkeypatch.undo()
    assert contents(filled) == before


def test_an_archive_of_a_token_that_was_reclaimed_comes_back_as_it_was(filled: Program) -> None:
    """A lock with a claim in an archive is put back like one of an export."""
    assert filled("archive", "locked", "-o", "a.tar.gz", "--yes").code == 0
    filled("import", "a.tar.gz")
    held: Document = contents(filled)["held"][0]
    original = {**contents(filled)["held"][0]}
    assert BasicTokenModifier().reset(original, NOW)["lock"] == held["lock"] == 0


def test_everything_of_a_pool_that_is_listed_is_exported(filled: Program) -> None:
    ids = [decode(line)["_id"] for line in lines(filled, "export", "--no-attachments")]
    assert ids == listed(filled)
