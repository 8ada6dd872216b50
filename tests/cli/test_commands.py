"""init, status, reset and delete; errors, exit codes and help."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import apicas as library
from apicas.cli import opening
from apicas.cli.commands import SUMMARIES, command
from apicas.cli.exits import ExitCode
from apicas.clients.sqlite import SQLiteClient
from apicas.exceptions import PoolError, PoolUnavailableError
from apicas.modifiers import BasicTokenModifier
from apicas.testing import run_virtual
from tests.cli.program import ROOT, Program


def test_init_makes_a_pool_and_may_be_repeated(apicas: Program) -> None:
    first = apicas("init")
    assert (first.code, first.out.splitlines()[0]) == (0, "made sqlite:///apicas.db")
    assert apicas("init").out.splitlines()[0] == "found sqlite:///apicas.db"


def test_init_asks_before_it_replaces_views(apicas: Program) -> None:
    refused = apicas("init", "--replace-views")
    assert (refused.code, "add --yes" in refused.error) == (2, True)
    assert apicas("init", "--replace-views", "--yes").code == 0


def test_status_of_an_empty_pool_says_what_to_do(apicas: Program) -> None:
    apicas("init")
    result = apicas("status")
    assert result.code == 0
    assert result.out.splitlines()[0] == "pool sqlite:///apicas.db"
    assert "apicas push" in result.error


def test_status_counts_the_states_and_what_is_in_no_view(apicas: Program) -> None:
    fill(apicas, todo=2, locked=1, done=3, error=1)
    spoil(apicas)
    result = apicas("status")
    lines = [line.split() for line in result.out.splitlines()[1:]]
    assert lines == [["todo", "2"], ["locked", "1"], ["done", "3"], ["error", "1"], ["no", "view", "1"], ["total", "8"]]
    assert apicas.status()["no_view"] == 1


@pytest.mark.parametrize("command", [("status",), ("run", "os:getcwd"), ("reset", "error"), ("delete", "error")])
def test_a_pool_that_does_not_exist_is_not_made_by_looking(apicas: Program, command: list[str]) -> None:
    result = apicas(*command)
    assert (result.code, "apicas init" in result.error) == (2, True)
    assert not (apicas.directory / "apicas.db").exists()


@pytest.mark.parametrize(("view", "number"), [("error", 2), ("Monitor/locked", 1), ("done", 3)])
def test_reset_puts_a_view_back_to_todo(apicas: Program, view: str, number: int) -> None:
    fill(apicas, locked=1, done=3, error=2)
    result = apicas("reset", view)
    assert (result.code, result.out) == (0, f"reset {number} token{'s' if number > 1 else ''}\n")
    counts = apicas.status()
    assert (counts["todo"], counts[view.removeprefix("Monitor/")], counts["total"]) == (number, 0, 6)


def test_reset_keeps_logs_outputs_and_errors(apicas: Program) -> None:
    async def check() -> None:
        async with pool(apicas) as client:
            await client.upload([{"_id": "t"}])
            token = await client.edit("t", lambda token: token.put_attachment("log.txt", "kept"))
            assert token.rev
            await client.edit("t", lambda token: lock(token) and BasicTokenModifier().set_error(token, "why", now=1))

    async def look() -> Any:
        async with pool(apicas) as client:
            return await client.fetch("t"), await client.get_attachment("t", "log.txt")

    asyncio.run(check())
    assert apicas("reset", "error").code == 0
    token, log = asyncio.run(look())
    assert (token.state, token.errors[0]["message"], log) == ("todo", "why", b"kept")


def test_reset_by_the_age_of_locks_leaves_the_younger_and_those_without_a_time(apicas: Program) -> None:
    now = time.time()
    fill(apicas, locks=[now - 90_000, now - 7200, now - 60, 99])
    assert apicas("reset", "locked", "--older-than", "24h", "--dry-run").out.startswith("would reset 1 token of locked")
    assert apicas("reset", "locked", "--older-than", "1").out == "reset 2 tokens\n"
    assert apicas.status()["locked"] == 2


def test_an_age_is_asked_of_locked_tokens_only(apicas: Program) -> None:
    assert "use it with locked" in apicas("reset", "error", "--older-than", "1h").error
    assert "no duration" in apicas("reset", "locked", "--older-than", "soon").error


def test_a_reset_of_many_asks_and_without_a_terminal_refuses(apicas: Program) -> None:
    fill(apicas, error=11)
    result = apicas("reset", "error")
    assert (result.code, result.error) == (
        2,
        "apicas: Put 11 tokens of error in sqlite:///apicas.db back to todo? There is no terminal to ask on: add --yes",
    )
    assert apicas("reset", "error", "--dry-run").out == "would reset 11 tokens of error in sqlite:///apicas.db\n"
    assert apicas.status()["error"] == 11
    assert apicas("reset", "error", "--yes").out == "reset 11 tokens\n"


def test_a_reset_warns_of_tokens_that_pilots_hold(apicas: Program) -> None:
    fill(apicas, locks=[time.time(), time.time() - 10_000])
    assert "1 token of these is held by running pilots" in apicas("reset", "locked").error


def test_a_reset_goes_through_a_view_of_many_pages(apicas: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apicas.cli.selection.PAGE", 7)
    fill(apicas, error=50)
    assert apicas("reset", "error", "--yes").out == "reset 50 tokens\n"
    assert apicas.status()["todo"] == 50


def test_a_token_that_changes_under_a_reset_is_read_again(apicas: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat comes between look and write; and another token ends, which must not be undone."""
    fill(apicas, locks=[1e9, 1e9])
    original = SQLiteClient.save
    done: list[str] = []

    async def save(self: SQLiteClient, documents: Any) -> Any:
        if not done:
            beaten, ended = (document["_id"] for document in documents)
            done.append(ended)
            async with self.fork() as other:
                await other.edit(beaten, lambda token: token.update(lock=int(time.time())))
                await other.edit(ended, lambda token: BasicTokenModifier().close(token, 1e9) and None)
        return await original(self, documents)

    monkeypatch.setattr(SQLiteClient, "save", save)
    monkeypatch.setattr("apicas.clients.base.PoolClient.edit", edit_with(original))
    result = apicas("reset", "locked", "--yes")
    assert (result.code, result.out) == (1, "reset 1 token\n")
    assert "1 token not reset: changed by somebody else" in result.err
    counts = apicas.status()
    assert (counts["todo"], counts["done"]) == (1, 1)


