"""Which tokens start now: never more than there is, and the big ones too."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apicas._node.durations import Durations
from apicas._node.inventory import Inventory
from apicas._node.packer import Packer, Patience
from apicas._node.requests import Request, amounts_of
from tests.unit.packing import Node, Work, check, ideal

HAS = {"cores": 8, "memory": 32, "gpus": 2, "license": 3}


def asks(seconds: float | None = None, kind: str = "", **numbers: int) -> Request:
    return Request(amounts=amounts_of(numbers), seconds=seconds, kind=kind)


def packer_of(has: dict[str, int], patience: Patience | None = None) -> Packer[Any]:
    cores = has.get("cores", 0)
    half = cores // 2
    return Packer(Inventory(has, numa=[range(half), range(half, cores)], gpus=["0", "1"]), patience=patience)


REQUESTS = st.builds(
    asks,
    seconds=st.none() | st.sampled_from([0.5, 1.0, 5.0, 50.0]),
    cores=st.integers(0, 8),
    memory=st.integers(0, 32),
    gpus=st.integers(0, 2),
    license=st.integers(0, 3),
)
WORKS = st.lists(st.builds(Work, REQUESTS, st.sampled_from([0.0, 0.5, 1.0, 2.5, 40.0])), min_size=1, max_size=40)
PATIENCE = st.builds(Patience, seconds=st.sampled_from([0.0, 1.0, 30.0, 1e9]), passes=st.none() | st.integers(0, 20))
AHEAD = st.none() | st.sampled_from([0.0, 0.25, 4.0])


@given(WORKS, PATIENCE, AHEAD)
def test_all_that_can_fit_is_started_once_and_never_more_than_there_is(
    works: list[Work], patience: Patience, ahead: float | None
) -> None:
    node = Node(packer_of(HAS, patience), works, ahead=ahead)
    node.run()
    assert sorted(node.starts) == sorted(node.ends) == list(range(len(works)))
    assert dict(node.packer.inventory.free) == HAS
    assert not node.packer.waiting
    assert not node.packer.running


@settings(max_examples=30)
@given(st.data())
def test_tokens_that_come_go_and_are_given_up_in_any_order_leave_no_trace(data: st.DataObject) -> None:
    packer: Packer[int] = packer_of(HAS, Patience(seconds=2.0, passes=3))
    now = 0.0
    for key in range(data.draw(st.integers(1, 40))):
        packer.add(key, data.draw(REQUESTS))
        now += data.draw(st.sampled_from([0.0, 1.0]))
        packer.start(now)
        check(packer)
        if data.draw(st.booleans()) and packer.running:
            packer.end(data.draw(st.sampled_from(sorted(packer.running))), now)
        if data.draw(st.booleans()) and packer.waiting:
            assert packer.remove(data.draw(st.sampled_from(sorted(packer.waiting))))
        check(packer)
    while packer.running or packer.start(now):
        for key in list(packer.running):
            packer.end(key, now)
        packer.start(now)
        check(packer)
    assert not packer.waiting
    assert dict(packer.inventory.free) == HAS


# No starvation. -------------------------------------------------------------------------------------------------------


@given(
    st.integers(2, 8),
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([0.3, 1.0, 1.7, 4.0])), min_size=1, max_size=8),
    st.sampled_from(["nothing", "truth", "too little", "too much"]),
)
def test_a_big_one_starts_within_a_bound_under_an_endless_stream_of_small_ones(
    big: int, stream: list[tuple[int, float]], told: str
) -> None:
    factor = {"nothing": None, "truth": 1.0, "too little": 0.1, "too much": 10.0}[told]
    small = [
        Work(asks(cores=cores, seconds=None if factor is None else takes * factor), takes) for cores, takes in stream
    ]
    works = [*(small * 20)[:20], Work(asks(cores=big), 1.0), *(small * 150)[:150]]
    node = Node(packer_of({"cores": 8}, Patience(seconds=10.0)), works)
    node.run()
    # Passed over for ten seconds, from at most the longest after its claim on; then those that run end, with those that
    # started because they said that they would be over.
    assert node.starts[20] <= node.claimed[20] + 20 * 4.0 + 10.0 + 3 * 4.0


def test_one_that_asks_for_the_whole_node_waits_for_no_more_than_its_share_of_passes() -> None:
    works = [Work(asks(cores=1), 1.0 + key / 100) for key in range(8)]
    works += [Work(asks(cores=8), 1.0)]
    works += [Work(asks(cores=1), 1.0) for _ in range(1000)]
    node = Node(packer_of({"cores": 8}, Patience(seconds=1e9, passes=16)), works)
    node.run()
    passed = sum(1 for key, start in node.starts.items() if key > 8 and start < node.starts[8])
    assert passed == 16


def test_the_next_big_one_has_its_turn_after_the_first() -> None:
    works = [Work(asks(cores=1), 1.0 + key / 100) for key in range(8)]
    works += [Work(asks(cores=8), 1.0), Work(asks(cores=7), 1.0)]
    works += [Work(asks(cores=1), 1.0 + key % 7 / 10) for key in range(400)]
    node = Node(packer_of({"cores": 8}, Patience(seconds=1e9, passes=8)), works)
    node.run()
    assert node.starts[8] < node.starts[9] < 12


# Beside a reservation. ------------------------------------------------------------------------------------------------


def reserved() -> Packer[Any]:
    """Four of eight cores run until 10; the oldest asks for six, and what comes free is kept for it."""
    packer = packer_of({"cores": 8}, Patience(seconds=0.0, passes=0))
    packer.add("running", asks(cores=4, seconds=10.0))
    packer.add("big", asks(cores=6))
    packer.add("passes", asks(cores=1, seconds=1.0, kind="passes"))
    assert [one.key for one in packer.start(0.0)] == ["running", "passes"]
    packer.end("passes", 0.5)
    return packer


@pytest.mark.parametrize(
    ("request_", "starts"),
    [
        (asks(cores=4, seconds=9.0), True),  # over before the big one can start
        (asks(cores=4, seconds=10.0), False),
        (asks(cores=4), False),  # nobody knows
        (asks(cores=2), True),  # beside it, however long
        (asks(cores=3), False),
    ],
)
def test_only_what_does_not_delay_the_one_it_is_kept_for_may_pass(request_: Request, starts: bool) -> None:
    packer = reserved()
    packer.add("later", request_)
    assert [one.key for one in packer.start(1.0)] == (["later"] if starts else [])


def test_what_runs_beside_counts_until_it_ends() -> None:
    packer = reserved()
    for key in ("one", "two", "three"):
        packer.add(key, asks(cores=1, kind=key))  # nobody knows how long
    assert [one.key for one in packer.start(1.0)] == ["one", "two"]
    packer.end("one", 2.0)
    assert [one.key for one in packer.start(2.0)] == ["three"]


def test_nothing_is_put_off_by_those_that_run_longer_than_they_said() -> None:
    packer = reserved()
    packer.add("short", asks(cores=4, seconds=5.0))
    packer.start(1.0)
    for key in range(5):
        packer.add(key, asks(cores=1, seconds=5.0))
    packer.end("running", 10.0)
    assert [one.key for one in packer.start(10.0)] == [0, 1]  # beside it only, though the short one still runs
    packer.end("short", 11.0)
    assert [one.key for one in packer.start(11.0)] == ["big"]


def test_a_short_one_is_found_behind_long_ones_that_ask_the_same() -> None:
    packer = reserved()
    packer.add("long", asks(cores=3, seconds=100.0))
    packer.add("short", asks(cores=3, seconds=1.0))
    assert [one.key for one in packer.start(1.0)] == ["short"]


def test_what_was_kept_is_free_when_the_one_it_was_for_is_given_up() -> None:
    packer = reserved()
    packer.add("later", asks(cores=3))
    assert not packer.start(1.0)
    assert packer.remove("big")
    assert not packer.remove("big")
    assert packer.reservation is None
    assert [one.key for one in packer.start(1.0)] == ["later"]


def test_what_others_took_tells_how_long_the_next_will() -> None:
    durations = Durations()
    durations.ended("short", 2.0)
    packer: Packer[str] = Packer(Inventory({"cores": 8}), durations, Patience(seconds=0.0, passes=0))
    packer.add("running", asks(cores=4, seconds=10.0))
    packer.add("big", asks(cores=6))
    packer.add("passes", asks(cores=1, kind="short"))
    packer.start(0.0)
    packer.add("short", asks(cores=3, kind="short"))
    packer.add("unknown", asks(cores=3, kind="other"))
    assert [one.key for one in packer.start(1.0)] == ["short"]


def test_a_token_that_can_never_start_is_refused_with_the_reason() -> None:
    packer = packer_of(HAS)
    with pytest.raises(ValueError, match="9 cores, and this node has 8 cores"):
        packer.add("big", asks(cores=9))
    packer.add("one", asks(cores=1))
    with pytest.raises(ValueError, match="is here already"):
        packer.add("one", asks(cores=1))


# Makespan. ------------------------------------------------------------------------------------------------------------

DURATIONS: dict[str, Callable[[Random], float]] = {
    "alike": lambda rng: rng.uniform(0.9, 1.1),
    "even": lambda rng: rng.uniform(0.5, 1.5),
    "short": lambda rng: 0.05 + rng.expovariate(20.0),
}


@pytest.mark.parametrize("ahead", [None, 0.25])
@pytest.mark.parametrize(("cores", "durations"), [(2, "alike"), (2, "even"), (2, "short"), (64, "alike"), (64, "even")])
def test_a_thousand_mixed_tokens_take_hardly_longer_than_the_ideal_packing(
    cores: int, durations: str, ahead: float | None
) -> None:
    node, works = thousand(cores, durations, ahead)
    assert node.run() <= 1.05 * ideal(works, cores)


def test_as_long_as_there_are_more_tokens_the_cores_are_in_use() -> None:
    """Without knowing how long they take nobody can keep a long one from being the last, and then others idle."""
    node, works = thousand(64, "short", 0.25)
    node.run()
    last = max(node.starts.values())
    used = sum(
        (min(node.ends[key], last) - node.starts[key]) * work.request.of("cores") for key, work in enumerate(works)
    )
    assert used >= 0.98 * 64 * last


def thousand(cores: int, durations: str, ahead: float | None) -> tuple[Node, list[Work]]:
    rng = Random(1000 + cores)
    works = [Work(asks(cores=rng.choice([1, 2])), DURATIONS[durations](rng)) for _ in range(1000)]
    return Node(packer_of({"cores": cores}), works, ahead=ahead), works
