"""A model of CouchDB: cores that are shared, one writer per shard that groups commits, one indexer per shard.

- All work of a core shares the cores evenly, as Erlang's schedulers do.
- A bulk is split over the shards. A shard's writer is one process: while it commits, what arrives waits, and goes into
  the next commit together.
- A fresh view waits until the shards have indexed all that was written before it came. An index run takes all that is
  there when it begins, and is one process too. What is written again before a run has taken it is indexed once.
- On three nodes each of them writes, indexes, and reads bodies; a view's rows come from one copy.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf

from benchmarks.scaling.costs import Costs, Server
from benchmarks.scaling.engine import Clock

Done = Callable[[], object]


class Cores:
    """Cores that are shared evenly by whatever runs.

    Args:
        clock: the time.
        number: of cores.
    """

    def __init__(self, clock: Clock, number: float) -> None:
        self._clock = clock
        self._number = number
        self._jobs: list[tuple[float, int, Done]] = []
        self._order = count()
        self._given = 0.0
        """Seconds that each job which runs since the beginning has got."""
        self._at = 0.0
        self._next = 0
        self._busy = 0.0
        self.most_waiting = 0

    @property
    def running(self) -> int:
        """How many jobs share the cores now."""
        return len(self._jobs)

    @property
    def busy(self) -> float:
        """Seconds of a core that were used."""
        self._advance()
        return self._busy

    def run(self, seconds: float, done: Done) -> None:
        """Use so many seconds of a core, then call."""
        self._advance()
        heapq.heappush(self._jobs, (self._given + seconds, next(self._order), done))
        self.most_waiting = max(self.most_waiting, len(self._jobs))
        self._plan()

    def _rate(self) -> float:
        return min(1.0, self._number / len(self._jobs)) if self._jobs else 0.0

    def _advance(self) -> None:
        now = self._clock.time()
        passed, rate = now - self._at, self._rate()
        self._given += passed * rate
        self._busy += passed * rate * len(self._jobs)
        self._at = now

    def _plan(self) -> None:
        self._next += 1
        if self._jobs:
            left = max(0.0, self._jobs[0][0] - self._given)
            self._clock.call_at(self._at + left / self._rate(), self._end, self._next)

    def _end(self, planned: int) -> None:
        if planned != self._next:  # somebody came, or went, since
            return
        self._advance()
        ended = []
        while self._jobs and self._jobs[0][0] <= self._given + 1e-12:
            ended.append(heapq.heappop(self._jobs)[2])
        if not ended:  # rounding
            ended.append(heapq.heappop(self._jobs)[2])
        self._plan()
        for done in ended:
            done()


@dataclass(slots=True)
class _Bulk:
    """A shard's part of a bulk."""

    share: float
    """Documents; may be less than one."""
    earlier: Sequence[float]
    """When the versions were written that the whole bulk replaces."""
    shards: int
    """That share the bulk."""
    done: Done


@dataclass(slots=True)
class _Shard:
    """One shard: its writer, and its index."""

    waiting: list[_Bulk] = field(default_factory=list)
    writing: bool = False
    written: float = 0.0
    """Documents since the beginning."""
    indexed: float = 0.0
    taken_at: float = -inf
    """When the last run of the indexer that has ended took what was there."""
    began_at: float = -inf
    """When the last run began."""
    indexing: bool = False
    readers: list[tuple[float, Done]] = field(default_factory=list)


