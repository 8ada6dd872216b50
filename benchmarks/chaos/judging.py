"""From what was written down to what is counted: plain functions of executions and of what was done to the pilots.

Rules:
- An execution lasts from its first line to its last, or to the end of its pilot.
- One that its pilot was stopped in, for half a lease or longer, counts as over from the stop on: somebody else may take
  the token then, and the pilot has to notice when it wakes up. What it begins after that counts in full.
- A second execution of a token is explained if the one before it was cut short, stopped, or if its pilot was stopped or
  went away before it had written the outcome; or if the second pilot was stopped after it had claimed the token. Any
  other is not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Final

from benchmarks.chaos.ledger import Execution, Life

WRITTEN_WITHIN: Final = 30.0
"""Seconds after the end of an execution, within which a fault may still be why its outcome was not written."""


@dataclass(slots=True)
class Findings:
    """What the executions of a run show."""

    executions: int = 0
    duplicates: int = 0
    """Executions beyond one per token, by apicas pilots."""
    why: Counter[str] = field(default_factory=Counter)
    """Of these: killed, stopped, handed back, taken by PiCaS; what is `unexplained` should not be."""
    duplicates_by_picas: int = 0
    at_once: list[str] = field(default_factory=list)
    """Tokens that two living apicas pilots worked at one time, and which executions."""
    beside_picas: int = 0
    """Tokens that an apicas and a PiCaS pilot, or two PiCaS pilots, worked at one time."""
    unexplained: list[str] = field(default_factory=list)
    stale: int = 0
    """Executions that began on a claim which others had taken away: by a pilot that had been stopped, and woke up."""
    orphans: int = 0
    """Executions that went on after their pilot had been killed."""


def judge(
    executions: Iterable[Execution], lives: Mapping[str, Life], lease: float, committed: Collection[str]
) -> Findings:
    """Count what should be zero, and what need not be.

    Args:
        executions: all of a run.
        lives: the pilots, by name.
        lease: seconds.
        committed: executions whose result was written.
    """
    findings = Findings()
    by_token: defaultdict[str, list[Execution]] = defaultdict(list)
    for execution in executions:
        findings.executions += 1
        by_token[execution.token].append(execution)
        life = lives[execution.pilot]
        if life.killed is not None and execution.ended is not None and execution.ended > life.killed + 0.1:
            findings.orphans += 1
    for attempts in by_token.values():
        if len(attempts) > 1:
            attempts.sort(key=lambda execution: execution.begun)
            unwritten = [attempt for attempt in attempts if attempt.id not in committed]
            _count_duplicates(attempts, unwritten, lives, lease, findings)
            _count_overlaps(attempts, lives, lease, findings)
    return findings


def count_stale(executions: Iterable[Execution], reclaims: Iterable[tuple[float, str]]) -> int:
    """How many executions began on a claim that had been taken away.

    A claim counts one generation on, and so does a reclaim: after n reclaims no claim has a generation below 2n + 1.
    """
    by_token: defaultdict[str, list[float]] = defaultdict(list)
    for at, token in reclaims:
        by_token[token].append(at)
    return sum(
        execution.generation < 2 * sum(at < execution.begun for at in by_token[execution.token]) + 1
        for execution in executions
        if execution.token in by_token
    )


def _count_duplicates(
    attempts: list[Execution],
    unwritten: list[Execution],
    lives: Mapping[str, Life],
    lease: float,
    findings: Findings,
) -> None:
    for before, execution in pairwise(attempts):
        if lives[execution.pilot].is_picas:
            findings.duplicates_by_picas += 1
            continue
        findings.duplicates += 1
        # A pilot that was stopped wakes up with claims that ran out meanwhile, and has to notice.
        stale = execution.generation < before.generation and bool(lives[execution.pilot].stops)
        reason = "begun after a stop" if stale else explain(before, lives[before.pilot], lease)
        if before not in unwritten and not stale and not lives[before.pilot].is_picas:
            reason = "unexplained"
        findings.why[reason] += 1
        if reason == "unexplained":
            findings.unexplained.append(
                f"{execution.token}: {before.id} (generation {before.generation}, {before.begun:.3f} to "
                f"{before.ended or 0:.3f}), then {execution.id} (generation {execution.generation}, "
                f"{execution.begun:.3f})"
            )


def explain(execution: Execution, life: Life, lease: float) -> str:
    """Why a token may be worked again after this execution of it."""
    if life.is_picas:
        return "after PiCaS"
    if _stop_in(execution, life, lease) is not None:
        return "stopped"
    if execution.error:
        return "killed itself" if execution.error == "ProcessLookupError" else "handed back"
    if execution.ended is None:
        return "killed"
    due = execution.ended + WRITTEN_WITHIN
    if any(execution.ended <= start <= due and until - start >= lease / 2 for start, until in life.stops):
        return "stopped"
    return "killed" if life.gone < due and (life.killed is not None or life.code != 0) else "unexplained"


def span(execution: Execution, life: Life, lease: float) -> tuple[float, float]:
    """From when to when a living pilot worked the token."""
    stop = _stop_in(execution, life, lease)
    ends = [at for at in (execution.ended, stop) if at is not None]
    return execution.begun, min(life.gone, *ends) if ends else life.gone


def _stop_in(execution: Execution, life: Life, lease: float) -> float | None:
    end = life.gone if execution.ended is None else execution.ended
    for start, until in life.stops:
        if until - start >= lease / 2 and execution.begun <= start and end >= start:
            return start
    return None


def _count_overlaps(attempts: list[Execution], lives: Mapping[str, Life], lease: float, findings: Findings) -> None:
    for one, other in combinations(attempts, 2):
        if one.pilot == other.pilot:
            continue
        (_, end), (begin, _) = span(one, lives[one.pilot], lease), span(other, lives[other.pilot], lease)
        if begin >= end:
            continue
        if lives[one.pilot].is_picas or lives[other.pilot].is_picas:
            findings.beside_picas += 1
            continue
        findings.at_once.append(
            f"{one.token}: {one.id} (generation {one.generation}, until {end:.3f}) and {other.id} "
            f"(generation {other.generation}, from {begin:.3f}); "
            f"stops {lives[one.pilot].stops} {lives[other.pilot].stops}"
        )
