"""The contenders work all tokens, and count how often: a benchmark that drops or doubles some measures nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from benchmarks.contenders import environments
from benchmarks.contenders.__main__ import SKIPPED, main, measure
from benchmarks.contenders.environments import ROOT, peers
from benchmarks.contenders.listing import CONTENDERS
from benchmarks.contenders.processes import run_together, sample_of, spread
from benchmarks.contenders.worker import Gate
from benchmarks.measuring import Sample, Trial
from tests.couchdb import SERVERS, Server, server

pytest.importorskip("uvloop", reason="the contenders run on uvloop, which is not installed")

QUEUES: Final = tuple(name for name, one in CONTENDERS.items() if one.environment == "peer")
TOKENS: Final = 200


def measured(name: str, directory: Path, **options: Any) -> Sample:
    """One measurement, made here and not by the command."""
    trial = Trial(contender=name, directory=str(directory), **{"tokens": TOKENS, **options})
    return measure(name, msgspec.json.encode(trial))


def check_complete(sample: Sample, tokens: int = TOKENS) -> None:
    """Each token was worked, and once."""
    assert (sample.tokens, sample.executions) == (tokens, tokens), sample
    assert sample.seconds > 0
    assert sample.memory is not None
    assert sample.memory > 1_000_000


class TestFiles:
    @pytest.mark.parametrize("name", ["raw_sqlite", "raw_sqlite_loop"])
    def test_a_raw_loop_works_every_token_once(self, name: str, tmp_path: Path) -> None:
        sample = measured(name, tmp_path, batch=64, workers=8)
        check_complete(sample)
        assert sample.requests == 9  # four claims and four commits, and the claim that finds nothing
        assert sample.latency is not None

    def test_two_raw_loops_on_one_file_share_its_tokens(self, tmp_path: Path) -> None:
        check_complete(measured("raw_sqlite", tmp_path, pilots=2, batch=10))

    def test_an_upload_writes_every_token(self, tmp_path: Path) -> None:
        sample = measured("raw_upload", tmp_path, batch=150)
        check_complete(sample)
        assert sample.requests == 2


@pytest.mark.couchdb
@pytest.mark.parametrize("where", SERVERS)
class TestServers:
    @pytest.fixture
    def store(self, request: pytest.FixtureRequest, where: str) -> str:
        return with_credentials(server(request.config, where))

    @pytest.mark.parametrize("name", ["raw_couch", "raw_couch_two"])
    def test_a_raw_loop_works_every_token_once(self, name: str, store: str, tmp_path: Path) -> None:
        sample = measured(name, tmp_path, store=store, batch=80)
        check_complete(sample)
        assert sample.requests is not None
        assert sample.requests <= 4 * 5 + 2
        assert sample.received

    def test_an_upload_writes_every_token(self, store: str, tmp_path: Path) -> None:
        sample = measured("raw_upload", tmp_path, store=store, batch=150)
        check_complete(sample)
        assert sample.requests == 2

    @pytest.mark.skipif(not environments.PICAS.exists(), reason="no PiCaS in .picas/: `make setup` installs it")
    def test_picas_works_every_token(self, store: str, tmp_path: Path) -> None:
        check_complete(measured("picas", tmp_path, store=store, tokens=20), 20)


def with_credentials(here: Server) -> str:
    """The address of a server as a trial names it."""
    if here.username is None:
        return here.url
    return here.url.replace("://", f"://{here.username}:{here.password}@")


def test_sleeping_workers_sleep_at_the_same_time(tmp_path: Path) -> None:
    sample = measured("raw_sleep", tmp_path, workload="sleep", workers=TOKENS, seconds=0.01, pilots=2)
    check_complete(sample)
    assert sample.seconds >= 0.01


def test_a_bare_spawner_starts_every_command(tmp_path: Path) -> None:
    check_complete(measured("raw_process", tmp_path, workload="process", workers=4, tokens=12), 12)


def start(name: str, directory: Path) -> subprocess.Popen[bytes]:
    """Measure a contender as the suite does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.contenders", name],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(Trial(contender=name, tokens=TOKENS, workers=4, directory=str(directory))))
    process.stdin.close()
    process.stdin = None
    return process


