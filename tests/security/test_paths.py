"""Ids and names from tokens stay what they are: no part of a path, no option of a server, no variable of a process."""

from __future__ import annotations

import os
import sys
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from apicas._documents import check_attachment_name, check_id
from apicas._runtime.commands.command import CommandRunner, variables_of
from apicas._runtime.commands.options import CommandOptions
from apicas.clients.base import PoolClient
from apicas.clients.couch import CouchClient
from apicas.clients.memory import MemoryClient
from apicas.clients.port import SaveStatus
from apicas.clients.sqlite import SQLiteClient
from apicas.exceptions import CommandError, InvalidTokenError, TokenNotFoundError
from apicas.tokens import Token
from tests.cli.program import Program
from tests.couchdb import SERVERS, server
from tests.integration.scripted import Script, playing

# Ids that a store takes, as they are.
ODD_IDS = [
    "../../x",
    "..",
    ".",
    "a/b",
    "a/../b",
    "%2e%2e%2f",
    "%00",
    "a?rev=1-x",
    "a#b",
    "a b+c&d=e",
    "\\..\\x",
    "/etc/passwd",
    "C:\\x",
    "a\nb",
    "\x1b[2J",
    "'; drop table documents; --",
    '"quoted"',
    "ü\u202e😀",
    "$(reboot)",
    "`reboot`",
    "-rf",
    "constructor",
    "x" * 4096,
]
# What no store may be asked for as a token.
NO_IDS = [
    "",
    "__proto__",
    "_all_docs",
    "_design/Monitor",
    "_local/x",
    "_security",
    "_changes",
    "a\0b",
    "x" * 4097,
    "x" * 10_000,
]
BAD_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "a/../../x",
    "a/b",
    "/etc/passwd",
    "\\x",
    "..\\x",
    "C:\\x",
    "_log",
    "a\0b",
    "a\nb",
    "a\x1b[2J",
    "a\x7f",
    "x" * 256,
    "é" * 128,
]


