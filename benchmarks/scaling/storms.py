"""What happens at once: pilots start, tokens come to an end, the server comes back, an idle pool gets a token."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from apicas._runtime.keeping.doorbell import Spacing
from apicas.clients.couch.client import CouchClient
from apicas.iterators.views import SAFETY_LOOK
from apicas.policies.leases import LeaseTimes
from apicas.policies.retries import jittered
from benchmarks.scaling.cases import Case, Running
from benchmarks.scaling.costs import Costs
from benchmarks.scaling.engine import Engine, Process
from benchmarks.scaling.pool import Tokens
from benchmarks.scaling.server import CouchModel

_SETTLED: Final = 100.0
"""Seconds after which those who came to linger have all had their first look at the locks of others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """What came of it. Times in seconds."""

    name: str
    pilots: int
    figures: dict[str, float]


def start_of(case: Case, *, over: float, costs: Costs | None = None) -> Storm:
    """All pilots start within some seconds: how long until every worker has had its first token."""
    running = Running(replace(case, mixed=False), costs or Costs())
    running.start(over=over)
    workers = case.pilots * case.workers
    running.engine.run(600.0, lambda: running.tokens.locked + running.tokens.done >= workers)
    tally, seconds = running.tally, running.engine.now
    return Storm(
        name=f"start over {over:g} s, {case.rules.view}",
        pilots=case.pilots,
        figures={
            "seconds_until_all_work": seconds,
            "lost_share": tally.lost / max(1, tally.won + tally.lost),
            "requests": float(running.server.requests.total()),
            "core_seconds": running.server.cores.busy,
        },
    )


def end_of(case: Case, costs: Costs | None = None) -> Storm:
    """From the moment when nothing is in todo: how long, and what those cost that wait for the last."""
    running = Running(replace(case, lingers=True), costs or Costs())
    running.start()
    engine, server, tokens = running.engine, running.server, running.tokens
    engine.run(math.inf, lambda: not tokens.todo)
    began, busy, requests, held = engine.now, server.cores.busy, server.requests.total(), tokens.locked
    bodies = server.documents["bodies"]
    engine.run(began + 7200.0, lambda: tokens.done == case.tokens)
    last = engine.now - began
    used, asked = server.cores.busy - busy, server.requests.total() - requests
    return Storm(
        name=f"end, {_kind(case)}",
        pilots=case.pilots,
        figures={
            "held_when_todo_was_empty": float(held),
            "seconds_until_last_was_done": last,
            "requests_per_second": asked / last,
            "bodies_per_second": (server.documents["bodies"] - bodies) / last,
            "cores_used": used / last,
            "oldest_lock": running.tally.oldest,
            "shown_to_feeds": float(server.documents["shown to feeds"]),
        },
    )


def outage_of(case: Case, seconds: float, costs: Costs | None = None) -> Storm:
    """The server is away for some time, and back: how long until no lock is overdue, and until all work again."""
    running = Running(case, costs or Costs())
    running.start()
    engine, server = running.engine, running.server
    engine.run(60.0)
    server.down = True
    engine.run(60.0 + seconds)
    server.down = False
    back, workers = engine.now, case.pilots * case.workers
    heartbeat = LeaseTimes(lease=case.lease).heartbeat
    fresh = working = math.inf
    busy, server.cores.most_waiting = server.cores.busy, 0
    while engine.now < back + 300 and math.inf in {fresh, working}:
        engine.run(engine.now + 0.5)
        oldest = min((pilot.oldest_lock for pilot in running.pilots), default=engine.now)
        if fresh == math.inf and engine.now - oldest <= heartbeat * 1.2:
            fresh = engine.now - back
        if working == math.inf and sum(pilot.working for pilot in running.pilots) >= 0.99 * workers:
            working = engine.now - back
    return Storm(
        name=f"outage of {seconds:g} s, lease {case.lease:g} s",
        pilots=case.pilots,
        figures={
            "seconds_until_locks_are_fresh": fresh,
            "seconds_until_all_work": working,
            "first_reclaim_after": case.lease / 2,
            "oldest_lock": running.tally.oldest,
            "most_jobs_at_once": float(server.cores.most_waiting),
            "core_seconds": server.cores.busy - busy,
        },
    )


