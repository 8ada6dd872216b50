"""What goes wrong in a world, and what people do in it."""

from __future__ import annotations

import asyncio
import errno
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import anyio

from apicas._runtime.outbox.entries import Entry
from apicas._runtime.pilot import Pilot
from apicas.exceptions import ApicasError
from apicas.modifiers import BasicTokenModifier
from apicas.testing import Group, History, MemoryOutbox, Mishaps, ReplicatedClient, ReplicatedStore
from apicas.testing.revisions import Replica
from apicas.testing.store import Write
from apicas.testing.virtual import virtual_loop
from apicas.tokens import Token, TokenState, state_of
from tests.simulation.scenario import HORIZON, START, Fault, PilotPlan, Plan


@dataclass
class Running:
    """A pilot in the world."""

    plan: PilotPlan
    group: Group
    task: asyncio.Task[None] | None = None
    pilot: Pilot | None = None
    drained: bool = False
    ran: bool = False
    """Whether it has run to its end since all faults were over."""


class WatchedOutbox(MemoryOutbox):
    """The disk that all pilots share; what is put on it is seen."""

    def __init__(self, history: History) -> None:
        super().__init__(delay=0.01)
        self._history = history

    async def put(self, entries: Sequence[Entry]) -> None:
        await super().put(entries)
        for entry in entries:
            self._history.saw_kept(entry.pilot, entry.token, entry.claim)


