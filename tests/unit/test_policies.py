"""Decisions: who may claim, what is stale, whose write it was, and how two edits become one."""

from __future__ import annotations

from random import Random
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas.exceptions import ConfigError
from apicas.modifiers import JOB_ID_FIELDS, BasicTokenModifier, Claim, Owner
from apicas.policies.claiming import (
    MAX_AHEAD,
    MAX_CLAIM,
    MAX_WINDOW,
    Portion,
    Spread,
    choose,
    claim_ahead,
    linger_pause,
    may_claim,
    window_size,
)
from apicas.policies.fence import LEASE_FIELDS, Standing, beat_was_applied, standing
from apicas.policies.lag import LoopLag
from apicas.policies.leases import MIN_LEASE, LeaseTimes, Watch, contact_is_lost, is_stale, lease_of, look_again
from apicas.policies.merging import heal_order, merge, merge_late
from apicas.policies.retries import Backoff, RetryDelays, jittered, tries_again
from apicas.tokens import TokenState, annex, state_of
from tests.unit.json_values import HOSTILE, VALUES
from tests.unit.test_tokens import NOW, token_in

LEASE = 60.0
SEEDS = st.integers(0, 2**32).map(Random)
modifier = BasicTokenModifier()


def claimed(claim_id: str = "c1", now: float = NOW, lease: float = LEASE, **fields: Any) -> dict[str, Any]:
    """A token that an apicas pilot holds."""
    owner = Owner(pilot="p", hostname="node1", job_ids={"slurm_job_id": "7"})
    claim = Claim(claim_id=claim_id, owner=owner, now=now, lease=lease)
    return modifier.lock(token_in(TokenState.TODO, **fields), claim) | {"_rev": "2-a"}


def watched(*times: float, gap: float = 1e9, revisions: str = "") -> Watch:
    """What a pilot saw that looked at these times, at a revision each time, always the same where none are named."""
    watch = None
    for time, revision in zip(times, revisions or "a" * len(times), strict=True):
        watch = look_again(watch, revision, time, gap)
    assert watch is not None
    return watch


def stale(document: dict[str, Any], watch: Watch, now: float = NOW, **options: Any) -> bool:
    return is_stale(document, watch, store_now=now, default_lease=LEASE, **options)


# Staleness: (a), (b) and (c) of the reclaim protocol. ----------------------------------------------------------------


def test_a_token_whose_owner_is_gone_is_stale_at_once() -> None:
    assert stale(claimed(), watched(0), owner_is_gone=True)


@pytest.mark.parametrize(("age", "seen", "expected"), [(121, 30, True), (120, 30, False), (121, 29.9, False)])
def test_after_two_leases_half_of_one_under_our_eyes_is_enough(age: float, seen: float, expected: bool) -> None:
    assert stale(claimed(), watched(0, seen), NOW + age) is expected


@pytest.mark.parametrize(
    ("times", "expected"),
    [((0, 20, 40, 60), True), ((0, 30, 60), False), ((0, 20, 40, 59), False), ((0, 1, 2, 3, 4, 60), True)],
)
def test_four_looks_over_a_lease_need_no_clock_of_the_store(times: tuple[float, ...], expected: bool) -> None:
    """A lock that lies in the future by another host's clock is as old as we have seen it be."""
    assert stale(claimed(now=NOW + 10_000), watched(*times)) is expected


def test_a_beat_starts_the_watch_again() -> None:
    watch = watched(0, 20, 40, 60, revisions="aaab")
    assert (watch.looks, watch.first, watch.beaten) == (1, 60, True)
    assert not stale(claimed(), watch, NOW + 1e6)


def test_a_gap_between_looks_starts_the_watch_again() -> None:
    """After an outage nothing is stale until its owner has had time to come back."""
    watch = watched(0, 20, 40, 400, gap=120)
    assert (watch.looks, watch.first) == (1, 400)
    assert not stale(claimed(), watch, NOW + 1e6)


def test_a_gap_does_not_forget_that_somebody_was_alive() -> None:
    assert watched(0, 20, 400, gap=120, revisions="abb").beaten


