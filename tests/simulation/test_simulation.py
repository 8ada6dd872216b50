"""Some hundred seeds hold, every fault kind has fired, and every known mistake is caught."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from apicas.testing import INVARIANTS
from tests.simulation.__main__ import catch, main
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.scenario import FAULT_KINDS, Plan, make_plan
from tests.simulation.shrink import shrink
from tests.simulation.world import Result, run_plan

SEEDS = 240
CHUNK = 20
STORE_FAULTS = (
    "accepted", "conflict leaves", "cut", "delay", "duplicate", "late arrival", "lost answer", "lost arrival",
    "lost request", "no write quorum", "read of a minority", "read of a replica that was behind", "refused",
    "replica paused",
)  # fmt: skip
"""What has to have happened to requests, beside the faults that were planned."""


@cache
def result(seed: int) -> Result:
    return run_plan(make_plan(seed))


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_what_must_hold_holds(first: int) -> None:
    """Print a failing one with `python -m tests.simulation --seed N --shrink`."""
    for seed in range(first, first + CHUNK):
        assert not result(seed).violations, f"seed {seed}"


@pytest.mark.parametrize("seed", [2249, 2589, 4207, 5004, 30244])
def test_what_seeds_have_found_stays_mended(seed: int) -> None:
    """An outcome was confirmed on a branch that another had overtaken by then; one arrived at a replica only later.

    And PiCaS locked over a claim whose pilot was stopped before it began: that is no loss of ours.
    """
    assert not result(seed).violations


def test_every_fault_has_fired() -> None:
    fired: Counter[str] = Counter()
    for seed in range(SEEDS):
        fired += result(seed).fired
    assert {kind for kind in (*FAULT_KINDS, *STORE_FAULTS) if not fired[kind]} == set()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mistake_is_caught(mutant: Mutant) -> None:
    """By the known seed; where a change of the runtime has changed what seeds stand for, by one that is soon found.

    `python -m tests.simulation --mutants` says which; note it beside the mistake.
    """
    seed, _ = catch(mutant, limit=200)
    assert seed is not None


def test_every_invariant_has_caught_a_mistake() -> None:
    assert {invariant for mutant in MUTANTS for invariant in mutant.invariants[:1]} == set(INVARIANTS)


def test_a_seed_is_a_history() -> None:
    """Another process, whose strings hash differently, lives through the same."""
    seed = next(seed for seed in range(SEEDS) if make_plan(seed).replicas == 3)
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(seed)]
    root = Path(__file__).parents[2]
    told = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == [*str(make_plan(seed)).splitlines(), *result(seed).lines]


def test_a_case_is_cut_down() -> None:
    """What is left fails in the same way, and nothing of it can be left out."""
    mutant = next(one for one in MUTANTS if one.name == "heartbeat slower than the lease")
    seed, _ = catch(mutant, limit=200)
    assert seed is not None
    plan = make_plan(seed)
    with mutant.put_in():
        invariant = run_plan(plan).violations[0].invariant

        def fails(smaller: Plan) -> bool:
            return any(violation.invariant == invariant for violation in run_plan(smaller).violations)

        short = shrink(plan, fails)
        assert fails(short)
    assert len(short.faults) < max(1, len(plan.faults))
    assert len(short.pilots) <= len(plan.pilots)
    assert len(short.tokens) == 1


def test_the_command_runs_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "0-3", "--jobs", "1"]) == 0
    assert "4 seeds" in capsys.readouterr().out


def test_the_command_shows_a_violation(capsys: pytest.CaptureFixture[str]) -> None:
    mutant = next(one for one in MUTANTS if one.name == "scrub that forgets the generation")
    seed, _ = catch(mutant, limit=200)
    assert main(["--seed", str(seed), "--mutant", mutant.name]) == 1
    assert "VIOLATION counters grow" in capsys.readouterr().out
