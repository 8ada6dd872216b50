"""The targets of the project: what is measured for each, and whether it is met.

A set is a name, the cases behind it, and a function of the measurements, which can be asked again of a stored result.
Ratios are medians of ratios between measurements of one repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from apicas._bench.figures import median_of, per_token
from apicas._bench.statistics import paired_ratios, summarize
from benchmarks.measuring import Sample
from benchmarks.suite.plans import QUEUES, Sizes, case_of, queue_store
from benchmarks.suite.results import Case, Measurement, samples
from benchmarks.suite.verdicts import Verdict

Judge = Callable[[Sequence[Measurement], Sizes], list[Verdict]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """Cases that are measured together, for one or more targets."""

    what: str
    cases: Callable[[Sizes], list[Case]]
    judge: Judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A module that measures for itself; see verdicts.py."""

    what: str
    module: str


def _rates(measurements: Sequence[Measurement], case: Case) -> list[float | None]:
    return [sample.rate if sample is not None and sample.tokens else None for sample in samples(measurements, case)]


def _median(values: Sequence[float | None]) -> float | None:
    summary = summarize([value for value in values if value is not None])
    return None if summary is None else summary.median


def _at_least(
    name: str, target: str, bound: float, measurements: Sequence[Measurement], cases: tuple[Case, Case]
) -> Verdict:
    """That the first of two cases is so many times as fast as the second."""
    ours, theirs = (_rates(measurements, case) for case in cases)
    summary = summarize(paired_ratios(ours, theirs))
    figures: dict[str, Any] = {}
    for case, rates in zip(cases, (ours, theirs), strict=True):
        who = f"{case.contender}, {case.pilots} pilot{'s' if case.pilots > 1 else ''}"
        figures[f"{who}, tokens/s"] = _rounded(_median(rates))
        # Of which others on the machine take less away.
        figures[f"{who}, CPU s/1,000"] = _rounded(_processor_time(measurements, case), 4)
    if summary is None:
        return Verdict(name=name, figures=figures, target=target, note="one of the two was not measured")
    figures["ratios"] = [round(summary.low, 3), round(summary.high, 3)]
    return Verdict(name=name, figures=figures, target=target, ratio=summary.median, met=summary.median >= bound)


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)


def _processor_time(measurements: Sequence[Measurement], case: Case) -> float | None:
    """Seconds for 1,000 tokens, of the pilots."""
    each = median_of(_all(measurements, case), partial(per_token, name="cpu_seconds"))
    return None if each is None else each * 1000


def _all(measurements: Sequence[Measurement], case: Case) -> list[Sample]:
    return [sample for sample in samples(measurements, case) if sample is not None]


def _never_twice(name: str, measurements: Sequence[Measurement], case: Case) -> Verdict:
    found = _all(measurements, case)
    twice = sum((sample.executions or 0) - sample.tokens for sample in found)
    missing = sum(case.tokens - sample.tokens for sample in found)
    return Verdict(
        name=name,
        figures={"tokens": sum(sample.tokens for sample in found), "worked twice": twice, "not worked": missing},
        target="none worked twice",
        met=twice == 0 and missing == 0 if found else None,
        note="" if found else "not measured",
    )


# CouchDB. -------------------------------------------------------------------------------------------------------------


def _couch_one(sizes: Sizes) -> list[Case]:
    return [case_of(name, "couch", sizes.tokens) for name in ("apicas", "raw_couch", "picas")]


def _judge_couch_one(measurements: Sequence[Measurement], sizes: Sizes) -> list[Verdict]:
    ours, raw, picas = _couch_one(sizes)
    name = "CouchDB, one pilot"
    return [
        _at_least(name, ">= 20 x PiCaS", 20, measurements, (ours, picas)),
        _at_least(name, ">= 0.85 x the raw loop", 0.85, measurements, (ours, raw)),
        _requests(measurements, ours),
    ]


def _requests(measurements: Sequence[Measurement], case: Case) -> Verdict:
    name, target = "CouchDB, requests per token at saturation", "<= 0.06"
    per_token = _median(
        [one.requests / one.tokens for one in _all(measurements, case) if one.requests is not None and one.tokens]
    )
    if per_token is None:
        return Verdict(name=name, figures={}, target=target, note="not measured")
    figures = {"requests per token": round(per_token, 4)}
    return Verdict(name=name, figures=figures, target=target, ratio=per_token, met=per_token <= 0.06)


def _couch_eight(sizes: Sizes) -> list[Case]:
    return [case_of(name, "couch", sizes.tokens, pilots=8) for name in ("apicas", "picas")]


def _judge_couch_eight(measurements: Sequence[Measurement], sizes: Sizes) -> list[Verdict]:
    ours, picas = _couch_eight(sizes)
    name = "CouchDB, eight pilots"
    return [
        _at_least(name, ">= 16 x PiCaS", 16, measurements, (ours, picas)),
        _never_twice(name, measurements, ours),
        _races(name, measurements, ours),
    ]


def _races(name: str, measurements: Sequence[Measurement], case: Case) -> Verdict:
    target = "< 2 % of claims lost to races"
    found = [one for one in _all(measurements, case) if one.lost_races is not None]
    shares = [(one.lost_races or 0) / (one.tokens + (one.lost_races or 0)) for one in found if one.tokens]
    share = _median(shares)
    if share is None:
        return Verdict(name=name, figures={}, target=target, note="not measured")
    figures = {"lost claims": [one.lost_races for one in found], "share": round(share, 4)}
    return Verdict(name=name, figures=figures, target=target, ratio=share, met=share < 0.02)


