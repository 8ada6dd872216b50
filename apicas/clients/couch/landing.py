"""Where a claim begins in a big view: at a random rank, and not just in front of somebody else."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from apicas.clients.couch.places import Bound, guess
from apicas.exceptions import ViewNotFoundError

Row = Mapping[str, Any]
Update: TypeAlias = Literal["true", "false", "lazy"]
Ask = Callable[[Mapping[str, Any], Update], Awaitable[Mapping[str, Any]]]

GUESSES: Final = 4
"""How often a key is guessed before any place will do."""
PLACES: Final = 2
"""How many places are looked at, of which the one with the most room behind others is taken."""
ROOM: Final = 1000
"""Rows behind the last locked token that are room enough: that many somebody else may be about to lock."""
ENDS_KEPT: Final = 10.0
"""Seconds for which the lowest and the highest key are remembered."""
_STEP: Final = 0.618034
"""From one random place to the next."""


@dataclass(frozen=True, slots=True)
class Landed:
    """Where a claim begins.

    Args:
        rows: from there on.
        total: of the view; None where there are no ranks to begin at.
    """

    rows: Sequence[Row]
    total: int | None


class Landing:
    """Finds places in one view.

    Args:
        ask: sends parameters to the view, and whether its index is to be brought up to date: before the answer, after
            it, or not at all; answers with what the server does.
        ask_locked: the same for the view of locked tokens, whose keys are ids.
        monotonic: seconds, never set back.
    """

    def __init__(self, ask: Ask, ask_locked: Ask, monotonic: Callable[[], float]) -> None:
        self._ask = ask
        self._ask_locked = ask_locked
        self._monotonic = monotonic
        self._ends = "", ""
        """The lowest and the highest key."""
        self._ends_at = -math.inf

    async def at(self, place: float, limit: int, least: int, total: int | None) -> Landed:
        """Rows from about a place on, of a view that is up to date.

        Args:
            place: from 0 up to 1.
            limit: rows at most.
            least: rows of a view that is big enough; a smaller one is not looked at.
            total: rows of the view, if that is known.
        """
        update: Update = "true"
        if total is None or self._monotonic() - self._ends_at > ENDS_KEPT:
            total = await self._look_at_ends(least)
            update = "false"
        if total is None or total < least:
            return Landed((), total)
        best: Sequence[Row] = ()
        most = -1.0
        for number in range(PLACES):
            rows, rank, total = await self._at_rank((place + number * _STEP) % 1, total, limit, update)
            update = "false"
            room = await self._room(rows, rank)
            if room > most:
                best, most = rows, room
            if room >= ROOM:
                break
        return Landed(best, total)

    async def _look_at_ends(self, least: int) -> int | None:
        """Have the index brought up to date, and answer how many rows the view has.

        None where that is not said, or where the keys are not ids: they mean something, such as who comes first.
        """
        first = await self._ask({"limit": 1}, "true")
        total = first.get("total_rows")
        if not isinstance(total, int) or total < least:
            return total if isinstance(total, int) else None
        last = await self._ask({"limit": 1, "descending": True}, "false")
        ends = [row for answer in (first, last) for row in answer["rows"]]
        if any(row["key"] != row["id"] for row in ends):
            return None
        if not (first["rows"] and last["rows"]):
            return 0
        self._ends = ends[0]["id"], ends[1]["id"]
        self._ends_at = self._monotonic()
        return total

    async def _at_rank(
        self, place: float, total: int, limit: int, update: Update
    ) -> tuple[Sequence[Row], int | None, int]:
        """Rows from about a place on, their rank, where the server says it, and how many there are in all.

        The keys between are guessed.
        """
        low, high = Bound(self._ends[0], 0), Bound(self._ends[1], total)
        rank, near = int(place * total), total / 16
        rows: Sequence[Row] = ()
        offset: Any = None
        known: set[str] = set()
        for _ in range(GUESSES):
            key = guess(low, high, rank, known)
            answer = await self._ask({"startkey": key, "limit": limit}, update)
            update = "false"
            rows, offset, total = answer["rows"], answer.get("offset"), answer.get("total_rows") or total
            if not isinstance(offset, int) or (rows and not offset):  # a server that does not say ranks may say 0
                return rows, None, total
            if abs(offset - rank) <= near:
                break
            known.update(row["id"] for row in rows)
            bound = Bound(rows[0]["id"] if rows else key, offset)
            low, high = (bound, high) if offset < rank else (low, bound)
        return rows, offset, total

    async def _room(self, rows: Sequence[Row], rank: int | None) -> float:
        """How many rows are between a place and the last locked token before it: whoever has that goes on there."""
        if not rows or rank is None:
            return math.inf if rows else 0.0
        before = {"startkey": rows[0]["id"], "descending": True, "limit": 1}
        try:
            locked = (await self._ask_locked(before, "false"))["rows"]
        except ViewNotFoundError:  # a pool with nothing but views of its users
            return math.inf
        if not locked:
            return math.inf
        behind = (await self._ask({"startkey": locked[0]["id"], "limit": 1}, "false")).get("offset")
        return rank - behind if isinstance(behind, int) else math.inf
