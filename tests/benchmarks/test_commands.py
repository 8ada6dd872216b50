"""The suite at work: cases run in processes, commands as people type them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import claiming
from benchmarks.contenders.environments import ROOT
from benchmarks.contenders.listing import CONTENDERS
from benchmarks.suite import running
from benchmarks.suite.commands import main
from benchmarks.suite.results import Case, load
from benchmarks.suite.running import Places, run_all, run_module, run_one
from benchmarks.suite.tables import markdown
from benchmarks.suite.targets import MODULES, SETS

QUICKLY = ["--tokens", "20", "--workers", "2", "--repeats", "2"]


def test_cases_are_interleaved_and_what_is_left_out_is_tried_once(tmp_path: Path) -> None:
    ours = Case(contender="apicas", store="memory", tokens=5)
    absent = Case(contender="apicas", store="couch", tokens=5)
    lines: list[str] = []
    found = list(run_all([ours, absent], 2, Places(directory=tmp_path), lines.append))
    assert [(one.case, one.repeat) for one in found] == [(ours, 0), (absent, 0), (ours, 1)]
    assert [one.sample is not None for one in found] == [True, False, True]
    assert "no CouchDB was named" in found[1].left_out
    assert len(lines) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_contender_that_fails_is_noted_and_no_path_or_secret_with_it(tmp_path: Path) -> None:
    places = Places(directory=tmp_path, addresses={"couch": "http://admin:s3cret@127.0.0.1:9"})
    one = run_one(Case(contender="apicas", store="couch", tokens=5), 0, places)
    assert one.sample is None
    assert "no connection" in one.failure
    assert "s3cret" not in one.failure
    assert str(tmp_path) not in one.failure


def test_a_measurement_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    case = Case(contender="apicas", store="file", workload="sleep", tokens=1, workers=1, seconds=1000.0)
    one = run_one(case, 0, Places(directory=tmp_path, limit=2.0))
    assert "it took longer than 2 s" in one.failure
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_does_not_exist_is_said_so(tmp_path: Path) -> None:
    (verdict,) = run_module("benchmarks.nonexistent", Places(directory=tmp_path))
    assert (verdict.met, verdict.note) == (None, "there is no such module")


def test_a_module_that_measures_for_itself_is_understood(tmp_path: Path) -> None:
    (verdict,) = run_module("benchmarks.claiming", Places(directory=tmp_path, quick=True))
    assert verdict.name.startswith("SQLite, claim of 16 in a pool of")
    assert verdict.ratio is not None
    assert verdict.met is (verdict.ratio <= claiming.LIMIT)
    assert list(tmp_path.iterdir()) == []


def test_run_table_plot_and_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.json"
    places = ["--directory", str(tmp_path / "files"), "--output", str(path)]
    asked = ["--contender", "apicas,raw_sqlite", "--store", "file", *QUICKLY, *places]
    assert main(["run", *asked]) == 0
    said = capsys.readouterr()
    assert "[4/4, " in said.err
    stored = load(path)
    assert (stored.name, stored.is_complete, len(stored.measurements)) == ("mine", True, 4)
    assert stored.pragmas["journal_mode"] == "wal"
    assert str(tmp_path) not in path.read_text()
    assert main(["table", str(path)]) == 0
    assert capsys.readouterr().out.strip() == said.out.strip()
    assert main(["compare", str(path), str(path)]) == 0
    assert "too few repeats" in capsys.readouterr().out
    assert list((tmp_path / "files").iterdir()) == []


def test_targets_are_judged_in_one_sitting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "targets.json"
    places = ["--directory", str(tmp_path / "files"), "--output", str(path)]
    main(["targets", "--quick", "--only", "sqlite-four,upload-memory", *places])
    assert "none worked twice" in capsys.readouterr().out
    found = {verdict.target: verdict for verdict in load(path).verdicts}
    assert found["none worked twice"].met is True
    assert len(found) == 3


def test_ctrl_c_keeps_what_is_done_and_leaves_nothing_else(tmp_path: Path) -> None:
    path, files = tmp_path / "cut.json", tmp_path / "files"
    arguments = ["--workload", "noop,sleep", "--seconds", "1000", *QUICKLY, "--store", "file"]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "run", *arguments, "--directory", files, "--output", path],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "[1/4" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    stored = load(path)
    assert (len(stored.measurements), stored.is_complete) == (1, False)
    assert "cut short" in markdown(stored)
    assert list(files.iterdir()) == []


def test_a_ctrl_c_while_a_process_is_being_started_comes_after_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        started.append(actual(command, environment))
        signal.raise_signal(signal.SIGINT)
        return started[0]

    actual = running._start
    monkeypatch.setattr(running, "_start", start)
    with pytest.raises(KeyboardInterrupt):
        run_one(Case(contender="apicas", store="file", tokens=5), 0, Places(directory=tmp_path))
    assert started[0].returncode is not None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--contender", "nobody"], "there is no nobody"),
        (["run", "--workers", "many"], "values, separated by commas"),
        (["run", "--pilots", "0"], "not at least 1"),
        (["targets", "--only", "everything"], "there is no everything"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--couch", "http://admin:s3cret@host:5984"], "a password on the command line"),
        (["run", "--contender", "picas", "--store", "file"], "none of these contenders can do that"),
        (["table", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "s3cret" not in said


def test_the_list_has_everything_that_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*CONTENDERS, *SETS, *MODULES))
