"""A simulated store of one or more replicas, in virtual time, with all that can go wrong between it and its clients.

A request travels to the replica that its client is connected to, the coordinator, which asks all replicas that it
reaches. A write is *written* once a majority has taken it, *accepted* (unknown to its writer) if some have, and a
*conflict* if none has. Reads ask two replicas and show what both have together. Between the replicas what was written
spreads after a while. Each step takes virtual time, drawn from a seed, so that everything may overtake everything.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from apicas.clients.port import SaveStatus
from apicas.exceptions import PoolUnavailableError
from apicas.testing.revisions import Replica, Revision, joined, lists, live
from apicas.testing.virtual import VirtualTimeLoop, virtual_loop
from apicas.views import MONITOR_VIEWS, View

Reply = Callable[[Any], None]
_LATE = 0.1
"""The probability that an arrival is told late."""
_LATEST = 60.0
"""Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long things take, in seconds; each draw lies between half and one and a half times the value."""

    leg: float = 0.004
    """From a client to its replica, and back."""
    hop: float = 0.002
    """From one replica to another, and back."""
    spread: float = 0.1
    """Until replicas tell each other what was written."""
    client_timeout: float = 3.0
    """Exactly so long a client waits for an answer."""
    quorum_timeout: float = 2.0
    """Exactly so long a coordinator waits for replicas that do not answer."""


@dataclass(slots=True, kw_only=True)
class Mishaps:
    """What happens to the requests of one client, each with a probability from 0 to 1."""

    lost_requests: float = 0.0
    lost_answers: float = 0.0
    duplicates: float = 0.0
    delays: float = 0.0
    longest_delay: float = 5.0
    """Seconds; beyond the client's timeout, so that a request may arrive after its client gave up."""


@dataclass(slots=True, eq=False)
class Write:
    """One document of one write request, on its way through the store; what observers are shown."""

    client: str
    revision: Revision
    base: str | None
    taken: set[int] = field(default_factory=set)
    """The replicas that took it from this request."""
    refused: int = 0
    status: SaveStatus | None = None
    """What the coordinator made of it; None as long as it waits."""
    reason: str = ""


class Observer(Protocol):
    """What is told of every write, at the moment at which it happens."""

    def written(self, write: Write, replica: Replica) -> None:
        """A replica took a write from a client's request."""
        ...

    def answered(self, write: Write) -> None:
        """The coordinator knows what became of a write. Its client may never hear of it."""
        ...


@dataclass(slots=True)
class Gathering:
    """A bulk write whose replicas have yet to answer."""

    home: int
    writes: Sequence[Write]
    waiting: int
    reply: Reply
    over: bool = False


class Call:
    """A request on its way, as its client knows it.

    Args:
        name: of the client.
        home: the replica that it goes to.
        serve: what is done there.
        patience: seconds that the client waits.
    """

    def __init__(self, name: str, home: int, serve: Callable[[Reply], None], patience: float) -> None:
        self.name = name
        self.home = home
        self.serve = serve
        loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = loop.create_future()
        self._until = loop.time() + patience
        self._context = copy_context()
        self._timer: asyncio.TimerHandle | None = None

    def expire(self) -> None:
        """Have the client give up when its patience is over; only set where an answer may fail to come."""
        if self._timer is None and not self.future.done():
            loop = asyncio.get_running_loop()
            # In the client's own process, which may be stopped by then.
            self._timer = loop.call_at(self._until, self._give_up, context=self._context.copy())

    def _give_up(self) -> None:
        if not self.future.done():
            self.future.set_exception(SilenceError(f"replica {self.home} does not answer"))

    def close(self) -> None:
        """Nobody waits any longer."""
        if self._timer is not None:
            self._timer.cancel()


class Feed:
    """A feed of arrivals, as its client knows it.

    Args:
        name: of the client.
        home: the replica that it is connected to.
        views: those of which it is told.
    """

    def __init__(self, name: str, home: int, views: Sequence[View]) -> None:
        self.name = name
        self.home = home
        self.views = views
        self.come = asyncio.Event()
        self.close: Callable[[], None] = lambda: None
        """Ends it, at the replica."""


class SilenceError(PoolUnavailableError):
    """No answer came: what was asked may have happened."""