# SQLite. --------------------------------------------------------------------------------------------------------------


def _sqlite_one(sizes: Sizes) -> list[Case]:
    queues = [case_of(queue, queue_store(queue), sizes.tokens) for queue in QUEUES]
    return [*(case_of(name, "file", sizes.file_tokens) for name in ("apicas", "raw_sqlite")), *queues]


def _judge_sqlite_one(measurements: Sequence[Measurement], sizes: Sizes) -> list[Verdict]:
    ours, raw, *queues = _sqlite_one(sizes)
    name = "SQLite, one pilot"
    best = max(queues, key=lambda case: _median(_rates(measurements, case)) or 0.0)
    verdict = _at_least(name, ">= 5 x the best of SAQ, arq, streaQ and huey", 5, measurements, (ours, best))
    return [_at_least(name, ">= 0.5 x the bare loop", 0.5, measurements, (ours, raw)), verdict]


def _sqlite_four(sizes: Sizes) -> list[Case]:
    return [case_of("apicas", "file", sizes.file_tokens, pilots=pilots) for pilots in (4, 1)]


def _judge_sqlite_four(measurements: Sequence[Measurement], sizes: Sizes) -> list[Verdict]:
    four, one = _sqlite_four(sizes)
    name = "SQLite, four pilots"
    return [
        _at_least(name, ">= 1.0 x one pilot", 1.0, measurements, (four, one)),
        _never_twice(name, measurements, four),
    ]


# Uploads. -------------------------------------------------------------------------------------------------------------


def _upload_couch(sizes: Sizes) -> list[Case]:
    return [case_of(name, "couch", sizes.uploaded) for name in ("apicas_upload", "raw_upload")]


def _judge_upload_couch(measurements: Sequence[Measurement], sizes: Sizes) -> list[Verdict]:
    ours, raw = _upload_couch(sizes)
    return [_at_least("CouchDB, upload", ">= 0.85 x raw", 0.85, measurements, (ours, raw))]


def _upload_sqlite(sizes: Sizes) -> list[Case]:
    return [case_of(name, "file", sizes.uploaded) for name in ("apicas_upload", "raw_upload")]


def _judge_upload_sqlite(measurements: Sequence[Measurement], sizes: Sizes) -> list[Verdict]:
    ours, raw = _upload_sqlite(sizes)
    return [_at_least("SQLite, upload", ">= 0.5 x raw", 0.5, measurements, (ours, raw))]


def _upload_memory(sizes: Sizes) -> list[Case]:
    return [case_of("apicas_upload", "file", tokens) for tokens in (sizes.streamed, sizes.streamed // 20)]


def _judge_upload_memory(measurements: Sequence[Measurement], sizes: Sizes) -> list[Verdict]:
    name, target = "upload, memory", "constant for 1,000,000 tokens from a stream: <= 1.1 x that of a twentieth"
    many, few = ([one.memory for one in _all(measurements, case)] for case in _upload_memory(sizes))
    ratio = _median(list(paired_ratios(many, few)))
    if ratio is None:
        return [Verdict(name=name, figures={}, target=target, note="not measured")]
    figures = {"MB of many": [(one or 0) / 1e6 for one in many], "MB of few": [(one or 0) / 1e6 for one in few]}
    return [Verdict(name=name, figures=figures, target=target, ratio=ratio, met=ratio <= 1.1)]


SETS: Final[dict[str, Set]] = {
    "couch-one": Set(
        what="no-op tokens on CouchDB, one pilot: beside PiCaS and the raw loop; requests per token",
        cases=_couch_one,
        judge=_judge_couch_one,
    ),
    "couch-eight": Set(
        what="eight pilots on one CouchDB: beside PiCaS; worked twice, lost races",
        cases=_couch_eight,
        judge=_judge_couch_eight,
    ),
    "sqlite-one": Set(
        what="no-op tokens in a file, one pilot: beside a bare loop, and the task queues",
        cases=_sqlite_one,
        judge=_judge_sqlite_one,
    ),
    "sqlite-four": Set(what="four pilots on one file, beside one", cases=_sqlite_four, judge=_judge_sqlite_four),
    "upload-couch": Set(what="upload, beside raw bulk requests", cases=_upload_couch, judge=_judge_upload_couch),
    "upload-sqlite": Set(what="upload, beside raw executemany", cases=_upload_sqlite, judge=_judge_upload_sqlite),
    "upload-memory": Set(what="memory of a long upload", cases=_upload_memory, judge=_judge_upload_memory),
}
MODULES: Final[dict[str, Module]] = {
    "sleeping": Module(what="many tokens that sleep: how near to the ideal", module="benchmarks.sleeping"),
    "spawning": Module(what="tokens as processes, beside a bare spawner", module="benchmarks.spawning"),
    "packing": Module(what="tokens of one and two cores: how near to the ideal packing", module="benchmarks.packing"),
    "computing": Module(what="Python computing in worker processes, beside bare ones", module="benchmarks.computing"),
    "claiming": Module(what="claims in a pool of 1,000,000 tokens, beside 1,000", module="benchmarks.claiming"),
    "memory": Module(what="memory of a pilot over 1,000,000 tokens", module="benchmarks.memory"),
    "latency": Module(
        what="from an upload to the start of the token, and an idle pilot's requests", module="benchmarks.latency"
    ),
    "startup": Module(what="start of the command line", module="benchmarks.startup"),
}