class Mischief(ABC):
    """Faults and people; mixed into the world that they act in."""

    plan: Plan
    store: ReplicatedStore
    history: History
    box: WatchedOutbox
    running: dict[str, Running]
    gone: set[str]
    deeds: list[asyncio.Task[None]]
    armed: list[Fault]
    edits: dict[str, tuple[float, float]]

    @abstractmethod
    def _start(self, plan: PilotPlan) -> None: ...

    # Faults. --------------------------------------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        _STRIKES[fault.kind](self, fault)

    def _lives(self, name: str) -> Running | None:
        """A pilot that has started, and neither crashed nor ended."""
        running = self.running.get(name)
        if running is None or running.task is None or running.task.done() or self.history.lives[name].crashed:
            return None
        return running

    def _later(self, seconds: float, callback: Callable[..., None], *arguments: Any) -> None:
        """Undo something; at the horizon it is undone in any case, and by then this does no harm."""
        virtual_loop().call_later(seconds, callback, *arguments)

    def _fired(self, fault: Fault) -> None:
        self.store.fired[fault.kind] += 1
        self.history.note("-", f"{fault.kind} {fault.target} {fault.seconds:g} s {fault.amount:g}")

    def crash(self, fault: Fault, *, known: bool = False) -> None:
        running = self._lives(fault.target)
        if running is None:
            return
        self._fired(fault)
        running.group.pause()
        self.history.crashed(fault.target)
        if known:
            self.gone.add(fault.target)
        if len(fault.target) < 4:
            plan = running.plan
            self._later(fault.seconds, self._restart, PilotPlan(f"{plan.name}+", plan.home, 0.0, plan.workers))

    def _restart(self, plan: PilotPlan) -> None:
        if virtual_loop().time() < START + HORIZON and plan.name not in self.running:
            self._start(plan)

    def pause(self, fault: Fault) -> None:
        running = self._lives(fault.target)
        if running is None or running.group.paused:
            return
        self._fired(fault)
        running.group.pause()
        self.history.paused(fault.target)
        self._later(fault.seconds, self._wake, fault.target)

    def _wake(self, name: str) -> None:
        running = self._lives(name)
        if running is not None and running.group.paused:
            self.history.woken(name)
            running.group.resume()

    def cut(self, fault: Fault) -> None:
        running = self._lives(fault.target)
        if running is None:
            return
        self._fired(fault)
        pair = (fault.target, running.plan.home)
        self.store.cut.add(pair)
        self._later(fault.seconds, self.store.cut.discard, pair)

    def split(self, fault: Fault) -> None:
        number = int(fault.target)
        pairs = {(number, other) for other in range(self.plan.replicas) if other != number}
        if not pairs:
            return
        self._fired(fault)
        self.store.cut |= pairs
        self._later(fault.seconds, self._join, pairs)

    def _join(self, pairs: set[tuple[Any, Any]]) -> None:
        self.store.cut -= pairs
        self.store.mend()

    def pause_replica(self, fault: Fault) -> None:
        number = int(fault.target)
        if not self.store.replicas[number].paused:
            self._fired(fault)
            self.store.pause_replica(number)
            self._later(fault.seconds, self._wake_replica, number)

    def _wake_replica(self, number: int) -> None:
        if self.store.replicas[number].paused:
            self.store.resume_replica(number)

    def stop_replica(self, fault: Fault) -> None:
        self._fired(fault)
        self.store.away.add(int(fault.target))
        self._later(fault.seconds, self._start_replica, int(fault.target))

    def _start_replica(self, number: int) -> None:
        self.store.away.discard(number)
        self.store.mend()

    def mishap(self, fault: Fault, *, name: str) -> None:
        self._fired(fault)
        mishaps = self.store.mishaps.setdefault(fault.target, Mishaps())
        setattr(mishaps, name, fault.amount)
        self._later(fault.seconds, setattr, mishaps, name, 0.0)

    def clock(self, fault: Fault, *, replica: bool = False) -> None:
        self._fired(fault)
        whose = int(fault.target) if replica else fault.target
        self.store.clock_errors[whose] = fault.amount
        self._later(fault.seconds, self._mend_clock, whose)

    def _mend_clock(self, whose: Any) -> None:
        self.store.clock_errors.pop(whose, None)

    def drain(self, fault: Fault) -> None:
        running = self._lives(fault.target)
        if running is None or running.pilot is None:
            return
        self._fired(fault)
        running.drained = True
        running.group.call(running.pilot.drain, "told to")

    def fill_disk(self, fault: Fault) -> None:
        self._fired(fault)
        self.box.failure = errno.ENOSPC
        self._later(fault.seconds, setattr, self.box, "failure", None)

    def arm(self, fault: Fault) -> None:
        """Strike a pilot at its next write."""
        if self._lives(fault.target) is not None:
            self.armed.append(fault)

    def written(self, write: Write, _replica: Replica) -> None:
        """Told by the store."""
        for fault in [fault for fault in self.armed if fault.target == write.client]:
            self.armed.remove(fault)
            self.store.fired[fault.kind] += 1
            virtual_loop().call_soon(self._strike, replace(fault, kind=fault.kind.removesuffix(" at write")))

    def answered(self, write: Write) -> None:  # noqa: B027 - a store asks every observer
        """Told by the store."""

    # People. --------------------------------------------------------------------------------------------------------

    def deed(self, fault: Fault, *, act: Callable[[Mischief, Fault], Any]) -> None:
        self._fired(fault)
        self.deeds.append(virtual_loop().create_task(self._try(act(self, fault), fault.kind)))

    async def _try(self, deed: Awaitable[Any], what: str) -> None:
        try:
            await deed
        except ApicasError as error:
            self.history.note("-", f"{what} fails: {error}")

    async def edit(self, fault: Fault) -> None:
        client = ReplicatedClient(self.store, "person")
        await client.edit(fault.target, lambda token: token.update(note=fault.at))
        self.edits[fault.target] = virtual_loop().time(), fault.at

    async def reset(self, fault: Fault) -> None:
        client = ReplicatedClient(self.store, "person")
        await client.edit(fault.target, reset)

    async def picas(self, fault: Fault) -> None:
        """A PiCaS pilot: it locks over what it finds, never beats, and drops its result where it meets a conflict."""
        client = ReplicatedClient(self.store, "picas")
        (document,) = await client.get([fault.target])
        if document is None or state_of(document) not in {TokenState.TODO, TokenState.LOCKED}:
            return
        document.update(lock=int(client.time()) + 1, hostname="picas-node")
        (result,) = await client.save([document])
        if not result.written:
            return
        await anyio.sleep(fault.seconds)
        document.update(_rev=result.rev, done=int(client.time()), exit_code=0)
        await client.save([document])


def reset(token: Token) -> None:
    BasicTokenModifier().reset(token, now=0.0)


_STRIKES: dict[str, Callable[[Mischief, Fault], None]] = {
    "crash": Mischief.crash,
    "crash known": partial(Mischief.crash, known=True),
    "pause": Mischief.pause,
    "crash at write": Mischief.arm,
    "pause at write": Mischief.arm,
    "cut": Mischief.cut,
    "lost requests": partial(Mischief.mishap, name="lost_requests"),
    "lost answers": partial(Mischief.mishap, name="lost_answers"),
    "duplicates": partial(Mischief.mishap, name="duplicates"),
    "delays": partial(Mischief.mishap, name="delays"),
    "clock": Mischief.clock,
    "drain": Mischief.drain,
    "disk full": Mischief.fill_disk,
    "pause replica": Mischief.pause_replica,
    "stop replica": Mischief.stop_replica,
    "split replica": Mischief.split,
    "replica clock": partial(Mischief.clock, replica=True),
    "edit": partial(Mischief.deed, act=Mischief.edit),
    "reset": partial(Mischief.deed, act=Mischief.reset),
    "picas": partial(Mischief.deed, act=Mischief.picas),
}
