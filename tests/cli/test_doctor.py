"""`apicas doctor` on set-ups that are broken, each in its own way."""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from apicas._documents import decode
from apicas.exceptions import PoolUnavailableError
from benchmarks.ports import free_port
from tests.cli.program import Program, Result
from tests.cli.test_commands import _Refusing, fill, refusing, spoil  # noqa: F401 - a fixture
from tests.cli.test_flush import leave
from tests.cli.test_heal import split
from tests.cli.test_terminal import Start, terminal  # noqa: F401 - a fixture
from tests.couchdb import SERVERS, Server, guarded_server, server


@pytest.fixture(params=SERVERS)
def couch(request: pytest.FixtureRequest) -> Server:
    return guarded_server(request.config) if request.param == "pouchdb" else server(request.config, request.param)


@pytest.fixture
def database(couch: Server, apicas: Program, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database that `apicas init` made and that has a member; we are the admin."""
    assert couch.username
    assert couch.password
    monkeypatch.setenv("APICAS_PASSWORD", couch.password)
    with couch.database() as name:
        monkeypatch.setenv("APICAS_POOL", f"{couch.url.replace('://', f'://{couch.username}@')}/{name}")
        assert apicas("init").code == 0
        couch.request("PUT", f"{name}/_security", {"members": {"names": ["ann"], "roles": []}})
        yield name


def examined(apicas: Program, *arguments: str) -> dict[str, dict[str, Any]]:
    """What was found, by what was looked at; the last finding on each."""
    return {each["check"]: each for each in map(decode, apicas("doctor", "--json", *arguments).out.splitlines())}


def to_do(result: Result) -> list[str]:
    return [line for line in result.out.splitlines() if line.startswith("do")]


# A file. --------------------------------------------------------------------------------------------------------------


def test_a_sound_file_is_all_ok(apicas: Program) -> None:
    fill(apicas, todo=2, done=1)
    result = apicas("doctor")
    assert (result.code, result.err, to_do(result)) == (0, "", [])
    lines = result.out.splitlines()
    assert {line.split(":")[0] for line in lines} >= {"ok  configuration", "ok  file system", "ok  locks", "ok  outbox"}
    assert "ok  tokens: 2 todo, 0 locked, 1 done, 0 error" in lines


def test_a_file_that_is_not_there(apicas: Program) -> None:
    result = apicas("doctor")
    assert (result.code, len(to_do(result))) == (2, 1)
    assert "apicas init" in result.out
    assert not (apicas.directory / "apicas.db").exists()


def test_a_file_that_is_no_pool(apicas: Program) -> None:
    apicas.write("apicas.db", b"not a database" * 100)
    result = apicas("doctor")
    assert (result.code, len(to_do(result))) == (2, 1)
    assert "-> is that the right file? It is named by the default" in result.out


@pytest.mark.parametrize(
    ("pool", "text"),
    [
        ("htp://me@couch.example/survey", "is no pool: write sqlite:///file.db"),
        ("http://couch.example:5984", "names no database"),
        ("sqlite:/x.db", "names no file"),
    ],
)
def test_an_address_that_is_none_is_said_before_anything_is_asked(apicas: Program, pool: str, text: str) -> None:
    result = apicas("doctor", "--pool", pool)
    assert (result.code, len(result.out.splitlines()), len(to_do(result))) == (2, 2, 1)
    assert text in result.out
    assert "-> put the address right: it is from --pool" in result.out


def test_a_file_that_we_may_not_read(apicas: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(apicas, todo=1)
    monkeypatch.setattr("apicas.clients.sqlite.schema.os.access", lambda path, mode: False)
    found = examined(apicas)["pool"]
    assert found["text"].startswith("no permission to read and write ")
    assert "Its owner may let you in" in found["advice"]


def test_a_disk_that_is_full(apicas: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: Any) -> None:
        raise PoolUnavailableError("no space is left for the file")

    fill(apicas, todo=1)
    monkeypatch.setattr("apicas.clients.sqlite.SQLiteClient.open", refuse)
    monkeypatch.setattr("apicas.cli.opening.PATIENCE", 0.0)
    result = apicas("doctor")
    assert (result.code, len(to_do(result))) == (3, 1)
    assert "-> make room on that disk" in result.out


def test_a_network_file_system_is_for_one_process(apicas: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(apicas, todo=1)
    monkeypatch.setattr("apicas.clients.sqlite.file_systems.network_file_system", lambda path: "nfs4")
    found = examined(apicas)["file system"]
    assert (found["status"], "one process at a time" in found["text"]) == ("do", True)


def test_tokens_in_no_view_and_locks_that_nobody_refreshes(apicas: Program) -> None:
    now = time.time()
    fill(apicas, locks=[now, 1_500_000_000])
    spoil(apicas)
    result = apicas("doctor")
    found = examined(apicas)
    assert (result.code, result.error) == (1, "apicas: 2 things to do")
    assert found["tokens in no view"]["text"].startswith("1 token")
    assert found["locks of other tools"]["text"].startswith("1 token held by another tool")
    assert "apicas reset locked --older-than 48h" in found["locks of other tools"]["advice"]


def test_locks_of_a_pilot_that_is_gone(apicas: Program) -> None:
    leave(2)
    found = examined(apicas)
    assert found["stale locks"]["text"].startswith(
        "2 tokens of 1 pilot without a sign of life, as t0\x1b[2J, t1\x1b[2J"
    )
    assert "start one (`apicas run ...`)" in found["stale locks"]["advice"]
    assert found["outbox"]["text"].startswith("2 finished results wait in ")
    assert found["outbox"]["advice"] == "`apicas flush` writes them"
    result = apicas("doctor")
    assert result.code == 1
    assert "\x1b" not in result.out


def test_a_broken_configuration(apicas: Program) -> None:
    apicas.write("apicas.toml", "pol = 1")
    result = apicas("doctor")
    assert (result.code, "there is no key 'pol'" in result.out) == (2, True)


# A server. ------------------------------------------------------------------------------------------------------------


def test_a_sound_server_is_all_ok(apicas: Program, database: str) -> None:
    apicas("push", stdin="a\nb\n")
    result = apicas("doctor")
    assert (result.code, to_do(result)) == (0, []), result.out
    found = examined(apicas)
    assert found["login"]["text"].startswith("admin, admin of the server")
    assert found["clock"]["status"] == found["views"]["status"] == found["split tokens"]["status"] == "ok"
    assert found["tokens"]["text"] == "2 todo, 0 locked, 0 done, 0 error"


def test_no_server(apicas: Program) -> None:
    result = apicas("doctor", "--pool", f"http://me@127.0.0.1:{free_port()}/db")
    assert (result.code, len(to_do(result))) == (3, 1)
    assert "do  server: http://127.0.0.1:" in result.out
    assert "is the server up" in result.out


def test_http_and_https_are_told_apart(apicas: Program) -> None:
    port = free_port()
    assert "wants https" in apicas("doctor", "--pool", f"http://me@127.0.0.1:{port}/db").out
    assert "Does the server speak https" in apicas("doctor", "--pool", f"https://me@127.0.0.1:{port}/db").out


def test_a_wrong_password_is_tried_once(
    apicas: Program,
    refusing: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("APICAS_PASSWORD", "Tr0ub4dor")
    result = apicas("doctor", "--pool", refusing)
    assert (result.code, len(to_do(result))) == (2, 1)
    assert "do  login: " in result.out
    assert "`apicas passwd` asks for the right one" in result.out
    assert "The one that was refused is from the environment" in result.out
    assert "Tr0ub4dor" not in result.out + result.err
    assert _Refusing.requests == 2  # one of them as nobody


def test_a_wrong_password_on_a_real_server(apicas: Program, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APICAS_PASSWORD", "Tr0ub4dor")
    result = apicas("doctor")
    assert (result.code, len(to_do(result))) == (2, 1)
    assert "apicas passwd" in result.out


def test_no_password_and_nobody_to_ask(apicas: Program, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APICAS_PASSWORD")
    result = apicas("doctor")
    assert (result.code, len(to_do(result))) == (2, 1)
    assert "do  login: no password for 'admin'" in result.out


def test_a_password_is_asked_for_on_a_terminal_where_ctrl_c_is_heard(
    apicas: Program,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    terminal: Start,  # noqa: F811
) -> None:
    monkeypatch.delenv("APICAS_PASSWORD")
    screen = terminal("doctor")
    screen.read_until("Password of admin on ")
    assert screen.interrupt() == 130
    assert "Traceback" not in screen.seen


def test_no_database(apicas: Program, couch: Server, database: str) -> None:
    couch.drop(database)
    result = apicas("doctor")
    assert (result.code, len(to_do(result))) == (2, 1)
    assert "does not exist" in result.out
    assert "-> `apicas init` makes it" in result.out


def test_a_name_that_no_database_can_have(apicas: Program, couch: Server, database: str) -> None:
    result = apicas("doctor", "--pool", f"{couch.url.replace('://', f'://{couch.username}@')}/Survey")
    assert (result.code, len(to_do(result))) == (2, 1)
    assert "lower-case letters" in result.out


def test_a_password_in_a_file_that_others_read_is_told_once(
    apicas: Program, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _, name = os.environ["APICAS_POOL"].replace("admin@", "").rpartition("/")
    for variable in ("APICAS_POOL", "APICAS_PASSWORD"):
        monkeypatch.delenv(variable)
    lines = [f"PICAS_HOST_URL={server!r}", f"PICAS_DATABASE={name!r}", "PICAS_USERNAME='admin'", "PICAS_PASSWORD='x'"]
    apicas.write("picasconfig.py", "\n".join(lines)).chmod(0o644)
    result = apicas("doctor")
    assert "run `chmod 600" in result.out
    assert "or is it in the file that is told of above?" in result.out


def test_no_views(apicas: Program, couch: Server, database: str) -> None:
    remove(couch, database, "Monitor")
    result = apicas("doctor")
    assert (result.code, len(to_do(result))) == (2, 1)
    assert "do  views: Monitor is missing" in result.out
    assert "runs `apicas init`" in result.out
    apicas("init")
    assert apicas("doctor").code == 0


def test_some_views_missing(apicas: Program, couch: Server, database: str) -> None:
    monitor = couch.request("GET", f"{database}/_design/Monitor")
    del monitor["views"]["locked"], monitor["views"]["error"]
    couch.request("PUT", f"{database}/_design/Monitor", monitor)
    assert examined(apicas)["views"]["text"] == "Monitor lacks error, locked"


def test_a_view_that_lists_what_it_should_not(apicas: Program, couch: Server, database: str) -> None:
    apicas("push", stdin='{"_id": "ended", "lock": 1500000000, "done": 1500000001, "exit_code": 0}\n')
    monitor = couch.request("GET", f"{database}/_design/Monitor")
    monitor["views"]["todo"]["map"] = "function (doc) { if (doc.type == 'token') emit(doc._id, doc._id); }"
    couch.request("PUT", f"{database}/_design/Monitor", monitor)
    found = examined(apicas)["views"]
    assert found["text"] == "Monitor/todo lists ended, which is in done"
    assert "apicas init --replace-views" in found["advice"]
    assert apicas("init", "--replace-views", "--yes").code == 0
    assert apicas("doctor").code == 0


def test_the_text_of_picas_s_views_is_another_and_right(apicas: Program, couch: Server, database: str) -> None:
    apicas("push", stdin="a\n")
    monitor = couch.request("GET", f"{database}/_design/Monitor")
    monitor["views"]["todo"]["map"] = (
        'function(doc) {\n   if(doc.type == "token") {\n    if(doc.lock == 0 && doc.done == 0) {\n'
        "      emit(doc._id, doc._id);\n    }\n  }\n}\n"
    )
    couch.request("PUT", f"{database}/_design/Monitor", monitor)
    assert examined(apicas)["views"]["status"] == "ok"


def test_without_our_own_views(apicas: Program, couch: Server, database: str) -> None:
    rows = couch.request("GET", f'{database}/_all_docs?startkey="_design/apicas-"&endkey="_design/apicas0"')["rows"]
    remove(couch, database, rows[0]["id"].removeprefix("_design/"))
    result = apicas("doctor")
    assert (result.code, len(to_do(result))) == (1, 1)
    assert "do  own views" in result.out
    assert "-   tokens in no view" in result.out


def test_a_database_that_is_open_to_everybody(apicas: Program, couch: Server, database: str) -> None:
    couch.request("PUT", f"{database}/_security", {})
    found = examined(apicas)["permissions"]
    assert (found["status"], "apicas users grant NAME" in found["advice"]) == ("do", True)


@pytest.mark.parametrize("pending", [0, 57_000])
def test_an_index_that_is_behind_is_not_waited_for(
    apicas: Program, database: str, monkeypatch: pytest.MonkeyPatch, pending: int
) -> None:
    """A server of the tests has caught up before it can be asked, and PouchDB does not tell."""

    async def tell(self: Any, design: str) -> int:
        return pending

    monkeypatch.setattr("apicas.clients.couch.inspection.Inspection.pending", tell)
    found = examined(apicas)
    assert (found["index"]["status"], found["views"]["status"]) == (("do", "skipped") if pending else ("ok", "ok"))
    assert ("waits until it has caught up" in found["index"]["advice"]) is bool(pending)


def test_split_tokens(apicas: Program, couch: Server, database: str) -> None:
    split(couch, database, "both", {"lock": 1_700_000_000}, {"lock": 1_700_000_001})
    found = examined(apicas)["split tokens"]
    assert found["text"] == "1 stored in several versions, as both"
    assert "`apicas heal`" in found["advice"]


@pytest.mark.parametrize("ahead", [-3600, 120, 1])
def test_a_skewed_clock(
    apicas: Program, couch: Server, database: str, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    with Skewed(couch, ahead) as address:
        monkeypatch.setenv("APICAS_POOL", f"{address.replace('://', f'://{couch.username}@')}/{database}")
        found = examined(apicas)
    assert found["clock"]["status"] == ("ok" if ahead == 1 else "do")
    assert found["views"]["status"] == "ok"
    if ahead != 1:
        assert ("behind" if ahead > 0 else "ahead of") in found["clock"]["text"]
        assert "NTP" in found["clock"]["advice"]


def test_what_is_no_couchdb(apicas: Program, refusing: str) -> None:  # noqa: F811
    with Skewed(Server(refusing.replace("me@", "")), 0, status=302) as address:
        result = apicas("doctor", "--pool", f"{address}/db")
    assert (result.code, len(to_do(result))) == (2, 1)
    assert "redirects" in result.out


def remove(couch: Server, database: str, design: str) -> None:
    """Delete a design document."""
    stored = couch.request("GET", f"{database}/_design/{design}")
    couch.request("DELETE", f"{database}/_design/{design}?rev={stored['_rev']}")


class Skewed:
    """Passes requests on to a server, and sets the clock of its answers.

    Args:
        couch: the server.
        ahead: by how many seconds its clock is to be ahead.
        status: what to answer instead of passing on; None to pass on.
    """

    def __init__(self, couch: Server, ahead: int, status: int | None = None) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                code, answer = (status, b"{}") if status else self._passed_on(body)
                self.send_response_only(code)
                self.send_header("Date", formatdate(time.time() + ahead, usegmt=True))
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.send_header("Location", "https://elsewhere.example/")
                self.end_headers()
                self.wfile.write(answer)

            do_PUT = do_POST = do_GET  # noqa: N815 - http.server calls them so

            def _passed_on(self, body: bytes) -> tuple[int, bytes]:
                request = urllib.request.Request(f"{couch.url}{self.path}", body or None, method=self.command)
                for name in ("Authorization", "Content-Type", "Accept"):
                    if name in self.headers:
                        request.add_header(name, self.headers[name])
                try:
                    with urllib.request.urlopen(request, timeout=60) as response:
                        return response.status, response.read()
                except urllib.error.HTTPError as error:
                    with error:
                        return error.code, error.read()

            def log_message(self, *arguments: Any) -> None:
                """Be silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
