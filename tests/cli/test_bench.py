"""`apicas bench` measures beside the user's pool, and leaves it as it was."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from apicas._documents import decode
from apicas.clients.sqlite import SQLiteClient
from tests.cli.program import Program
from tests.couchdb import SERVERS, Server, guarded_server, server

QUICK = ["--tokens", "20", "--workers", "4", "--repeats", "2", "--seconds", "0.001", "--size", "100"]


@pytest.fixture(params=SERVERS)
def couch(request: pytest.FixtureRequest, apicas: Program, monkeypatch: pytest.MonkeyPatch) -> Server:
    found = server(request.config, request.param)
    if found.username and found.password:
        monkeypatch.setenv("APICAS_USERNAME", found.username)
        monkeypatch.setenv("APICAS_PASSWORD", found.password)
    return found


@pytest.fixture
def pool(couch: Server) -> Iterator[str]:
    with couch.database() as name:
        yield f"{couch.url}/{name}"


def bench_databases(couch: Server) -> list[str]:
    return [name for name in couch.request("GET", "_all_dbs") if name.startswith("apicas-bench-")]


def test_it_measures_beside_the_file_and_leaves_nothing(apicas: Program) -> None:
    apicas("push", stdin="1\n2\n")
    before = {path.name: path.stat().st_size for path in apicas.directory.iterdir()}
    result = apicas("bench", "--yes", *QUICK)
    assert result.code == 0, result.err
    rows = [line.split() for line in result.out.splitlines()]
    assert [row[:2] for row in rows[1:5]] == [[name, "20"] for name in ("noop", "sleep", "large", "attachment")]
    assert len(result.err.splitlines()) == 8
    assert {path.name: path.stat().st_size for path in apicas.directory.iterdir()} == before
    assert apicas.status()["todo"] == 2


def test_json_has_every_single_measurement(apicas: Program) -> None:
    result = apicas("bench", "--yes", "--json", "--workload", "noop,process", "--pilots", "2", *QUICK)
    assert result.code == 0, result.err
    said = decode(result.out)
    assert said["pool"].startswith("sqlite:///")
    assert [one["workload"] for one in said["measurements"]] == ["noop", "process"]
    for one in said["measurements"]:
        assert [(sample["tokens"], sample["executions"]) for sample in one["samples"]] == [(20, 20)] * 2
        assert one["rate"] > 0


def test_the_users_database_is_not_touched_and_ours_is_gone(apicas: Program, couch: Server, pool: str) -> None:
    assert apicas("init", "--pool", pool).code == 0
    assert apicas("push", "--pool", pool, stdin="1\n2\n").code == 0
    name = pool.rpartition("/")[2]
    before = couch.request("GET", f"{name}/_all_docs?include_docs=true")
    result = apicas("bench", "--yes", "--pool", pool, "--workload", "noop", *QUICK)
    assert result.code == 0, result.err
    assert couch.request("GET", f"{name}/_all_docs?include_docs=true") == before
    assert bench_databases(couch) == []


def test_it_asks_first(apicas: Program, couch: Server, pool: str) -> None:
    result = apicas("bench", "--pool", pool)
    assert (result.code, "add --yes" in result.error) == (2, True)
    assert bench_databases(couch) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_deletes_the_database(apicas: Program, couch: Server, pool: str, number: signal.Signals) -> None:
    arguments = ("--workload", "noop,sleep", "--tokens", "4", "--seconds", "1000", "--repeats", "1")
    process = apicas.start("bench", "--yes", "--pool", pool, *arguments)
    assert process.stderr is not None
    assert "noop, 1 of 1" in process.stderr.readline()  # the next would take an hour
    process.send_signal(number)
    assert apicas.finish(process).code == 130
    assert bench_databases(couch) == []


@pytest.mark.couchdb
def test_who_is_refused_gets_one_line(
    apicas: Program, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = guarded_server(request.config)
    monkeypatch.setenv("APICAS_USERNAME", "admin")
    monkeypatch.setenv("APICAS_PASSWORD", "wrong")
    result = apicas("bench", "--yes", "--pool", f"{guarded.url}/survey", "--repeats", "1")
    assert (result.code, "denied" in result.error) == (2, True)
    assert bench_databases(guarded) == []


def test_a_workload_that_does_not_exist_is_refused(apicas: Program) -> None:
    result = apicas("bench", "--yes", "--workload", "noop,nap")
    assert (result.code, "no workload 'nap'" in result.error) == (2, True)


def test_no_client_of_a_file_could_delete_a_database() -> None:
    assert not hasattr(SQLiteClient, "delete_database")
