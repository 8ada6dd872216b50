"""So many tokens at once, but none that would not be over before the batch job ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from typing_extensions import override

from apicas._node.admission import Horizon
from apicas._node.durations import Durations
from apicas._node.requests import Refused, Request, RequestFields
from apicas._runtime.keeping.outcomes import Crashed, Raised, Returned, Verdict
from apicas._runtime.left import Left
from apicas._runtime.room import Workers
from apicas.exceptions import TokenTimeoutError
from apicas.tokens import Token

LEARN_PAUSE: Final = 0.01
"""Seconds between two tokens whose times are learned: of thousands a second a few are enough, and cost less."""


def by_itself(verdict: Verdict | None) -> bool | None:
    """What the time of a token tells: True for as long as such tokens take, False for longer, None for nothing."""
    if isinstance(verdict, Returned):
        return True
    if isinstance(verdict, Raised):
        return False if isinstance(verdict.error, TokenTimeoutError) else None
    return None if isinstance(verdict, Crashed) else False


class TimedWorkers(Workers):
    """As Workers, beside an end.

    Args:
        workers: how many.
        ahead: most tokens held beyond those being worked; None for the default.
        fields: where tokens say how long they take, and of what kind they are. What cannot be understood there may have
            another meaning, and says nothing.
        horizon: the end, in seconds from the time at which this is opened.
    """

    def __init__(self, workers: int, ahead: int | None, fields: RequestFields, horizon: Horizon) -> None:
        super().__init__(workers, ahead)
        self.left = Left()
        self.choose = self._make_choice
        self._fields = fields
        self._unsaid = Request(seconds=fields.default_time, kind=fields.default_kind)
        self._only_field = "" if fields.kind or "." in fields.time else fields.time
        """The one field that says anything; "" where more has to be looked at."""
        self._horizon = horizon
        self._durations = Durations()
        self._begun: dict[int, float] = {}
        """When each token that is worked was begun with."""
        self._learns_at = -math.inf
        self._monotonic: Callable[[], float]

    @override
    def open(self, monotonic: Callable[[], float]) -> None:
        super().open(monotonic)
        self._monotonic = monotonic
        self._horizon = opened(self._horizon, monotonic())

    @property
    @override
    def drains_at(self) -> float:
        return drains_at(self._horizon)

    @override
    def begin(self, token: Token) -> None:
        super().begin(token)
        self._begun[id(token)] = self._monotonic()

    @override
    def end(self, token: Token, verdict: Verdict | None) -> bool:
        now, since = self._monotonic(), self._begun.pop(id(token))
        if now >= self._learns_at:
            self._learns_at = now + LEARN_PAUSE
            self._learn(token, verdict, now - since)
        return super().end(token, verdict)

    def _learn(self, token: Token, verdict: Verdict | None, seconds: float) -> None:
        tells, kind = by_itself(verdict), self._read(token.peek()).kind
        if tells is not None:
            (self._durations.ended if tells else self._durations.cut)(kind, seconds)

    def says_nothing(self, document: Mapping[str, Any]) -> bool:
        """Whether a token is as most are: it says no time, and there are no kinds."""
        return bool(self._only_field) and self._only_field not in document

    def too_late(self, document: Mapping[str, Any] | None = None) -> str:
        """Why a token would not be over in time; "" if it would, or nobody knows. None is one that says nothing."""
        request = self._unsaid if document is None else self._read(document)
        seconds = request.seconds if request.seconds is not None else self._durations.estimate(request.kind)
        return self._horizon.too_late(seconds, self._monotonic())

    def _read(self, document: Mapping[str, Any]) -> Request:
        if self.says_nothing(document):
            return self._unsaid
        request = self._fields.read(document)
        return self._unsaid if isinstance(request, Refused) else request

    def _make_choice(self) -> _InTime:
        return _InTime(self)


class _InTime:
    """Takes what would be over in time; see claims.Choice."""

    is_full = False
    surplus = 1

    def __init__(self, workers: TimedWorkers) -> None:
        self._workers = workers
        self._left = workers.left
        self._of_most = workers.too_late()
        """Why those that say nothing would not be over in time."""

    def takes(self, document: Mapping[str, Any]) -> bool:
        """Whether a candidate is to be claimed."""
        workers = self._workers
        reason = self._of_most if workers.says_nothing(document) else workers.too_late(document)
        if reason or self._left:
            note(self._left, document["_id"], reason)
        return not reason


def note(left: Left | None, token_id: str, reason: str) -> None:
    """Note why a token is left, or, without a reason, that it is not."""
    if left is None:
        return
    if reason:
        left.add(token_id, reason)
    elif left:
        left.remove(token_id)


def opened(horizon: Horizon, now: float) -> Horizon:
    """A horizon on a clock, from one in seconds from now on."""
    return horizon if horizon.end is None else replace(horizon, end=now + horizon.end)


def drains_at(horizon: Horizon) -> float:
    """When a pilot has to drain."""
    return math.inf if horizon.end is None else horizon.end - horizon.margin
