"""The executor: one token through the user's hooks, and out of it one verdict, whatever happens.

The order is prepare_run, process_token, cleanup_run. cleanup_run runs after every token, also after a failure, a time
limit or a cancellation, and also when prepare_run failed (process_token is then left out). The time limit covers
prepare_run and process_token. An exception in cleanup_run fails a token that would have been done.

A suspect, one under which a pilot vanished, gets a process of its own. Where its work cannot be sent to one, it runs in
the pilot: alone, once it has been charged with a crash.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Final, Protocol, Self

import anyio

from apicas._runtime.attempts.current import running_token
from apicas._runtime.choices import ExecutorChoice, check_executor
from apicas._runtime.gate import Gate
from apicas._runtime.hooks import Work
from apicas._runtime.isolation.isolation import UnfitError
from apicas._runtime.isolation.pool import ProcessPool
from apicas._runtime.keeping.outcomes import Cut, Raised, Returned, Verdict, raised
from apicas.exceptions import Release, TokenTimeoutError
from apicas.tokens import Token, is_suspect

log = logging.getLogger("apicas")

_RETURNED: Final = Returned()
LAST_MOMENT: Final = 1.0
"""Seconds that cleanup_run has after a second signal."""
ALONE_LIMIT: Final = 30.0
"""Seconds that a token waits for being the only one held here: others may be in the hands of the user's own code."""
ALONE_LOOK: Final = 0.02
"""Seconds between two looks at how many are."""
LATER: Final = 5.0
"""Seconds before a token is claimed again that could not be run at the moment."""


