"""The whole chain on servers that speak the CouchDB protocol."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.program import Program
from tests.couchdb import SERVERS, guarded_server, server


@pytest.fixture(params=SERVERS)
def pool(request: pytest.FixtureRequest, apicas: Program, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a database that does not exist yet; name and password are in the environment."""
    couch = server(request.config, request.param)
    if couch.username and couch.password:
        monkeypatch.setenv("APICAS_USERNAME", couch.username)
        monkeypatch.setenv("APICAS_PASSWORD", couch.password)
    with couch.database() as name:
        yield f"{couch.url}/{name}"


def test_init_push_run_status_reset_delete(apicas: Program, pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APICAS_POOL", pool)
    monkeypatch.syspath_prepend(str(apicas.directory))
    apicas.write("chain.py", "def work(token):\n    if token['input'] == 3:\n        raise ValueError('three')\n")
    made, installed = apicas("init").out.splitlines()
    assert made.startswith("made http://")
    assert made.endswith(pool.rpartition("/")[2])
    assert installed.startswith("installed Monitor")
    assert apicas("init").out.splitlines() == [made.replace("made", "found"), "everything was there"]
    assert "pushed 5 tokens" in apicas("push", "--typed", stdin="1\n2\n3\n4\n5\n").out
    result = apicas("run", "chain:work", "--workers", "2", "--no-linger")
    assert (result.code, result.out[:16]) == (0, "4 done, 1 failed"), result.err
    assert apicas.status(pool) == {"todo": 0, "locked": 0, "done": 4, "error": 1, "total": 5}
    assert apicas("reset", "error").out == "reset 1 token\n"
    assert apicas("delete", "done", "--yes").out == "deleted 4 tokens\n"
    assert apicas.status(pool) == {"todo": 1, "locked": 0, "done": 0, "error": 0, "total": 1}


@pytest.mark.parametrize(
    "command", [("status",), ("push",), ("run", "os:getcwd"), ("reset", "error"), ("delete", "error", "--yes")]
)
def test_a_database_that_does_not_exist_says_apicas_init(apicas: Program, pool: str, command: list[str]) -> None:
    result = apicas(*command, "--pool", pool, stdin="x\n")
    assert (result.code, "apicas init" in result.error) == (2, True)


@pytest.mark.couchdb
@pytest.mark.parametrize("command", [("init",), ("status",), ("push",)])
def test_a_wrong_password_is_one_line(
    apicas: Program, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("APICAS_USERNAME", "admin")
    monkeypatch.setenv("APICAS_PASSWORD", "Tr0ub4dor")
    result = apicas(*command, "--pool", f"{guarded_server(request.config).url}/db", stdin="x\n")
    assert result.code == 2
    assert "Name or password is incorrect" in result.error
