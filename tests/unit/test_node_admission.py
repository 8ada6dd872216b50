"""Which tokens are claimed: what can start here, would be over in time, and is soon to start."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas._node.admission import Admission, Budget, Horizon, Typical, overdue
from apicas._node.durations import MAX_KINDS, RECENT, Durations
from apicas._node.inventory import Inventory
from apicas._node.packer import Packer, Patience
from apicas._node.requests import Refused, Request, amounts_of

TAKES, NOT_NOW, NOT_HERE = Admission.TAKES, Admission.NOT_NOW, Admission.NOT_HERE


def asks(seconds: float | None = None, kind: str = "", **numbers: int) -> Request:
    return Request(amounts=amounts_of(numbers), seconds=seconds, kind=kind)


def packer_of(patience: Patience | None = None, **has: int) -> Packer[str]:
    return Packer(Inventory(has), patience=patience)


def budget_of(packer: Packer[str], *, ahead: float = 0.0, end: float | None = None, now: float = 0.0) -> Budget:
    return Budget(packer, Typical(), Horizon(end=end, margin=10.0), ahead=ahead, now=now)


def judged(budget: Budget, *requests: Request | Refused) -> list[Admission]:
    return [budget.judge(request).admission for request in requests]


def test_as_many_are_claimed_as_can_start_and_may_wait() -> None:
    budget = budget_of(packer_of(cores=4), ahead=0.5)
    assert budget.wanted == 6
    assert judged(budget, *[asks(cores=1)] * 8) == [TAKES] * 6 + [NOT_NOW] * 2
    assert budget.wanted == 0


def test_what_asks_for_more_than_the_node_has_is_left_to_others_and_the_reason_told() -> None:
    budget = budget_of(packer_of(cores=4, memory=2**30))
    answer = budget.judge(asks(cores=5, memory=2**31, license=1))
    assert answer.admission is NOT_HERE
    assert answer.reason == (
        "it asks for 5 cores, and this node has 4 cores; it asks for 1 of 'license', and this node has 0 of 'license'; "
        "it asks for 2 GiB of memory, and this node has 1 GiB of memory"
    )


def test_what_cannot_be_understood_is_left_and_the_reason_told() -> None:
    answer = budget_of(packer_of(cores=4)).judge(Refused("cores: 'many' is no whole number"))
    assert (answer.admission, answer.reason) == (NOT_HERE, "cores: 'many' is no whole number")


def test_another_resource_can_be_what_is_short() -> None:
    budget = budget_of(packer_of(cores=64, memory=8), ahead=0.0)
    assert judged(budget, *[asks(cores=1, memory=2)] * 6) == [TAKES] * 4 + [NOT_NOW] * 2
    assert judged(budget, asks(cores=1)) == [TAKES]


def test_a_busy_node_claims_a_large_one_to_wait_and_no_second() -> None:
    packer = packer_of(cores=8)
    packer.add("runs", asks(cores=1))
    packer.start(0.0)
    budget = budget_of(packer, ahead=0.25)
    assert judged(budget, asks(cores=8), asks(cores=8), asks(cores=5)) == [TAKES, NOT_NOW, TAKES]
    packer.add("large", asks(cores=8))
    packer.start(0.0)
    assert judged(budget_of(packer, ahead=0.25), asks(cores=8)) == [NOT_NOW]


def test_large_ones_wait_in_number_when_much_may_wait() -> None:
    packer = packer_of(cores=1, gpus=1)
    assert judged(budget_of(packer, ahead=10.0), *[asks(cores=1, gpus=1)] * 20) == [TAKES] * 11 + [NOT_NOW] * 9


def test_cores_beside_a_waiting_large_one_are_filled() -> None:
    packer = packer_of(cores=8)
    packer.add("runs", asks(cores=4))
    packer.add("large", asks(cores=8))
    packer.start(0.0)
    budget = budget_of(packer)
    assert budget.wanted == 4
    assert judged(budget, *[asks(cores=1)] * 5) == [TAKES] * 4 + [NOT_NOW]


def test_what_is_kept_for_one_is_not_filled() -> None:
    packer = packer_of(Patience(seconds=0.0, passes=0), cores=8)
    packer.add("runs", asks(cores=4, seconds=100.0))
    packer.add("large", asks(cores=7))
    packer.add("passes", asks(cores=1, seconds=20.0))
    packer.start(0.0)
    packer.add("again", asks(cores=3, seconds=1000.0))
    assert not packer.start(0.0)
    assert packer.remove("again")
    assert packer.reservation is not None
    requests = [asks(cores=1, seconds=50.0), *[asks(cores=1, seconds=200.0)] * 2, asks(cores=2, seconds=200.0)]
    assert judged(budget_of(packer), *requests) == [TAKES, TAKES, NOT_NOW, NOT_NOW]


def test_a_full_node_looks_for_one_to_wait_unless_nothing_may() -> None:
    packer = packer_of(cores=2)
    packer.add("runs", asks(cores=2))
    packer.start(0.0)
    assert budget_of(packer, ahead=0.25).wanted == 1
    assert budget_of(packer, ahead=0.0).wanted == 0


def test_how_many_are_looked_for_follows_from_what_tokens_ask() -> None:
    packer, typical = packer_of(cores=64), Typical()
    assert Budget(packer, typical, Horizon(), ahead=0.0, now=0.0).wanted == 64
    for _ in range(5):
        typical.seen(asks(cores=8))
    assert Budget(packer, typical, Horizon(), ahead=0.0, now=0.0).wanted == 8
    for _ in range(200):
        typical.seen(asks(cores=1, memory=1))
    assert Budget(packer, typical, Horizon(), ahead=0.0, now=0.0).wanted == 0 + 1  # no memory here: one look goes on


REQUESTS = st.builds(asks, cores=st.integers(0, 9), memory=st.integers(0, 70), gpus=st.integers(0, 2))


@given(st.lists(REQUESTS, max_size=60), st.lists(REQUESTS, max_size=10), st.sampled_from([0.0, 0.25, 1.0, 5.0]))
def test_no_more_is_claimed_than_is_free_and_may_wait(
    candidates: list[Request], before: list[Request], ahead: float
) -> None:
    has = {"cores": 8, "memory": 64, "gpus": 1}
    packer: Packer[str] = Packer(Inventory(has))
    for number, request in enumerate(before):
        if not packer.inventory.never_fits(request):
            packer.add(str(number), request)
    packer.start(0.0)
    budget = budget_of(packer, ahead=ahead)
    taken = [request for request in candidates if budget.judge(request).admission is TAKES]
    assert not any(packer.inventory.never_fits(request) for request in taken)
    for name, number in has.items():
        largest = max((request.of(name) for request in taken), default=0)
        # One more may wait than fits, and one large one beside it.
        bound = packer.inventory.free[name] + 2 * ahead * number + 2 * largest
        assert sum(request.of(name) for request in taken) <= bound


# The end of the job. --------------------------------------------------------------------------------------------------


def test_nothing_is_claimed_that_would_not_be_over_in_time() -> None:
    packer = packer_of(cores=8)
    packer.durations.ended("long", 95.0)
    budget = budget_of(packer, end=1000.0, now=900.0)
    answer = budget.judge(asks(cores=1, seconds=91.0))
    assert (answer.admission, answer.reason) == (NOT_HERE, "it takes 91 s, and 90 s of the batch job are left")
    candidates = [asks(cores=1, seconds=90.0), asks(cores=1, kind="long"), asks(cores=1, kind="unknown")]
    assert judged(budget, *candidates) == [TAKES, NOT_HERE, TAKES]
    assert judged(budget, asks(cores=1, kind="long", seconds=1.0)) == [TAKES]  # its own word counts


def test_at_the_end_nothing_at_all_is_claimed() -> None:
    budget = budget_of(packer_of(cores=8), end=1000.0, now=990.0)
    assert budget.wanted == 0
    assert judged(budget, asks(cores=1)) == [NOT_HERE]


def test_what_has_waited_too_long_is_named_with_the_reason() -> None:
    packer = packer_of(cores=1)
    packer.add("runs", asks(cores=1))
    packer.add("long", asks(cores=1, seconds=60.0))
    packer.add("short", asks(cores=1, seconds=6.0))
    packer.start(0.0)
    assert overdue(packer, Horizon(), 1e9) == []
    assert overdue(packer, Horizon(end=100.0), 30.0) == []
    assert overdue(packer, Horizon(end=100.0), 50.0) == [("long", "it takes 60 s, and 50 s of the batch job are left")]


def test_nothing_is_kept_for_one_that_would_not_be_over_in_time() -> None:
    packer = packer_of(Patience(seconds=0.0, passes=0), cores=4)
    packer.add("runs", asks(cores=2, seconds=50.0))
    packer.add("large", asks(cores=4, seconds=60.0))
    packer.add("passes", asks(cores=1, seconds=10.0, kind="passes"))
    packer.start(0.0)
    assert overdue(packer, Horizon(end=110.0), 0.0) == []
    assert overdue(packer, Horizon(end=109.0), 0.0) == [("large", "it takes 60 s, and 59 s of the batch job are left")]


# Durations. -----------------------------------------------------------------------------------------------------------


def test_an_estimate_is_the_longest_of_a_few_and_a_quantile_of_many() -> None:
    durations = Durations()
    assert durations.estimate("a") is None
    for seconds in (3.0, 1.0, 2.0):
        durations.ended("a", seconds)
    assert durations.estimate("a") == 3.0
    for seconds in range(1, 101):
        durations.ended("b", float(seconds))
    assert durations.estimate("b") == 100 - RECENT + 58  # the ninth tenth of the last 64
    assert durations.estimate("a") == 3.0


def test_one_that_was_cut_tells_only_that_they_take_longer() -> None:
    durations = Durations()
    durations.cut("a", 10.0)
    assert durations.estimate("a") == 10.0
    durations.cut("a", 1.0)
    assert durations.estimate("a") == 10.0
    durations.ended("a", 20.0)
    durations.cut("a", 5.0)
    assert durations.estimate("a") == 20.0


def test_kinds_without_number_are_forgotten() -> None:
    durations = Durations()
    durations.ended("first", 1.0)
    assert durations.estimate("first") == 1.0
    for number in range(MAX_KINDS):
        durations.ended(str(number), 1.0)
    assert durations.estimate("first") is None
    assert durations.estimate("0") == 1.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=100), st.floats(0.01, 1.0))
def test_the_quantile_leaves_no_more_above_it_than_it_says(seconds: list[float], quantile: float) -> None:
    durations = Durations(quantile)
    for one in seconds:
        durations.ended("", one)
    estimate = durations.estimate("")
    recent = seconds[-RECENT:]
    assert estimate in recent
    assert sum(one > estimate for one in recent) <= (1 - quantile) * len(recent) + 1e-9


def test_the_packer_learns_from_what_ends_by_itself() -> None:
    packer = packer_of(cores=2)
    for key in ("done", "cut"):
        packer.add(key, asks(cores=1, kind=key))
    packer.start(5.0)
    packer.end("done", 8.0)
    packer.end("cut", 9.0, by_itself=False)
    assert packer.seconds(asks(kind="done")) == 3.0
    assert packer.seconds(asks(kind="cut")) == 4.0
    assert packer.seconds(asks(kind="done", seconds=7.0)) == 7.0
    with pytest.raises(KeyError):
        packer.end("done", 9.0)
