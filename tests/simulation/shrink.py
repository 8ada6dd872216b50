"""Cuts a failing plan down to a short one that still fails, by leaving out one thing after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.simulation.scenario import Attempt, Plan

MAX_RUNS = 400
"""Plans tried; each takes a tenth of a second."""


def shrink(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """A plan from which nothing can be left out.

    Args:
        plan: one that fails.
        fails: whether a plan fails in the same way.
    """
    runs = 0
    progress = True
    while progress:
        progress = False
        for smaller in _smaller(plan):
            runs += 1
            if runs > MAX_RUNS:
                return plan
            if fails(smaller):
                plan, progress = smaller, True
                break
    return plan


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Plans that are a little simpler, those that lose most first."""
    half = len(plan.faults) // 2
    if half > 1:
        yield replace(plan, faults=plan.faults[:half])
        yield replace(plan, faults=plan.faults[half:])
    for number in range(len(plan.faults)):
        yield replace(plan, faults=plan.faults[:number] + plan.faults[number + 1 :])
    for number in range(len(plan.tokens) if len(plan.tokens) > 1 else 0):
        yield replace(plan, tokens=plan.tokens[:number] + plan.tokens[number + 1 :])
    for number in range(len(plan.pilots) if len(plan.pilots) > 1 else 0):
        yield replace(plan, pilots=plan.pilots[:number] + plan.pilots[number + 1 :])
    if plan.replicas > 1 and not any(pilot.home for pilot in plan.pilots):
        yield replace(plan, replicas=1)
    for number, token in enumerate(plan.tokens):
        for attempts in _simpler(token.attempts):
            changed = replace(token, attempts=attempts)
            yield replace(plan, tokens=(*plan.tokens[:number], changed, *plan.tokens[number + 1 :]))


def _simpler(attempts: tuple[Attempt, ...]) -> Iterator[tuple[Attempt, ...]]:
    if len(attempts) > 1:
        for number in range(len(attempts) - 1):
            yield attempts[:number] + attempts[number + 1 :]
    rounded = tuple(replace(attempt, seconds=float(round(attempt.seconds))) for attempt in attempts)
    if rounded != attempts:
        yield rounded