@given(st.lists(st.tuples(st.floats(0.1, 200), st.sampled_from("ab")), min_size=1, max_size=20))
def test_a_watch_never_spans_a_beat_or_a_gap(steps: list[tuple[float, str]]) -> None:
    """Its looks are the unbroken end of what was seen."""
    now, watch, run = 0.0, None, list[float]()
    previous = ""
    for pause, revision in steps:
        now += pause
        run = [*run, now] if revision == previous and pause <= 120 else [now]
        previous = revision
        watch = look_again(watch, revision, now, 120)
        assert (watch.first, watch.last, watch.looks) == (run[0], run[-1], len(run))


@pytest.mark.parametrize(
    "document",
    [
        token_in(TokenState.LOCKED),  # PiCaS's
        claimed() | {"lock": NOW + 1},  # PiCaS's, over ours
        claimed() | {"lock": 99},
    ],
)
def test_a_foreign_lock_is_never_stale_unless_the_user_says_when(document: dict[str, Any]) -> None:
    """A PiCaS task may run for 30 hours on one timestamp."""
    watch = watched(*range(0, 100_000, 10_000))
    assert not stale(document, watch, NOW + 1e7)
    assert not stale(document, watch, NOW + 1e7, owner_is_gone=True)
    assert stale(document, watch, NOW + 1e7, foreign_lock_timeout=3600) is (document["lock"] != 99)
    assert not stale(document, watch, NOW + 3600, foreign_lock_timeout=3600)


def test_a_foreign_lock_written_as_text_has_an_age_too() -> None:
    """The view takes it for locked, so it must not stay so for ever."""
    assert stale(token_in(TokenState.LOCKED, lock=f"{NOW}"), watched(0), NOW + 7200, foreign_lock_timeout=3600)


@pytest.mark.parametrize("lease", [0, -5, True, "60", None, [], float("nan")])
def test_an_odd_lease_is_no_lease(lease: Any) -> None:
    assert lease_of({"apicas": {"lease": lease}}, 60.0) in {60.0, MIN_LEASE}


def test_a_token_carries_its_own_lease() -> None:
    assert not stale(claimed(lease=900), watched(0, 20, 40, 60), NOW + 121)
    assert lease_of(claimed(lease=900), 60) == 900
    assert lease_of({"apicas": {"lease": 0.001}}, 60) == MIN_LEASE
    assert lease_of({"apicas": {"lease": 1e308}}, 60) == 60  # else nobody would ever get it back


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", ["lock", "done", "apicas", "claim", "lease", "not_before", "hostname", "type"])
def test_no_token_is_too_odd_to_be_judged(name: str, value: Any) -> None:
    document = claimed()
    if name in document:
        document[name] = value
    else:
        document["apicas"] = {**document["apicas"], name: value, "lock": value}
        document["lock"] = value
    verdicts = (
        stale(document, watched(0, 100), foreign_lock_timeout=5.0),
        may_claim(document, NOW),
        may_claim({**document, "lock": 0}, NOW),
    )
    assert all(isinstance(verdict, bool) for verdict in verdicts)


# Claims. -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", TokenState)
def test_only_a_token_in_todo_may_be_claimed(state: TokenState) -> None:
    assert may_claim(token_in(state), NOW) is (state is TokenState.TODO)


def test_a_token_that_waits_may_not_be_claimed_yet() -> None:
    token = token_in(TokenState.TODO) | {"apicas": {"not_before": NOW + 5}}
    assert not may_claim(token, NOW + 4.9)
    assert may_claim(token, NOW + 5)


@given(st.lists(st.integers(), unique=True), st.integers(0, 50), SEEDS)
def test_a_choice_is_as_many_as_wanted_in_their_order(candidates: list[int], wanted: int, rng: Random) -> None:
    chosen = choose(candidates, wanted, rng)
    assert len(chosen) == min(wanted, len(candidates))
    assert chosen == [candidate for candidate in candidates if candidate in set(chosen)]


def test_pilots_that_look_at_the_same_window_choose_apart() -> None:
    first, second = (set(choose(range(1000), 50, Random(seed))) for seed in (1, 2))
    assert len(first & second) < 25


@given(st.integers(1, MAX_CLAIM), st.integers(1, 16))
def test_a_window_holds_what_is_wanted_and_is_bounded(wanted: int, spread: int) -> None:
    assert wanted <= window_size(wanted, spread) <= MAX_WINDOW


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100))))
def test_the_spread_stays_within_its_bounds(races: list[tuple[int, int]]) -> None:
    spread = Spread()
    for won, lost in races:
        spread = spread.after(won, lost)
        assert spread.least <= spread.factor <= spread.most


