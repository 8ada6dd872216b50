"""The tokens of a modelled pool: which are in todo, in the order of the keys of a view."""

from __future__ import annotations

from collections.abc import Iterable


class Tokens:
    """Tokens by their place in the view, from 0 on. Uploaded ids, and hashes of ids, come in no particular order.

    Args:
        number: of tokens, all in todo.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._todo = bytearray(b"\1") * number
        self._head = 0
        self.todo = number
        self.locked = 0
        self.done = 0

    def head(self, limit: int) -> list[int]:
        """The first tokens of the view."""
        first = self._todo.find(1, self._head)
        self._head = self.number if first < 0 else first
        return self._from(self._head, limit)

    def stretch(self, place: float, limit: int) -> list[int]:
        """Tokens from a place in the key space on, 0 to 1; fewer than asked for where the view ends."""
        return self._from(max(self._head, int(place * self.number)), limit)

    def _from(self, start: int, limit: int) -> list[int]:
        found: list[int] = []
        find, at = self._todo.find, start
        while len(found) < limit and (at := find(1, at)) >= 0:
            found.append(at)
            at += 1
        return found

    def is_todo(self, token: int) -> bool:
        """Whether a token can be claimed."""
        return bool(self._todo[token])

    def lock(self, tokens: Iterable[int]) -> list[int]:
        """Compare and swap; answers with those that were won."""
        won = [token for token in tokens if self._todo[token]]
        for token in won:
            self._todo[token] = 0
        self.todo -= len(won)
        self.locked += len(won)
        return won

    def release(self, tokens: Iterable[int]) -> None:
        """Back to todo."""
        for token in tokens:
            self._todo[token] = 1
            self._head = min(self._head, token)
            self.todo += 1
            self.locked -= 1

    def finish(self, number: int) -> None:
        """So many of the locked ones are done."""
        self.locked -= number
        self.done += number