class CouchModel:
    """Answers requests after the time that they take.

    Args:
        clock: the time.
        costs: of the requests.
        server: what it runs on.
        cores: those that it shares with others, as on the machine of a validation.
    """

    def __init__(self, clock: Clock, costs: Costs, server: Server, *, cores: Cores | None = None) -> None:
        self._clock = clock
        self._costs = costs
        self._server = server
        self._scale = 1 / server.speed
        self.cores = cores or Cores(clock, server.cores * server.nodes)
        self._shards = [_Shard() for _ in range(server.q)]
        self._copies = server.nodes
        self._turn = 0
        self._unshown = 0.0
        self._showing = False
        self._open = 0
        self._queue: list[Callable[[], None]] = []
        self.down = False
        self.feeds = 0
        """Open feeds of arrivals: each change is shown to each."""
        self.requests: Counter[str] = Counter()
        self.documents: Counter[str] = Counter()

    # What is asked. -------------------------------------------------------------------------------------------------

    def rows(self, number: Callable[[], int] | int, done: Done, *, fresh: bool = True, lazy: bool = False) -> None:
        """Rows of a view; how many there are may be known only when the index is up to date.

        Args:
            number: of rows.
            done: called with the answer.
            fresh: whether the index is brought up to date before it.
            lazy: whether that is done after it.
        """

        def listed() -> None:
            found = number if isinstance(number, int) else number()
            self.documents["rows"] += found
            self._work(found * self._costs.row, end)
            if lazy:
                self._when_indexed(lambda: None)

        end = self._enter("rows", done, lambda: self._when_indexed(listed) if fresh else listed())

    def bodies(self, number: int, done: Done) -> None:
        """Documents by id."""
        self.documents["bodies"] += number
        end = self._enter("bodies", done, lambda: self._work(number * self._costs.body * self._copies, end))

    def write(
        self, number: int, apply: Done, done: Done, *, kind: str = "write", earlier: Sequence[float] = ()
    ) -> None:
        """Documents in one bulk.

        Args:
            number: of them.
            apply: called at the moment at which they are compared and swapped.
            done: called with the answer.
            kind: what it is counted as.
            earlier: when the versions were written that they replace, as far as that is of interest to the index.
        """
        self.documents[kind] += number
        shards = self._some_shards(number)
        left = len(shards)

        def committed() -> None:
            nonlocal left
            left -= 1
            if not left:
                end()

        def checked() -> None:
            apply()
            share = number / len(shards)
            for shard in shards:
                shard.waiting.append(_Bulk(share, earlier, len(shards), committed))
                self._commit(shard)

        end = self._enter(kind, done, lambda: self._work(number * self._costs.write, checked))

    @property
    def indexed_until(self) -> float:
        """Seconds: what was written before is in the index."""
        now = self._clock.time()
        return min(now if shard.indexed >= shard.written else shard.taken_at for shard in self._shards)

    # How it is done. ------------------------------------------------------------------------------------------------

    def _enter(self, kind: str, done: Done, begin: Done) -> Done:
        """Count a request, wait for a free connection, and spend what each request costs; answers with its end."""
        self.requests[kind] += 1
        half = self._costs.round_trip / 2

        def arrive() -> None:
            if self._open >= self._server.connections:
                self._queue.append(start)
            else:
                start()

        def start() -> None:
            self._open += 1
            self._work(self._costs.request, begin)

        def end() -> None:
            self._open -= 1
            self._clock.call_at(self._clock.time() + half, done)
            if self._queue:
                self._queue.pop(0)()

        self._clock.call_at(self._clock.time() + half, arrive)
        return end

    def _some_shards(self, number: int) -> list[_Shard]:
        """Those that a bulk goes to: all, or for a few documents as many, each time others."""
        self._turn += 1
        first = self._turn % len(self._shards)
        return (self._shards[first:] + self._shards[:first])[: max(1, number)]

    def _work(self, seconds: float, done: Done) -> None:
        self.cores.run(seconds * self._scale, done)

    def _commit(self, shard: _Shard) -> None:
        if shard.writing or not shard.waiting:
            return
        shard.writing = True
        batch, shard.waiting = shard.waiting, []
        documents = sum(bulk.share for bulk in batch)

        def stored() -> None:
            wait = (self._costs.sync - self._costs.sync_core) * self._scale
            self._clock.call_at(self._clock.time() + wait, synced)

        def synced() -> None:
            shard.writing = False
            shard.written += documents - sum(_written_again(bulk, shard.began_at) for bulk in batch)
            if self.feeds:
                self._tell_feeds(documents)
            for bulk in batch:
                bulk.done()
            self._commit(shard)

        spent = documents * self._costs.append + self._costs.sync_core
        self._on_all_copies(spent, stored)

    def _on_all_copies(self, seconds: float, done: Done) -> None:
        """Spend it on each node; the first of them is waited for, since they run beside each other."""
        for _ in range(self._copies - 1):
            self._work(seconds, lambda: None)
        self._work(seconds, done)

    def _tell_feeds(self, documents: float) -> None:
        """Show changes to every feed; what comes meanwhile is shown together."""
        self._unshown += documents
        if self._showing or not self.feeds:
            return
        shown, self._unshown, self._showing = self._unshown, 0.0, True
        self.documents["shown to feeds"] += round(shown * self.feeds)
        spent = self.feeds * (self._costs.feed_wake + shown * self._costs.feed)
        left = pieces = min(self.feeds, self._server.cores * self._copies)

        def told() -> None:
            nonlocal left
            left -= 1
            if not left:
                self._showing = False
                if self._unshown:
                    self._tell_feeds(0.0)

        for _ in range(pieces):
            self._work(spent / pieces, told)

    def _when_indexed(self, done: Done) -> None:
        left = len(self._shards)

        def up_to_date() -> None:
            nonlocal left
            left -= 1
            if not left:
                done()

        for shard in self._shards:
            if shard.indexed >= shard.written:
                up_to_date()
            else:
                shard.readers.append((shard.written, up_to_date))
                self._index(shard)

    def _index(self, shard: _Shard) -> None:
        if shard.indexing or not shard.readers:
            return
        shard.indexing = True
        target, began = shard.written, self._clock.time()
        shard.began_at = began

        def indexed() -> None:
            shard.indexing = False
            shard.taken_at = began
            shard.indexed = target
            ready = [done for needed, done in shard.readers if needed <= target]
            shard.readers = [(needed, done) for needed, done in shard.readers if needed > target]
            for done in ready:
                done()
            self._index(shard)

        spent = (target - shard.indexed) * self._costs.index + self._costs.index_run
        self._on_all_copies(spent, indexed)


def _written_again(bulk: _Bulk, since: float) -> float:
    """How many documents of a shard's part replace a version that no run of the indexer has taken."""
    return sum(at > since for at in bulk.earlier) / bulk.shards
