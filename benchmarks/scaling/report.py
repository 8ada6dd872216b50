"""All cases of the page, and what they say: a table for people, and records for the file of results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from benchmarks.scaling.cases import Case, Measured, run
from benchmarks.scaling.costs import Server
from benchmarks.scaling.pilot import Rules
from benchmarks.scaling.storms import Storm, end_of, idleness, latecomers_of, outage_of, start_of

HEAD: Final = Rules(view="head")
NO_SWEEP: Final = Rules(sweep="none")
_SPANS: Final = {60.0: (10.0, 20.0), 3600.0: (30.0, 240.0)}
"""Seconds of warming up and of counting, by the length of a token."""
_SHORT_SPANS: Final = {(0.0, "walk"): (20.0, 20.0), (0.0, "head"): (30.0, 30.0), (1.0, "walk"): (15.0, 15.0)}
"""The same where a server is overloaded: many pilots are served in rounds, and a claim of each takes up to a minute."""


@dataclass(slots=True)
class Report:
    """What was simulated."""

    steady: list[Measured] = field(default_factory=list)
    """By pilots, lengths and views."""
    rules: list[Measured] = field(default_factory=list)
    """One setting under different rules."""
    servers: list[Measured] = field(default_factory=list)
    """One setting on different servers."""
    storms: list[Storm] = field(default_factory=list)

    def records(self) -> dict[str, Any]:
        """As plain JSON."""
        groups: dict[str, Sequence[Any]] = {
            "steady": self.steady,
            "rules": self.rules,
            "servers": self.servers,
            "storms": self.storms,
        }
        return {name: [rounded(asdict(entry)) for entry in entries] for name, entries in groups.items()}


def rounded(value: Any) -> Any:
    """The same with four digits: more are not known."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, float):
        return float(f"{value:.4g}") if value not in {float("inf"), float("-inf")} else None
    return value


def lengths_of(token_seconds: float) -> list[float]:
    """The lengths that are simulated: from no-ops to an hour, and the one that was asked for."""
    return sorted({0.0, 1.0, 60.0, 3600.0, token_seconds})


def spans(seconds: float, view: str) -> tuple[float, float]:
    """Seconds of warming up and of counting."""
    usual = _SPANS.get(seconds, (max(20.0, 0.3 * seconds), max(8.0, 0.2 * seconds)))
    return _SHORT_SPANS.get((seconds, view), usual)


def steady_cases(pilots: Iterable[int], lengths: Iterable[float], seed: int) -> Iterator[Case]:
    """Pilots that have been at work for long, in the middle of a big pool; sweeps are looked at by themselves."""
    for seconds in lengths:
        for number in pilots:
            for rules in (NO_SWEEP, replace(HEAD, sweep="none")):
                warm, span = spans(seconds, rules.view)
                yield Case(name="steady", pilots=number, seconds=seconds, rules=rules, warm=warm, span=span, seed=seed)


def rules_cases(pilots: int, seed: int) -> Iterator[Case]:
    """One setting, under what apicas does, did, and might do."""
    base = Case(name="", pilots=pilots, seconds=60.0, warm=10.0, span=20.0, seed=seed, rules=NO_SWEEP)
    slow = replace(base, seconds=3600.0, warm=30.0, span=240.0)
    yield replace(base, name="one by one: claimed as workers come free", rules=replace(NO_SWEEP, ahead_seconds=0.0))
    yield replace(base, name="claimed a few seconds ahead")
    yield replace(base, name="and outcomes gathered for 3 s", rules=replace(NO_SWEEP, commit_pause=3.0))
    yield replace(base, name="with sweeps of all locks", rules=Rules())
    yield replace(base, name="with sweeps of overdue locks", rules=Rules(sweep="due"))
    yield replace(slow, name="tokens of 1 h, lease 900 s")
    yield replace(slow, name="tokens of 1 h, lease 60 s", lease=60.0, warm=30.0, span=30.0)