@pytest.fixture(params=["memory", "sqlite", *SERVERS])
async def pool(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[PoolClient]:
    if request.param == "memory":
        async with MemoryClient() as client:
            yield client
    elif request.param == "sqlite":
        async with SQLiteClient(tmp_path / "pool.db") as client:
            yield client
    else:
        couch = server(request.config, request.param)
        with couch.database() as name:
            async with couch.client(name) as client:
                await client.setup()
                yield client


def inside(directory: Path) -> set[Path]:
    return set(directory.rglob("*"))


async def test_odd_ids_are_ids_of_tokens_and_nothing_else(pool: PoolClient, tmp_path: Path) -> None:
    files = inside(tmp_path)
    report = await pool.upload([{"_id": name, "input": name} for name in ODD_IDS])
    assert [reject.reason for reject in report.rejects] == []
    assert [token and token["input"] for token in await pool.get(ODD_IDS)] == ODD_IDS
    assert sorted(str(row.id) for row in await pool.view("todo", include_docs=True)) == sorted(ODD_IDS)
    for name in ODD_IDS:
        (found,) = await pool.get([name])
        assert found is not None
        result = await pool.put_attachment(name, found["_rev"], "log.txt", name.encode())
        assert result.status is SaveStatus.WRITTEN, (name, result)
        assert await pool.get_attachment(name, "log.txt") == name.encode()
    assert inside(tmp_path) == files
    results = await pool.delete([found for found in await pool.get(ODD_IDS) if found])
    assert {result.status for result in results} == {SaveStatus.WRITTEN}
    assert await pool.counts() == {"todo": 0, "locked": 0, "done": 0, "error": 0}


@pytest.mark.parametrize("identifier", NO_IDS, ids=range(len(NO_IDS)))
async def test_what_is_no_id_is_refused_everywhere(pool: PoolClient, identifier: str) -> None:
    with pytest.raises(InvalidTokenError):
        check_id(identifier)
    assert (await pool.upload([{"_id": identifier}])).rejected == 1
    assert await pool.get([identifier]) == [None]
    assert (await pool.put_attachment(identifier, "1-a", "log", b"")).status is SaveStatus.REJECTED
    assert [result.status for result in await pool.save([{"_id": identifier}])] == [SaveStatus.REJECTED]
    with pytest.raises(TokenNotFoundError):
        await pool.get_attachment(identifier, "log")


@pytest.mark.parametrize("name", BAD_NAMES, ids=range(len(BAD_NAMES)))
async def test_an_attachment_cannot_be_called_what_leaves_its_directory(pool: PoolClient, name: str) -> None:
    await pool.upload([{"_id": "t"}])
    (found,) = await pool.get(["t"])
    assert found is not None
    assert (await pool.put_attachment("t", found["_rev"], name, b"")).status is SaveStatus.REJECTED
    inline = {"_id": "u", "_attachments": {name: {"content_type": "text/plain", "data": "eA=="}}}
    assert (await pool.upload([inline])).rejected == 1
    with pytest.raises(InvalidTokenError):
        Token({"_id": "t"}).put_attachment(name, b"")
    with pytest.raises(InvalidTokenError):
        check_attachment_name(name)


# The server of this test hears nothing of a path with a line end.
@pytest.mark.parametrize("identifier", [name for name in ODD_IDS if "\n" not in name], ids=range(len(ODD_IDS) - 1))
@pytest.mark.parametrize("name", ["log", "../../otherdb/_all_docs", "..", "%2e%2e", "a?rev=1"])
async def test_a_path_on_the_server_has_just_the_parts_that_it_should(identifier: str, name: str) -> None:
    """Neither the server, nor a proxy on the way, sees anything to walk up by."""
    async with playing() as script, CouchClient(script.url, "pool") as client:
        with pytest.raises(TokenNotFoundError):
            await client.get_attachment(identifier, name)
        assert_one_segment_each(script, [identifier, name])


def assert_one_segment_each(script: Script, names: list[str]) -> None:
    path = script.seen[-1].path
    assert "?" not in path
    assert not {".", ".."} & set(path.split("/"))
    assert [unquote(part) for part in path.split("/")] == ["", "pool", *names]


# Commands. ------------------------------------------------------------------------------------------------------------

HOSTILE = [
    "$(touch owned)",
    "`touch owned`",
    "; touch owned #",
    "a\ntouch owned\n",
    "' touch owned '",
    '"; touch owned; "',
    "|touch owned",
    "-x",
    "\\",
]


async def run(command: Any, value: Any, directory: Path, *, shell: bool = False) -> bytes:
    options = CommandOptions(shell=shell, cwd=directory)
    token = Token({"_id": "t", "lock": 1, "done": 0, "exit_code": "", "type": "token", "input": value})
    try:
        await CommandRunner(command, options)(token)
    except CommandError:
        return b""
    found = token.document.get("_attachments", {}).get("stdout.txt")
    return b64decode(found["data"]) if found else b""


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("shell", [False, True])
async def test_a_value_is_one_argument_and_never_code(tmp_path: Path, value: str, shell: bool) -> None:
    code = "import sys; print(repr(sys.argv[1:]), end='')"
    command = (
        f"{sys.executable} -c '{code.replace(chr(39), chr(34))}' {{input}}"
        if shell
        else [sys.executable, "-c", code, "{input}"]
    )
    assert (await run(command, value, tmp_path, shell=shell)).decode() == repr([value])
    assert inside(tmp_path) == set()


@pytest.mark.parametrize("shell", [False, True])
async def test_a_token_names_no_variable_of_its_command(
    tmp_path: Path, shell: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values are there under names of ours only."""
    monkeypatch.setenv("APICAS_PASSWORD", "s3cr3t")
    monkeypatch.setenv("APICAS_POOL", "https://me:s3cr3t@couch.example/db")
    fields = {"LD_PRELOAD": "owned", "PATH": "owned", "BASH_ENV": "owned", "A=B": "owned", "APICAS_TOKEN_ID": "owned"}
    code = 'import os; print(repr(sorted(os.environ.items())), end="")'
    command = f"{sys.executable} -c '{code}' {{input[PATH]}}" if shell else [sys.executable, "-c", code]
    shown = (await run(command, fields, tmp_path, shell=shell)).decode()
    variables = dict(eval(shown))
    expected = {"APICAS_FIELD_input", *(["APICAS_ARGUMENT_0"] if shell else [])}
    assert {name for name, value in variables.items() if "owned" in value} == expected
    assert variables["APICAS_TOKEN_ID"] == "t"
    assert variables["PATH"] == os.environ["PATH"]
    assert "s3cr3t" not in shown


def test_a_pilot_leaves_no_files_of_a_token_s_naming(apicas: Program) -> None:
    apicas("push", "--id-field", "name", "--format", "jsonl", stdin='{"name": "../../x", "input": "../y"}\n')
    before = set(apicas.directory.parent.rglob("*"))
    assert apicas("run", "--", "echo", "{input}", "{_id}").code == 0
    new = {path.name for path in set(apicas.directory.parent.rglob("*")) - before}
    assert new <= {"apicas.db", "apicas.db-wal", "apicas.db-shm"}
    assert apicas.status()["done"] == 1


def test_fields_become_variables_under_names_of_ours() -> None:
    """A field whose name is no plain word becomes none; what apicas writes is no field."""
    odd = ("a-b", "a b", "A=B", "", "1x", "x\n", "\u00e9", "x" * 10 + "\0")
    token = Token({"_id": "t", "type": "token", "lock": 1, "done": 0, "LD_PRELOAD": "x", **dict.fromkeys(odd, "owned")})
    assert variables_of(token) == {"APICAS_FIELD_LD_PRELOAD": "x"}
