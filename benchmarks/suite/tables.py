"""Tables made from results, in Markdown and for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from apicas._bench.figures import duration, latency, median_of, number, per_token, twice
from apicas._bench.statistics import Summary, paired_ratios, summarize
from benchmarks.contenders.listing import CONTENDERS
from benchmarks.suite.results import STORE_NAMES, Case, Result
from benchmarks.suite.verdicts import Verdict

_HEAD: Final = (
    "contender", "store", "tokens/s", "spread", "beside apicas", "p50", "p95", "p99",
    "requests/token", "sent/token", "received/token", "CPU s/1,000", "memory", "twice", "lost races",
)  # fmt: skip
_PER_TOKEN: Final = (
    ("requests", "{:.3g}", 1),
    ("sent", "{:,.0f} B", 1),
    ("received", "{:,.0f} B", 1),
    ("cpu_seconds", "{:.3g}", 1000),
)
LEGEND: Final = """\
*tokens/s*: the median of all repeats, from the moment when all pilots were ready to the last commit. *spread*: the
middle half of the repeats. *beside apicas*: the median of the ratios to apicas in the same repeat, on its fastest store
where they have none in common. *p50, p95, p99*: from the claim of a token to its confirmed outcome, the wait in the
pilot included. *requests*: to the server, or transactions of the file. *CPU s/1,000*: processor time of the pilots for
1,000 tokens, that of a server not included. *memory*: the largest resident set of one pilot. *twice*: executions beyond
one per token, in all repeats. What a contender does not tell is left empty."""


def markdown(result: Result) -> str:
    """The whole page of a result: where, what, how fast, and what could not be measured."""
    parts = [f"# {result.name}", _sitting(result)]
    if result.verdicts:
        parts += ["## Targets", verdict_table(result.verdicts)]
    settings = list(dict.fromkeys(comparable(case) for case in result.cases()))
    tables = [(setting, _table(result, setting)) for setting in settings]
    for setting, table in tables:
        if table:
            parts += [f"## {setting}", table]
    if any(table for _, table in tables):
        parts.append(LEGEND)
    if missing := [f"- {case}: {reason}" for case, reason in result.reasons()]:
        parts += ["## Not measured", "\n".join(missing)]
    if notes := _notes(result):
        parts += ["## Notes", "\n".join(notes)]
    return "\n\n".join(parts) + "\n"


def comparable(case: Case) -> str:
    """What cases have in common that are compared. The number of tokens is not: slow contenders get fewer."""
    if _is_upload(case):
        return "upload"
    tokens = f"{case.tokens:,} tokens, "
    return case.setting.replace(tokens, "")


def _is_upload(case: Case) -> bool:
    return case.contender.endswith("upload")


def _sitting(result: Result) -> str:
    machine, disk = result.machine, result.machine.file_system
    lines = [
        f"{result.date}, commit `{result.commit[:12]}{'+' if result.commit.endswith('+') else ''}`"
        + ("" if result.is_complete else ", **cut short**"),
        f"{machine.processor}, {machine.cores} cores, {machine.memory / 1e9:.0f} GB, {machine.kernel}, files on {disk}",
        f"load before it began: {machine.load:g}",
        ", ".join(f"{name} {number}" for name, number in result.versions.items()),
    ]
    if result.pragmas:
        lines.append("SQLite with " + ", ".join(f"{name}={value}" for name, value in result.pragmas.items()))
    return "\\\n".join(lines)


def _table(result: Result, setting: str) -> str:
    cases = [case for case in result.cases() if comparable(case) == setting and any(result.samples(case))]
    if not cases:
        return ""
    ordered = sorted(cases, key=lambda case: -_rate(result, case))
    rows = [_row(result, case, reference(result, case, cases)) for case in ordered]
    empty = [not any(row[column] for row in rows) for column in range(len(_HEAD))]
    kept = [column for column in range(len(_HEAD)) if not empty[column]]
    return grid([_HEAD[column] for column in kept], [[row[column] for column in kept] for row in rows])


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown that can be read as it is."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def reference(result: Result, case: Case, cases: Sequence[Case]) -> Case | None:
    """The case of apicas that another is compared with: on the same store, else its fastest."""
    ours = [one for one in cases if one.contender == ("apicas_upload" if _is_upload(case) else "apicas")]
    same = [one for one in ours if one.store == case.store]
    return max(same or ours, key=lambda one: _rate(result, one), default=None)


def rate_summary(result: Result, case: Case) -> Summary | None:
    """Tokens per second, over all repeats."""
    return summarize([sample.rate for sample in result.samples(case) if sample is not None])


def ratio_to(result: Result, case: Case, other: Case) -> Summary | None:
    """How many times as fast a case is as another, repeat by repeat."""
    rates = [[one.rate if one else None for one in result.samples(each)] for each in (case, other)]
    return summarize(paired_ratios(rates[0], rates[1]))


def _rate(result: Result, case: Case) -> float:
    summary = rate_summary(result, case)
    return summary.median if summary else 0.0


def _row(result: Result, case: Case, ours: Case | None) -> list[str]:
    found = [sample for sample in result.samples(case) if sample is not None]
    rate = rate_summary(result, case)
    ratio = ratio_to(result, case, ours) if ours is not None and ours != case else None
    races = [one.lost_races for one in found if one.lost_races is not None]
    return [
        CONTENDERS[case.contender].what if case.contender in CONTENDERS else case.contender,
        STORE_NAMES[case.store],
        f"{rate.median:,.0f}" if rate else "",
        f"{rate.lower_quartile:,.0f} to {rate.upper_quartile:,.0f}" if rate and rate.number > 1 else "",
        f"{ratio.median:.3g} x" if ratio else "",
        *(duration(median_of(found, partial(latency, name=name))) for name in ("p50", "p95", "p99")),
        *(number(median_of(found, partial(per_token, name=name)), form, factor) for name, form, factor in _PER_TOKEN),
        number(median_of(found, lambda one: one.memory), "{:.0f} MB", 1e-6),
        "" if (again := twice(found)) is None else str(again),
        f"{sum(races):,}" if races else "",
    ]


def _notes(result: Result) -> list[str]:
    notes = {
        f"- {case.contender}: {note}"
        for case in result.cases()
        for sample in result.samples(case)
        if sample is not None
        for note in sample.notes
    }
    return sorted(notes)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Target, what was measured, and whether it is met; below it the figures behind that."""
    rows = [
        [
            one.name,
            one.target,
            "" if one.ratio is None else f"{one.ratio:.3g}",
            {True: "yes", False: "**no**", None: ""}[one.met],
        ]
        for one in verdicts
    ]
    behind = [
        f"- {one.name}{', ' * bool(one.target)}{one.target}: {said}"
        for one in verdicts
        if (
            said := "; ".join(
                [*(f"{name} {_figure(value)}" for name, value in one.figures.items()), *filter(None, [one.note])]
            )
        )
    ]
    return "\n\n".join([grid(["what", "target", "measured", "met"], rows), "\n".join(behind)])


def _figure(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " to ".join(_figure(one) for one in value) if len(value) == 2 else ", ".join(map(_figure, value))
    return (
        f"{value:,.4g}"
        if isinstance(value, float) and abs(value) < 1000
        else (f"{value:,.0f}" if isinstance(value, (int, float)) else str(value))
    )
