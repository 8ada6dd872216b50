"""The model of a big pool: nothing gets lost in it, it is repeatable, and it says what apicas's own pilots do."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec
import pytest

from benchmarks.scaling.__main__ import main
from benchmarks.scaling.cases import Case, Running, lengths, run
from benchmarks.scaling.costs import Costs, Server
from benchmarks.scaling.engine import Engine, Process, Signal
from benchmarks.scaling.pilot import Rules
from benchmarks.scaling.pool import Tokens
from benchmarks.scaling.reality import measure_real
from benchmarks.scaling.report import Report, rounded, steady_cases, table
from benchmarks.scaling.server import Cores, CouchModel
from benchmarks.scaling.storms import idleness, latecomers_of, outage_of, start_of
from benchmarks.scaling.walk import id_of, locked_of, todo_of

SMALL = Server(cores=2)


def a_case(**fields: object) -> Case:
    given = {"pilots": 4, "seconds": 2.0, "server": SMALL, "tokens": 2000, "whole": True, "mixed": False, **fields}
    return Case(name="a case", **given)  # type: ignore[arg-type]  # names of its fields


# The engine. ----------------------------------------------------------------------------------------------------------


def test_a_process_sleeps_waits_and_is_answered() -> None:
    engine = Engine()
    seen: list[tuple[object, ...]] = []
    signal = Signal(engine)

    def waits() -> Process:
        yield 2.0
        seen.append(("slept", engine.now))
        seen.append(("set", (yield signal.wait()), engine.now))
        seen.append(("set", (yield signal.wait(1.0)), engine.now))
        seen.append(("answered", (yield lambda done: engine.call_at(9.0, done, "word")), engine.now))

    engine.start(waits())
    engine.call_at(3.0, signal.set)
    engine.run(20.0)
    assert seen == [("slept", 2.0), ("set", True, 3.0), ("set", False, 4.0), ("answered", "word", 9.0)]
    assert engine.now == 20.0


def test_a_signal_that_nobody_waited_for_is_kept() -> None:
    engine, seen = Engine(), []
    signal = Signal(engine)
    signal.set()

    def waits() -> Process:
        seen.append(((yield signal.wait(5.0)), engine.now))
        seen.append(((yield signal.wait(5.0)), engine.now))

    engine.start(waits())
    engine.run(20.0)
    assert seen == [(True, 0.0), (False, 5.0)]


# The server. ----------------------------------------------------------------------------------------------------------


def test_cores_are_shared_evenly_and_never_used_more_than_they_are() -> None:
    engine, ended = Engine(), []
    cores = Cores(engine, 2)
    for number, seconds in enumerate((1.0, 1.0, 1.0, 4.0)):
        cores.run(seconds, lambda number=number: ended.append((number, engine.now)))  # type: ignore[misc]
    engine.run(100.0)
    assert ended == [(0, 2.0), (1, 2.0), (2, 2.0), (3, 5.0)]
    assert cores.busy == pytest.approx(7.0)


def test_a_fresh_view_waits_for_the_index_of_what_was_written_before_it() -> None:
    def answer_after(documents: int) -> float:
        engine, answered = Engine(), []
        server = CouchModel(engine, Costs(), SMALL)
        if documents:
            server.write(documents, lambda: None, lambda: server.rows(1, lambda: answered.append(engine.now)))
        else:
            server.rows(1, lambda: answered.append(engine.now))
        engine.run(60.0)
        return answered[0]

    # Half of a thousand documents in each of two shards, indexed beside each other.
    assert answer_after(1000) - answer_after(0) > 500 * Costs().index
    assert answer_after(0) == pytest.approx(Costs().round_trip + Costs().request + Costs().row)


def test_bulks_that_wait_for_a_shard_are_committed_together() -> None:
    def together(number: int) -> float:
        engine, answered = Engine(), []
        server = CouchModel(engine, Costs(), Server(cores=64, q=1))
        for _ in range(number):
            server.write(1, lambda: None, lambda: answered.append(engine.now))
        engine.run(60.0)
        assert len(answered) == number
        return answered[-1]

    assert together(50) < 3 * together(1)


@pytest.mark.parametrize(
    ("documents", "connections", "measured"),
    [(1, 1, 436.0), (1, 16, 1411.0), (100, 1, 12_100.0), (1000, 1, 21_900.0), (1000, 4, 22_300.0)],
)
def test_the_costs_give_the_rates_of_writes_that_were_measured(
    documents: int, connections: int, measured: float
) -> None:
    """Within a third: the client was on the same two cores."""
    engine, written = Engine(), [0]
    server = CouchModel(engine, Costs(), SMALL)

    def again() -> None:
        written[0] += documents
        server.write(documents, lambda: None, again)

    for _ in range(connections):
        server.write(documents, lambda: None, again)
    engine.run(20.0)
    assert written[0] / 20 == pytest.approx(measured, rel=1 / 3)


# The pool. ------------------------------------------------------------------------------------------------------------


def test_a_token_is_won_once() -> None:
    tokens = Tokens(10)
    assert tokens.head(3) == [0, 1, 2]
    assert tokens.stretch(0.8, 5) == [8, 9]
    assert tokens.lock([0, 1, 8]) == [0, 1, 8]
    assert tokens.lock([1, 2]) == [2]
    assert tokens.head(2) == [3, 4]
    tokens.release([1])
    assert tokens.head(2) == [1, 3]
    tokens.finish([0, 8])
    assert (tokens.todo, tokens.locked, tokens.done) == (7, 1, 2)


def test_the_index_lists_what_was_locked_since_it_was_brought_up_to_date() -> None:
    tokens = Tokens(10_000)
    tokens.lock([0, 1, 5000], now=3.0)
    tokens.lock([9999], now=4.0)
    tokens.index(3.5)
    assert (tokens.todo, tokens.rows) == (9996, 9997)
    assert tokens.listed(0, 10_000, 2) == [2, 3]
    assert (tokens.rank(4999), tokens.rank(5001), tokens.last_listed()) == (4997, 4998, [9999])
    assert (tokens.locked_before(4999), tokens.locked_before(9998)) == ([1], [5000])
    tokens.release([1])
    tokens.index(5.0)
    assert (tokens.rank(5001), tokens.last_listed()) == (4999, [9998])


def test_a_modelled_view_answers_as_a_real_one() -> None:
    tokens = Tokens(100)
    tokens.lock([10, 11])
    tokens.index(1.0)
    rows = [{"id": id_of(one), "key": id_of(one)} for one in (12, 13)]
    assert todo_of(tokens, {"startkey": "0000001", "limit": 2}) == {"rows": rows, "total_rows": 98, "offset": 10}
    ended = todo_of(tokens, {"startkey": id_of(98), "endkey": id_of(99), "inclusive_end": False, "limit": 9})
    assert [row["id"] for row in ended["rows"]] == [id_of(98)]
    assert todo_of(tokens, {"descending": True, "limit": 1})["rows"][0]["key"] == id_of(99)
    assert locked_of(tokens, {"startkey": id_of(40)})["rows"][0]["id"] == id_of(11)


def test_what_is_written_again_before_the_index_has_it_is_indexed_once() -> None:
    def used(at: float) -> float:
        engine = Engine()
        server = CouchModel(engine, Costs(), SMALL)
        server.write(100, lambda: None, lambda: server.write(100, lambda: None, look, earlier=[at] * 100))

        def look() -> None:
            server.rows(0, lambda: None)

        engine.run(10.0)
        return server.cores.busy

    assert used(-math.inf) - used(0.0) == pytest.approx(100 * Costs().index)


# Pilots. --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["head", "walk"])
@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_every_token_is_worked_once_and_none_is_left(view: str, seconds: float) -> None:
    case = a_case(seconds=seconds, rules=Rules(view=view))  # type: ignore[arg-type]  # one of two texts
    running = Running(case, Costs())
    running.start()
    running.engine.run(math.inf, lambda: running.tally.ended == case.tokens)
    assert (running.tokens.todo, running.tokens.locked) == (0, 0)
    assert running.tally.won == running.tally.ended == case.tokens
    assert running.server.documents["commit"] == case.tokens


@pytest.mark.parametrize("seconds", [0.0, 2.0, 60.0])
def test_no_server_is_used_more_than_it_has_and_no_worker_does_more_than_it_can(seconds: float) -> None:
    case = a_case(seconds=seconds, pilots=20, tokens=10**6, whole=False, mixed=True, warm=15.0, span=20.0)
    for rules in (Rules(), Rules(view="head"), Rules(sweep="due", commit_pause=1.0)):
        measured = run(replace(case, rules=rules))
        assert 0 < measured.utilisation <= 1 + 1e-9
        assert measured.tokens_per_second > 0
        if seconds:
            assert measured.tokens_per_second <= measured.ideal * 1.25  # more may end in a while than on average
        assert 0 <= measured.lost_share < 1
        assert measured.claim_p50 <= measured.claim_p99


def test_more_pilots_never_do_less_as_long_as_the_server_has_cores_to_spare() -> None:
    def rate(pilots: int, seconds: float) -> float:
        case = a_case(pilots=pilots, seconds=seconds, tokens=10**6, whole=False, mixed=True, server=Server(cores=16))
        return run(replace(case, warm=5.0, span=15.0)).tokens_per_second

    for seconds in (2.0, 20.0):
        rates = [rate(pilots, seconds) for pilots in (1, 4, 16)]
        assert rates == sorted(rates)
        assert rates[-1] > 12 * rates[0]


def test_the_same_seed_gives_the_same_figures_and_another_one_others() -> None:
    case = a_case(pilots=8)
    assert run(case) == run(case)
    assert run(case) != run(replace(case, seed=2))


def test_claims_that_walk_meet_less_than_at_the_head() -> None:
    case = a_case(pilots=30, seconds=1.0, tokens=10**6, whole=False, warm=3.0, span=3.0, server=Server(cores=16))
    walk, head = run(case), run(replace(case, rules=Rules(view="head")))
    assert walk.lost_share < 0.02 < head.lost_share


def test_locks_of_long_tokens_are_refreshed_in_time() -> None:
    case = a_case(seconds=3600.0, lease=60.0, tokens=10**6, whole=False, mixed=True, warm=30.0, span=120.0)
    measured = run(case)
    assert measured.beats_per_second == pytest.approx(4 * 64 / 15, rel=0.25)
    assert 15.0 <= measured.oldest_lock < 20.0


def test_lengths_have_the_mean_that_was_asked_for() -> None:
    draw, rng = lengths(60.0), Random(1)
    assert sum(draw(rng) for _ in range(20_000)) / 20_000 == pytest.approx(60.0, rel=0.02)
    assert lengths(0.0)(rng) == 0.0


@pytest.mark.parametrize(("pilots", "seconds", "tokens"), [(1, 0.0, 4000), (4, 1.0, 4000), (3, 30.0, 900)])
@pytest.mark.parametrize("view", ["head", "walk"])
def test_the_model_says_what_the_real_pilots_do(pilots: int, seconds: float, tokens: int, view: str) -> None:
    """Over the same server, in virtual time: the same rate, within a fifth, for about as many requests."""
    case = a_case(pilots=pilots, seconds=seconds, tokens=tokens, rules=Rules(view=view))  # type: ignore[arg-type]
    modelled = run(case)
    real = measure_real(case, Costs(), SMALL, lengths(seconds))
    assert modelled.tokens_per_second == pytest.approx(real.tokens_per_second, rel=0.2)
    if seconds:
        assert modelled.requests_per_token == pytest.approx(real.requests_per_token, rel=0.25)
    assert modelled.lost_share == pytest.approx(real.lost_share, abs=0.12)


# Storms. --------------------------------------------------------------------------------------------------------------


def test_a_start_at_once_gets_all_to_work() -> None:
    storm = start_of(a_case(pilots=50, seconds=60.0, tokens=10**5), over=0.0)
    assert 0 < storm.figures["seconds_until_all_work"] < 30


def test_after_an_outage_locks_are_fresh_before_anybody_may_take_them() -> None:
    case = a_case(pilots=20, seconds=60.0, lease=60.0, tokens=10**5, mixed=True)
    figures = outage_of(case, 120.0).figures
    assert figures["seconds_until_locks_are_fresh"] < figures["first_reclaim_after"]
    assert figures["oldest_lock"] > 120
    assert figures["seconds_until_all_work"] < 60


def test_those_who_linger_cost_more_the_more_locks_they_look_at() -> None:
    case = a_case(pilots=20, seconds=3600.0)
    often, usual, overdue = (
        latecomers_of(replace(case, rules=Rules(feeds="none", sweep=sweep, linger=linger)), seconds=60.0).figures  # type: ignore[arg-type]  # two texts
        for sweep, linger in (("all", "often"), ("all", "locks"), ("due", "often"))
    )
    assert often["bodies_per_second"] > usual["bodies_per_second"] > overdue["bodies_per_second"]
    assert often["cores_used"] > usual["cores_used"]


def test_an_idle_pilot_asks_less_than_twice_a_minute_and_a_token_is_found_at_once() -> None:
    figures = idleness(20, a_case(pilots=20), arrivals=10).figures
    assert 0 < figures["requests_per_pilot_and_minute"] < 2
    assert figures["wait_longest"] < 0.25
    assert figures["looks_per_arrival"] < 60


# The command. ---------------------------------------------------------------------------------------------------------


def test_the_report_is_a_table_of_all_cases() -> None:
    report = Report(steady=[run(replace(case, warm=1.0, span=2.0)) for case in steady_cases([1, 2], [0.0, 1.0], 1)])
    lines = table(report).splitlines()
    assert sum(line.startswith(("| 1 | no-op |", "| 2 | 1 s |")) for line in lines) == 4
    assert len(report.records()["steady"]) == 8
    assert rounded({"a": math.inf, "b": 1234567.0, "c": 3}) == {"a": None, "b": 1235000.0, "c": 3}


def test_the_plot_has_a_name_for_each_line(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.scaling.plot import draw

    entries = [run(replace(case, warm=1.0, span=2.0)) for case in steady_cases([1, 2], [0.0, 1.0], 1)]
    draw(entries, tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    for length in ("no-op", "1 s"):  # in the panel of lost claims those have none that lost none
        assert text.count(f">{length}") >= 3
    assert len(text) < 200_000


def test_numbers_of_pilots_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--pilots", "0"])
    assert "at least 1" in capsys.readouterr().err


def test_the_committed_figures_are_of_this_model() -> None:
    """One of its cases again: whoever changes a cost or a rule runs the whole of it once more."""
    path = Path(__file__).parents[2] / "benchmarks/results/scaling.json"
    stored = msgspec.json.decode(path.read_bytes())
    wanted = next(entry for entry in stored["steady"] if (entry["pilots"], entry["token_seconds"]) == (10, 60.0))
    case = next(case for case in steady_cases([10], [60.0], stored["seed"]) if case.rules.view == wanted["view"])
    assert run(case).tokens_per_second == pytest.approx(wanted["tokens_per_second"], rel=0.1)