def test_the_spread_widens_at_once_and_narrows_slowly() -> None:
    assert Spread(factor=4).after(won=5, lost=5).factor == 8
    assert Spread(factor=4).after(won=10, lost=0).factor == 3
    assert Spread(factor=4).after(won=95, lost=5).factor == 4


CLAIMS = st.tuples(st.integers(1, MAX_CLAIM), st.integers(0, MAX_CLAIM), st.floats(0, 10))


@given(st.lists(CLAIMS))
def test_a_portion_stays_within_its_bounds(claims: list[tuple[int, int, float]]) -> None:
    portion = Portion()
    for wanted, lost, seconds in claims:
        portion = portion.after(wanted, lost, seconds)
        assert portion.least <= portion.size <= portion.most


def test_a_portion_grows_a_bit_and_shrinks_to_half() -> None:
    portion = Portion(size=200)
    assert portion.after(wanted=200, lost=4, seconds=0.1).size == 264
    assert portion.after(wanted=200, lost=5, seconds=0.1).size == 100


def test_only_who_has_met_others_claims_less_from_a_slow_store() -> None:
    alone = Portion(size=200)
    assert alone.after(wanted=200, lost=0, seconds=0.6).size == 264
    met = alone.after(wanted=200, lost=1, seconds=0.1)
    assert met.size == 264
    assert met.after(wanted=264, lost=0, seconds=0.6).size == 132


def test_a_small_claim_says_little_about_portions() -> None:
    """What took long did so for other reasons; and that fewer are wanted is no sign that more could be had."""
    portion = Portion(size=200, is_alone=False)
    assert portion.after(wanted=20, lost=0, seconds=5.0) == portion
    assert portion.after(wanted=20, lost=0, seconds=0.1) == portion


@given(st.floats(0, 1e9), st.integers(1, 1024), st.one_of(st.none(), st.integers(0, 5000)))
def test_claiming_ahead_is_bounded(rate: float, workers: int, asked: int | None) -> None:
    ahead = claim_ahead(rate, workers, asked)
    assert 0 <= ahead <= (MAX_AHEAD if asked is None else asked)
    assert ahead <= 5 * rate  # never more than five seconds' work


@given(st.floats(0, 100), st.integers(0, 100_000), st.floats(2.5, 1e5))
def test_who_lingers_looks_less_often_at_many_locks(backoff: float, looked: int, sweep: float) -> None:
    """But never less often than everybody sweeps, so a dead pilot's token waits no longer."""
    pause = linger_pause(backoff, looked, sweep)
    assert min(backoff, sweep) <= pause <= sweep
    assert pause >= min(looked / 100, sweep)


def test_slow_work_is_claimed_a_few_seconds_ahead_and_slower_work_not_at_all() -> None:
    """More would wait in a busy pilot while another is idle; one by one, each token would cost four requests."""
    assert claim_ahead(rate=64 / 60, workers=64, asked=None) == 5
    assert claim_ahead(rate=64 / 10, workers=64, asked=None) == 16
    assert claim_ahead(rate=64 / 600, workers=64, asked=None) == 0
    assert claim_ahead(rate=0.5, workers=1, asked=None) == 0
    assert claim_ahead(rate=64 / 60, workers=64, asked=2) == 2
    assert claim_ahead(rate=0.0, workers=1, asked=100) == 0
    assert claim_ahead(rate=2000.0, workers=64, asked=None) == 1000


# Times. --------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), SEEDS)
def test_backoff_is_bounded_and_never_zero(attempt: int, rng: Random) -> None:
    backoff = Backoff(first=0.05, factor=2, most=30)
    assert 0.1 * 0.05 <= backoff.delay(attempt, rng) <= min(30, 0.05 * 2 ** min(attempt, 60))


@given(st.floats(0, 1e6), SEEDS)
def test_jitter_is_a_tenth(seconds: float, rng: Random) -> None:
    assert 0.9 * seconds <= jittered(seconds, rng) <= 1.1 * seconds * (1 + 1e-12)


def test_a_lease_gives_time_for_three_failed_beats() -> None:
    times = LeaseTimes(lease=60)
    assert times.heartbeat * 4 <= 60
    assert times.heartbeat + 3 * times.beat_retry < 60
    assert times.sweep * 4 <= 60