class LeaseKeeper(Protocol):
    """What an executor asks of a keeper."""

    def begin(self, token: Token, on_lost: Callable[[], None]) -> bool:
        """Note that the work on a token begins, and have a function called when its lease is lost.

        Returns:
            False where it is lost already, or may be: then nothing may begin.
        """
        ...

    def stop_beating(self, token: Token) -> None:
        """Let the lock of a token go stale."""
        ...

    async def wait_until_written(self) -> None:
        """Wait until every outcome that was handed in is written."""
        ...

    @property
    def held(self) -> int:
        """How many tokens are held, those whose outcome is being written included."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorOptions:
    """How a token is run.

    Args:
        max_token_time: seconds for one token; None for no limit.
        cleanup_time: seconds that cleanup_run may take when the work was ended from outside.
        executor: whether every token gets a process of its own, or suspects only; or what says it of each token.
    """

    max_token_time: float | None = None
    cleanup_time: float = 20.0
    executor: ExecutorChoice = "auto"


class Executor:
    """Runs tokens, any number at once.

    Args:
        work: the user's hooks.
        keeper: tells when a lease is lost.
        options: how.
        processes: those that tokens can have to themselves; None where there are none.
    """

    def __init__(
        self, work: Work, keeper: LeaseKeeper, options: ExecutorOptions, processes: ProcessPool | None = None
    ) -> None:
        self._work = work
        self._keeper = keeper
        self._options = options
        self._processes = processes
        self._plain = work.cleanup is None and (processes is None or options.executor == "auto")
        self._desks: set[Desk] = set()
        self.running = 0
        """How many tokens are being worked."""
        self._cleanups: set[anyio.CancelScope] = set()
        self._gate = Gate()
        self.make_room: Callable[[], None] = lambda: None
        """Called while a token waits for being the only one held: hands back what waits for a worker."""
        self._said_unfit = False

    @property
    def wants_no_more(self) -> bool:
        """Whether a token has the pilot to itself, or waits for that."""
        return self._gate.taken

    def cancel(self) -> None:
        """End all work at once; each token gets the verdict Cut."""
        for desk in tuple(self._desks):
            desk.cut()

    def cut(self) -> None:
        """End all work, and leave cleanup_run only a moment."""
        if self._processes is not None:
            self._processes.cut(LAST_MOMENT)
        self.cancel()
        self._options = replace(self._options, cleanup_time=LAST_MOMENT)
        soon = anyio.current_time() + LAST_MOMENT
        for scope in self._cleanups:
            scope.deadline = min(scope.deadline, soon)

    async def run(self, token: Token) -> Verdict:
        """Work one token."""
        with self.desk() as desk:
            return await desk.work(token)
        return Cut()  # the desk took the cancellation in

    def desk(self) -> Desk:
        """A place for a worker: a context manager."""
        return Desk(self, self._desks)

    def begin(self, token: Token, on_lost: Callable[[], None]) -> bool:
        """Note that the work on a token begins; False where it may not. See LeaseKeeper."""
        return self._keeper.begin(token, on_lost)

    def pool_for(self, token: Token) -> ProcessPool | None:
        """The processes of which a token is to have one to itself; None where it runs here.

        Raises:
            Exception: the user's function, which is asked for the executor, did.
        """
        if self._processes is None:
            return None
        choice = self._options.executor
        if callable(choice):
            choice = choice(token)
            check_executor(choice)
        return self._processes if choice == "process" or is_suspect(token.peek()) else None

    def runs_plainly(self, token: Token) -> bool:
        """Whether a token runs here, and nothing has to be done once it is cut: then it needs no scope of its own."""
        return self._plain and not is_suspect(token.peek())

    # In the pilot. --------------------------------------------------------------------------------------------------

    async def run_plainly(self, token: Token) -> Verdict:
        """Work a token for which nothing has to be done when it is cut."""
        if self._gate.taken:
            await self._gate.enter()
        else:
            self._gate.enter_open()
        try:
            if self._options.max_token_time is None:
                return await self._perform(token)
            return await self._limited(token, self._perform)
        finally:
            self._gate.leave()

    async def run_here(self, token: Token, scope: anyio.CancelScope) -> Verdict:
        verdict: Verdict = Cut()
        alone = is_suspect(token.peek()) and token.crashes > 0
        inside = False
        try:
            try:
                with scope:
                    await (self._enter_alone() if alone else self._gate.enter())
                    inside = True
                    verdict = await self._limited(token, self._perform)
            except anyio.get_cancelled_exc_class():  # the whole pilot is being cancelled
                if inside and self._work.cleanup is not None:
                    await self._cleaned_up(token, verdict)
                raise
            if inside and self._work.cleanup is not None:
                verdict = await self._cleaned_up(token, verdict)
        finally:
            if inside:
                (self._gate.leave_alone if alone else self._gate.leave)()
        return verdict

    async def _enter_alone(self) -> None:
        """Wait until the pilot holds nothing else, not even an outcome: it would be blamed too."""
        await self._gate.enter_alone()
        try:
            with anyio.move_on_after(ALONE_LIMIT):
                while self._keeper.held > 1:
                    self.make_room()
                    await self._keeper.wait_until_written()
                    await anyio.sleep(ALONE_LOOK)
        except BaseException:
            self._gate.leave_alone()
            raise

    async def _perform(self, token: Token) -> Verdict:
        try:
            if self._work.prepare is not None:
                await self._work.prepare(token)
            value = await self._work.process(token)
            return _RETURNED if value is None else Returned(value)
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

    # In a process of its own. ----------------------------------------------------------------------------------------

    async def run_isolated(self, processes: ProcessPool, token: Token, scope: anyio.CancelScope) -> Verdict | None:
        """Work a token in a process; None where that cannot be."""
        verdict: Verdict | None = Cut()
        inside = False
        try:
            with scope:
                await self._gate.enter()
                inside = True
                verdict = await processes.work(token, self._limited)
        except UnfitError as error:
            self._say_unfit(token, str(error))
            verdict = None
        except OSError as error:
            log.warning("token %s waits: %s", token.id, error)
            verdict = Raised(Release(str(error), after=LATER))
        finally:
            if inside:
                self._gate.leave()
        return verdict

    def _say_unfit(self, token: Token, reason: str) -> None:
        if not self._said_unfit:
            self._said_unfit = True
            log.warning(
                "token %s should run in a process of its own, but its work cannot be sent to one: %s; "
                "it runs in the pilot",
                token.id,
                reason,
            )

    async def _limited(self, token: Token, perform: Callable[[Token], Awaitable[Verdict]]) -> Verdict:
        limit = self._options.max_token_time
        if limit is None:
            return await perform(token)
        # Work that does not end when it is cancelled must not keep its lease for ever: it is beaten no longer.
        overdue = asyncio.get_running_loop().call_later(limit, self._keeper.stop_beating, token)
        try:
            with anyio.move_on_after(limit) as timer:
                return await perform(token)
        finally:
            overdue.cancel()
        if timer.cancelled_caught:
            return Raised(TokenTimeoutError(f"not done within the time limit of {limit:g} s"))
        return Cut()


class Desk:
    """Where a worker works one token after the other: each ends early when its lease is lost.

    The tokens share a cancel scope until one is cut, since a scope of its own for each takes longer than all else that
    a token without work costs. Whoever leaves the desk with a token that has no verdict was cut.

    Args:
        executor: runs the tokens.
        desks: those that are taken.
    """

    def __init__(self, executor: Executor, desks: set[Desk]) -> None:
        self._executor = executor
        self._desks = desks
        self._scope = anyio.CancelScope()
        self._target = self._scope
        """What is cancelled to cut the present token."""
        self._token: Token | None = None

    def __enter__(self) -> Self:
        self._scope.__enter__()
        self._desks.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._desks.discard(self)
        return bool(self._scope.__exit__(kind, error, traceback))

    @property
    def is_cut(self) -> bool:
        """Whether no more work can be done here: take another desk."""
        return self._scope.cancel_called

    def cut(self) -> None:
        """End the present work."""
        if self._token is not None:
            self._target.cancel()

    def _lose(self, token: Token) -> None:
        if self._token is token:  # it was told later, and the next one may be here by now
            self._target.cancel()

    async def work(self, token: Token) -> Verdict:
        """Work one token.

        Raises:
            CancelledError: the work was cut, or the worker is; leaving the desk tells which.
        """
        executor = self._executor
        if executor.wants_no_more:  # and whatever is held here would be blamed if that one took the pilot down
            return Raised(Release("another token has the pilot to itself", after=LATER))
        if not executor.begin(token, partial(self._lose, token)):
            return Cut()
        self._token = token
        executor.running += 1
        mark = running_token.set(token)
        try:
            if executor.runs_plainly(token):
                return await executor.run_plainly(token)
            return await self._work_apart(token)
        finally:
            running_token.reset(mark)
            executor.running -= 1
            self._token = None

    async def _work_apart(self, token: Token) -> Verdict:
        """Work a token in a scope of its own: there is something to do also when it is cut."""
        try:
            processes = self._executor.pool_for(token)
        except Exception as error:  # noqa: BLE001 - the user's own code, so it is that token's failure
            return raised(error)
        try:
            if processes is not None:
                self._target = anyio.CancelScope()
                verdict = await self._executor.run_isolated(processes, token, self._target)
                if verdict is not None:
                    return verdict
            self._target = anyio.CancelScope()
            return await self._executor.run_here(token, self._target)
        finally:
            self._target = self._scope


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
