"""The stock: tokens that were claimed and wait for a worker."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from apicas.tokens import Token

TURN: Final = 0.002
"""Seconds of work without a pause after which the event loop gets its turn."""


class Stock:
    """Tokens, the oldest first, and the workers that wait for one.

    A worker whose tokens never wait for anything takes them one after the other, without a switch of tasks in between;
    but for no longer than TURN, since heartbeats, claims and everybody else's work go on in the same loop.

    Args:
        monotonic: seconds, never set back.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._entries: deque[tuple[Token, float]] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self._turned = monotonic()
        self._turns = 0
        self._turn_is_noted = False

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, tokens: Iterable[Token]) -> None:
        """Add tokens that were claimed now."""
        now = self._monotonic()
        self._entries.extend((token, now) for token in tokens)
        self._wake(len(self._entries))

    def close(self) -> None:
        """Let the workers go as soon as nothing is left."""
        self._closed = True
        self._wake(len(self._waiters))

    def remove(self, before: float) -> list[Token]:
        """Take out what was claimed before a monotonic time."""
        if not self._entries or self._entries[0][1] >= before:  # the oldest: this is asked after every token
            return []
        removed = [token for token, claimed in self._entries if claimed < before]
        self._entries = deque(entry for entry in self._entries if entry[1] >= before)
        return removed

    def turn(self) -> int:
        """Which turn of the loop this is: another number than before says that it has had one in between."""
        if not self._turn_is_noted:
            self._turn_is_noted = True
            asyncio.get_running_loop().call_soon(self._note_turn)
        return self._turns

    def _note_turn(self) -> None:
        self._turns += 1
        self._turn_is_noted = False

    def take_ready(self, turn: int) -> Token | None:
        """The next token; None where there is none, or the loop has to have its turn first.

        Args:
            turn: when the token before it was begun. Work that waited for something has let the loop go on meanwhile:
                a thousand workers that wake together would else all wait for each other once more.
        """
        if not self._entries:
            return None
        if self._turns != turn:
            self._turned = self._monotonic()
        elif self._monotonic() - self._turned > TURN:
            return None
        return self._entries.popleft()[0]

    async def take(self) -> Token | None:
        """The next token, as soon as there is one; None when there will be no more."""
        while True:
            if self._entries and self._monotonic() - self._turned > TURN:
                await asyncio.sleep(0)
                self._turned = self._monotonic()
            if self._entries:
                return self._entries.popleft()[0]
            if self._closed:
                return None
            await self._wait()

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():  # woken for a token that somebody else should have then
                self._wake(1)
            with suppress(ValueError):  # it was passed over already
                self._waiters.remove(waiter)
            raise

    def _wake(self, number: int) -> None:
        while number > 0 and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                number -= 1
