"""The processes of one pilot: started for tokens, kept warm between them, and let go in the end.

Rules:
- A process is kept when its work came to an end of its own, and given to the next token. One that was cut, was too slow
  or died is ended, and nothing of it is left.
- A token that has been charged with a crash gets a fresh process, which is not kept: so no other token's damage is
  blamed on it, nor its on another.
- Libraries look once at how many cores and which GPUs there are: a process is for tokens that are given as much as its
  first one was.
- There are never more processes than tokens that are worked at once, those that are being let go included; and an idle
  one is let go before a fresh one makes them more than are usual.
- Each process is in one place: in the hands of a token, idle, or being let go. Whatever happens when it is taken out of
  one, it comes into the next, or is ended.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import anyio

from apicas._runtime.isolation.isolation import Isolation, UnfitError
from apicas._runtime.isolation.process import IsolatedProcess
from apicas._runtime.keeping.outcomes import Raised, Verdict
from apicas._runtime.processes.allotment import Shape, shape_of
from apicas.tokens import Token

IDLE_TIME: Final = 60.0
"""Seconds without a token after which a process is let go."""


Limited: TypeAlias = Callable[[Token, Callable[[Token], Awaitable[Verdict]]], Awaitable[Verdict]]
"""Waits for what is called with the token, no longer than the token may take."""


class ProcessPool:
    """Gives tokens processes, any number at once.

    Use it in this order: `work` for each token, while `tend` runs beside; `close` in any case.

    Args:
        isolation: starts processes.
        most: how many there may be at once.
        cleanup_time: seconds that a process has to clean up, once its work was cut or no token is to come any more.
        idle_time: seconds without a token after which a process is let go.
        warm: how many there may be, idle ones included, before one is let go for a fresh one; None for `most`.
    """

    def __init__(
        self,
        isolation: Isolation,
        most: int,
        *,
        cleanup_time: float,
        idle_time: float = IDLE_TIME,
        warm: int | None = None,
    ) -> None:
        self._isolation = isolation
        self._most = most
        self._warm_most = most if warm is None else warm
        self._cleanup_time = cleanup_time
        self._idle_time = idle_time
        self._count = 0
        self._idle: list[tuple[IsolatedProcess, float]] = []
        """The idle ones, and since when; the one that was used last is the last."""
        self._keeps = True
        self._leaving: set[anyio.CancelScope] = set()
        self._changed = anyio.Event()

    async def work(self, token: Token, limited: Limited) -> Verdict:
        """Work a token in a process. Where this is cancelled, the work is cut, and what it wrote goes into the token.

        Args:
            token: the token.
            limited: waits for a verdict, no longer than the token may take.

        Raises:
            UnfitError: the work cannot be done in a process of its own.
            OSError: there is no room for a process now, or it was ended from outside. The token had no part in that.
        """
        if self._isolation.unfit is not None:
            raise UnfitError(self._isolation.unfit)
        warm = await self._warm(shape_of(token.allocation)) if token.crashes == 0 else None
        verdict = None if warm is None else await self._work_in(warm, token, limited)
        if verdict is None:
            verdict = await self._work_in(await self._fresh(), token, limited)
        if verdict is None:
            raise OSError("a process for it was ended before it had taken it")
        return verdict

    async def _work_in(self, process: IsolatedProcess, token: Token, limited: Limited) -> Verdict | None:
        """Work a token in a process; None where that has not taken it."""
        try:
            await process.give(token, self._cleanup_time)
            verdict = await limited(token, lambda _token: process.work())
            if not process.refuses():
                return verdict
            if isinstance(verdict, Raised):  # its time is over, and with it its lease: no second try
                raise OSError("its process did not take it in all the time that it may have")
            return None
        finally:
            await self._give_back(process)

    async def _give_back(self, process: IsolatedProcess) -> None:
        """Take a process back. Where work still goes on in it, that is cut, and what it wrote goes into its token."""
        if self._keeps and process.is_free:
            self._idle.append((process, anyio.current_time()))
            self._tell()
        else:
            await self._let_go(process)

    async def tend(self) -> None:
        """Let go of processes that have been idle for too long; until cancelled."""
        while True:
            changed = self._changed
            now = anyio.current_time()
            await self._let_idle_go(now - self._idle_time if self._keeps else math.inf)
            longest = min((since for _, since in self._idle), default=math.inf)
            with anyio.CancelScope(deadline=longest + self._idle_time):
                await changed.wait()

    def keep_none(self) -> None:
        """Have `tend` let all idle ones go, and keep none from now on."""
        self._keeps = False
        self._tell()

    def cut(self, cleanup_time: float) -> None:
        """Leave those that are being let go, now and later, only a moment.

        Args:
            cleanup_time: seconds.
        """
        self._cleanup_time = cleanup_time
        soon = anyio.current_time() + cleanup_time
        for scope in self._leaving:
            scope.deadline = min(scope.deadline, soon)

    async def close(self) -> None:
        """Let all idle ones go, also when this is cancelled. No token has a process any more."""
        self._keeps = False
        await self._let_idle_go(math.inf)

    # Getting one. ---------------------------------------------------------------------------------------------------

    async def _warm(self, shape: Shape) -> IsolatedProcess | None:
        """The idle one for such tokens that was used last; None where none is left alive."""
        while (found := next((one for one in reversed(self._idle) if one[0].shape == shape), None)) is not None:
            self._idle.remove(found)
            process, _ = found
            if process.is_free:
                return process
            await self._let_go(process)  # somebody ended it meanwhile
        return None

    async def _fresh(self) -> IsolatedProcess:
        while self._count >= (self._warm_most if self._idle else self._most):
            if self._idle:
                process, _ = self._idle.pop(0)
                await self._let_go(process)
            else:
                await self._changed.wait()
        process = self._isolation.start()
        self._count += 1
        is_ready = False
        try:
            reason = await process.ready()
            if reason is not None:
                raise UnfitError(reason)
            is_ready = True
        finally:
            if not is_ready:
                await self._let_go(process)
        return process

    # Letting go. ----------------------------------------------------------------------------------------------------

    async def _let_idle_go(self, before: float) -> None:
        """Let those go that have been idle since `before`, on the loop's clock, or longer."""
        going = [process for process, since in self._idle if since <= before]
        self._idle = [(process, since) for process, since in self._idle if since > before]
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                for process in going:
                    group.start_soon(self._let_go, process)

    async def _let_go(self, process: IsolatedProcess) -> None:
        try:
            with anyio.move_on_after(self._cleanup_time, shield=True) as scope:
                self._leaving.add(scope)
                try:
                    await process.leave()
                finally:
                    self._leaving.discard(scope)
        finally:
            try:
                await process.end()
            finally:
                self._count -= 1
                self._tell()

    def _tell(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()
        self._changed = anyio.Event()
