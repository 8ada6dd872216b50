"""Holdings: the tokens that a pilot has claimed, and not given back."""

from __future__ import annotations

from typing import Final

from apicas._runtime.keeping.keeper import Keeper
from apicas._runtime.keeping.outcomes import Cut, Raised, Verdict
from apicas._runtime.room import Room
from apicas._runtime.telling import Teller
from apicas.exceptions import Release
from apicas.tokens import Token

REFUSED_AFTER: Final = 60.0
"""Seconds before a token is claimed again that was claimed without a look at what it asks, and can never start here."""


class Holdings:
    """What a pilot holds. Each token that comes in is given back once, with what became of it.

    Args:
        keeper: what keeps the tokens.
        room: where they wait for a worker.
        teller: tells observers of them; None where there are none.
    """

    def __init__(self, keeper: Keeper, room: Room, teller: Teller | None) -> None:
        self._keeper = keeper
        self._room = room
        self._teller = teller
        self._tokens: dict[int, Token] = {}
        self._takes_none = False
        self.started = 0
        """How many tokens a worker has begun with, so far."""

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def take(self, tokens: list[Token]) -> None:
        """Take in what was claimed, for the workers; what cannot be worked here is given back."""
        if self._teller is not None:
            self._teller.claimed(tokens)
        self._tokens.update((id(token), token) for token in tokens)
        if self._takes_none:
            for token in tokens:
                self.give_back(token, Cut())
            return
        for token, reason in self._room.put(tokens):
            self.give_back(token, Raised(Release(reason, after=REFUSED_AFTER)))

    def give_back(self, token: Token, verdict: Verdict) -> None:
        """Give a token back to its keeper."""
        self._tokens.pop(id(token), None)
        self._keeper.give_back(token, verdict)

    def give_back_unstarted(self, before: float) -> None:
        """Give back what waits for a worker, and was claimed before a monotonic time: somebody else may be idle."""
        for token in self._room.remove(before):
            self.give_back(token, Cut())

    def take_no_more(self) -> None:
        """Give back at once what still comes in."""
        self._takes_none = True

    def give_back_all(self) -> None:
        """Give back what a cancellation or an error left, wherever it was."""
        for token in list(self._tokens.values()):
            self.give_back(token, Cut())
