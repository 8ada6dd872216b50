"""Which of the waiting tokens start now. It decides only: no clock, no store, no process.

The rules, in this order:

1. The oldest that waits starts as soon as it fits.
2. While it does not, younger ones that fit start, in the order of their claims: a core that could work does.
3. Once the oldest has been passed over for long enough, or often enough, what it asks is reserved for it: see
   Reservation. So a big one starts, whatever stream of small ones there is.

Tokens that ask the same wait in one lane, since if the first does not fit no other of them does: a look costs as many
comparisons as there are different requests, and not as there are tokens.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import Final, Generic, TypeVar

from apicas._node.durations import Durations
from apicas._node.inventory import Allocation, Inventory
from apicas._node.names import CORES
from apicas._node.requests import Amounts, Request
from apicas._node.reservation import Expected, Reservation, reserve

K = TypeVar("K", bound=Hashable)

MAX_WAIT: Final = 300.0
"""Seconds for which a token may be passed over. Each reservation leaves cores idle while others run out: for as long as
they take, on average half their time on half the node. So it should be rare, and yet come soon beside a walltime."""
PASSES_PER_CORE: Final = 16
"""Tokens that may pass another for each core. With it, and tokens of one length, the cores that a reservation leaves
idle are some 3 % of those in use: half a token on each core after 16."""
MAX_LOOKED_AT: Final = 64
"""Tokens of one lane that are looked at for a short one beside a reservation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the oldest token lets others pass.

    Args:
        seconds: since it was first passed over.
        passes: tokens that have passed it; None for PASSES_PER_CORE for each core.
    """

    seconds: float = MAX_WAIT
    passes: int | None = None


@dataclass(slots=True, eq=False)
class _Waiting(Generic[K]):
    key: K
    request: Request
    order: int
    passed: int = 0
    passed_since: float | None = None


@dataclass(frozen=True, slots=True)
class Running(Generic[K]):
    """A token that has what it asked."""

    key: K
    request: Request
    allocation: Allocation
    since: float


class Packer(Generic[K]):
    """The tokens of a pilot that wait, and those that run.

    Every time is in seconds of one clock of the caller's, that is never set back.

    Args:
        inventory: what there is.
        durations: what tokens took so far; it is told of those that end here.
        patience: see Patience.
    """

    def __init__(
        self, inventory: Inventory, durations: Durations | None = None, patience: Patience | None = None
    ) -> None:
        patience = patience or Patience()
        cores = inventory.has.get(CORES, 1)
        self.inventory = inventory
        self.durations = durations or Durations()
        self._patience = patience.seconds
        self._passes = PASSES_PER_CORE * cores if patience.passes is None else patience.passes
        self._order = count()
        self._coreless = 0
        self._lanes: dict[Amounts, dict[K, _Waiting[K]]] = {}
        self._waiting: dict[K, _Waiting[K]] = {}
        self._running: dict[K, Running[K]] = {}
        self._reservation: tuple[_Waiting[K], Reservation] | None = None

    @property
    def waiting(self) -> Mapping[K, Request]:
        """What the waiting tokens ask, in the order of their claims."""
        return {key: one.request for key, one in self._waiting.items()}

    @property
    def running(self) -> Mapping[K, Running[K]]:
        """The running tokens."""
        return self._running

    @property
    def reservation(self) -> Reservation | None:
        """What is kept for the oldest that waits."""
        return self._reservation[1] if self._reservation is not None else None

    def earliest(self, key: K, now: float) -> float:
        """When a waiting token can start at the earliest, as far as anybody knows: now, but for a reserved one."""
        if self._reservation is None or self._reservation[0].key != key:
            return now
        return max(now, self._reservation[1].start or now)

    def seconds(self, request: Request) -> float | None:
        """How long a token takes: what it says, else what others of its kind took; None where nobody knows."""
        return request.seconds if request.seconds is not None else self.durations.estimate(request.kind)

    def add(self, key: K, request: Request) -> None:
        """Have a token wait.

        Args:
            key: names it.
            request: what it asks.

        Raises:
            ValueError: it is here already, or can never start here.
        """
        if key in self._waiting or key in self._running:
            raise ValueError(f"{key!r} is here already")
        if reason := self.inventory.never_fits(request):
            raise ValueError(f"{key!r} can never start here: {reason}")
        one = _Waiting(key, request, next(self._order))
        self._waiting[key] = one
        self._coreless += not request.of(CORES)
        self._lanes.setdefault(request.amounts, {})[key] = one

    def remove(self, key: K) -> bool:
        """Have a token wait no longer: it was handed back, or lost. Answer whether it waited."""
        one = self._waiting.pop(key, None)
        if one is None:
            return False
        self._coreless -= not one.request.of(CORES)
        lane = self._lanes[one.request.amounts]
        del lane[key]
        if not lane:
            del self._lanes[one.request.amounts]
        if self._reservation is not None and self._reservation[0] is one:
            self._reservation = None
        return True

    def start(self, now: float) -> list[Running[K]]:
        """Give those that may start what they ask, and name them."""
        started = []
        while (one := self._next(now)) is not None:
            started.append(self._started(one, now))
        return started

    def end(self, key: K, now: float, *, by_itself: bool | None = True) -> None:
        """Take back what a running token had.

        Args:
            key: names it.
            now: the time.
            by_itself: whether it was done, and took as long as such tokens take; False if it was cut, and takes longer;
                None if its time tells nothing: it failed, or was never begun.

        Raises:
            KeyError: it does not run.
        """
        one = self._running.pop(key)
        self.inventory.give_back(one.allocation)
        if self._reservation is not None:
            self._reservation[1].ended(key)
        if by_itself is not None:
            (self.durations.ended if by_itself else self.durations.cut)(one.request.kind, now - one.since)

    def _next(self, now: float) -> _Waiting[K] | None:
        """The token that starts next, if any does."""
        if not self._waiting:
            return None
        oldest = next(iter(self._waiting.values()))
        if self.inventory.fits(oldest.request):
            return oldest
        if not self._coreless and not self.inventory.free.get(CORES):  # most looks end here: after each start
            return None
        reservation = self._reserved(oldest, now)
        for one in self._younger(oldest, deep=reservation is not None):
            if reservation is None or reservation.allows(one.request, self.seconds(one.request), now):
                return one
        return None

    def _younger(self, oldest: _Waiting[K], *, deep: bool) -> Iterator[_Waiting[K]]:
        """The first token of each lane that fits, in the order of their claims; some more of each, if asked."""
        lanes = [lane for amounts, lane in self._lanes.items() if amounts != oldest.request.amounts]
        fitting = [lane for lane in lanes if self.inventory.fits(next(iter(lane.values())).request)]
        found = [one for lane in fitting for one in islice(lane.values(), MAX_LOOKED_AT if deep else 1)]
        return iter(sorted(found, key=lambda one: one.order))

    def _reserved(self, oldest: _Waiting[K], now: float) -> Reservation | None:
        """What is kept for the oldest, if it was passed over long enough."""
        if self._reservation is not None and self._reservation[0] is oldest:
            return self._reservation[1]
        since = oldest.passed_since
        if since is None or (oldest.passed < self._passes and now - since < self._patience):
            return None
        made = reserve(oldest.request, self.inventory.has, self.inventory.free, self._expected(now))
        self._reservation = (oldest, made)
        return made

    def _expected(self, now: float) -> Iterator[Expected]:
        for one in self._running.values():
            seconds = self.seconds(one.request)
            at = None if seconds is None or one.since + seconds < now else one.since + seconds
            yield Expected(at, one.request.amounts)

    def _started(self, one: _Waiting[K], now: float) -> Running[K]:
        oldest = next(iter(self._waiting.values()))
        if one is not oldest:
            oldest.passed += 1
            oldest.passed_since = now if oldest.passed_since is None else oldest.passed_since
            if self._reservation is not None and self._reservation[0] is oldest:
                self._reservation[1].started(one.key, one.request, self.seconds(one.request), now)
        self.remove(one.key)
        allocation = self.inventory.take(one.request)
        if allocation is None:
            raise AssertionError(f"{one.key!r} was to start, and does not fit")
        running = Running(one.key, one.request, allocation, now)
        self._running[one.key] = running
        return running
