"""A node in virtual time: tokens come, wait, run and end, and what the packer promises is checked at every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

from apicas._node.admission import Admission, Budget, Horizon, Typical
from apicas._node.names import CORES
from apicas._node.packer import Packer, Running
from apicas._node.requests import Request


@dataclass(frozen=True)
class Work:
    """A token of the simulation: what it asks, and how long it really takes."""

    request: Request
    takes: float


@dataclass
class Node:
    """Runs tokens; the key of each is its number.

    Args:
        packer: decides.
        works: the tokens, in the order in which they are claimed.
        ahead: how much may wait, as a share of the node; None for having all claimed at the beginning.
    """

    packer: Packer[int]
    works: Sequence[Work]
    ahead: float | None = None
    now: float = 0.0
    starts: dict[int, float] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)
    claimed: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._agenda: list[tuple[float, int, int]] = []
        self._tie = count()
        self._left = list(range(len(self.works)))
        self._typical = Typical()
        self._out: dict[int, Running[int]] = {}

    def run(self) -> float:
        """Run all; answers when the last has ended."""
        self._step()
        while self._agenda:
            self.now, _, key = heappop(self._agenda)
            self._end(key)
            while self._agenda and self._agenda[0][0] == self.now:
                self._end(heappop(self._agenda)[2])
            self._step()
        return self.now

    def _step(self) -> None:
        self._claim()
        while self._start() and self._claim():
            pass

    def _start(self) -> bool:
        started = self.packer.start(self.now)
        for one in started:
            self.starts[one.key] = self.now
            self._out[one.key] = one
            heappush(self._agenda, (self.now + self.works[one.key].takes, next(self._tie), one.key))
        check(self.packer)
        return bool(started)

    def _end(self, key: int) -> None:
        del self._out[key]
        self.ends[key] = self.now
        self.packer.end(key, self.now)
        check(self.packer)

    def _claim(self) -> int:
        """Claim as the budget says, of the tokens that are left."""
        if self.ahead is None:
            taken, self._left = self._left, []
        else:
            budget = Budget(self.packer, self._typical, Horizon(), ahead=self.ahead, now=self.now)
            taken = self._chosen(budget)
            self._left = [key for key in self._left if key not in set(taken)] if taken else self._left
        for key in taken:
            self.claimed[key] = self.now
            self.packer.add(key, self.works[key].request)
        return len(taken)

    def _chosen(self, budget: Budget) -> list[int]:
        """The first that the budget takes, of a window of the view."""
        taken: list[int] = []
        wanted = budget.wanted
        for key in self._left[: max(2 * wanted, 64)]:
            if len(taken) >= wanted:
                break
            if budget.judge(self.works[key].request).admission is Admission.TAKES:
                taken.append(key)
        return taken


def check(packer: Packer[Any]) -> None:
    """What always holds: nothing is out twice, never more than there is, and what is out and free is all there is."""
    inventory = packer.inventory
    out: Counter[str] = Counter()
    for running in packer.running.values():
        out.update(dict(running.request.amounts))
        assert running.allocation.amounts == running.request.amounts
        assert len(running.allocation.cores) == running.request.of(CORES)
        assert len(running.allocation.gpus) == running.request.of("gpus")
    assert {name: out[name] + free for name, free in inventory.free.items()} == dict(inventory.has)
    assert all(free >= 0 for free in inventory.free.values())
    cores = [core for one in packer.running.values() for core in one.allocation.cores]
    gpus = [gpu for one in packer.running.values() for gpu in one.allocation.gpus]
    assert len(cores) == len(set(cores))
    assert len(gpus) == len(set(gpus))


def ideal(works: Sequence[Work], cores: int) -> float:
    """No packing ends earlier: the work of all cores, evenly shared, or the longest token."""
    area = sum(work.takes * work.request.of(CORES) for work in works)
    return max(area / cores, *(work.takes for work in works))
