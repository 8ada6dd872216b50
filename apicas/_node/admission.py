"""Which tokens to claim: those that can start here, that would be over in time, and no more than are soon to start.

| answer | what it means |
|---|---|
| takes | claim it |
| not now | enough waits here already; the same token may be taken at the next claim |
| not here | it can never start here, or would not be over in time: it is left to others, and the reason is told |
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from apicas._node.names import CORES
from apicas._node.packer import Packer
from apicas._node.requests import Refused, Request

K = TypeVar("K", bound=Hashable)

MEMORY_OF_TYPICAL: Final = 0.05
"""The weight of the next request in the mean of the recent ones."""


class Admission(StrEnum):
    """What becomes of a candidate."""

    TAKES = "takes"
    NOT_NOW = "not now"
    NOT_HERE = "not here"


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of a candidate, and why it is not claimed."""

    admission: Admission
    reason: str = ""


_TAKES: Final = Answer(Admission.TAKES)
_NOT_NOW: Final = Answer(Admission.NOT_NOW, "enough waits here already")


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """Until when tokens must be over.

    Args:
        end: the time, by the packer's clock; None for no end.
        margin: seconds before it that are for committing and leaving.
    """

    end: float | None = None
    margin: float = 0.0

    def too_late(self, seconds: float | None, now: float) -> str:
        """Why a token that takes so long would not be over in time if it started now; "" if it would."""
        if self.end is None:
            return ""
        left = self.end - self.margin - now
        if left <= 0:
            return "the batch job is about to end"
        if seconds is not None and seconds > left:
            return f"it takes {seconds:.0f} s, and {left:.0f} s of the batch job are left"
        return ""


class Typical:
    """What tokens here ask on average: a mean in which the recent ones weigh more."""

    def __init__(self) -> None:
        self._mean: dict[str, float] = {}

    def seen(self, request: Request) -> None:
        """Note a request."""
        if not self._mean:
            self._mean = {name: float(number) for name, number in request.amounts}
            return
        asked = dict(request.amounts)
        for name in self._mean.keys() | asked.keys():
            mean = self._mean.get(name, 0.0)
            self._mean[name] = mean + MEMORY_OF_TYPICAL * (asked.get(name, 0) - mean)

    def fit_into(self, room: Mapping[str, float]) -> int:
        """How many such tokens there is room for."""
        mean = self._mean or {CORES: 1.0}
        shares = (room.get(name, 0.0) / number for name, number in mean.items() if number > 0)
        return max(0, math.floor(min(shares, default=0.0)))


class Budget:
    """What may be claimed now. Made for one claim, after the packer has started what it could.

    A token that can start at once may be claimed. One that cannot may be claimed to wait, as long as little waits: less
    than what is still free and `ahead`. A *large* one, which asks for more than half of something, is counted apart:
    one of them may always wait, else a busy node would never claim any; more only within `ahead`.

    Args:
        packer: what runs and waits.
        typical: what tokens ask; it is told of those that are taken.
        horizon: until when.
        ahead: how much may wait beyond what is free, as a share of all that there is.
        now: the time, by the packer's clock.
    """

    def __init__(self, packer: Packer[Any], typical: Typical, horizon: Horizon, *, ahead: float, now: float) -> None:
        self._packer = packer
        self._typical = typical
        self._horizon = horizon
        self._now = now
        self._has = packer.inventory.has
        self._ahead = {name: ahead * number for name, number in self._has.items()}
        self._gap: Counter[str] = Counter(packer.inventory.free)
        self._beside = Counter(packer.reservation.beside if packer.reservation is not None else self._has)
        self._waits: Counter[str] = Counter()
        self._large: Counter[str] = Counter()
        self._nothing_waits = not packer.waiting
        for request in packer.waiting.values():
            self._note_waiting(request)

    @property
    def wanted(self) -> int:
        """How many tokens to look for: as many typical ones as there is room for; 0 where nothing may be claimed."""
        if self._horizon.too_late(None, self._now):
            return 0
        room = {name: self._room(name) - self._waits[name] for name in self._has}
        is_hungry = self._gap[CORES] > 0 or (self._nothing_waits and any(self._ahead.values()))
        return max(self._typical.fit_into(room), int(is_hungry))

    def judge(self, request: Request | Refused) -> Answer:
        """What becomes of a candidate; one that is taken is counted."""
        if isinstance(request, Refused):
            return Answer(Admission.NOT_HERE, request.reason)
        seconds = self._packer.seconds(request)
        reason = self._packer.inventory.never_fits(request) or self._horizon.too_late(seconds, self._now)
        if reason:
            return Answer(Admission.NOT_HERE, reason)
        if self._starts(request, seconds):
            self._gap.subtract(dict(request.amounts))
        elif self._may_wait(request):
            self._note_waiting(request)
        else:
            return _NOT_NOW
        self._typical.seen(request)
        return _TAKES

    def _starts(self, request: Request, seconds: float | None) -> bool:
        """Whether a token could start at once."""
        if any(self._gap[name] < number for name, number in request.amounts):
            return False
        reservation = self._packer.reservation
        if reservation is None or reservation.ends_before(seconds, self._now):
            return True
        if any(self._beside[name] < number for name, number in request.amounts):
            return False
        self._beside.subtract(dict(request.amounts))
        return True

    def _may_wait(self, request: Request) -> bool:
        if self._is_large(request):
            return not self._large or all(
                self._large[name] + number <= self._ahead[name] for name, number in request.amounts
            )
        return all(self._waits[name] < self._room(name) for name, _ in request.amounts)

    def _room(self, name: str) -> float:
        """How much of something may be waited for: what is free and kept for nobody, and what may wait beyond it."""
        return max(0, min(self._gap[name], self._beside[name])) + self._ahead[name]

    def _note_waiting(self, request: Request) -> None:
        self._nothing_waits = False
        (self._large if self._is_large(request) else self._waits).update(dict(request.amounts))

    def _is_large(self, request: Request) -> bool:
        return any(2 * number > self._has.get(name, 0) for name, number in request.amounts)


def overdue(packer: Packer[K], horizon: Horizon, now: float) -> list[tuple[K, str]]:
    """The waiting tokens that would no longer be over in time, and why: hand them back, uncharged.

    One for which cores are kept is judged by when it can start: they would be kept in vain.
    """
    if horizon.end is None:
        return []
    waiting = packer.waiting.items()
    late = ((key, horizon.too_late(packer.seconds(one), packer.earliest(key, now))) for key, one in waiting)
    return [(key, reason) for key, reason in late if reason]
