"""Where claims begin in a view, and how they go on: in stretches of neighbouring rows, far from those of others.

Neighbours in a view of Monitor are neighbours in the database. To lock and commit them costs the server half of what it
costs with documents from anywhere (docs/design/0011-claims-on-couchdb.md). So each client begins at a random rank, goes
on from row to row, and begins elsewhere as soon as it meets others. Rows are read ahead, and each is given out once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import anyio

from apicas._documents import Document
from apicas.clients.couch.landing import Ask, Landing, Row, Update
from apicas.tokens import TokenState, state_of

ROWS_AHEAD: Final = 1000
"""Rows that are read at once, at most, unless more are asked for: 20 ms."""
KEPT: Final = 2.0
"""Seconds for which rows are given out that were read before. A page that is asked for within this time after the last
one need not be fresh: the server indexes meanwhile, and behind the last row nothing is ours."""
INDEXED: Final = 5.0
"""Seconds after which the index is brought up to date while a round goes on, so that its end has not to wait long. What
is locked at that moment is indexed twice: at 1 s most tokens are, which costs the server a tenth of all its work."""
SMALL: Final = 2
"""A view of fewer than this many times the rows that a claim asks for has no room for stretches."""
MANY_LOST: Final = 8
"""One in so many: where more rows than that turn out to be taken, others are at work."""
SMALL_DOUBT: Final = 64
"""Rows that may be missing, when a client begins, without others having taken them."""
MET: Final = 10.0
"""Seconds for which a client that has met others leaves them their portion."""
PORTIONS: Final = 128
"""Into how many a view is divided among clients that have met: several for each, and room between them."""
PORTIONS_ALONE: Final = 16
"""The same for one that has met nobody: the others may just have begun."""
LEAST: Final = 8
"""Tokens of the smallest portion."""
_STARTS: Final = 3
"""How often one sample begins elsewhere."""
_END: Final = frozenset({"endkey", "inclusive_end"})
_STEP: Final = 0.618034
"""From one random place to the next one of the same sample."""

Read = Callable[[Sequence[str]], Awaitable[dict[str, Document]]]


class Stretches:
    """Samples one view for one client's claims.

    Args:
        ask: sends parameters to the view, and whether its index is to be brought up to date: before the answer, after
            it, or not at all; answers with what the server does.
        ask_locked: the same for Monitor's view of locked tokens.
        read: reads documents by id.
        monotonic: seconds, never set back.
    """

    def __init__(self, ask: Ask, ask_locked: Ask, read: Read, monotonic: Callable[[], float]) -> None:
        self._ask = ask
        self._landing = Landing(ask, ask_locked, monotonic)
        self._read = read
        self._monotonic = monotonic
        self._rows: deque[tuple[Row, Mapping[str, Any]]] = deque()
        """Read, and not yet given out; each with the end of its page."""
        self._next_page: dict[str, Any] | None = None
        """Where it begins, and where it ends; None where there is no going on."""
        self._began: Any = None
        """The key with which the round began."""
        self._given: tuple[Row, Mapping[str, Any]] | None = None
        """The last that was given out."""
        self._read_at = self._indexed_at = self._met_at = float("-inf")
        self._ahead = 0
        """Rows to read at once."""
        self._total_at_first = self._given_since = self._doubt = 0
        """Rows when this round began, and what was given out since; and what may have been on its way then."""
        self._total: int | None = None
        """Rows of the view, as the last answer says."""
        self._has_ranks = True
        """Whether one may begin at any: not in a view whose keys say who comes first."""
        self._one_at_a_time = anyio.Lock(fast_acquire=True)

    def portion(self, wanted: int) -> int:
        """How many tokens to claim at a time where `wanted` could be used; see the port."""
        if self._total is None:
            return wanted
        return min(wanted, max(LEAST, self._total // (PORTIONS if self._is_met else PORTIONS_ALONE)))

    @property
    def _is_met(self) -> bool:
        return self._monotonic() - self._met_at < MET

    def leave(self) -> None:
        """Go on elsewhere: others are at work here."""
        self._met_at = self._monotonic()
        self._rows.clear()
        self._next_page = self._given = None

    async def sample(self, limit: int, place: float, *, window: int, fresh: bool) -> list[Document]:
        """Read documents; the arguments are those of the port."""
        found: dict[str, Document] = {}
        for start in range(_STARTS):
            if await self._go_on(found, limit):
                return list(found.values())
            if not await self._begin((place + start * _STEP) % 1, limit):
                break
        window = max(window, limit, ROWS_AHEAD if self._is_met else 0)
        await self._look_at_all(found, limit, place, window, fresh=fresh)
        return list(found.values())

    # A round. -------------------------------------------------------------------------------------------------------

    async def _go_on(self, found: dict[str, Document], limit: int) -> bool:
        """Read what comes next until `limit` documents are found; False where the round ends, or others are there."""
        while len(found) < limit:
            ids = await self._next(limit - len(found))
            if not ids:
                return False
            documents = await self._read(ids)
            free = {one: document for one, document in documents.items() if state_of(document) is TokenState.TODO}
            found |= free
            if len(ids) < MANY_LOST * (len(ids) - len(free)):
                self.leave()
        return True

    async def _next(self, number: int) -> list[str]:
        """Give out the next ids; none at the end of the round."""
        async with self._one_at_a_time:
            is_old = self._monotonic() - self._read_at > KEPT
            if is_old and self._rows:
                self._rows.clear()
                self._next_page = None if self._given is None else _behind(*self._given)
            self._ahead = number if is_old else max(number, min(2 * self._ahead, ROWS_AHEAD))
            while len(self._rows) < number and (page := self._next_page) is not None:
                limit = self._ahead + ("startkey_docid" in page)
                rows = await self._page({**page, "limit": limit}, self._update(is_old=is_old))
                if self._next_page is page:  # else this place was left meanwhile
                    self._take(rows, limit)
                    await self._prepare_end()
            return self._give(number)

    async def _prepare_end(self) -> None:
        """Have the server index while the last rows of the round are worked: what is asked for next is to be fresh."""
        if self._next_page is None:
            await self._ask({"limit": 0}, "lazy")
            self._indexed_at = self._monotonic()

    def _update(self, *, is_old: bool) -> Update:
        """How fresh the next page has to be.

        Behind the last row nothing is ours, so nothing has to be waited for. What is indexed late is indexed once: as
        done, and not before that as locked.
        """
        if is_old:
            return "true"
        return "lazy" if self._monotonic() - self._indexed_at > INDEXED else "false"

    def _give(self, number: int) -> list[str]:
        given = [self._rows.popleft() for _ in range(min(number, len(self._rows)))]
        if given:
            self._given = given[-1]
            self._given_since += len(given)
        return [row["id"] for row, _ in given]

    def _take(self, rows: Sequence[Row], limit: int) -> None:
        """Keep the rows of a page, and note where the next one begins.

        Behind the last row of the view the first ones follow, up to where the round began.
        """
        page = self._next_page or {}
        end = {name: value for name, value in page.items() if name in _END}
        # The last row was asked for again, since it may be gone by now.
        self._rows.extend((row, end) for row in rows if row["id"] != page.get("startkey_docid"))
        if len(rows) >= limit:
            self._next_page = _behind(rows[-1], end)
        elif end or self._began is None:
            self._next_page = None
        else:
            self._next_page = {"endkey": self._began, "inclusive_end": False}

    def _note_total(self, total: int | None) -> None:
        """Notice others by how much fewer rows there are than would be left by this client alone."""
        if total is not None and self._total_at_first - total > 1.5 * self._given_since + self._doubt:
            self._met_at = self._monotonic()
        self._total = total

    async def _page(self, parameters: Mapping[str, Any], update: Update) -> Sequence[Row]:
        answer = await self._ask(parameters, update)
        self._read_at = self._monotonic()
        if update != "false":
            self._indexed_at = self._read_at
        total = answer.get("total_rows")
        self._note_total(total if isinstance(total, int) else None)
        rows: Sequence[Row] = answer["rows"]
        return rows

    async def _begin(self, place: float, limit: int) -> bool:
        """Begin a round at a random rank; False where the view has no room for that."""
        async with self._one_at_a_time:
            if self._rows or self._next_page is not None:  # somebody else has begun one
                return True
            if not self._has_ranks:
                return False
            least = max(SMALL * limit, ROWS_AHEAD if self._is_met else 0)
            if self._total is not None and self._total < least:
                return False
            landed = await self._landing.at(place, limit, least, self._total)
            self._has_ranks = landed.total is not None
            self._doubt = ROWS_AHEAD if self._total_at_first else SMALL_DOUBT
            self._total = self._total_at_first = landed.total or 0
            self._given_since = 0
            self._read_at = self._indexed_at = self._monotonic()
            self._began = landed.rows[0]["key"] if landed.rows else None
            self._next_page = {}
            self._take(landed.rows, limit)
            self._ahead = limit
            return bool(landed.rows)

    # The whole view. ------------------------------------------------------------------------------------------------

    async def _look_at_all(
        self, found: dict[str, Document], limit: int, place: float, window: int, *, fresh: bool
    ) -> None:
        """Read from the beginning, page by page, in each from a random place, until enough is found or all is read."""
        async for rows in self._pages(window, "true" if fresh else "lazy"):
            start = int(place * len(rows))
            left = deque(row for row in (*rows[start:], *rows[:start]) if row["id"] not in found)
            while left and len(found) < limit:
                some = [left.popleft()["id"] for _ in range(min(len(left), limit - len(found)))]
                self._given_since += len(some)
                found |= await self._read(some)
            if len(found) >= limit:
                if self._has_ranks:  # else the next sample is to see first who comes first
                    self._keep(left)
                return

    def _keep(self, rows: Iterable[Row]) -> None:
        """Let the next samples go on with rows that are left of a page."""
        if not self._rows and self._next_page is None:
            self._began = self._given = None
            self._rows.extend((row, {}) for row in rows)

    async def _pages(self, size: int, update: Update) -> AsyncIterator[list[Row]]:
        last: Row | None = None
        while True:
            limit = size + (last is not None)
            start = {} if last is None else {"startkey": last["key"], "startkey_docid": last["id"]}
            rows = await self._page({**start, "limit": limit}, update)
            new = [row for row in rows if last is None or row["id"] != last["id"]]
            yield new
            if not new or len(rows) < limit:
                return
            last = rows[-1]


def _behind(row: Row, end: Mapping[str, Any]) -> dict[str, Any]:
    """The page behind a row, up to an end."""
    return {**end, "startkey": row["key"], "startkey_docid": row["id"]}
