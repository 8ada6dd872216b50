"""Runs simulations.

python -m tests.simulation --seed 7               one seed: its plan and its whole history
python -m tests.simulation --seeds 0-9999         many: a summary, and each violation cut down to a short case
python -m tests.simulation --mutants              which seed catches which known mistake
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.scenario import FAULT_KINDS, Plan, make_plan
from tests.simulation.shrink import shrink
from tests.simulation.world import Result, run_plan

_SHRUNK = 3
"""Violations that are cut down."""
_TELL_EVERY = 10.0
"""Seconds between two lines of progress."""


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="run one seed, and print its history")
    what.add_argument("--seeds", type=_range, metavar="A-B", help="run many seeds, B included")
    what.add_argument("--mutants", action="store_true", help="look for a seed that catches each known mistake")
    parser.add_argument("--mutant", choices=[mutant.name for mutant in MUTANTS], help="with this mistake")
    parser.add_argument("--jobs", type=int, default=2, help="processes for --seeds")
    parser.add_argument("--limit", type=int, default=300, help="seeds tried for each mistake")
    parser.add_argument("--search", action="store_true", help="with --mutants: look for seeds anew")
    parser.add_argument("--shrink", action="store_true", help="with --seed: print the shortest case instead")
    options = parser.parse_args(arguments)
    mutant = next((one for one in MUTANTS if one.name == options.mutant), None)
    if options.mutants:
        return _list_mutants(options.limit, search=options.search)
    if options.seeds is not None:
        return _run_many(options.seeds, options.jobs, mutant)
    return _run_one(options.seed, mutant, cut_down=options.shrink)


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _run(plan: Plan, mutant: Mutant | None) -> Result:
    with nullcontext() if mutant is None else mutant.put_in():
        return run_plan(plan)


def _run_one(seed: int, mutant: Mutant | None, *, cut_down: bool) -> int:
    plan = make_plan(seed)
    result = _run(plan, mutant)
    if cut_down and result.violations:
        plan = _cut_down(plan, result, mutant)
        result = _run(plan, mutant)
    print(plan)
    print("\n".join(result.lines))
    for violation in result.violations:
        print(f"VIOLATION {violation}")
    return 1 if result.violations else 0


def _cut_down(plan: Plan, result: Result, mutant: Mutant | None) -> Plan:
    invariant = result.violations[0].invariant

    def fails(smaller: Plan) -> bool:
        return any(violation.invariant == invariant for violation in _run(smaller, mutant).violations)

    return shrink(plan, fails)


def _attempt(seed: int, *, mutant: str | None) -> tuple[int, Counter[str], int, list[str]]:
    """Run a seed in another process; what comes back is little."""
    chosen = next((one for one in MUTANTS if one.name == mutant), None)
    try:
        result = _run(make_plan(seed), chosen)
    except Exception as error:  # noqa: BLE001 - said with its seed, and the others go on
        return seed, Counter(), 0, [f"the simulation itself failed: {error!r}"]
    return seed, result.fired, result.executions, [str(violation) for violation in result.violations]


def _run_many(seeds: range, jobs: int, mutant: Mutant | None) -> int:
    name = None if mutant is None else mutant.name
    began = told = time.monotonic()
    fired: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    executions = done = 0
    bad: dict[int, list[str]] = {}
    for seed, faults, worked, violations in _attempts(seeds, jobs, partial(_attempt, mutant=name)):
        fired += faults
        hit.update(faults.keys())
        executions += worked
        done += 1
        if violations:
            bad[seed] = violations
            print(f"seed {seed}: {violations[0]}", flush=True)
        if time.monotonic() - told > _TELL_EVERY:
            told = time.monotonic()
            print(f"{done} seeds in {told - began:.0f} s, {len(bad)} violations", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    print(f"{done} seeds, {executions} executions, {len(bad)} violations in {seconds:.1f} s")
    print("what went wrong, how many times, in how many seeds:")
    for kind, number in sorted(fired.items()):
        print(f"  {kind:34} {number:8} {hit[kind]:8}")
    missing = [kind for kind in FAULT_KINDS if not fired[kind]]
    if missing:
        print(f"never: {', '.join(missing)}")
    for seed in list(bad)[:_SHRUNK]:
        plan = make_plan(seed)
        result = _run(plan, mutant)
        if result.violations:
            print(f"\nseed {seed}, cut down:\n{_cut_down(plan, result, mutant)}\n  {result.violations[0]}")
    return 1 if bad else 0


def _attempts(
    seeds: range, jobs: int, attempt: Callable[[int], tuple[int, Counter[str], int, list[str]]]
) -> Iterator[tuple[int, Counter[str], int, list[str]]]:
    if jobs < 2:
        yield from map(attempt, seeds)
        return
    with ProcessPoolExecutor(jobs) as executor:
        yield from executor.map(attempt, seeds, chunksize=10)


def _list_mutants(limit: int, *, search: bool) -> int:
    missed = 0
    print(f"{'mistake':44} {'seed':>5}  invariant")
    for mutant in MUTANTS:
        seed, found = catch(replace(mutant, seed=None) if search else mutant, limit)
        missed += not found
        print(f"{mutant.name:44} {'' if seed is None else seed:>5}  {found or 'not caught'}", flush=True)
    return 1 if missed else 0


def catch(mutant: Mutant, limit: int) -> tuple[int | None, str]:
    """The seed that catches a mistake, and how: the known one, else the first at which an invariant of its own does."""
    for seed in itertools.chain([] if mutant.seed is None else [mutant.seed], range(limit)):
        violations = _run(make_plan(seed), mutant).violations
        if violations and violations[0].invariant in mutant.invariants:
            return seed, str(violations[0])
    return None, ""


if __name__ == "__main__":
    sys.exit(main())
