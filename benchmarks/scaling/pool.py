"""The tokens of a modelled pool, in the order of their ids: which are in todo, and which of them a view still shows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

_LOCKED: Final = 0
_TODO: Final = 1
_DONE: Final = 2
_BLOCK: Final = 4096
"""Tokens whose rows are counted together."""


class Tokens:
    """Tokens by their place in the view, from 0 on.

    Args:
        number: of tokens, all in todo.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._states = bytearray(b"\1") * number
        self._shown = bytearray(b"\1") * number
        """What the index of the view says: 1 for a row."""
        self._blocks = [min(_BLOCK, number - start) for start in range(0, number, _BLOCK)]
        """Rows in each."""
        self._late: deque[tuple[float, int]] = deque()
        """Tokens that were locked, and when; the index still has them."""
        self._head = 0
        self.todo = self.rows = number
        """What can be claimed, and what the index lists."""
        self.locked = 0
        self.done = 0

    # As they are. ---------------------------------------------------------------------------------------------------

    def head(self, limit: int) -> list[int]:
        """The first tokens in todo."""
        first = self._states.find(_TODO, self._head)
        self._head = self.number if first < 0 else first
        return _found(self._states, self._head, self.number, limit)

    def stretch(self, place: float, limit: int) -> list[int]:
        """Tokens in todo from a place on, 0 to 1; fewer than asked for where the view ends."""
        return _found(self._states, max(self._head, int(place * self.number)), self.number, limit)

    def is_todo(self, token: int) -> bool:
        """Whether a token can be claimed."""
        return self._states[token] == _TODO

    def lock(self, tokens: Iterable[int], now: float = 0.0) -> list[int]:
        """Compare and swap at a time; answers with those that were won."""
        won = [token for token in tokens if self._states[token] == _TODO]
        for token in won:
            self._states[token] = _LOCKED
            self._late.append((now, token))
        self.todo -= len(won)
        self.locked += len(won)
        return won

    def release(self, tokens: Iterable[int]) -> None:
        """Back to todo; the index has them at once."""
        for token in tokens:
            self._states[token] = _TODO
            self._head = min(self._head, token)
            self.todo += 1
            self.locked -= 1
            self._show(token, 1)

    def finish(self, tokens: Iterable[int]) -> None:
        """These are done."""
        for token in tokens:
            self._states[token] = _DONE
            self.locked -= 1
            self.done += 1

    # As the index has them. -----------------------------------------------------------------------------------------

    def index(self, until: float) -> None:
        """The index knows what was locked before that time."""
        late = self._late
        while late and late[0][0] < until:
            _, token = late.popleft()
            if self._states[token] != _TODO:
                self._show(token, 0)

    def _show(self, token: int, is_shown: int) -> None:
        change = is_shown - self._shown[token]
        self._shown[token] = is_shown
        self._blocks[token // _BLOCK] += change
        self.rows += change

    def listed(self, start: int, end: int, limit: int) -> list[int]:
        """Rows of the index from one token up to another."""
        return _found(self._shown, start, end, limit)

    def last_listed(self) -> list[int]:
        """The last row of the index."""
        last = self._shown.rfind(1)
        return [last] if last >= 0 else []

    def rank(self, token: int) -> int:
        """How many rows the index has before a token."""
        block = token // _BLOCK
        return sum(self._blocks[:block]) + self._shown.count(1, block * _BLOCK, token)

    def locked_before(self, token: int) -> list[int]:
        """The last locked token at or before one."""
        last = self._states.rfind(_LOCKED, 0, token + 1)
        return [last] if last >= 0 else []


def _found(states: bytearray, start: int, end: int, limit: int) -> list[int]:
    found: list[int] = []
    find, at = states.find, start
    while len(found) < limit and (at := find(1, at, end)) >= 0:
        found.append(at)
        at += 1
    return found
