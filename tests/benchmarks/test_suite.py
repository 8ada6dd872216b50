"""The suite: from what is asked for to JSON, tables, plots and verdicts. The figures of most tests are made up."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.contenders.listing import CONTENDERS
from benchmarks.measuring import Sample, Spread
from benchmarks.suite import machine as machines
from benchmarks.suite.comparing import compare
from benchmarks.suite.plans import FULL, QUICK, Sweep, stores_of
from benchmarks.suite.plots import draw_all, spread_out
from benchmarks.suite.results import Case, Measurement, Result, load, save
from benchmarks.suite.tables import markdown, ratio_to, verdict_table
from benchmarks.suite.targets import MODULES, SETS
from benchmarks.suite.verdicts import Verdict, parse

QUICKLY = ["--tokens", "20", "--workers", "2", "--repeats", "2"]


def sample(rate: float, tokens: int = 100, **fields: Any) -> Sample:
    known: dict[str, Any] = {
        "tokens": tokens,
        "seconds": tokens / rate,
        "executions": tokens,
        "requests": tokens // 20,
        "sent": tokens * 700,
        "received": tokens * 300,
        "cpu_seconds": tokens / 10_000,
        "memory": 40_000_000,
        "lost_races": 0,
        "latency": Spread(p50=0.01, p95=0.02, p99=0.03),
    }
    return Sample(**{**known, **fields})


def measured(case: Case, *rates: float, **fields: Any) -> list[Measurement]:
    return [
        Measurement(case=case, repeat=repeat, sample=sample(rate, **{"tokens": case.tokens, **fields}))
        for repeat, rate in enumerate(rates)
    ]


def result(*measurements: Measurement, name: str = "stored", **fields: Any) -> Result:
    machine = machines.Machine(
        processor="An Example", cores=2, memory=8_000_000_000, kernel="Linux 6.1", file_system="ext4", load=0.1
    )
    known = {"date": "2026-01-01 12:00", "commit": "0123456789abcdef", "versions": {"Python": "3.11.9"}}
    return Result(name=name, machine=machine, measurements=list(measurements), **{**known, **fields})


OURS = Case(contender="apicas", store="file")
RAW = Case(contender="raw_sqlite", store="file")
STORED = result(
    *measured(OURS, 900.0, 1000.0, 1100.0),
    *measured(RAW, 1900.0, 2000.0, 2100.0),
    *measured(msgspec.structs.replace(OURS, workers=16), 400.0, 500.0, 600.0),
    *measured(msgspec.structs.replace(OURS, pilots=4), 1500.0, 1600.0, 1700.0),
    Measurement(case=Case(contender="saq", store="redis"), repeat=0, left_out="no redis-server on this machine"),
)


# Plans. -------------------------------------------------------------------------------------------------------------


def test_a_sweep_has_all_combinations_that_are_possible() -> None:
    sweep = Sweep(contenders=["apicas", "picas"], stores=["file", "couch", "memory"], workers=[1, 8], pilots=[1, 2])
    cases = sweep.cases()
    assert len(cases) == len(set(cases)) == 14
    assert {case.pilots for case in cases if case.store == "memory"} == {1}
    assert {case.store for case in cases if case.contender == "picas"} == {"couch"}


def test_what_is_compared_is_measured_one_after_the_other() -> None:
    cases = Sweep(contenders=["apicas", "raw_sqlite"], stores=["file"], workers=[1, 8]).cases()
    assert [(case.workers, case.contender) for case in cases] == [
        (1, "apicas"), (1, "raw_sqlite"), (8, "apicas"), (8, "raw_sqlite"),
    ]  # fmt: skip


def test_a_workload_gets_what_it_needs_and_nothing_else() -> None:
    sweep = Sweep(contenders=["apicas"], stores=["file"], workloads=["noop", "sleep", "large"], seconds=2.0, size=9)
    assert [(case.seconds, case.size) for case in sweep.cases()] == [(0.0, 0), (2.0, 0), (0.0, 9)]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("sizes", [FULL, QUICK])
def test_every_case_of_the_targets_is_one_that_its_contender_can_do(name: str, sizes: Any) -> None:
    for case in SETS[name].cases(sizes):
        assert case.store in stores_of(case.contender)
        assert case.workload in CONTENDERS[case.contender].workloads


# Results. -----------------------------------------------------------------------------------------------------------


def test_a_result_is_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "stored.json"
    save(STORED, path)
    assert load(path) == STORED
    assert [one.name for one in path.parent.iterdir()] == ["stored.json"]


def test_a_result_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    save(msgspec.structs.replace(STORED, format=99), path)
    with pytest.raises(ValueError, match="format 99"):
        load(path)


def test_a_case_says_all_that_tells_it_from_others() -> None:
    case = Case(contender="apicas", store="file", workload="sleep", seconds=0.5, batch=7, wal="FULL", pilots=2)
    assert str(case) == "apicas on SQLite: sleep, 0.5 s, 10,000 tokens, 2 x 64 workers, batch 7, synchronous FULL"


def test_a_trial_gets_its_places_which_are_in_no_result(tmp_path: Path) -> None:
    trial = OURS.trial("http://admin:s3cret@host:5984", tmp_path)
    assert (trial.store, trial.directory, trial.tokens) == ("http://admin:s3cret@host:5984", str(tmp_path), 10_000)
    assert {"store": "file"}.items() <= msgspec.to_builtins(OURS).items()


def test_this_machine_is_described_without_its_name(tmp_path: Path) -> None:
    text = msgspec.json.encode([machines.machine(tmp_path), machines.versions()]).decode()
    assert os.uname().nodename not in text
    assert "SQLite" in text


def test_a_case_of_two_sets_is_compared_with_what_was_measured_beside_it() -> None:
    first = measured(OURS, 100.0) + measured(RAW, 200.0)
    second = [msgspec.structs.replace(one, group="later") for one in measured(OURS, 1000.0)]
    both = result(*first, *second)
    assert [one.rate if one else None for one in both.samples(OURS)] == [100.0, 1000.0]
    ratio = ratio_to(both, OURS, RAW)
    assert ratio is not None
    assert (ratio.number, ratio.median) == (1, 0.5)


# Tables. ------------------------------------------------------------------------------------------------------------


def test_the_table_has_medians_ratios_and_what_could_not_be_measured() -> None:
    page = markdown(STORED)
    (raw,) = [line for line in page.splitlines() if line.startswith("| raw loop")]
    cells = [cell.strip() for cell in raw.split("|")]
    assert "2,000" in cells
    assert "2 x" in cells
    assert "1,950 to 2,050" in cells
    assert "An Example, 2 cores" in page
    assert "- saq on Redis: noop, 10,000 tokens, 1 x 64 workers: no redis-server on this machine" in page


def test_a_column_that_nobody_filled_is_left_out() -> None:
    page = markdown(result(*measured(OURS, 10.0, latency=None, lost_races=None)))
    assert "p99 |" not in page
    assert "lost races |" not in page


def test_tokens_that_were_worked_twice_show() -> None:
    page = markdown(result(*measured(OURS, 10.0, 10.0, executions=10_003)))
    (row,) = [line for line in page.splitlines() if line.startswith("| apicas")]
    assert row.split("|")[-3].strip() == "6"


def test_an_upload_is_not_compared_with_work() -> None:
    upload = Case(contender="apicas_upload", store="file")
    page = markdown(result(*measured(OURS, 10.0), *measured(upload, 1000.0)))
    assert page.index("## noop") < page.index("## upload")


def test_a_verdict_says_what_was_measured() -> None:
    table = verdict_table(
        [
            Verdict(name="a", figures={"p99": 0.25, "several": [1, 2]}, target="<= 2", ratio=1.5, met=True),
            Verdict(name="b", figures={}, target=">= 9", ratio=3.0, met=False),
        ]
    )
    assert "| a    | <= 2   | 1.5      | yes    |" in table
    assert "| b    | >= 9   | 3        | **no** |" in table
    assert "- a, <= 2: p99 0.25; several 1 to 2" in table


# Plots. -------------------------------------------------------------------------------------------------------------


def test_plots_are_drawn_for_what_was_swept(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    drawn = {path.name: path.read_text() for path in draw_all(STORED, tmp_path)}
    assert sorted(drawn) == [
        "stored-contenders-noop-1-x-64.svg", "stored-latency.svg", "stored-pilots.svg", "stored-workers.svg",
    ]  # fmt: skip
    assert "apicas is 0.5 x this" in drawn["stored-contenders-noop-1-x-64.svg"]
    assert "workers of each pilot" in drawn["stored-workers.svg"]
    assert str(tmp_path) not in "".join(drawn.values())


def test_the_same_result_gives_the_same_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    first, second = draw_all(STORED, tmp_path / "1"), draw_all(STORED, tmp_path / "2")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@given(st.lists(st.floats(min_value=0, max_value=1), max_size=12))
def test_labels_keep_apart_and_in_order(places: list[float]) -> None:
    moved = spread_out(places, 0.1)
    order = sorted(range(len(places)), key=lambda index: places[index])
    assert all(moved[after] - moved[before] >= 0.1 - 1e-9 for before, after in pairwise(order))
    assert all(to >= place for place, to in zip(places, moved, strict=True))


# Comparisons. ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "says"),
    [
        ((2000.0, 2100.0, 2200.0), "faster"),
        ((500.0, 510.0, 520.0), "slower"),
        ((950.0, 1050.0, 1200.0), "within the noise"),
        ((2000.0,), "too few repeats"),
    ],
)
def test_two_results_are_compared_as_far_as_their_repeats_can_tell(rates: tuple[float, ...], says: str) -> None:
    old, new = result(*measured(OURS, 900.0, 1000.0, 1100.0)), result(*measured(OURS, *rates), *measured(RAW, 5.0))
    table = compare(old, new)
    assert says in table
    assert "raw_sqlite" not in table


# Targets. -------------------------------------------------------------------------------------------------------------


def judged(name: str, rates: dict[str, float], **fields: Any) -> dict[str, Verdict]:
    """The verdicts of a set by target, where each contender had a rate."""
    measurements = []
    for case in SETS[name].cases(QUICK):
        if (rate := rates.get(case.contender)) is not None:
            measurements += measured(case, rate, rate * 2, **fields)
    return {verdict.target: verdict for verdict in SETS[name].judge(measurements, QUICK)}


def test_a_target_is_met_from_its_bound_on() -> None:
    verdicts = judged("couch-one", {"apicas": 2000.0, "raw_couch": 2500.0, "picas": 100.0})
    assert (verdicts[">= 20 x PiCaS"].ratio, verdicts[">= 20 x PiCaS"].met) == (20.0, True)
    assert (verdicts[">= 0.85 x the raw loop"].ratio, verdicts[">= 0.85 x the raw loop"].met) == (0.8, False)
    assert (verdicts["<= 0.06"].ratio, verdicts["<= 0.06"].met) == (0.05, True)


def test_without_a_baseline_nothing_is_said() -> None:
    verdict = judged("couch-one", {"apicas": 2000.0})[">= 20 x PiCaS"]
    assert (verdict.ratio, verdict.met, verdict.note) == (None, None, "one of the two was not measured")


def test_the_best_of_the_queues_is_the_one_to_beat() -> None:
    rates = {"apicas": 30_000.0, "raw_sqlite": 60_000.0, "saq": 3000.0, "huey": 10_000.0, "arq": 4000.0}
    verdict = judged("sqlite-one", rates)[">= 5 x the best of SAQ, arq, streaQ and huey"]
    assert (verdict.ratio, verdict.met) == (3.0, False)


def test_a_token_that_is_worked_twice_or_never_is_not_forgiven() -> None:
    tokens = SETS["couch-eight"].cases(QUICK)[0].tokens
    assert judged("couch-eight", {"apicas": 9.0})["none worked twice"].met is True
    assert judged("couch-eight", {"apicas": 9.0}, executions=tokens + 1)["none worked twice"].met is False
    assert judged("couch-eight", {"apicas": 9.0}, tokens=tokens - 1)["none worked twice"].met is False


def test_two_lost_claims_in_a_hundred_are_too_many() -> None:
    target = "< 2 % of claims lost to races"
    assert judged("couch-eight", {"apicas": 9.0}, lost_races=7)[target].met is True
    assert judged("couch-eight", {"apicas": 9.0}, lost_races=10)[target].met is False


def test_verdicts_are_read_line_by_line() -> None:
    line = '{"name":"idle","figures":{"p99":0.02},"target":"p99 <= 50 ms","ratio":0.4,"met":true}'
    assert [verdict.met for verdict in parse(f"{line}\n{line}\n")] == [True, True]


def test_every_module_of_the_targets_has_a_name_in_the_benchmarks() -> None:
    assert all(one.module.startswith("benchmarks.") for one in MODULES.values())