class _IdlePilot:
    """A pilot on an empty pool that follows the feed of arrivals; see apicas.iterators and doorbell."""

    def __init__(self, idle: _Idle, seed: str) -> None:
        self._idle = idle
        self._rng = Random(seed)
        self._spacing = Spacing.of(CouchClient.wake_spacing)

    def start(self) -> None:
        """Begin at any moment of the rhythm."""
        engine, rng = self._idle.engine, self._rng
        engine.start(self._repeat(SAFETY_LOOK), SAFETY_LOOK * rng.random())
        engine.start(self._repeat(LeaseTimes(lease=900.0).sweep), 225 * rng.random())

    def _repeat(self, every: float) -> Process:
        while True:
            yield lambda done: self._idle.server.rows(0, done)
            yield jittered(every, self._rng)

    def ring(self) -> None:
        """A token came."""
        self._idle.engine.start(self._look())

    def _look(self) -> Process:
        yield self._spacing.delay(self._rng)
        idle = self._idle
        listed: list[int] = []

        def look() -> int:
            listed.extend(idle.tokens.head(66))
            return len(listed)

        yield lambda done: idle.server.rows(look, done)
        won: list[int] = []
        if listed:
            yield lambda done: idle.server.bodies(len(listed), done)
            yield lambda done: idle.server.write(len(listed), lambda: won.extend(idle.tokens.lock(listed)), done)
            if won:
                idle.found()
        self._spacing = self._spacing.after(found=bool(won))


class _Idle:
    """A pool that gets a token now and then."""

    def __init__(self, pilots: int, arrivals: int, costs: Costs, case: Case) -> None:
        self.engine = Engine()
        self.server = CouchModel(self.engine, costs, case.server)
        self.tokens = Tokens(arrivals)
        self.tokens.lock(range(arrivals))
        self.waits: list[float] = []
        self._came = 0.0
        self.pilots = [_IdlePilot(self, f"{case.seed} {number}") for number in range(pilots)]
        for pilot in self.pilots:
            pilot.start()
        self.server.feeds = pilots

    def arrive(self, number: int) -> None:
        """A token is written, and the feeds tell of it."""
        self._came = self.engine.now

        def tell() -> None:
            for pilot in self.pilots:
                pilot.ring()

        self.server.write(1, lambda: self.tokens.release([number]), tell, kind="upload")

    def found(self) -> None:
        """Somebody has it."""
        self.waits.append(self.engine.now - self._came)


def idleness(pilots: int, case: Case, *, arrivals: int = 40, every: float = 15.0, costs: Costs | None = None) -> Storm:
    """Idle pilots on an empty pool: for a while nothing comes, then a token now and then."""
    idle = _Idle(pilots, arrivals, costs or Costs(), case)
    idle.engine.run(600.0)
    quiet, used = idle.server.requests.total(), idle.server.cores.busy
    for number in range(arrivals):
        idle.engine.call_at(600.0 + every * number, idle.arrive, number)
    idle.engine.run(600.0 + every * arrivals)
    asked = idle.server.requests.total() - quiet * every * arrivals / 600.0
    waits = sorted(idle.waits[arrivals // 2 :])
    return Storm(
        name="idle",
        pilots=pilots,
        figures={
            "requests_per_pilot_and_minute": quiet / pilots / 10,
            "requests_per_second": quiet / 600.0,
            "cores_used": used / 600.0,
            "looks_per_arrival": asked / arrivals,
            "core_seconds_per_arrival": (idle.server.cores.busy - 2 * used) / arrivals,
            "wait_p50": waits[len(waits) // 2] if waits else math.inf,
            "wait_longest": max(waits, default=math.inf),
        },
    )


def latecomers_of(case: Case, costs: Costs | None = None, *, seconds: float = 300.0) -> Storm:
    """Half of the pilots hold all tokens: the others linger, since a token may yet come back."""
    tokens = case.pilots * case.workers // 2
    running = Running(replace(case, lingers=True, tokens=tokens), costs or Costs())
    engine, server = running.engine, running.server
    for number, pilot in enumerate(running.pilots):
        pilot.start(rate=case.workers / case.seconds if number < case.pilots // 2 else 0.0)
    engine.run(_SETTLED)
    busy, requests, bodies = server.cores.busy, server.requests.total(), server.documents["bodies"]
    engine.run(_SETTLED + seconds)
    return Storm(
        name=f"half too many, {_kind(case)}",
        pilots=case.pilots,
        figures={
            "requests_per_second": (server.requests.total() - requests) / seconds,
            "bodies_per_second": (server.documents["bodies"] - bodies) / seconds,
            "cores_used": (server.cores.busy - busy) / seconds,
            "oldest_lock": running.tally.oldest,
        },
    )


def _kind(case: Case) -> str:
    rules = case.rules
    looks = {"all": "sweeps of all locks", "due": "sweeps of overdue locks", "none": "no sweeps"}[rules.sweep]
    often = ", every 10 s while lingering" if rules.linger == "often" else ""
    feeds = ", a feed each" if rules.feeds == "all" else ""
    return f"{looks}{often}{feeds}"
