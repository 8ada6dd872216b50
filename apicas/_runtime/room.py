"""Room: how many tokens a pilot works at once, how many it claims, and which of them it starts.

`Workers` asks no token what it needs: so many at once. `timing.TimedWorkers` also leaves alone what would not be over
before the end of the batch job, and `packing.Packed` gives each what it asks of the node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from typing_extensions import override

from apicas._runtime.keeping.candidates import Choice
from apicas._runtime.keeping.outcomes import Verdict
from apicas._runtime.left import Left
from apicas._runtime.stock import Stock
from apicas.policies.claiming import CLAIM_PORTION, claim_ahead
from apicas.tokens import Token

RATE_TIME: Final = 0.1
"""Seconds over which the rate is measured at least: within a millisecond all that one claim has brought may end."""


class Room(Protocol):
    """What a pilot asks about how much it can do. It tells of each token, in this order: `put`, `begin`, `end`."""

    workers: int
    """Most tokens worked at once."""
    usual: int
    """How many are usual: processes are not kept for more."""
    overlaps: bool
    """Whether a claim may be made while another one is under way."""
    stock: Stock
    """Hands the tokens to the workers, those that may start; there once it is open."""
    low: float
    """How few tokens that have not begun are so few that claiming has to look at it; infinity for any number."""
    left: Left | None
    """The tokens that were left to others; None where none ever are."""
    choose: Callable[[], Choice] | None
    """Makes the choice of a claim; None where every token is welcome."""

    def open(self, monotonic: Callable[[], float]) -> None:
        """Begin, on a clock in seconds that is never set back."""
        ...

    @property
    def unstarted(self) -> int:
        """Tokens that were put here, and that no worker has begun with."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether the last claim has seen tokens for which there is no room before one that is worked has ended."""
        ...

    @property
    def drains_at(self) -> float:
        """When the pilot has to drain, by the clock; infinity for never."""
        ...

    def measure(self) -> None:
        """Measure how fast tokens end."""
        ...

    def wanted(self, asked: int, most: int | None) -> int:
        """How many tokens to claim now; 0 or less for none.

        Args:
            asked: tokens that claims under way are to bring.
            most: tokens that may still be begun; None for any number.
        """
        ...

    def put(self, tokens: Sequence[Token]) -> Sequence[tuple[Token, str]]:
        """Take in tokens that were claimed; answers with those that cannot be worked here, and why."""
        ...

    def begin(self, token: Token) -> None:
        """Note that a worker begins with a token, and give that what it asked."""
        ...

    def end(self, token: Token, verdict: Verdict | None) -> bool:
        """Note that the work on a token is over; answers whether claiming should look at that.

        Args:
            token: the token.
            verdict: what became of it; None if it was cut.
        """
        ...

    def remove(self, before: float) -> list[Token]:
        """Take out tokens that were claimed before a time and have not begun: somebody else may be idle."""
        ...


class Rate:
    """How many tokens end per second, lately.

    Args:
        monotonic: seconds, never set back.
        workers: tokens that have to end before it is measured again.
    """

    def __init__(self, monotonic: Callable[[], float], workers: int) -> None:
        self._monotonic = monotonic
        self._workers = workers
        self._since, self._ended_then = monotonic(), 0
        self.per_second = 0.0

    def measure(self, ended: int) -> None:
        """Measure it, if enough have ended.

        Args:
            ended: how many tokens have ended so far.
        """
        now, lately = self._monotonic(), ended - self._ended_then
        if lately >= self._workers and now - self._since >= RATE_TIME:
            latest = lately / (now - self._since)
            # By the time that it is about: what two claims bring one after the other is not the rate of a second.
            weight = min(1.0, now - self._since) if self.per_second else 1.0
            self.per_second += (latest - self.per_second) * weight
            self._since, self._ended_then = now, ended


class Workers(Room):
    """So many tokens at once, whatever they are.

    Args:
        workers: how many.
        ahead: most tokens held beyond those being worked; None for the default.
    """

    overlaps = True
    choose: Callable[[], Choice] | None = None
    left: Left | None = None

    def __init__(self, workers: int, ahead: int | None = None) -> None:
        self.workers = self.usual = workers
        self.low = math.inf
        self._ahead = ahead
        self._idle = workers
        self._unstarted = 0
        self._ended = 0
        self._rate: Rate

    @override
    def open(self, monotonic: Callable[[], float]) -> None:
        self.stock = Stock(monotonic)
        self._rate = Rate(monotonic, self.workers)

    @property
    @override
    def unstarted(self) -> int:
        # Whether it is in the stock or already out of it: a worker that has been handed a token is no reason to claim
        # another.
        return self._unstarted

    @property
    @override
    def is_full(self) -> bool:
        return False

    @property
    @override
    def drains_at(self) -> float:
        return math.inf

    @override
    def measure(self) -> None:
        self._rate.measure(self._ended)

    @override
    def wanted(self, asked: int, most: int | None) -> int:
        buffered = self._unstarted + asked
        ahead = claim_ahead(self._rate.per_second, self.workers, self._ahead)
        self.low = (self.workers + ahead) * 3 / 4
        wanted = self._idle + ahead - buffered
        if most is not None:
            wanted = min(wanted, most - buffered)
        # Not one by one as workers come free while there is a stock: in batches worth a request.
        if buffered >= self._idle and wanted * 4 < self.workers + ahead:
            return 0
        return min(wanted, CLAIM_PORTION)

    @override
    def put(self, tokens: Sequence[Token]) -> Sequence[tuple[Token, str]]:
        self._unstarted += len(tokens)
        self.stock.put(tokens)
        return ()

    @override
    def begin(self, token: Token) -> None:
        self._idle -= 1
        self._unstarted -= 1

    @override
    def end(self, token: Token, verdict: Verdict | None) -> bool:
        self._idle += 1
        self._ended += 1
        return self._unstarted <= self.low

    @override
    def remove(self, before: float) -> list[Token]:
        removed = self.stock.remove(before)
        self._unstarted -= len(removed)
        return removed
