"""Tokens that ask for a part of the node, and get it: as many at once as fit. docs/design/0014-resources.md.

What is claimed waits until the packer starts it, and only then lies ready for a worker. There are more workers than
tokens that fit on most nodes; one that finds none free waits, with what it was given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from typing_extensions import override

from apicas._node.admission import Admission, Budget, Horizon, Typical, overdue
from apicas._node.inventory import Allocation, Inventory
from apicas._node.names import CORES
from apicas._node.packer import Packer
from apicas._node.requests import Refused, Request, RequestFields
from apicas._runtime.keeping.outcomes import Verdict
from apicas._runtime.left import Left
from apicas._runtime.processes.allotment import running_allocation
from apicas._runtime.room import Rate, Room
from apicas._runtime.stock import Stock
from apicas._runtime.timing import by_itself, drains_at, note, opened
from apicas.policies.claiming import CLAIM_PORTION, claim_ahead
from apicas.tokens import Token

MIN_WORKERS: Final = 256
"""Workers at least: tokens that ask for no core, or for a license only, are bounded by them."""
MAX_WAITING: Final = 200
"""Tokens that wait, claimed, at most: all of them are looked at for each claim."""
FULL_TIME: Final = 10.0
"""Seconds after which a claim is tried again that found nothing for which there was room: smaller ones may be there."""
OVERDUE_LOOK: Final = 1.0
"""Seconds between two looks for tokens that would no longer be over in time, at least."""


class Packed(Room):
    """As many tokens at once as fit.

    Args:
        inventory: what there is.
        fields: where tokens say what they ask.
        horizon: until when, in seconds from the time at which this is opened.
        ahead: most tokens held beyond those being worked; None for the default.
    """

    overlaps = False

    def __init__(
        self, inventory: Inventory, fields: RequestFields, horizon: Horizon | None = None, ahead: int | None = None
    ) -> None:
        self.usual = inventory.has.get(CORES, 1)
        self.workers = max(MIN_WORKERS, self.usual)
        self.low = math.inf
        self.left = Left()
        self.choose = self._make_choice
        self._packer: Packer[int] = Packer(inventory)
        self._fields = fields
        self._horizon = horizon or Horizon()
        self._ahead = ahead
        self._typical = Typical()
        self._choice: _Fitting | None = None
        self._full_until = self._look_at = -math.inf
        self._ended = 0
        self._monotonic: Callable[[], float]
        self._rate: Rate
        self._packed: PackedStock

    @override
    def open(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._horizon = opened(self._horizon, monotonic())
        self.stock = self._packed = PackedStock(monotonic, self._packer)
        self._rate = Rate(monotonic, 1)

    @property
    @override
    def unstarted(self) -> int:
        return self._packed.waiting + len(self._packed)

    @property
    @override
    def is_full(self) -> bool:
        is_busy = self._packer.running or self._packed.waiting
        return bool(is_busy) and self._monotonic() < self._full_until

    @property
    @override
    def drains_at(self) -> float:
        return drains_at(self._horizon)

    @override
    def measure(self) -> None:
        self._rate.measure(self._ended)

    # Claiming. ------------------------------------------------------------------------------------------------------

    @override
    def wanted(self, asked: int, most: int | None) -> int:
        if asked or self.is_full:
            return 0
        ahead = self._may_wait()
        self.low = ahead * 3 / 4
        has_free_cores = self._packer.inventory.free.get(CORES, 0) > 0
        if self._packed.waiting > self.low and not has_free_cores:
            return 0
        wanted = min(self._budget(ahead).wanted, CLAIM_PORTION)
        return wanted if most is None else min(wanted, most - self.unstarted)

    def _may_wait(self) -> int:
        """How many tokens may wait, of those that are usual here."""
        return min(MAX_WAITING, claim_ahead(self._rate.per_second, self._at_once, self._ahead))

    @property
    def _at_once(self) -> int:
        """How many of the usual tokens fit."""
        return max(1, self._typical.fit_into(self._packer.inventory.has))

    def _budget(self, ahead: int) -> Budget:
        share = ahead / self._at_once
        return Budget(self._packer, self._typical, self._horizon, ahead=share, now=self._monotonic())

    def _make_choice(self) -> _Fitting:
        was_wasteful = self._choice is None or self._choice.refused > 0
        budget = self._budget(self._may_wait())
        self._choice = _Fitting(self, budget, self._fields, self.left, surplus=2 if was_wasteful else 1)
        return self._choice

    def note_full(self) -> None:
        """Note that a token was seen for which there is no room now."""
        self._full_until = self._monotonic() + FULL_TIME

    # Tokens. --------------------------------------------------------------------------------------------------------

    @override
    def put(self, tokens: Sequence[Token]) -> Sequence[tuple[Token, str]]:
        refused = [(token, reason) for token in tokens if (reason := self._add(token))]
        if self._choice is not None and len(tokens) < len(self._choice.taken):
            self._full_until = -math.inf  # others were faster, so there is room still
        self._packed.start()
        return refused

    def _add(self, token: Token) -> str:
        """Have a token wait; why it cannot, else ""."""
        known = None if self._choice is None else self._choice.taken.get(token.id)
        request = self._fields.read(token.peek()) if known is None else known
        if isinstance(request, Refused):
            return request.reason
        reason = self._packer.inventory.never_fits(request)
        if not reason:
            self._packed.add(token, request)
        return reason

    @override
    def begin(self, token: Token) -> None:
        token.allocation = self._packed.begun(token)
        running_allocation.set(token.allocation)

    @override
    def end(self, token: Token, verdict: Verdict | None) -> bool:
        running_allocation.set(None)
        self._packer.end(id(token), self._monotonic(), by_itself=by_itself(verdict))
        self._packed.start()
        self._ended += 1
        self._full_until = -math.inf
        return self._packer.inventory.free.get(CORES, 0) > 0 or self._packed.waiting <= self.low

    @override
    def remove(self, before: float) -> list[Token]:
        late = []
        if self._look_at <= self._monotonic():
            self._look_at = self._monotonic() + OVERDUE_LOOK
            for key, reason in overdue(self._packer, self._horizon, self._monotonic()):
                token = self._packed.take_out(key)
                note(self.left, token.id, reason)
                late.append(token)
        removed = late + self._packed.remove(before)
        if removed and before < math.inf:
            self._packed.start()  # what was kept for one of them is for others now
        return removed


class PackedStock(Stock):
    """Tokens that wait until they fit, and those that were started and wait for a worker.

    Args:
        monotonic: seconds, never set back.
        packer: decides. Its keys are the ids of the token objects: a token is no key of a mapping.
    """

    def __init__(self, monotonic: Callable[[], float], packer: Packer[int]) -> None:
        super().__init__(monotonic)
        self._packer = packer
        self._claimed: dict[int, tuple[Token, float]] = {}
        """Those that wait to be started, and when they were claimed; the oldest first."""

    @property
    def waiting(self) -> int:
        """How many wait to be started."""
        return len(self._claimed)

    def add(self, token: Token, request: Request) -> None:
        """Have a token wait."""
        self._packer.add(id(token), request)
        self._claimed[id(token)] = token, self._monotonic()

    def start(self) -> None:
        """Hand those to the workers that fit."""
        now = self._monotonic()
        self.put(self._claimed.pop(one.key)[0] for one in self._packer.start(now))

    def begun(self, token: Token) -> Allocation:
        """What a token was given that a worker begins with."""
        return self._packer.running[id(token)].allocation

    def take_out(self, key: int) -> Token:
        """Have a token wait no longer."""
        token, _ = self._claimed.pop(key)
        self._packer.remove(key)
        return token

    @override
    def remove(self, before: float) -> list[Token]:
        """Take out what was claimed before a time, but for the oldest: what is kept for that one would be in vain."""
        oldest = None if before == math.inf else next(iter(self._claimed), None)
        old = [key for key, (_, claimed) in self._claimed.items() if claimed < before and key != oldest]
        removed = [self.take_out(key) for key in old]
        if before == math.inf:
            started = super().remove(before)
            for token in started:
                self._packer.end(id(token), self._monotonic(), by_itself=None)
            removed += started
        return removed


class _Fitting:
    """Takes what fits; see claims.Choice."""

    def __init__(self, room: Packed, budget: Budget, fields: RequestFields, left: Left, *, surplus: int) -> None:
        self.surplus = surplus
        self._room = room
        self._budget = budget
        self._fields = fields
        self._left = left
        self.taken: dict[str, Request] = {}
        """What those ask that were taken, by id."""
        self.refused = 0
        self.is_full = False

    def takes(self, document: Mapping[str, Any]) -> bool:
        """Whether a candidate is to be claimed."""
        request, token_id = self._fields.read(document), document["_id"]
        answer = self._budget.judge(request)
        if answer.admission is Admission.TAKES:
            assert isinstance(request, Request)  # noqa: S101 - for the type checker: what is refused is not taken
            self.taken[token_id] = request
            note(self._left, token_id, "")
            return True
        self.refused += 1
        if answer.admission is Admission.NOT_NOW:
            self.is_full = True
            self._room.note_full()
        else:
            note(self._left, token_id, answer.reason)
        return False
