"""Runs a plan: real pilots in one virtual loop, a simulated store, faults as they come, and what must hold."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import anyio

import apicas
from apicas._runtime.hooks import Work
from apicas._runtime.keeping.healer import Healer
from apicas._runtime.options import RunOptions
from apicas._runtime.outbox.aside import LostVersions
from apicas._runtime.outbox.replay import replay
from apicas._runtime.pilot import Pilot
from apicas.exceptions import PoolUnavailableError
from apicas.iterators import BasicViewIterator, EndlessViewIterator
from apicas.modifiers import BasicTokenModifier
from apicas.policies.leases import LeaseTimes
from apicas.testing import (
    History,
    Invariants,
    Latency,
    ReplicatedClient,
    ReplicatedStore,
    Violation,
    run_virtual,
    virtual_environment,
)
from apicas.testing.virtual import virtual_loop
from apicas.tokens import Token, TokenState, annex, is_foreign_lock
from tests.simulation.mischief import Mischief, Running, WatchedOutbox, reset
from tests.simulation.scenario import HORIZON, LEASE, START, Attempt, Fault, PilotPlan, Plan, last_pilot

DEADLINE = 3600.0 + 20 * LEASE
"""Seconds after the horizon by which everything has ended. A store's clock that was an hour ahead when it stamped a
token's `not_before` makes that token wait for an hour."""


@dataclass
class Result:
    """What came of a plan."""

    violations: list[Violation]
    lines: list[str]
    fired: Counter[str]
    executions: int
    seconds: float
    """Virtual ones."""