def edit_with(save: Any) -> Any:
    """An edit that writes by this save."""

    async def edit(self: Any, document_id: str, change: Any) -> None:
        token = await self.fetch(document_id)
        change(token)
        (result,) = await save(self, [token.document])
        assert result.written

    return edit


def test_an_unknown_view_is_one_line(apicas: Program) -> None:
    apicas("init")
    for name in ("eror", "Mine/todo", "a/b/c"):
        result = apicas("reset", name)
        assert (result.code, len(result.err.splitlines())) == (2, 1)


def test_delete_asks_and_deletes_views_and_ids(apicas: Program) -> None:
    fill(apicas, done=3, error=1)
    apicas("push", stdin='{"_id": "a"}\n{"_id": "b/c"}\n{"_id": "todo"}\n')
    assert "This cannot be undone" in apicas("delete", "done").error
    assert apicas("delete", "done", "--dry-run").out == "would delete 3 tokens of sqlite:///apicas.db\n"
    assert apicas("delete", "done", "a", "b/c", "--yes").out == "deleted 5 tokens\n"
    assert apicas("delete", "--id", "todo", "--yes").out == "deleted 1 token\n"
    assert apicas.status() == {"todo": 0, "locked": 0, "done": 0, "error": 1, "total": 1}


def test_delete_says_which_token_there_is_not(apicas: Program) -> None:
    apicas("push", stdin='{"_id": "a"}\n')
    result = apicas("delete", "a", "b", "--yes")
    assert (result.code, result.out, result.error) == (1, "deleted 1 token\n", "apicas: there is no token 'b'")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("push", "--nonsense"),
        ("status", "--pool", "ftp://x/y"),
        ("status", "--pool", "http://host:5984"),
        ("status", "--pool", "http://me:word@host:5984/db"),
        ("status", "--pool", "http://me@host:5984/db"),
        ("run",),
        ("run", "--max-token-time", "x", "a:b"),
        ("run", "--workers", "0", "os:getcwd"),
        ("run", "--workers", "many", "os:getcwd"),
        ("reset",),
        ("push", "--set", "x"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(apicas: Program, arguments: list[str]) -> None:
    result = apicas(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.error.startswith("apicas: ")
    assert "word" not in result.error.replace("password", "")


def test_no_command_shows_the_help(apicas: Program) -> None:
    result = apicas()
    assert (result.code, "Commands:" in result.err) == (2, True)


def test_ctrl_c_while_a_command_is_imported_is_told_by_the_exit_code_alone(tmp_path: Path) -> None:
    """A person has second thoughts in the first moment, too."""
    interrupted = (
        "import sys, apicas.cli\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'apicas.cli.application': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "sys.exit(apicas.cli.main(['status']))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", interrupted],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (ExitCode.INTERRUPTED, "", "")


def test_a_bug_keeps_its_traceback(apicas: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(opening, "configured", broken)
    result = apicas("status")
    assert (result.code, result.err.splitlines()[-1]) == (1, "RuntimeError: a bug")
    assert result.err.startswith("Traceback")


class _Refusing(BaseHTTPRequestHandler):
    """A server that knows nobody."""

    requests = 0

    def do_GET(self) -> None:
        type(self).requests += 1
        body = b'{"error":"unauthorized","reason":"Name or password is incorrect."}'
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_PUT = do_POST = do_HEAD = do_GET  # noqa: N815 - http.server calls them so

    def log_message(self, *arguments: Any) -> None:
        """Be silent."""


@pytest.fixture
def refusing() -> Iterator[str]:
    _Refusing.requests = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://me@127.0.0.1:{server.server_port}/db"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("command", [("status",), ("init",), ("push",), ("run", "os:getcwd"), ("reset", "error")])
def test_a_wrong_password_is_one_line_and_tried_once(
    apicas: Program, refusing: str, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("APICAS_PASSWORD", "Tr0ub4dor")
    result = apicas(*command, "--pool", refusing, stdin="x\n")
    assert result.code == 2
    assert "Name or password is incorrect" in result.error
    assert "Tr0ub4dor" not in result.out + result.err
    assert _Refusing.requests == 1


def test_a_server_that_is_away_is_told_once_and_then_given_up(apicas: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "PATIENCE", 1.0)
    failures = []

    async def fail(self: Any) -> None:
        failures.append(1)
        raise PoolUnavailableError("http://h/db: no connection")

    monkeypatch.setattr("apicas.clients.couch.CouchClient.open", fail)
    result = apicas("status", "--pool", "http://h:5984/db")
    assert result.code == 3
    assert len(failures) > 2
    assert result.err.splitlines() == [
        "apicas: http://h/db: no connection; trying again for 1 s",
        "apicas: http://h/db: no connection",
    ]


@pytest.mark.parametrize(("seconds", "lines"), [(19, 0), (300, 1)])
def test_a_server_that_hangs_is_told_once(capsys: pytest.CaptureFixture[str], seconds: float, lines: int) -> None:
    async def hangs() -> str:
        await asyncio.sleep(seconds)
        return "at last"

    assert run_virtual(lambda: opening.patiently(hangs)) == "at last"
    assert capsys.readouterr().err.count("still waiting after 20 s") == lines


def test_the_patience_ends_with_a_try_and_not_a_pause_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    async def fail() -> None:
        raise PoolUnavailableError("away")

    monkeypatch.setattr(opening, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(opening, "asyncio", SimpleNamespace(sleep=sleep, get_running_loop=asyncio.get_running_loop))
    with pytest.raises(PoolUnavailableError):
        asyncio.run(opening.patiently(fail, patience=20.0))
    assert now == pytest.approx(20.0)


def test_an_error_of_the_pool_that_nobody_can_help_is_one_line(
    apicas: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Any) -> None:
        raise PoolError("a disk\nis full")

    monkeypatch.setattr(SQLiteClient, "open", fail)
    result = apicas("init")
    assert (result.code, result.error) == (1, "apicas: a disk\\nis full")


@pytest.mark.parametrize("closing", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_pilot_works_where_standard_streams_are_closed(apicas: Program, closing: str) -> None:
    """Else the event loop's first descriptor stands in for one, and uvloop aborts the process."""
    fill(apicas, todo=2)
    line = f'"{sys.executable}" -m apicas run -- echo {{input}} {closing}'
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(["/bin/sh", "-c", line], cwd=apicas.directory, env=environ, timeout=60, check=True)
    assert apicas.status()["done"] == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("command", [("status",), ("status", "--json"), ("run", "--", "true")])
def test_results_that_cannot_be_written_are_one_line(apicas: Program, command: list[str]) -> None:
    fill(apicas, todo=2)
    with Path("/dev/full").open("w") as full:
        result = apicas.finish(apicas.start(*command, stdout=full))
    assert result.code == 1
    assert result.err.splitlines()[0] == "apicas: standard output cannot be written: No space left on device"


def modules_after(*arguments: str, directory: Path) -> set[str]:
    """What a command has imported when it ends."""
    script = "import sys; from apicas.cli import main; code = main(sys.argv[1:]); print(*sys.modules); sys.exit(code)"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


ADMINISTRATION = ["pilots", "views", "users", "passwd", "config", "doctor"]
SLOW = {"aiohttp", "aiocouch", "rich", "pydantic", "uvloop", "apicas.cli.run", "apicas._runtime"}


def test_help_waits_for_no_library_that_it_does_not_need(tmp_path: Path) -> None:
    unwanted = {*SLOW, "anyio", "asyncio", "msgspec", "sqlite3", "ssl", "tomllib", "platformdirs", "apicas.cli.status"}
    assert modules_after("--help", directory=tmp_path) & unwanted == set()


def test_a_short_command_waits_for_no_library_that_it_does_not_need(apicas: Program) -> None:
    fill(apicas, todo=1)
    assert modules_after("status", directory=apicas.directory) & SLOW == set()


@pytest.mark.parametrize("name", SUMMARIES)
def test_the_list_of_commands_has_the_first_sentence_of_each(name: str) -> None:
    assert command(name).help.splitlines()[0] == SUMMARIES[name]


def test_what_is_given_as_text_is_still_converted(apicas: Program) -> None:
    assert "should be a valid integer" in apicas("run", "--workers", "many", "--", "true").error
    assert "workers is 0" in apicas("run", "--workers", "0", "--", "true").error


def test_a_typing_error_in_a_command_is_answered_with_what_there_is(apicas: Program) -> None:
    assert "did you mean 'status'" in apicas("statsu").error.lower()


@pytest.mark.parametrize("command", ["init", "push", "run", "status", "reset", "delete", *ADMINISTRATION])
def test_the_help_of_a_command_has_examples(apicas: Program, command: str) -> None:
    result = apicas(command, "--help")
    assert result.code == 0
    assert f"  apicas {command}" in result.out.partition("Examples:")[2]


def test_the_version_is_told(apicas: Program) -> None:
    assert apicas("--version").out == f"apicas {library.__version__}\n"


# What the tests fill a pool with. ----------------------------------------------------------------------------------


def pool(program: Program) -> SQLiteClient:
    return SQLiteClient(program.directory / "apicas.db")


def lock(token: Any) -> bool:
    token.update(lock=1_500_000_000, hostname="somewhere")
    return True


def fill(program: Program, *, locks: Any = (), **states: int) -> None:
    """Put tokens into the pool, so many in each state, and locked ones with these lock times."""
    fields = {
        "todo": {},
        "locked": {"lock": 1_500_000_000},
        "done": {"lock": 1_500_000_000, "done": 1_500_000_001, "exit_code": 0},
        "error": {"lock": 99, "done": 99, "exit_code": 1},
    }
    tokens: list[dict[str, Any]] = [fields[state] for state, number in states.items() for _ in range(number)]
    tokens += [{"lock": int(at)} for at in locks]

    async def upload() -> None:
        async with pool(program) as client:
            assert (await client.upload(tokens)).rejected == 0

    asyncio.run(upload())


def spoil(program: Program) -> None:
    """Put a token in no view into the pool."""

    async def upload() -> None:
        async with pool(program) as client:
            assert (await client.upload([{"lock": None}])).uploaded == 1

    asyncio.run(upload())
