"""`apicas logs`: what a token has printed, wherever it is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apicas._runtime.attempts.logs import AttemptLog, log_directory
from apicas._runtime.attempts.places import make_place, place_of
from apicas._runtime.attempts.spool import Spool
from apicas._runtime.environment import process_name
from apicas.modifiers import Owner
from tests.cli.program import Events, Program
from tests.cli.test_tokens import HELD, store


def run(apicas: Program, *command: str, **token: Any) -> None:
    """Push a token and work it once."""
    apicas.write("one.jsonl", '{"_id": "t1", "input": 1}')
    apicas("push", "one.jsonl")
    assert apicas("run", "--max-tokens", "1", *command).code == 0


def held(log: Any) -> dict[str, Any]:
    """A token that is worked, with what a beat has carried."""
    return {"_id": "t1", **HELD, "apicas": {**HELD["apicas"], "log": log}}  # type: ignore[dict-item]


def test_output_and_errors_of_the_last_attempt(apicas: Program) -> None:
    run(apicas, "--", "sh", "-c", "printf out; printf err >&2")
    result = apicas("logs", "t1")
    assert (result.code, result.out, result.err) == (0, "out", "err")
    assert apicas("logs", "-f", "t1").out == "out"


def test_an_earlier_attempt(apicas: Program) -> None:
    run(apicas, "--max-scrub", "3", "--retry-delay", "0", "--", "sh", "-c", "echo first; exit 1")
    run(apicas, "--", "sh", "-c", "echo second")
    assert apicas("logs", "t1").out == "second\n"
    assert apicas("logs", "t1", "--attempt", "1").out == "first\n"
    assert apicas("logs", "t1", "--attempt", "2").out == "second\n"
    missing = apicas("logs", "t1", "--attempt", "7")
    assert (missing.code, "of earlier attempts: 1" in missing.error) == (2, True)


def test_output_in_a_directory_is_found_there(apicas: Program, tmp_path: Path) -> None:
    options = ("--logs", "out", "--max-scrub", "3", "--retry-delay", "0")
    run(apicas, *options, "--", "sh", "-c", "echo first; exit 1")
    run(apicas, *options, "--", "sh", "-c", "echo second")
    assert (tmp_path / "out" / "t1" / "2" / "stdout.txt").read_text() == "second\n"
    assert apicas("logs", "t1").out == "second\n"
    assert apicas("logs", "--attempt", "1", "t1").out == "first\n"


def test_a_token_that_is_not_there_or_has_printed_nothing(apicas: Program) -> None:
    run(apicas, "--", "true")
    assert apicas("logs", "t2").error == "apicas: there is no token 't2'"
    assert "printed nothing" in apicas("logs", "t1").error
    assert "where its pilot prints" in apicas("logs", "t1").error
    apicas("push", stdin='{"_id": "new"}')
    assert apicas("logs", "new").error.endswith("has printed nothing that is kept")


def test_the_files_of_who_attaches_the_output_by_another_name_are_said(apicas: Program) -> None:
    apicas.write("own.py", "def work(token):\n    token.put_attachment('job.out', b'lines')\n")
    apicas("push", stdin='{"_id": "t"}')
    apicas("run", "own:work")
    assert apicas("logs", "t").error.endswith("it has attachments: job.out (`apicas attachments TOKEN NAME`)")


def test_a_running_token_shows_the_files_of_its_pilot(apicas: Program, tmp_path: Path) -> None:
    log = AttemptLog()
    log.stdout.add(b"so far\n\xff")
    Spool(tmp_path / "7", log).write()
    store(apicas, held(log.entry()))
    result = apicas("logs", "t1")
    assert (result.code, result.out) == (0, "so far\n\ufffd") or result.out.startswith("so far\n")


def test_before_the_first_heartbeat_the_files_are_found_by_the_claim(
    apicas: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    owner = Owner(pilot="abc1", hostname="node7", process=process_name(os.getpid()))
    log = AttemptLog()
    log.stdout.add(b"so far\n")
    Spool(log_directory(make_place(owner) / "logs", "t1", 2), log).write()
    entries = {**HELD["apicas"], "process": owner.process, "pilot": owner.pilot}  # type: ignore[dict-item]
    store(apicas, {"_id": "t1", **HELD, "apicas": entries})
    assert apicas("logs", "t1").out == "so far\n"


@pytest.mark.parametrize("process", ["../..", "", 7, None, "a.1.1/.."])
def test_a_claim_leads_nowhere_else(process: Any) -> None:
    assert place_of({"process": process, "pilot": "abc1"}) is None


def test_on_another_node_it_shows_the_last_lines(apicas: Program) -> None:
    store(apicas, held({"path": "/no/such/place", "stdout": "last\n", "stderr": 7}))
    result = apicas("logs", "t1")
    assert (result.code, result.out) == (0, "last\n")
    assert "all of it is on node7, in /no/such/place" in result.error


PATHS = ["relative", "/\0", "/" + "x" * 5000, "/root/../etc/passwd"]


@pytest.mark.parametrize("log", [7, {}, {"stdout": []}, *({"path": path} for path in PATHS)])
def test_odd_entries_do_not_matter(apicas: Program, log: Any) -> None:
    store(apicas, held(log))
    assert apicas("logs", "t1").code == 0


def test_a_lost_pilots_last_words_are_shown(apicas: Program) -> None:
    store(apicas, {"_id": "t1", "apicas": {"generation": 2, "log": {"stdout": "last\n", "host": "node3"}}})
    result = apicas("logs", "t1")
    assert (result.out, "on node3" in result.error) == ("last\n", True)


@pytest.fixture
def go(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "go"
    yield path
    path.touch()


def test_a_running_token_is_followed_to_its_end(apicas: Program, started: Events, go: Path) -> None:
    apicas.write("one.jsonl", '{"_id": "t1"}')
    apicas("push", "one.jsonl")
    script = 'echo first; echo > started; sleep 1.2; echo more; until [ -e "$1" ]; do sleep 0.05; done; echo last'
    lease = ("--lock-timeout", "10s")
    pilot = apicas.start("run", *lease, "--workers", "1", "--", "sh", "-c", script, "sh", str(go))
    started.wait()
    follower = apicas.start("logs", "-f", "t1")
    assert follower.stdout is not None
    assert [follower.stdout.readline() for _ in range(2)] == ["first\n", "more\n"]
    assert pilot.poll() is None
    go.touch()
    assert apicas.finish(pilot).code == 0
    until = time.monotonic() + 60
    out, _ = follower.communicate(timeout=until - time.monotonic())
    assert (follower.returncode, out) == (0, "last\n")