@dataclass
class World(Mischief):
    """One run of one plan."""

    plan: Plan
    store: ReplicatedStore = field(init=False)
    history: History = field(init=False)
    rules: Invariants = field(init=False)
    running: dict[str, Running] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    """The names of crashed pilots of which everybody can know it."""
    tries: Counter[str] = field(default_factory=Counter)
    deeds: list[asyncio.Task[None]] = field(default_factory=list)
    armed: list[Fault] = field(default_factory=list)
    """What strikes a pilot at its next write."""
    edits: dict[str, tuple[float, float]] = field(default_factory=dict)
    """What a person has last noted in a token, and when, by its id."""
    mended: bool = False

    def __post_init__(self) -> None:
        latency = Latency(
            hop=self.plan.hop, spread=self.plan.spread, client_timeout=LEASE / 8, quorum_timeout=LEASE / 12
        )
        self.store = ReplicatedStore(self.plan.replicas, seed=self.plan.seed, latency=latency)
        self.history = History(self.store)
        self.store.observers.append(self)
        self.history.people |= {"person", "picas"}
        self.rules = Invariants(self.history)
        self.box = WatchedOutbox(self.history)
        self.tokens = {token.id: token for token in self.plan.tokens}

    # The course of things. ------------------------------------------------------------------------------------------

    async def run(self) -> Result:
        """Everything, from the first token to the last check."""
        person = ReplicatedClient(self.store, "person")
        await person.upload([{"_id": token.id} for token in self.plan.tokens if not token.at])
        loop = virtual_loop()
        for token in self.plan.tokens:
            if token.at:
                loop.call_at(START + token.at, self._push, token.id)
        for pilot in self.plan.pilots:
            loop.call_at(START + pilot.start, self._start, pilot)
        for fault in self.plan.faults:
            loop.call_at(START + fault.at, self._strike, fault)
        await anyio.sleep(START + HORIZON)
        await self._mend(person)
        self._start(last_pilot(self.plan.seed))
        await self._wait()
        await self._heal()
        await anyio.sleep(2.0)
        self.rules.finish(self.tokens, {(entry.token, entry.claim) for entry in self.box.aside})
        self._check_edits()
        seconds = loop.time()
        lines = self.history.lines()
        await self._tear_down()
        return Result(self.rules.violations, lines, self.store.fired, len(self.history.executions), seconds)

    async def _mend(self, person: ReplicatedClient) -> None:
        """End all faults; a person resets what PiCaS left, and pushes what could not be pushed."""
        self.mended = True
        self.armed.clear()
        self.box.failure = None
        for task in self.deeds:
            task.cancel()
        self.store.cut.clear()
        self.store.away.clear()
        self.store.mishaps.clear()
        self.store.clock_errors.clear()
        for replica in self.store.replicas:
            if replica.paused:
                self.store.resume_replica(replica.number)
        self.store.mend()
        for running in self.running.values():
            self._wake(running.plan.name)
        self.history.note("-", "all faults are over")
        await anyio.sleep(2.0)
        for identifier, token in self.tokens.items():
            stored = self.store.truth(identifier)
            if stored is None and token.at <= HORIZON:
                await person.upload([{"_id": identifier}])
            if stored is not None and stored.state is TokenState.LOCKED and is_foreign_lock(stored.content):
                await person.edit(identifier, reset)

    def _push(self, identifier: str) -> None:
        client = ReplicatedClient(self.store, "person")
        self.deeds.append(virtual_loop().create_task(self._try(client.upload([{"_id": identifier}]), "push")))

    def _check_edits(self) -> None:
        """What a person noted in a token is still there; on a cluster he may have noted it in a version that went."""
        for identifier, (at, note) in self.edits.items() if self.plan.replicas == 1 else ():
            stored = self.store.truth(identifier)
            if stored is not None and stored.content.get("note") != note and self.history.meddled[identifier] <= at:
                self.rules.violate("nothing lost", f"what a person noted in {identifier} is lost")

    async def _wait(self) -> None:
        """Wait for all pilots that live."""
        waiting = {
            running.task: name
            for name, running in self.running.items()
            if running.task is not None and not self.history.lives[name].crashed
        }
        done, late = await asyncio.wait(waiting, timeout=DEADLINE)
        for task in sorted(late, key=lambda task: waiting[task]):
            self.rules.violate("every run ends", f"{waiting[task]} has not ended {DEADLINE:g} s after the last fault")
        for task in sorted(done, key=lambda task: waiting[task]):
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self.rules.violate("every run ends", f"{waiting[task]} ended by {error!r}")

    async def _heal(self) -> None:
        """Heal what no pilot stayed long enough to heal, under the same rules, and write what waits in the outbox."""
        client = ReplicatedClient(self.store, "healer")
        times = LeaseTimes(lease=LEASE)
        healer = Healer(client, times, virtual_environment("healer", seed=self.plan.seed))
        healer.aside = LostVersions(self.box, client.address, virtual_environment("healer").owner, client.time)
        await anyio.sleep(8 * self.plan.spread)  # until every replica knows all versions
        for _ in range(20):
            conflicted = (await healer.run_once()).conflicted
            if not conflicted and not (await replay(client, self.box)).waiting:
                return
            await anyio.sleep(times.sweep)

    async def _tear_down(self) -> None:
        """End what still runs; nothing that it does reaches the store."""
        self.store.away |= set(self.running)
        tasks = [running.task for running in self.running.values() if running.task is not None]
        for running in self.running.values():
            running.group.resume()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=10 * LEASE)
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()  # seen

    # Pilots. --------------------------------------------------------------------------------------------------------

    def _start(self, plan: PilotPlan) -> None:
        group = virtual_loop().group(plan.name)
        running = self.running[plan.name] = Running(plan, group)
        self.store.deafness[plan.name] = plan.deaf
        self.history.pilot(plan.name, plan.home, lease=plan.lease, group=group)
        self.history.note(plan.name, "starts")
        running.task = group.start(self._live(running))

    async def _live(self, running: Running) -> None:
        plan = running.plan
        client = ReplicatedClient(self.store, plan.name, plan.home)
        environment = virtual_environment(
            plan.name, seed=self.plan.seed, gone=lambda document: annex(document).get("pilot") in self.gone
        )
        process = self.history.watched(plan.name, self._process)
        options = RunOptions(workers=plan.workers, grace=LEASE / 4)
        while not (self.mended and running.ran) and not running.drained:
            self.history.run_began(plan.name)
            iterator = BasicViewIterator(
                client,
                BasicTokenModifier(),
                environment=environment,
                lock_timeout=plan.lease,
                max_scrub=2,
                outbox=self.box,
            )
            try:
                async with client:
                    source = EndlessViewIterator(iterator, stop_callback=self._is_over) if plan.endless else iterator
                    running.pilot = Pilot(source, Work(process=process), options, plan.workers)
                    report = await running.pilot.run()
            except PoolUnavailableError as error:  # it could not even begin: the batch system starts it again
                self.history.note(plan.name, f"ends: {error}")
            else:
                running.ran = self.mended
                self.history.run_ended(plan.name)
                self.history.note(plan.name, f"ends: {report}; {report.reason}")
            if not running.ran:
                await anyio.sleep(LEASE * 0.75)

    def _is_over(self) -> bool:
        """Whether every token has come to its end."""
        truths = [self.store.truth(identifier) for identifier in self.tokens]
        return all(truth is not None and truth.state in {TokenState.DONE, TokenState.ERROR} for truth in truths)

    async def _process(self, token: Token) -> Any:
        number = self.tries[token.id]
        self.tries[token.id] += 1
        attempts = self.tokens[token.id].attempts
        attempt: Attempt = attempts[min(number, len(attempts) - 1)]
        await anyio.sleep(attempt.seconds)
        match attempt.kind:
            case "raise":
                raise RuntimeError("the work failed")
            case "retry":
                raise apicas.Retry("again")
            case "fail":
                raise apicas.Fail("for good")
            case "release":
                raise apicas.Release("not now")
        return number


def run_plan(plan: Plan) -> Result:
    """Run a plan in virtual time."""
    log = logging.getLogger("apicas")
    level = log.level

    async def main() -> Result:
        return await World(plan).run()

    log.setLevel(logging.CRITICAL)  # what pilots say of so many faults nobody reads
    try:
        return run_virtual(main)
    finally:
        log.setLevel(level)
