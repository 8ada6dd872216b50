"""What is given out of a node: each core and GPU once, near each other, and given back once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas._node.inventory import THREAD_VARIABLES, Allocation, Inventory
from apicas._node.placement import choose_cores
from apicas._node.requests import Request, amounts_of


def asks(**numbers: int) -> Request:
    return Request(amounts=amounts_of(numbers))


def taken(inventory: Inventory, **numbers: int) -> Allocation:
    allocation = inventory.take(asks(**numbers))
    assert allocation is not None
    return allocation


# Placement. -----------------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 40), min_size=1), st.integers(0, 41), st.integers(1, 20))
def test_as_many_are_chosen_as_are_wanted_each_once_and_all_free(free: set[int], wanted: int, width: int) -> None:
    nodes = [range(start, start + width) for start in range(0, 41, width)]
    wanted = min(wanted, len(free))
    chosen = choose_cores(free, wanted, nodes)
    assert len(chosen) == len(set(chosen)) == wanted
    assert set(chosen) <= free
    if any(len(free & set(node)) >= wanted for node in nodes):
        assert sum(1 for node in nodes if set(chosen) & set(node)) <= 1


@pytest.mark.parametrize(
    ("free", "wanted", "chosen"),
    [
        (range(8), 2, (0, 1)),
        ({0, 2, 3, 4, 5, 6, 7}, 1, (0,)),  # the shortest row
        ({0, 2, 3, 5, 6, 7}, 2, (2, 3)),
        ({0, 1, 2, 3, 4}, 1, (4,)),  # the fuller node stays whole
        ({0, 1, 2, 3, 4, 5, 6}, 3, (4, 5, 6)),
        ({0, 1, 2, 3, 4, 5, 6}, 5, (0, 1, 2, 3, 4)),  # no node has five
        ({0, 2, 5}, 2, (0, 2)),  # in no row, but in one node
        (range(8), 0, ()),
    ],
)
def test_cores_are_chosen_near_each_other_so_that_the_rest_stays_whole(
    free: set[int], wanted: int, chosen: tuple[int, ...]
) -> None:
    assert choose_cores(set(free), wanted, [range(4), range(4, 8)]) == chosen


# Inventory. -----------------------------------------------------------------------------------------------------------


def test_what_is_out_is_out_once_and_what_is_back_is_free() -> None:
    inventory = Inventory({"cores": 4, "gpus": 2, "license": 1}, numa=[range(4)], gpus=["GPU-a", "GPU-b"])
    one = taken(inventory, cores=2, gpus=1, license=1)
    assert (one.cores, one.gpus) == ((0, 1), ("GPU-a",))
    assert inventory.take(asks(cores=1, license=1)) is None
    two = taken(inventory, cores=2, gpus=1)
    assert (two.cores, two.gpus) == ((2, 3), ("GPU-b",))
    assert dict(inventory.free) == {"cores": 0, "gpus": 0, "license": 0}
    inventory.give_back(one)
    assert dict(inventory.free) == {"cores": 2, "gpus": 1, "license": 1}
    with pytest.raises(ValueError, match="is not out"):
        inventory.give_back(one)
    assert taken(inventory, cores=1, gpus=1).gpus == ("GPU-a",)


def test_an_allocation_of_another_inventory_is_not_taken_back() -> None:
    one, other = (Inventory({"cores": 1}) for _ in range(2))
    taken(one, cores=1)
    with pytest.raises(ValueError, match="is not out"):
        one.give_back(taken(other, cores=1))
    assert dict(one.free) == {"cores": 0}


def test_a_token_that_asks_no_core_gets_none() -> None:
    inventory = Inventory({"cores": 1, "memory": 2**20})
    assert taken(inventory, memory=2**20).cores == ()
    assert taken(inventory, cores=1).cores == (0,)


def test_more_cores_than_the_system_knows_have_numbers_and_are_not_pinned() -> None:
    inventory = Inventory({"cores": 4}, numa=[(2, 5)], are_ours=True)
    allocations = [taken(inventory, cores=2) for _ in range(2)]
    assert sorted(core for one in allocations for core in one.cores) == [2, 5, 6, 7]
    assert not any(one.is_pinned for one in allocations)


def test_fewer_cores_than_the_system_knows_are_the_first_ones() -> None:
    inventory = Inventory({"cores": 3}, numa=[(0, 1), (2, 3)], are_ours=True)
    allocation = taken(inventory, cores=3)
    assert allocation.cores == (0, 1, 2)
    assert allocation.is_pinned


def test_gpus_that_nothing_told_of_get_numbers_of_their_own() -> None:
    inventory = Inventory({"gpus": 3}, gpus=["1"])
    assert sorted(taken(inventory, gpus=3).gpus) == ["0", "1", "2"]
    assert Inventory({"gpus": 1}, gpus=["4", "5"]).take(asks(gpus=2)) is None


def test_what_can_never_be_met_is_said_in_words() -> None:
    inventory = Inventory({"cores": 1, "memory": 3 * 2**29})
    assert inventory.never_fits(asks(cores=1, memory=2**20)) == ""
    assert inventory.never_fits(asks(cores=2)) == "it asks for 2 cores, and this node has 1 core"
    assert inventory.never_fits(asks(gpus=1)) == "it asks for 1 GPU, and this node has 0 GPUs"
    assert (
        inventory.never_fits(asks(memory=2**31, license=1))
        == "it asks for 1 of 'license', and this node has 0 of 'license'; "
        "it asks for 2 GiB of memory, and this node has 1.5 GiB of memory"
    )


def test_a_command_is_told_what_it_was_given() -> None:
    inventory = Inventory({"cores": 4, "gpus": 2}, gpus=["3", "GPU-b"], gpu_variable="ROCR_VISIBLE_DEVICES")
    variables = taken(inventory, cores=3, gpus=2).variables()
    assert variables["ROCR_VISIBLE_DEVICES"] == "3,GPU-b"
    assert {variables[name] for name in THREAD_VARIABLES} == {"3"}
    assert taken(inventory, cores=1).variables()["ROCR_VISIBLE_DEVICES"] == ""
    assert set(taken(Inventory({"cores": 1}), cores=1).variables()) == set(THREAD_VARIABLES)
