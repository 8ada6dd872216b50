"""What is measured in one row, and what in it breaks a promise."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from benchmarks.chaos.audit import Audit
from benchmarks.chaos.faults import Fault, Field
from benchmarks.chaos.judging import Findings

_WARM_UP = 1.0
"""Seconds after the first execution that do not count as the speed before the faults."""
_SHORTEST = 1.0
"""Seconds from which on a speed is a speed."""
_MOST_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the pool has at the end of a run."""

    counts: Mapping[str, int]
    total: int
    conflicted: int
    failed: int
    """Tokens in error that were meant to end so."""
    lost: int
    """Tokens that are neither done nor such."""
    audit: Audit
    disk: str
    in_time: bool = True
    seconds: float = 0.0
    left_behind: int = 0
    """Processes that outlived their pilots."""


@dataclass(slots=True, kw_only=True)
class Row:
    """One row of the table."""

    row: str
    store: str
    tokens: int
    done: int
    failed: int
    executions: int
    faults: int
    duplicates: int
    why: dict[str, int]
    duplicates_by_picas: int
    at_once: int
    beside_picas: int
    double_commits: int
    lost: int
    refused: int
    """Outcomes that apicas pilots did not write, since the token was not theirs any more: they noticed."""
    recover: float | None
    """Seconds from the end of a fault to the next outcome that anybody wrote, at most."""
    silence: float | None
    """The longest time in seconds, about a fault, in which nobody wrote an outcome."""
    reclaim: float | None
    """Seconds from a kill or a stop until all that the victim held had been reclaimed, at most."""
    before: float | None
    """Tokens per second before the first fault."""
    after: float | None
    """Tokens per second after the last."""
    seconds: float
    died: int
    """Pilots that ended by themselves with an error."""
    unseen: int
    """Revisions that could not be checked, since the server has forgotten them."""
    note: str = ""
    problems: list[str] = field(default_factory=list)
    """What was promised and not kept."""


def measure(name: str, store: str, field: Field, findings: Findings, outcome: Outcome) -> Row:
    """Put all that is known of a run into a row."""
    ledger, crew, audit = field.ledger, field.crew, outcome.audit
    written = sorted(at for at, _, ending in ledger.endings if ending == "done")
    row = Row(
        row=name,
        store=store,
        tokens=field.tokens,
        done=outcome.counts["done"],
        failed=outcome.failed,
        executions=findings.executions,
        faults=len(field.faults),
        duplicates=findings.duplicates,
        why=dict(findings.why),
        duplicates_by_picas=findings.duplicates_by_picas,
        at_once=len(findings.at_once),
        beside_picas=findings.beside_picas,
        double_commits=len(audit.double),
        lost=outcome.lost,
        refused=sum(ending == "lost" for _, _, ending in ledger.endings),
        recover=_longest(written, [fault.ended for fault in field.faults]),
        silence=_silence(written, field.faults),
        reclaim=_reclaim(field),
        before=_speed_before(field),
        after=_speed_after(field),
        seconds=outcome.seconds,
        died=len(crew.died),
        unseen=audit.unseen,
        note=_note(name, outcome, findings),
    )
    row.problems = _problems(row, findings, outcome)
    return row


def _longest(written: Sequence[float], times: Sequence[float]) -> float | None:
    """The longest wait from one of these times to the next outcome."""
    waits = []
    for at in times:
        place = bisect_left(written, at)
        if place < len(written):
            waits.append(written[place] - at)
    return max(waits, default=None)


def _silence(written: Sequence[float], faults: Sequence[Fault]) -> float | None:
    return max(
        (
            later - earlier
            for earlier, later in pairwise(written)
            if any(earlier <= fault.ended and later >= fault.begun for fault in faults)
        ),
        default=None,
    )


def _reclaim(field: Field) -> float | None:
    waits = []
    for at, pilot in field.ledger.taken_from:
        life = field.crew.lives[pilot]
        hits = [life.killed] if life.killed is not None else [start for start, _ in life.stops]
        waits += [at - max(earlier) for earlier in [[hit for hit in hits if hit <= at]] if earlier]
    return max(waits, default=None)


def _ends(field: Field) -> list[float]:
    """When each token was worked for the first time."""
    first: dict[str, float] = {}
    for execution in field.ledger.executions.values():
        if execution.finished and execution.ended is not None:
            first[execution.token] = min(first.get(execution.token, execution.ended), execution.ended)
    return sorted(first.values())


def _speed(ends: Sequence[float], start: float, end: float) -> float | None:
    if end - start < _SHORTEST:
        return None
    return (bisect_left(ends, end) - bisect_left(ends, start)) / (end - start)


def _speed_before(field: Field) -> float | None:
    ends = _ends(field)
    if not ends:
        return None
    first = min(execution.begun for execution in field.ledger.executions.values()) + _WARM_UP
    until = min((fault.begun for fault in field.faults), default=ends[len(ends) * 19 // 20])
    return _speed(ends, first, until)


def _speed_after(field: Field) -> float | None:
    """From two seconds after the last fault, when its victims are back, until few tokens are left for many workers."""
    ends = _ends(field)
    if not ends or not field.faults:
        return None
    return _speed(ends, max(fault.ended for fault in field.faults) + 2, ends[len(ends) * 19 // 20])


def _note(name: str, outcome: Outcome, findings: Findings) -> str:
    notes = [outcome.disk] if outcome.disk else []
    if findings.stale:
        notes.append(f"{findings.stale} begun on a claim that had been taken away")
    if findings.orphans:
        notes.append(f"{findings.orphans} executions outlived their pilot")
    if outcome.audit.overwritten_by_picas:
        notes.append(f"PiCaS wrote over {outcome.audit.overwritten_by_picas} results")
    if outcome.conflicted:
        notes.append(f"{outcome.conflicted} tokens with more than one leaf")
    if name == "memory":
        notes.append(f"{outcome.failed} harmful tokens in error")
    return "; ".join(notes)


def _problems(row: Row, findings: Findings, outcome: Outcome) -> list[str]:
    found: list[tuple[bool, str, Sequence[Any]]] = [
        (not outcome.in_time, "the time was up", ()),
        (row.lost != 0, f"{row.lost} tokens are lost: {dict(outcome.counts)}", ()),
        (outcome.total != row.tokens, f"the pool has {outcome.total} tokens of {row.tokens}", ()),
        (row.at_once != 0, f"{row.at_once} times a token was worked by two live pilots", findings.at_once),
        (row.double_commits != 0, f"{row.double_commits} generations with two outcomes", outcome.audit.double),
        (bool(outcome.audit.reopened), "tokens were done, and then not", outcome.audit.reopened),
        (bool(outcome.audit.unknown), "results are of no finished execution", outcome.audit.unknown),
        (outcome.left_behind != 0, f"{outcome.left_behind} processes outlived their pilots", ()),
        (bool(findings.unexplained), f"{len(findings.unexplained)} unexplained executions", findings.unexplained),
        (row.row not in {"baseline", "memory"} and not row.faults, "no fault happened: take more tokens", ()),
    ]
    return [
        "; ".join([text, *(str(example) for example in examples[:_MOST_SHOWN])])
        for is_so, text, examples in found
        if is_so
    ]