@pytest.mark.parametrize("lease", [9.99, 0, -1, float("nan")])
def test_a_lease_that_whole_seconds_would_decide_is_refused(lease: float) -> None:
    with pytest.raises(ConfigError, match="at least 10 s"):
        LeaseTimes(lease=lease)


def test_a_token_is_tried_again_max_scrub_times() -> None:
    assert [tries_again(scrubs, 2) for scrubs in range(4)] == [True, True, False, False]
    assert not tries_again(0, 0)


# Standing. -----------------------------------------------------------------------------------------------------------


def test_an_edit_of_another_field_leaves_the_lease_standing() -> None:
    stored = claimed()
    assert standing(stored, stored | {"_rev": "3-b", "input": 5, "comment": "x"}, "c1") is Standing.OURS


def test_a_token_that_is_gone_is_lost() -> None:
    assert standing(claimed(), None, "c1") is Standing.LOST


@pytest.mark.parametrize("name", LEASE_FIELDS)
def test_a_lease_field_that_somebody_wrote_ends_the_lease(name: str) -> None:
    """PiCaS locks over a held token and leaves our claim in it; its reset script too."""
    stored = claimed()
    assert standing(stored, stored | {name: "other"}, "c1") is Standing.LOST


@pytest.mark.parametrize("end", ["close", "scrub", "release", "set_error"])
def test_our_own_outcome_is_recognised(end: str) -> None:
    stored = claimed()
    ended = getattr(modifier, end)(dict(stored), now=NOW + 5)
    assert standing(stored, ended, "c1") is Standing.SETTLED


def test_a_token_that_was_taken_is_lost() -> None:
    stored = claimed()
    assert standing(stored, modifier.reset(dict(stored), now=NOW + 5), "c1") is Standing.LOST
    assert standing(stored, claimed("c2"), "c1") is Standing.LOST


def test_a_token_that_was_reclaimed_takes_a_late_result_until_somebody_claims_it() -> None:
    stored = claimed()
    free = modifier.reclaim(dict(stored), now=NOW + 5)
    assert standing(stored, free, "c1") is Standing.RECLAIMED
    assert standing(stored, free, "c0") is Standing.LOST
    assert standing(stored, modifier.set_error(dict(free), "too many crashes", None, NOW), "c1") is Standing.RECLAIMED
    again = Claim(claim_id="c2", owner=Owner(pilot="q", hostname="node2"), now=NOW + 6, lease=LEASE)
    assert standing(stored, modifier.lock(dict(free), again), "c1") is Standing.LOST
    assert standing(stored, free | {"lock": NOW + 9}, "c1") is Standing.LOST  # PiCaS's


def test_a_late_result_keeps_generation_and_history_of_the_token() -> None:
    stored = claimed() | {"_id": "t", "_rev": "1-a"}
    free = modifier.reclaim(dict(stored), now=NOW + 5) | {"_rev": "2-b", "note": "edited"}
    outcome = modifier.close(dict(stored) | {"output": 7}, NOW + 9)
    merged = merge_late(stored, outcome, free)
    assert (merged["output"], merged["note"], merged["_rev"], state_of(merged)) == (7, "edited", "2-b", TokenState.DONE)
    assert annex(merged)["generation"] == annex(free)["generation"] > annex(stored)["generation"]
    assert annex(merged)["history"] == annex(free)["history"]
    assert annex(merged)["settled"] == "c1"
    assert "taken" not in annex(merged)


def leaf(generation: int, state: TokenState, claim_id: str = "c") -> dict[str, Any]:
    return token_in(state) | {"apicas": {"generation": generation, "claim": claim_id}}


@given(st.permutations(range(6)))
def test_every_healer_keeps_the_same_leaf(order: list[int]) -> None:
    """No result is lost to a reclaim that a minority took; then by generation and state; the claim settles the rest."""
    ranked = [
        leaf(2, TokenState.DONE),
        leaf(1, TokenState.ERROR),
        leaf(3, TokenState.TODO),
        leaf(2, TokenState.LOCKED, "d"),
        leaf(2, TokenState.LOCKED, "c"),
        leaf(2, TokenState.TODO),
    ]
    assert heal_order([ranked[place] for place in order]) == ranked


