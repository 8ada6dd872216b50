"""The feeder: claims ahead of the workers of a pilot, as much as they need, until there is no more."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import anyio

from apicas._runtime.executor import Executor
from apicas._runtime.holdings import Holdings
from apicas._runtime.keeping.settlements import Ending
from apicas._runtime.room import Room
from apicas._runtime.source import TokenSource
from apicas.policies.lag import CALM_TIME

UNSTARTED_LIMIT = 30.0
"""Seconds after which a token that was claimed ahead, and has not started, is handed back."""
MAX_UNWRITTEN = 1000
"""Outcomes that wait to be written, or are being written, beyond which nothing is claimed: a store that is behind with
them would get ever more, and each is kept in memory until then."""


class Feeder:
    """Claims what the workers need.

    Args:
        source: claims the tokens; entered.
        room: how many are wanted.
        holdings: where they go.
        executor: works them; it may want no more for a while.
        max_tokens: how many are begun at most; None for any number.
        stop: called, once, with the reason why there is no more.
    """

    def __init__(
        self,
        source: TokenSource,
        room: Room,
        holdings: Holdings,
        executor: Executor,
        max_tokens: int | None,
        stop: Callable[[str], None],
    ) -> None:
        self._source = source
        self._keeper = source.keeper
        self._room = room
        self._holdings = holdings
        self._executor = executor
        self._max_tokens = max_tokens
        self._stop = stop
        self.changed = asyncio.Event()
        """To be set when more may be wanted than before."""
        self._came_back = anyio.Event()
        self._is_over = False
        self._is_behind = False
        """Whether nothing is claimed because too many outcomes wait to be written."""
        self._asked = 0
        """Tokens that claims under way are to bring."""
        self._is_plenty = False
        """Whether the last claim brought all that it was to bring."""

    async def feed(self) -> None:
        """Claim until there is no more, or until `stop`."""
        async with anyio.create_task_group() as group:
            if self._source.overlaps and self._room.overlaps:
                group.start_soon(self._feed_beside)
            await self._feed_until_empty()

    def stop(self) -> None:
        """Claim no more."""
        self._is_over = True
        self.changed.set()
        self._came_back.set()

    def note_ending(self, ending: Ending) -> None:
        """Note how a token left the pilot: one that went back to todo may be claimed again."""
        if self._is_behind:
            self.changed.set()
        is_final = ending is Ending.DONE or ending is Ending.FAILED or ending is Ending.LOST
        if not (is_final and self._holds_work):
            self._came_back.set()

    async def _feed_until_empty(self) -> None:
        while not self._is_over:
            wanted = self._wanted()
            if wanted <= 0:
                await self._wait_for_change()
            elif await self._claim(wanted) or self._room.is_full:
                pass
            elif self._holds_work:  # what is being worked may yet come back to todo
                await self._wait_for_return()
            elif not await self._has_more():
                self._stop("the iterator was stopped" if self._source.stopped else self._why_empty())

    async def _has_more(self) -> bool:
        """Wait for more work; False where there will be none."""
        if self._room.left is not None:
            self._room.left.say()
        return await self._source.more()

    def _why_empty(self) -> str:
        return "no more tokens for this node and time" if self._room.left else "no more tokens"

    async def _feed_beside(self) -> None:
        """Have a second claim under way as long as the workers are through with one before the next has come."""
        while not self._is_over:
            wanted = self._wanted() if self._asked and self._is_plenty else 0
            if wanted > 0:
                await self._claim(wanted)
            else:
                await self._wait_for_change()

    async def _claim(self, wanted: int) -> int:
        """Claim tokens, hand them to the workers, and answer how many they are."""
        self._asked += wanted
        self.changed.set()
        try:
            tokens = await self._source.claim(wanted)
        finally:
            self._asked -= wanted
            self._came_back.set()  # for whoever waits because of this claim
        self._is_plenty = len(tokens) == wanted
        self._holdings.take(tokens)
        return len(tokens)

    @property
    def _holds_work(self) -> bool:
        return bool(self._holdings or self._asked or self._keeper.unwritten)

    def _wanted(self) -> int:
        room = self._room
        room.measure()
        self._is_behind = self._keeper.unwritten > MAX_UNWRITTEN
        if self._is_behind:
            return 0
        if self._executor.wants_no_more or self._keeper.loop_lags:
            room.low = math.inf
            return 0
        most = self._max_tokens
        return room.wanted(self._asked, None if most is None else most - self._holdings.started)

    async def _wait_for_change(self) -> None:
        if self.changed.is_set():  # else the other feeder waits for it
            self.changed = asyncio.Event()
        with anyio.move_on_after(CALM_TIME if self._keeper.loop_lags else UNSTARTED_LIMIT / 2):
            await self.changed.wait()
        self._holdings.give_back_unstarted(self._keeper.environment.monotonic() - UNSTARTED_LIMIT)

    async def _wait_for_return(self) -> None:
        """Wait for more work, or until a token of ours is back in todo, or nothing is held any more."""
        self._came_back = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(self._wait_for_work)
            await self._came_back.wait()
            group.cancel_scope.cancel()

    async def _wait_for_work(self) -> None:
        await self._source.wait_for_work(math.inf)
        self._came_back.set()