def missing(name: str) -> str:
    """What a queue needs and is not here; empty for nothing."""
    contender = CONTENDERS[name]
    if not (ROOT / ".bench" / contender.module).exists():
        return f"no {contender.module} in .bench/: `make bench-setup` installs it"
    return "no redis-server" if "redis" in contender.stores and not shutil.which("redis-server") else ""


def test_a_queue_works_every_job(tmp_path_factory: pytest.TempPathFactory) -> None:
    # At the same time, and so in one test: each of them waits for its own end longer than it works.
    reasons = {name: missing(name) for name in QUEUES}
    if all(reasons.values()):
        pytest.skip("; ".join(sorted(set(reasons.values()))))
    running = {name: start(name, tmp_path_factory.mktemp(name)) for name, reason in reasons.items() if not reason}
    try:
        for name, process in running.items():
            out, errors = process.communicate(timeout=60)
            assert process.returncode == 0, f"{name}: {errors.decode()}"
            sample = msgspec.json.decode(out, type=Sample)
            check_complete(sample)
            assert sample.upload_seconds
            assert sample.notes
    finally:
        for process in running.values():
            process.kill()
            process.communicate()


class TestCommand:
    def test_what_is_not_installed_is_skipped_with_one_line(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(environments, "_BENCH", tmp_path)
        monkeypatch.setattr(sys, "argv", ["benchmarks.contenders", "saq"])
        assert main() == SKIPPED
        assert capsys.readouterr().err == "saq is not installed: `make bench-setup` installs it\n"

    def test_an_environment_that_is_none_is_not_entered_again(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(environments, "_BENCH", tmp_path)
        monkeypatch.setenv("APICAS_BENCH_PEER", "saq")
        python = tmp_path / "saq" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.touch()
        with pytest.raises(environments.Skipped, match="the environment of saq is broken"):
            environments.enter("saq", "benchmarks.contenders", "saq")

    def test_a_queue_without_a_redis_server_is_skipped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        with pytest.raises(environments.Skipped, match="no redis-server"):
            environments.redis_server()

    def test_a_name_that_nobody_has_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["benchmarks.contenders", "celery"])
        assert main() == 2
        assert "one of apicas" in capsys.readouterr().err

    def test_a_workload_that_a_contender_does_not_have_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="raw_sqlite has no workload sleep"):
            measured("raw_sqlite", tmp_path, workload="sleep")


def test_every_contender_has_its_file_and_every_peer_its_pinned_requirements() -> None:
    directory = Path(environments.__file__).parent
    for contender in CONTENDERS.values():
        assert (directory / f"{contender.module}.py").is_file()
        if contender.environment == "peer":
            assert contender.module in peers()
    for peer in peers():
        lines = (directory / "requirements" / f"{peer}.txt").read_text().splitlines()
        assert lines
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), peer


class TestCounting:
    def test_a_token_that_two_processes_worked_counts_twice(self, capsys: pytest.CaptureFixture[str]) -> None:
        reports = [report_of(capsys, [0, 1, 1]), report_of(capsys, [1, 2])]
        sample = sample_of(Trial(contender="x", tokens=4), 0.0, reports, upload_seconds=None, notes=["word"])
        assert (sample.tokens, sample.executions) == (3, 5)
        assert sample.notes == ["word", "not worked: 1 of 4 tokens"]

    def test_a_process_that_fails_fails_the_measurement(self) -> None:
        with pytest.raises(RuntimeError, match="ended with exit code 1"):
            run_together("benchmarks.contenders.no_such_module", [{"tokens": 1}])

    def test_percentiles_are_of_the_sorted_values(self) -> None:
        found = spread([float(number) for number in reversed(range(100))])
        assert found is not None
        assert (found.p50, found.p95, found.p99) == (50, 95, 99)
        assert spread([]) is None


def report_of(capsys: pytest.CaptureFixture[str], numbers: list[int]) -> dict[str, Any]:
    """What a process reports that worked these tokens of four."""
    gate = Gate(4, (sys.stdin, sys.stdout))
    gate.tally_all(numbers)
    gate.report()
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report
