"""Cases: so many pilots, tokens of some length, rules and a server; and what was measured of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from benchmarks.scaling.costs import Costs, Server
from benchmarks.scaling.engine import Engine
from benchmarks.scaling.pilot import Duration, Pilot, Rules, Setting, Tally
from benchmarks.scaling.pool import Tokens
from benchmarks.scaling.server import CouchModel

POOL: Final = 10_000_000
"""Tokens."""
WIDTH: Final = 0.5
"""Of the log-normal that lengths are drawn from: the longest in a hundred takes three times the mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is simulated.

    Args:
        name: for tables.
        seconds: the mean length of a token; 0 for no-ops.
        warm: seconds before anything is counted.
        span: seconds that are counted.
        whole: until all tokens are done, and not a span.
        beside: whether the pilots run on the server's own cores, as on one machine.
        mixed: whether pilots have been at work for long when it begins, so that their first tokens end at any time.
    """

    name: str
    pilots: int
    seconds: float = 60.0
    rules: Rules = field(default_factory=Rules)
    server: Server = field(default_factory=Server)
    workers: int = 64
    lease: float = 900.0
    tokens: int = POOL
    warm: float = 20.0
    span: float = 20.0
    whole: bool = False
    beside: bool = False
    mixed: bool = True
    lingers: bool = False
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a case came to. Rates are per second, times in seconds."""

    name: str
    pilots: int
    token_seconds: float
    view: str
    tokens_per_second: float
    ideal: float
    """Tokens per second if nothing but the workers set a limit; 0 for no-ops, where there is none."""
    working: float
    """The part of the workers' time that went into tokens."""
    requests_per_second: float
    requests_per_token: float
    lost_share: float
    """Of the claims that were written, those that another pilot won."""
    read_per_won: float
    """Bodies read for each token that was won."""
    claim_p50: float
    claim_p99: float
    oldest_lock: float
    lease: float
    beats_per_second: float
    cores_used: float
    utilisation: float
    drain_hours: float
    """For 10 million tokens at this rate."""
    rows_per_second: float = 0.0
    bodies_per_second: float = 0.0
    whole: bool = False


def lengths(seconds: float) -> Duration:
    """Draws lengths of tokens around a mean."""
    if not seconds:
        return lambda _rng: 0.0
    middle = math.log(seconds) - WIDTH**2 / 2
    return lambda rng: rng.lognormvariate(middle, WIDTH)


def left_of(seconds: float) -> Duration:
    """Draws what is left of tokens that are met at any moment: long ones are met more often."""
    if not seconds:
        return lambda _rng: 0.0
    middle = math.log(seconds) + WIDTH**2 / 2
    return lambda rng: rng.lognormvariate(middle, WIDTH) * rng.random()


class Running:
    """A case that runs: an engine with pilots on it.

    Args:
        case: what.
        costs: of the server.
        duration: draws lengths; None for log-normal ones.
    """

    def __init__(self, case: Case, costs: Costs, duration: Duration | None = None) -> None:
        self.case = case
        self.engine = Engine()
        self.server = CouchModel(self.engine, costs, case.server)
        self.tokens = Tokens(case.tokens)
        self.tally = Tally()
        draw = duration or lengths(case.seconds)
        self.setting = Setting(
            engine=self.engine,
            server=self.server,
            tokens=self.tokens,
            tally=self.tally,
            duration=draw,
            residual=left_of(case.seconds),
            workers=case.workers,
            lease=case.lease,
            rules=case.rules,
            pilot_token=costs.pilot_token,
            cores=self.server.cores if case.beside else None,
            lingers=case.lingers,
        )
        self.pilots = [Pilot(self.setting, f"{case.seed} {number}") for number in range(case.pilots)]

    def start(self, *, over: float = 0.0) -> None:
        """Start all pilots, at once or spread over some seconds; where the case says so, in the middle of work."""
        rng = Random(self.case.seed)
        for pilot in self.pilots:
            rate = self.case.workers / self.case.seconds if self.case.mixed and self.case.seconds else 0.0
            pilot.start(over * rng.random(), rate=rate)


def run(case: Case, costs: Costs | None = None, duration: Duration | None = None) -> Measured:
    """Simulate a case."""
    running = Running(case, costs or Costs(), duration)
    running.start()
    if case.whole:
        running.engine.run(math.inf, lambda: running.tally.ended == case.tokens)
        return measured(case, running.server, running.tally, running.engine.now)
    running.engine.run(case.warm)
    before = _counted(running)
    running.tally.__init__()  # type: ignore[misc]  # pilots hold it
    running.engine.run(case.warm + case.span)
    return measured(case, running.server, running.tally, case.span, before)


def _counted(running: Running) -> Counted:
    server = running.server
    return Counted(server.requests.total(), server.cores.busy, server.documents["rows"], server.documents["bodies"])


@dataclass(frozen=True, slots=True)
class Counted:
    """What a server had done by some moment."""

    requests: int = 0
    busy: float = 0.0
    rows: int = 0
    bodies: int = 0


def measured(case: Case, server: CouchModel, tally: Tally, span: float, before: Counted | None = None) -> Measured:
    """What came out."""
    before = before or Counted()
    workers = case.pilots * case.workers
    rate = tally.ended / span
    ideal = workers / case.seconds if case.seconds else 0.0
    latencies = sorted(tally.latencies)
    requests = (server.requests.total() - before.requests) / span
    cores = (server.cores.busy - before.busy) / span
    return Measured(
        name=case.name,
        pilots=case.pilots,
        token_seconds=case.seconds,
        view=case.rules.view,
        tokens_per_second=rate,
        ideal=ideal,
        working=min(1.0, rate / ideal) if ideal else 0.0,
        requests_per_second=requests,
        requests_per_token=requests / rate if rate else 0.0,
        lost_share=tally.lost / max(1, tally.won + tally.lost),
        read_per_won=tally.read / max(1, tally.won),
        claim_p50=_quantile(latencies, 0.5),
        claim_p99=_quantile(latencies, 0.99),
        oldest_lock=tally.oldest,
        lease=case.lease,
        beats_per_second=tally.beats / span,
        cores_used=cores,
        utilisation=cores / (case.server.cores * case.server.nodes),
        drain_hours=POOL / rate / 3600 if rate else math.inf,
        rows_per_second=(server.documents["rows"] - before.rows) / span,
        bodies_per_second=(server.documents["bodies"] - before.bodies) / span,
    )


def _quantile(ordered: list[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


Simulate = Callable[[Case], Measured]


def with_rules(case: Case, **changes: object) -> Case:
    """The same case with other rules."""
    return replace(case, rules=replace(case.rules, **changes))  # type: ignore[arg-type]  # names of its fields