def test_a_reset_of_what_had_ended_outlives_outcomes_that_it_did_not_see() -> None:
    """A minority took an outcome, a majority another one, which a person has reset since."""
    early, late = (modifier.close(claimed(), NOW + 1) for _ in range(2))
    again = modifier.reset(dict(late), NOW + 2)
    assert heal_order([early, again]) == [again, early]
    taken = modifier.lock(dict(again), Claim(claim_id="c9", owner=Owner(pilot="q", hostname="n"), now=NOW, lease=LEASE))
    assert heal_order([early, again, taken]) == [taken, again, early]


def test_a_reset_of_a_held_token_does_not_outlive_its_outcome() -> None:
    """Both were written over the same lock; perhaps only a minority has taken the reset."""
    held = claimed()
    reset, done = modifier.reset(dict(held), NOW + 2), modifier.close(dict(held), NOW + 1)
    assert heal_order([reset, done]) == [done, reset]


def test_our_outcome_is_recognised_under_the_next_claim() -> None:
    """We sent it back, the answer got lost, and another pilot was quick."""
    stored = claimed()
    claim = Claim(claim_id="c2", owner=Owner(pilot="q", hostname="node2"), now=NOW + 6, lease=LEASE)
    later = modifier.lock(modifier.scrub(dict(stored), NOW + 5), claim)
    assert standing(stored, later, "c1") is Standing.SETTLED


@given(VALUES)
def test_whatever_is_in_the_sub_object_standing_is_an_answer(value: Any) -> None:
    assert standing(claimed(), claimed() | {"apicas": value}, "c1") is Standing.LOST


def test_a_beat_whose_answer_got_lost_is_recognised_by_its_lock() -> None:
    stored = claimed()
    beaten = modifier.refresh(dict(stored), NOW + 15)
    assert beat_was_applied(stored, beaten, "c1", NOW + 15)
    assert not beat_was_applied(stored, stored, "c1", NOW + 15)
    assert not beat_was_applied(stored, beaten | {"hostname": "other"}, "c1", NOW + 15)


# Merge. --------------------------------------------------------------------------------------------------------------

# Few keys and values, so that both sides meet; True, 1 and 1.0 are told apart.
Fields: TypeAlias = dict[str, Any]
FIELDS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0, 1, True, 1.0, "x", [1]]))


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


@given(FIELDS, FIELDS, FIELDS)
def test_a_merge_takes_each_field_from_who_changed_it(base: Fields, ours: Fields, theirs: Fields) -> None:
    stored = claimed()
    merged = merge(stored | base, stored | ours, stored | theirs | {"_rev": "3-b"})
    for name in "abcd":
        expected = theirs if same(ours.get(name), base.get(name)) else ours
        assert same(merged.get(name), expected.get(name)), name
    assert (merged["_id"], merged["_rev"]) == (stored["_id"], "3-b")


@given(FIELDS, FIELDS)
def test_a_merge_with_no_edit_is_our_outcome(base: Fields, ours: Fields) -> None:
    """Also where it dropped a field."""
    outcome = claimed() | ours
    assert merge(claimed() | base, outcome, claimed() | base) == outcome


def test_the_lease_fields_of_a_merge_are_always_ours() -> None:
    base = claimed()
    outcome = modifier.scrub(dict(base), NOW + 5)
    theirs = base | dict.fromkeys(LEASE_FIELDS, "edited") | {"_rev": "3-b", "apicas": {"claim": "edited"}}
    merged = merge(base, outcome, theirs)
    assert {name: merged.get(name) for name in LEASE_FIELDS} == {name: outcome.get(name) for name in LEASE_FIELDS}
    assert not set(JOB_ID_FIELDS) & set(merged)
    assert merged["apicas"] == outcome["apicas"]


