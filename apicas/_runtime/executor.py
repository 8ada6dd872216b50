"""The executor: one token through the user's hooks, and out of it one verdict, whatever happens.

The order is prepare_run, process_token, cleanup_run. cleanup_run runs after every token, also after a failure, a time
limit or a cancellation, and also when prepare_run failed (process_token is then left out). The time limit covers
prepare_run and process_token. An exception in cleanup_run fails a token that would have been done.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace
from typing import Final

import anyio

from apicas._runtime.hooks import Work
from apicas._runtime.keeper import Keeper
from apicas._runtime.outcomes import Cut, Raised, Returned, Verdict, raised
from apicas.exceptions import TokenTimeoutError
from apicas.tokens import Token

LAST_MOMENT: Final = 1.0
"""Seconds that cleanup_run has after a second signal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorOptions:
    """How a token is run.

    Args:
        max_token_time: seconds for one token; None for no limit.
        cleanup_time: seconds that cleanup_run may take when the work was ended from outside.
    """

    max_token_time: float | None = None
    cleanup_time: float = 20.0


class Executor:
    """Runs tokens, any number at once.

    Args:
        work: the user's hooks.
        keeper: tells when a lease is lost.
        options: how.
    """

    def __init__(self, work: Work, keeper: Keeper, options: ExecutorOptions) -> None:
        self._work = work
        self._keeper = keeper
        self._options = options
        self._scopes: set[anyio.CancelScope] = set()
        self._cleanups: set[anyio.CancelScope] = set()

    @property
    def running(self) -> int:
        """How many tokens are being worked."""
        return len(self._scopes)

    def cancel(self) -> None:
        """End all work at once; each token gets the verdict Cut."""
        for scope in self._scopes:
            scope.cancel()

    def cut(self) -> None:
        """End all work, and leave cleanup_run only a moment."""
        self.cancel()
        self._options = replace(self._options, cleanup_time=LAST_MOMENT)
        soon = anyio.current_time() + LAST_MOMENT
        for scope in self._cleanups:
            scope.deadline = min(scope.deadline, soon)

    async def run(self, token: Token) -> Verdict:
        """Work one token; ends early when its lease is lost."""
        verdict: Verdict = Cut()
        scope = anyio.CancelScope()
        if not self._keeper.on_lost(token, scope.cancel):
            return verdict
        self._scopes.add(scope)
        try:
            try:
                with scope:
                    verdict = await self._limited(token)
            except anyio.get_cancelled_exc_class():  # the whole pilot is being cancelled
                if self._work.cleanup is not None:
                    await self._cleaned_up(token, verdict)
                raise
            if self._work.cleanup is not None:
                verdict = await self._cleaned_up(token, verdict)
        finally:
            self._scopes.discard(scope)
            self._keeper.on_lost(token, None)
        return verdict

    async def _limited(self, token: Token) -> Verdict:
        limit = self._options.max_token_time
        if limit is None:
            return await self._perform(token)
        # Work that does not end when it is cancelled must not keep its lease for ever: it is beaten no longer.
        overdue = asyncio.get_running_loop().call_later(limit, self._keeper.stop_beating, token)
        try:
            with anyio.move_on_after(limit) as timer:
                return await self._perform(token)
        finally:
            overdue.cancel()
        if timer.cancelled_caught:
            return Raised(TokenTimeoutError(f"not done within the time limit of {limit:g} s"))
        return Cut()

    async def _perform(self, token: Token) -> Verdict:
        try:
            if self._work.prepare is not None:
                await self._work.prepare(token)
            return Returned(await self._work.process(token))
        except BaseException as error:
            if _is_from_outside(error):
                raise
            return raised(error)  # one bad token never ends the pilot

    async def _cleaned_up(self, token: Token, verdict: Verdict) -> Verdict:
        """Run cleanup_run: with all the time it takes after work that ended by itself, within bounds after a cut."""
        bounded = isinstance(verdict, Cut)
        limit = self._options.cleanup_time if bounded else None
        with anyio.move_on_after(limit, shield=bounded) as scope:
            self._cleanups.add(scope)
            try:
                await self._work.cleanup(token)  # type: ignore[misc]  # called only where there is one
            except BaseException as error:
                if _is_from_outside(error):
                    raise
                return raised(error) if isinstance(verdict, Returned) else verdict
            finally:
                self._cleanups.discard(scope)
        return verdict


def _is_from_outside(error: BaseException) -> bool:
    """Whether an exception out of the user's code is not about its token: an interrupt, or our own cancellation.

    A CancelledError may also be the user's: of a task of theirs that was cancelled, and that they awaited.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return (task is not None and task.cancelling() > 0) or anyio.current_effective_deadline() == -math.inf
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup((KeyboardInterrupt, GeneratorExit)) is not None
    return isinstance(error, (KeyboardInterrupt, GeneratorExit))