class ReplicatedStore:
    """The store: its replicas, the network around them, and what is wrong with it.

    Args:
        replicas: 1 or more; 3 as on a cluster.
        seed: of all delays and mishaps.
        latency: how long things take.
    """

    def __init__(self, replicas: int = 1, *, seed: int | str = 0, latency: Latency | None = None) -> None:
        self.replicas = [Replica(number) for number in range(replicas)]
        self.majority = replicas // 2 + 1
        self.rng = Random(f"store {seed}")
        self.latency = latency or Latency()
        self.views: dict[str, View] = dict(MONITOR_VIEWS)
        self.ready = False
        self.revisions: dict[tuple[str, str], Revision] = {}
        """Every revision that there ever was."""
        self.cut: set[tuple[Any, Any]] = set()
        """Pairs that do not reach each other, both ways around: replicas by number, clients by name."""
        self.away: set[Any] = set()
        """What answers nobody, as if its process were not there: replicas by number, and clients by name."""
        self.mishaps: dict[str, Mishaps] = {}
        """By the name of a client."""
        self.clock_errors: dict[Any, float] = {}
        """Seconds by which the store's clock seems wrong, by the name of a client or the number of a replica."""
        self.deafness: dict[str, float] = {}
        """The probability from 0 to 1 that an arrival is not told, by the name of a client."""
        self.observers: list[Observer] = []
        self.fired: Counter[str] = Counter()
        """How many times each fault has really hit something."""
        self.troubled: dict[str, float] = {}
        """When a client's request last failed to reach a quorum and come back in time; loop seconds, by its name."""
        self.singled_out: dict[str, float] = {}
        """The same for what went wrong between this client and its replica alone."""
        self._context = Context()
        self._spreading: set[str] = set()
        self._jitter = self.rng.random
        self._ears = Random(f"ears {seed}")
        slowest = self.latency.quorum_timeout + 10 * (self.latency.leg + self.latency.hop)
        self._impatient = slowest > self.latency.client_timeout

    # The network. ---------------------------------------------------------------------------------------------------

    @property
    def loop(self) -> VirtualTimeLoop:
        """The loop in virtual time."""
        return virtual_loop()

    def later(self, delay: float, callback: Callable[..., Any], *arguments: Any) -> None:
        """Do something after a delay of which half to one and a half pass, outside of every client's process."""
        seconds = delay * (0.5 + self._jitter())
        loop = asyncio.get_running_loop()
        loop.call_at(loop.time() + seconds, callback, *arguments, context=self._context)

    def reaches(self, one: Any, other: Any) -> bool:
        """Whether a message gets from one to the other."""
        return one == other or not self.cut or ((one, other) not in self.cut and (other, one) not in self.cut)

    def trouble(self, name: str, what: str, *, alone: bool = False) -> None:
        """Note that something kept a client from the store; others at the same replica too, or it alone."""
        self.fired[what] += 1
        self.troubled[name] = asyncio.get_running_loop().time()
        if alone:
            self.singled_out[name] = self.troubled[name]

    def has_quorum(self, name: str, home: int) -> bool:
        """Whether a client can have something written: its replica lives, and reaches a majority of those that do."""
        return self._is_up(home) and self.reaches(name, home) and len(self._up_around(home)) >= self.majority

    def _is_up(self, number: int) -> bool:
        return number not in self.away and not self.replicas[number].paused

    def _up_around(self, home: int) -> list[int]:
        return [n for n in range(len(self.replicas)) if self._is_up(n) and self.reaches(home, n)]

    def send(self, call: Call) -> None:
        """Send a request to a replica; its answer, if one arrives, becomes the future's result.

        Raises:
            PoolUnavailableError: the connection is refused.
        """
        name, home = call.name, call.home
        if home in self.away or name in self.away:
            self.trouble(name, "refused")
            raise PoolUnavailableError(f"replica {home} refuses the connection")
        mishaps = self.mishaps.get(name)
        delay = 0.0
        copies = 1
        if self._impatient:
            call.expire()
        if mishaps is not None:
            if self._strikes(mishaps.lost_requests):
                self.trouble(name, "lost request", alone=True)
                call.expire()
                return
            if self._strikes(mishaps.duplicates):
                self.fired["duplicate"] += 1
                copies = 2
            if self._strikes(mishaps.delays):
                self.trouble(name, "delay", alone=True)
                call.expire()
                delay = mishaps.longest_delay * self._jitter()
        for copy in range(copies):
            self.later(self.latency.leg + delay + copy * 0.5, self._arrive, call)

    def _strikes(self, probability: float) -> bool:
        return bool(probability) and self._jitter() < probability

    def _arrive(self, call: Call) -> None:
        name, home = call.name, call.home
        if not self.reaches(name, home) or home in self.away:
            self.trouble(name, "cut", alone=True)
            call.expire()
            return
        replica = self.replicas[home]
        if replica.paused:
            self.trouble(name, "replica paused")
            call.expire()
            replica.inbox.append((self._arrive, call))
            return
        call.serve(lambda answer: self._answer(call, answer))

    def _answer(self, call: Call, answer: Any) -> None:
        mishaps = self.mishaps.get(call.name)
        if mishaps is not None and self._strikes(mishaps.lost_answers):
            self.trouble(call.name, "lost answer", alone=True)
            call.expire()
        else:
            self.later(self.latency.leg, self._come_back, call, answer)

    def _come_back(self, call: Call, answer: Any) -> None:
        future = call.future
        if not self.reaches(call.name, call.home):
            self.trouble(call.name, "cut", alone=True)
            call.expire()
        elif not future.done():
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def pause_replica(self, number: int) -> None:
        """Stop a replica's process; what is sent to it waits."""
        self.replicas[number].paused = True

    def resume_replica(self, number: int) -> None:
        """Wake it: what was sent to it meanwhile arrives now."""
        replica = self.replicas[number]
        replica.paused = False
        waiting, replica.inbox = replica.inbox, []
        for callback, *arguments in waiting:
            self.later(self.latency.hop, callback, *arguments)  # type: ignore[arg-type]
        self.mend()

    def mend(self) -> None:
        """Have the replicas tell each other again what they know; after a partition has ended."""
        for identifier in sorted({identifier for replica in self.replicas for identifier in replica.leaves}):
            self._spread_later(identifier)

    # Writing. -------------------------------------------------------------------------------------------------------

    def digest(self) -> str:
        """Of a new revision; never the same twice."""
        return f"{self.rng.getrandbits(64):016x}"

    def write(self, home: int, writes: Sequence[Write], reply: Reply) -> None:
        """Carry out a bulk write at its coordinator; answers with the writes, their `status` set."""
        others = [n for n in range(len(self.replicas)) if n != home and n not in self.away and self.reaches(home, n)]
        gathering = Gathering(home, writes, 1 + len(others), reply)
        self.later(self.latency.hop, self._take, home, gathering)
        for number in others:
            self.later(self.latency.hop * 2, self._take, number, gathering)
        if any(self.replicas[number].paused for number in others):
            loop = asyncio.get_running_loop()
            loop.call_at(loop.time() + self.latency.quorum_timeout, self._conclude, gathering, context=self._context)

    def _take(self, number: int, gathering: Gathering) -> None:
        """One replica takes what it can of a bulk."""
        replica = self.replicas[number]
        if replica.paused:
            self.fired["replica paused"] += 1
            replica.inbox.append((self._take, number, gathering))
            return
        for write in gathering.writes:
            if write.reason:
                continue
            if replica.write(write.revision, write.base):
                write.taken.add(number)
                self.revisions[write.revision.id, write.revision.rev] = write.revision
                for observer in self.observers:
                    observer.written(write, replica)
                if len(self.replicas) > 1:
                    self._spread_later(write.revision.id)
            else:
                write.refused += 1
        gathering.waiting -= 1
        if not gathering.waiting or all(self._is_decided(write) for write in gathering.writes):
            self._conclude(gathering)

    def _is_decided(self, write: Write) -> bool:
        """Whether a majority has said the same; the coordinator waits for the others only as long as none has."""
        return bool(write.reason) or max(len(write.taken), write.refused) >= self.majority

    def _conclude(self, gathering: Gathering) -> None:
        if gathering.over:
            return
        gathering.over = True
        for write in gathering.writes:
            write.status = self._status(write)
            if write.status is SaveStatus.UNKNOWN:
                self.fired["accepted"] += 1
            if write.status is not SaveStatus.WRITTEN and not self.has_quorum(write.client, gathering.home):
                self.trouble(write.client, "no write quorum")
            for observer in self.observers:
                observer.answered(write)
        gathering.reply([(write.status, write.revision.rev, write.reason) for write in gathering.writes])

    def _status(self, write: Write) -> SaveStatus:
        if write.reason:
            return SaveStatus.REJECTED
        if len(write.taken) >= self.majority:
            return SaveStatus.WRITTEN
        # Without any answer nobody knows; and some, but no majority, is what a cluster calls accepted.
        return SaveStatus.UNKNOWN if write.taken or not write.refused else SaveStatus.CONFLICT

    # Between the replicas. ------------------------------------------------------------------------------------------

    def _spread_later(self, identifier: str) -> None:
        if identifier not in self._spreading and len(self.replicas) > 1:
            self._spreading.add(identifier)
            self.later(self.latency.spread, self._spread, identifier)

    def _spread(self, identifier: str) -> None:
        """One replica tells another one of a document; again as long as some differ that reach each other."""
        self._spreading.discard(identifier)
        pairs = [
            (source, target)
            for source in self.replicas
            for target in self.replicas
            if source is not target
            and self._is_up(source.number)
            and self._is_up(target.number)
            and self.reaches(source.number, target.number)
            and any(not target.knows(leaf) for leaf in source.leaves_of(identifier))
        ]
        if not pairs:
            return
        source, target = pairs[int(self._jitter() * len(pairs))]
        for leaf in source.leaves_of(identifier):
            target.learn(leaf)
        if len(live(target.leaves_of(identifier))) > 1:
            self.fired["conflict leaves"] += 1
        self._spread_later(identifier)

    # Reading. -------------------------------------------------------------------------------------------------------

    def read(self, name: str, home: int, ids: Sequence[str], reply: Reply) -> None:
        """Read the leaves of documents from two replicas, where there are two to be had."""
        here = {identifier: self.replicas[home].leaves_of(identifier) for identifier in ids}
        if len(self.replicas) == 1:
            reply(here)
            return
        others = [n for n in range(len(self.replicas)) if n != home and n not in self.away and self.reaches(home, n)]
        awake = [n for n in others if not self.replicas[n].paused]
        if awake:
            self.later(self.latency.hop * 2, self._read_second, awake[int(self._jitter() * len(awake))], here, reply)
        elif others:
            self.trouble(name, "no read quorum")
            self.later(self.latency.quorum_timeout, reply, PoolUnavailableError("not enough replicas answer"))
        else:
            self.trouble(name, "read of a minority")
            reply(here)

    def follow(self, feed: Feed, reply: Reply) -> None:
        """Tell a client of arrivals: at some replica around its own, which may be ahead of it, or behind."""
        number = self._ears.choice(self._up_around(feed.home) or [feed.home])
        listeners = self.replicas[number].listeners

        def tell(revision: Revision) -> None:
            if not any(lists(view, revision) for view in feed.views):
                return
            if self._ears.random() < self.deafness.get(feed.name, 0.0):
                self.fired["lost arrival"] += 1
                return
            delay = self.latency.leg
            if self._ears.random() < _LATE:
                self.fired["late arrival"] += 1
                delay = _LATEST * self._ears.random()
            self.later(delay, self._arrived, feed)

        listeners.append(tell)
        feed.close = lambda: listeners.remove(tell)
        reply(None)

    def _arrived(self, feed: Feed) -> None:
        if self._is_up(feed.home) and self.reaches(feed.name, feed.home):
            feed.come.set()
        else:
            self.fired["lost arrival"] += 1

    def _read_second(self, number: int, here: dict[str, list[Revision]], reply: Reply) -> None:
        second = self.replicas[number]
        both = {identifier: joined(leaves, second.leaves_of(identifier)) for identifier, leaves in here.items()}
        if any(
            live(both[identifier])[:1] != live(leaves)[:1]  # the coordinator's copy is behind
            for identifier, leaves in here.items()
        ):
            self.fired["read of a replica that was behind"] += 1
        reply(both)

    # What a test sees of all replicas at once. ----------------------------------------------------------------------

    def all_leaves(self, identifier: str) -> list[Revision]:
        """The live leaves of a document, were all replicas to know of each other; the shown one first."""
        together: list[Revision] = []
        for replica in self.replicas:
            together = joined(together, replica.leaves_of(identifier))
        return live(together)

    def truth(self, identifier: str) -> Revision | None:
        """The version that would be shown then; None where the document does not exist."""
        leaves = self.all_leaves(identifier)
        return leaves[0] if leaves else None

    def ids(self) -> Iterable[str]:
        """The ids of all live documents."""
        return sorted({identifier for replica in self.replicas for identifier in replica.ids})