STUB, OTHER_STUB, NEW = {"stub": True, "revpos": 1}, {"stub": True, "revpos": 3}, {"data": "bG9n"}


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged"),
    [
        ({}, {"log": NEW}, {"plot": STUB}, {"log": NEW, "plot": STUB}),
        ({"a": STUB}, {"a": STUB}, {"a": OTHER_STUB}, {"a": OTHER_STUB}),
        ({"a": STUB}, {"a": NEW}, {"a": OTHER_STUB}, {"a": NEW}),
        ({"a": STUB}, {"a": STUB}, {}, {}),  # they deleted it: a stub of nothing fails the whole bulk
        ({"a": STUB}, {"a": NEW}, {}, {"a": NEW}),
        ({"a": STUB}, {}, {"a": STUB}, {}),
        ({"a": STUB}, None, {"a": STUB, "b": STUB}, {"b": STUB}),
        (None, None, {"b": STUB}, {"b": STUB}),
        ("odd", [], {"b": STUB}, {"b": STUB}),
        ({}, {"a": NEW}, "odd", {"a": NEW}),
    ],
)
def test_the_attachments_of_a_merge_are_united(base: Any, ours: Any, theirs: Any, merged: dict[str, Any]) -> None:
    stored = claimed()
    documents = [stored if files is None else stored | {"_attachments": files} for files in (base, ours, theirs)]
    assert merge(*documents).get("_attachments", {}) == merged


# Waiting, lagging, being out of contact. ------------------------------------------------------------------------------


@given(SEEDS, st.floats(0, 6e5), st.integers(1, 10_000))
def test_what_goes_back_waits_within_bounds(rng: Random, retry_delay: float, times: int) -> None:
    delays = RetryDelays.of(retry_delay)
    assert 0 <= delays.after_scrub(times, rng) <= max(retry_delay, 300)
    assert 0 <= delays.after_crash(times, rng) <= max(5 * retry_delay, 900)
    assert 0 <= delays.after_release(times, rng) <= 60


@given(SEEDS, st.floats(0.1, 10), st.integers(1, 5))
def test_each_wait_may_be_twice_as_long_as_the_one_before(rng: Random, retry_delay: float, times: int) -> None:
    delays = RetryDelays.of(retry_delay)
    assert retry_delay * 2 ** (times - 1) / 10 <= delays.after_scrub(times, rng) <= retry_delay * 2 ** (times - 1)
    assert retry_delay * 5 / 10 <= delays.after_crash(times, rng) <= 5 * retry_delay * 2 ** (times - 1)


@given(SEEDS, st.integers(1, 100))
def test_without_a_delay_only_releases_wait(rng: Random, times: int) -> None:
    delays = RetryDelays.of(0)
    assert delays.after_scrub(times, rng) == delays.after_crash(times, rng) == 0
    assert (delays.after_release(times, rng) > 0) is (times >= 10)


@given(SEEDS)
def test_waits_are_spread(rng: Random) -> None:
    """Tokens that failed together do not come back together."""
    assert len({RetryDelays().after_scrub(1, rng) for _ in range(20)}) == 20


@pytest.mark.parametrize("retry_delay", [-0.1, float("nan"), float("inf"), 1e7])
def test_an_odd_retry_delay_is_refused(retry_delay: float) -> None:
    with pytest.raises(ConfigError, match="retry_delay"):
        RetryDelays.of(retry_delay)


def lag(*signs: tuple[float, float]) -> bool:
    state = LoopLag()
    for now, lateness in signs:
        state = state.after(now, lateness)
    return state.blocked


def test_a_loop_that_was_blocked_has_to_be_calm_for_a_while() -> None:
    assert not lag((0, 0.01), (1, 0.9))
    assert lag((0, 1.1))
    assert lag((0, 1.1), (0.1, 0), (2.0, 0))
    assert not lag((0, 1.1), (0.1, 0), (2.1, 0))
    assert lag((0, 1.1), (0.1, 0), (1.5, 0.3), (2.5, 0))  # not calm, so it counts anew
    assert not lag((0, 1.1), (0.1, 0), (1.5, 0.3), (2.5, 0), (4.5, 0))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 5)), max_size=30))
def test_a_loop_is_blocked_after_a_long_lateness_and_not_before_any(steps: list[tuple[float, float]]) -> None:
    now, signs = 0.0, list[tuple[float, float]]()
    for step, lateness in steps:
        now += step + lateness
        signs.append((now, lateness))
    if all(lateness <= 1 for _, lateness in signs):
        assert not lag(*signs)
    if signs and signs[-1][1] > 1:
        assert lag(*signs)


@given(st.floats(0, 1e6), st.floats(0, 1e4), st.floats(10, 1e4))
def test_contact_is_lost_a_lease_after_the_last_beat(refreshed: float, silence: float, lease: float) -> None:
    now = refreshed + silence
    assert contact_is_lost(refreshed, now, lease) is (now - refreshed >= lease)