def server_cases(pilots: int, seed: int) -> Iterator[Case]:
    """No-ops, to see where each server ends; the last but one has its writers and indexers in more shards."""
    base = Case(name="", pilots=pilots, seconds=0.0, rules=NO_SWEEP, warm=20.0, span=20.0, seed=seed)
    for name, server in (
        ("4 cores, q=2", Server(cores=4)),
        ("16 cores, q=2", Server(cores=16)),
        ("16 cores, q=8", Server(cores=16, q=8)),
        ("64 cores, q=2", Server(cores=64)),
        ("64 cores, q=16", Server(cores=64, q=16)),
        ("3 nodes of 16 cores, q=8", Server(cores=16, nodes=3, q=8)),
    ):
        yield replace(base, name=name, server=server)


def storms(pilots: int, seed: int) -> Iterator[Storm]:
    """What happens at once."""
    case = Case(name="", pilots=pilots, seconds=60.0, rules=NO_SWEEP, seed=seed)
    for rules in (replace(HEAD, sweep="none"), NO_SWEEP):
        yield start_of(replace(case, rules=rules), over=0.0)
    yield start_of(case, over=60.0)
    yield outage_of(case, 600.0)
    yield outage_of(replace(case, lease=60.0), 600.0)
    yield end_of(replace(case, tokens=pilots * 100, rules=Rules()))
    hours = replace(case, seconds=3600.0)
    for rules in (Rules(linger="often"), Rules(), Rules(feeds="all"), Rules(sweep="due")):
        yield latecomers_of(replace(hours, rules=rules), seconds=225.0)
    yield idleness(pilots, case)


def simulate(report: Report, pilots: Sequence[int], token_seconds: float, seed: int) -> Iterator[None]:
    """Run all cases, and note each in the report."""
    most = max(pilots)
    groups = (
        (report.steady, steady_cases(pilots, lengths_of(token_seconds), seed)),
        (report.rules, rules_cases(most, seed)),
        (report.servers, server_cases(most, seed)),
    )
    for entries, cases in groups:
        for case in cases:
            entries.append(run(case))
            yield
    for storm in storms(most, seed):
        report.storms.append(storm)
        yield


# Tables. --------------------------------------------------------------------------------------------------------------


def table(report: Report) -> str:
    """All of it as Markdown."""
    return "\n\n".join(
        [
            _measured_table(report.steady, named=False),
            _measured_table(report.rules, named=True),
            _measured_table(report.servers, named=True),
            _storm_table(report.storms),
        ]
    )


def _measured_table(entries: Sequence[Measured], *, named: bool) -> str:
    head = ["rules, or server"] if named else ["view"]
    titles = [
        *("pilots", "token", *head, "tokens/s", "at work", "requests/s", "per token", "races lost", "read per won"),
        *("claim p50, p99", "beats/s", "oldest lock", "cores", "10 million take"),
    ]
    rows = [
        [
            f"{one.pilots:,}",
            length(one.token_seconds),
            one.name if named else one.view,
            _figure(one.tokens_per_second),
            f"{one.working:.0%}" if one.ideal else "-",
            _figure(one.requests_per_second),
            f"{one.requests_per_token:.2g}",
            f"{one.lost_share:.1%}",
            f"{one.read_per_won:.1f}",
            f"{_time(one.claim_p50)}, {_time(one.claim_p99)}",
            _figure(one.beats_per_second),
            f"{one.oldest_lock:.0f} s",
            f"{one.cores_used:.1f}",
            _time(one.drain_hours * 3600),
        ]
        for one in entries
    ]
    return _markdown(titles, rows)


def _storm_table(entries: Sequence[Storm]) -> str:
    rows = []
    for storm in entries:
        told = ", ".join(f"{name.replace('_', ' ')} {_figure(value)}" for name, value in storm.figures.items())
        rows.append([f"{storm.pilots:,}", storm.name, told])
    return _markdown(["pilots", "what", "figures"], rows)


def _markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def length(seconds: float) -> str:
    """The length of a token, for people."""
    if not seconds:
        return "no-op"
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds:g} s"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time(seconds: float) -> str:
    for unit, name in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
