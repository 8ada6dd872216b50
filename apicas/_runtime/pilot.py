"""The pilot: claims ahead of its workers, runs many tokens at once, and ends in good order.

The way down is a ladder: stop claiming, hand back what has not started, let what runs finish within the grace period,
cancel it, hand it back, write what waits, and only then let the leases go.
"""

from __future__ import annotations

import logging
import math
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from signal import SIGTERM, SIGUSR1
from typing import Any, Final

import anyio
from anyio import to_thread

from apicas._runtime.attempts.current import memory_limit
from apicas._runtime.choices import ExecutorChoice
from apicas._runtime.event_file import EventFile
from apicas._runtime.executor import Executor, ExecutorOptions
from apicas._runtime.feeder import Feeder
from apicas._runtime.holdings import Holdings
from apicas._runtime.hooks import Work
from apicas._runtime.isolation.isolation import Isolation
from apicas._runtime.isolation.pool import ProcessPool
from apicas._runtime.keeping.keeper import Keeper, Tally
from apicas._runtime.keeping.outcomes import Crashed, Cut, Raised, Returned, Verdict, describe, only_leaf
from apicas._runtime.options import RunOptions
from apicas._runtime.processes.running import SIGNAL_BASE, leave_nothing
from apicas._runtime.reports import Report
from apicas._runtime.room import Room, Workers
from apicas._runtime.source import TokenSource
from apicas._runtime.telling import Teller
from apicas.exceptions import CommandError, ConfigError, Release, Retry
from apicas.tokens import Token

log = logging.getLogger("apicas")

PROGRESS_INTERVAL = 0.25
"""Seconds between two calls of on_progress."""
LATE_LOOK: Final = 5.0
"""Seconds between two looks for tokens that wait, and would no longer be over before the end of the batch job."""
TOLD_TO_END: Final = frozenset({SIGNAL_BASE + SIGUSR1, SIGNAL_BASE + SIGTERM})
"""Exit codes of a command that was ended by SIGUSR1 or SIGTERM."""
SIGNAL_TIME: Final = 1.0
"""Seconds within which a signal for the whole batch job comes to all its processes: a command may have it first."""


class Pilot:
    """Runs the tokens of an iterator.

    Args:
        iterator: claims them; entered here unless it is already.
        work: what is done to each.
        options: how long, and what ends it.
        room: how many tokens are worked at once, and which; a number of them stands for Workers.
    """

    def __init__(self, iterator: TokenSource, work: Work, options: RunOptions, room: Room | int) -> None:
        self._iterator = iterator
        self._work = work
        self._options = options
        self._room: Room = Workers(room, options.claim_ahead) if isinstance(room, int) else room
        self._reason = ""
        self._draining = anyio.Event()
        self._writing = anyio.CancelScope()
        self._keeper: Keeper
        self._executor: Executor
        self._holdings: Holdings
        self._feeder: Feeder
        self._processes: ProcessPool | None = None
        self._entered = False
        self._begun = 0.0
        self._before = Tally()
        self._has_stopped_it = False
        self._preparing = anyio.CancelScope()
        self._feeding = anyio.CancelScope()
        self._cleaning = anyio.CancelScope()
        self._teller: Teller | None = None
        """Tells observers what happens; None where there are none."""
        self._event_file: EventFile | None = None

    # The life of a pilot. -----------------------------------------------------------------------------------------

    async def run(self) -> Report:
        """Work tokens until there are no more, or a stop criterion is met."""
        async with AsyncExitStack() as stack:
            await self._enter(stack)
            await self._set_up(stack)
            try:
                await self._work_all()
            except BaseExceptionGroup as group:  # the groups are ours, and no business of the user's
                leaf = only_leaf(group)
                if leaf is None:
                    raise
            else:
                leaf = None
            if leaf is not None:
                raise leaf from leaf.__cause__
        if self._room.left is not None:
            self._room.left.say(at_end=True)
        report = self.report()
        if self._options.on_progress is not None:
            self._options.on_progress(report)
        return report

    async def _work_all(self) -> None:
        async with anyio.create_task_group() as services:
            services.start_soon(self._watch_time)
            services.start_soon(self._watch_grace)
            if self._room.drains_at < math.inf:
                services.start_soon(self._watch_end)
            if self._processes is not None:
                services.start_soon(self._processes.tend)
            if self._options.on_progress is not None:
                services.start_soon(self._tell_progress)
            async with anyio.create_task_group() as group:
                for _ in range(self._room.workers):
                    group.start_soon(self._work_tokens)
                with self._feeding:
                    await self._feeder.feed()
                self._room.stock.close()
            with self._writing:
                await self._keeper.wait_until_written()
            services.cancel_scope.cancel()

    async def _enter(self, stack: AsyncExitStack) -> None:
        stack.push_async_exit(self._tell_end)
        stack.callback(self._let_go)
        try:
            self._keeper = self._iterator.keeper
        except RuntimeError:
            await stack.enter_async_context(self._iterator)
            self._keeper = self._iterator.keeper
        self._begun = self._keeper.environment.monotonic()
        await self._have_told()
        self._room.open(self._keeper.environment.monotonic)
        candidates = self._keeper.claimer.candidates
        stack.callback(setattr, candidates, "choose", candidates.choose)
        candidates.choose = self._room.choose
        await self._set_keeper()
        self._holdings = Holdings(self._keeper, self._room, self._teller)
        stack.callback(self._holdings.give_back_all)
        stack.push_async_callback(leave_nothing)
        stack.callback(memory_limit.reset, memory_limit.set(self._options.max_token_memory))
        self._before = replace(self._keeper.tally)
        self._processes = self._pool(stack)
        self._executor = Executor(
            self._work,
            self._keeper,
            ExecutorOptions(
                max_token_time=self._options.max_token_time,
                cleanup_time=self._options.grace,
                executor=self._executor_choice,
            ),
            self._processes,
        )
        self._executor.make_room = partial(self._holdings.give_back_unstarted, math.inf)
        self._feeder = Feeder(
            self._iterator, self._room, self._holdings, self._executor, self._options.max_tokens, self.stop
        )
        stack.callback(self._keeper.watch_endings(self._feeder.note_ending))
        self._entered = True
        if self._reason:  # it was told to while it was entered
            self._claim_no_more()

    async def _set_keeper(self) -> None:
        """Have the keeper do as the options say, where they say anything: it may have options of its own."""
        if self._options.max_scrub is not None:
            self._keeper.limit_scrubs(self._options.max_scrub)
        if self._options.retry_delay is not None:
            self._keeper.delay_retries(self._options.retry_delay)
        if self._options.on_lost_contact is not None:
            self._keeper.heed_lost_contact(self._options.on_lost_contact)
        if self._options.logs is not None:
            await self._keeper.keep_logs(self._options.logs)

    async def _have_told(self) -> None:
        """Have observers told what happens, if there are any."""
        observers, path = list(self._options.observers), self._options.events
        if path is not None:
            file = await to_thread.run_sync(EventFile, path, self._keeper.environment.owner.pilot)
            self._event_file = file
            observers.append(file)
        if observers:
            self._teller = Teller(self._keeper, observers, self._room.usual)
            self._teller.open()

    async def _tell_end(self, _kind: Any, error: BaseException | None, _traceback: Any) -> None:
        """Tell that the pilot has ended, once the keeper that it has entered has written what was handed back."""
        if self._teller is not None:
            reason = self._reason if error is None else describe(error)
            self._teller.close(reason, self._keeper.environment.monotonic() - self._begun)
        if self._event_file is not None:
            with anyio.CancelScope(shield=True):  # it takes a bounded time
                await to_thread.run_sync(self._event_file.close)

    def _pool(self, stack: AsyncExitStack) -> ProcessPool | None:
        isolation = self._isolation()
        if isolation is None:
            return None
        room = self._room
        pool = ProcessPool(isolation, room.workers, cleanup_time=self._options.grace, warm=room.usual)
        stack.push_async_callback(pool.close)
        return pool

    def _isolation(self) -> Isolation | None:
        """What starts processes for tokens: with the work as it is now, before it is prepared."""
        self._keeper.claimer.isolates = self._work.in_processes
        if self._work.in_processes or not self._keeper.environment.threads:
            return None
        isolation = Isolation(
            self._work, {"iterator": type(self._iterator), "keeper": Keeper}, self._keeper.client.time
        )
        isolation.snapshot()
        self._keeper.claimer.isolates = isolation.unfit is None
        if isolation.unfit is not None and self._executor_choice == "process":
            raise ConfigError(f"executor is process, but the work cannot be sent to one: {isolation.unfit}")
        return isolation

    @property
    def _executor_choice(self) -> ExecutorChoice:
        return self._work.executor if self._options.executor is None else self._options.executor

    async def _set_up(self, stack: AsyncExitStack) -> None:
        if self._work.cleanup_env is not None:
            stack.push_async_exit(self._clean_up)
        if self._work.prepare_env is not None:
            with self._preparing:
                await self._work.prepare_env()

    async def _clean_up(self, _kind: Any, error: BaseException | None, _traceback: Any) -> None:
        """Run cleanup_env: with all the time it takes after a normal end, else within the grace period."""
        bounded = error is not None or self._draining.is_set()
        with anyio.move_on_after(self._options.grace if bounded else None, shield=bounded) as self._cleaning:
            await self._work.cleanup_env()  # type: ignore[misc]  # called only where there is one
        if self._cleaning.cancelled_caught:
            log.warning("cleanup_env was cut after the grace period")

    def _let_go(self) -> None:
        if self._has_stopped_it:
            self._iterator.resume()

    def report(self) -> Report:
        """What was done so far."""
        tally, before = self._keeper.tally, self._before
        return Report(
            claimed=tally.claimed - before.claimed,
            done=tally.done - before.done,
            failed=tally.failed - before.failed,
            scrubbed=tally.scrubbed - before.scrubbed,
            crashed=tally.crashed - before.crashed,
            released=tally.released - before.released,
            lost=tally.lost - before.lost,
            running=self._executor.running,
            seconds=self._keeper.environment.monotonic() - self._begun,
            reason=self._reason,
            held=self._keeper.held,
            waiting=self._keeper.waiting,
            left=0 if self._room.left is None else len(self._room.left),
        )

    # Working. -----------------------------------------------------------------------------------------------------

    async def _work_tokens(self) -> None:
        """Be one worker."""
        while (token := await self._room.stock.take()) is not None:
            await self._work_some(token)

    async def _work_some(self, token: Token | None) -> None:
        """Work a token, and at the same desk those that lie ready after it."""
        room, stock, teller = self._room, self._room.stock, self._teller
        holdings, feeder = self._holdings, self._feeder
        verdict: Verdict | None = None
        with self._executor.desk() as desk:
            while token is not None:
                verdict = None
                room.begin(token)
                holdings.started += 1
                if teller is not None:
                    teller.began(token)
                turn = stock.turn()
                try:
                    verdict = await desk.work(token)
                finally:
                    if teller is not None:
                        teller.ended(token)
                    if room.end(token, verdict):
                        feeder.changed.set()
                if desk.is_cut or self._options.stop_function is not None:
                    break
                if type(verdict) is Raised and _was_told_to_end(verdict):
                    break
                self._finish(token, verdict)
                token = stock.take_ready(turn)
        if token is not None:
            if verdict is not None and _was_told_to_end(verdict):
                verdict = await self._judged(verdict)
            self._finish(token, Cut() if verdict is None else verdict)
            await self._ask_stop_function()

    async def _judged(self, verdict: Verdict) -> Verdict:
        """What became of a token whose command a signal has ended: it is cut if the pilot drains on the same one."""
        with anyio.move_on_after(SIGNAL_TIME):
            await self._draining.wait()
        return Cut() if self._draining.is_set() else verdict

    def _finish(self, token: Token, verdict: Verdict) -> None:
        if not isinstance(verdict, Returned):
            _say_what_happened(token, verdict)
        self._holdings.give_back(token, verdict)
        if self._options.max_tokens is not None and self._holdings.started >= self._options.max_tokens:
            self.stop(f"max_tokens={self._options.max_tokens} were worked")

    async def _ask_stop_function(self) -> None:
        function = self._options.stop_function
        if function is None or self._reason:
            return
        try:
            answer = function(**self._options.stop_arguments)
            over = await answer if hasattr(answer, "__await__") else answer
        except Exception:
            self.stop("stop_function failed")  # not asked again by the other workers
            raise
        if over:
            self.stop("stop_function said so")

    # Ending. ------------------------------------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """Claim nothing more and hand back what has not started; what runs is finished."""
        if self._reason:
            return
        self._reason = reason
        if not self._iterator.stopped:
            self._has_stopped_it = True
            self._iterator.stop()
        if self._entered:
            self._claim_no_more()

    def _claim_no_more(self) -> None:
        self._holdings.take_no_more()
        self._holdings.give_back_unstarted(math.inf)
        if self._processes is not None:
            self._processes.keep_none()
        self._feeder.stop()

    def drain(self, reason: str) -> None:
        """Stop, and give what runs the grace period to finish; then it is cancelled and handed back."""
        self.stop(reason)
        self._reason = reason
        if self._teller is not None and not self._draining.is_set():
            self._teller.draining(reason)
        self._draining.set()
        for scope in (self._preparing, self._cleaning):
            scope.deadline = min(scope.deadline, anyio.current_time() + self._options.grace)

    def cut(self) -> None:
        """End all work now, and wait for nothing: what can be handed back is, within the keeper's farewell."""
        self._preparing.cancel()
        self._feeding.cancel()
        if self._entered:
            self._executor.cut()
        self._writing.cancel()

    async def _watch_time(self) -> None:
        if self._options.max_total_time is not None:
            await anyio.sleep(self._options.max_total_time)
            self.stop(f"max_total_time={self._options.max_total_time:g} s is over")

    async def _watch_end(self) -> None:
        """Drain in time before the batch job ends: what does not finish is handed back, and not cut off."""
        while (left := self._room.drains_at - self._keeper.environment.monotonic()) > 0:
            await anyio.sleep(min(left, LATE_LOOK))
            self._holdings.give_back_unstarted(-math.inf)  # what waits in vain
        if not self._draining.is_set():
            log.warning("the batch job ends in %.0f s: draining", left + self._options.margin)
            self.drain("the batch job is about to end")

    async def _watch_grace(self) -> None:
        await self._draining.wait()
        await anyio.sleep(self._options.grace)
        if running := self._executor.running:
            still = "1 token still runs" if running == 1 else f"{running} tokens still run"
            log.warning("%s after %g s: cancelled", still, self._options.grace)
        self._feeding.cancel()  # a claim that has no answer yet
        self._executor.cancel()
        await anyio.sleep(self._keeper.options.farewell)
        self._writing.cancel()

    async def _tell_progress(self) -> None:
        while True:
            self._options.on_progress(self.report())  # type: ignore[misc]  # started only where there is one
            await anyio.sleep(PROGRESS_INTERVAL)


def _was_told_to_end(verdict: Verdict) -> bool:
    """Whether a command was ended by the signal that its pilot drains on: batch systems send it to all of a job."""
    error = verdict.error if isinstance(verdict, Raised) else None
    return isinstance(error, CommandError) and error.exit_code in TOLD_TO_END


def _say_what_happened(token: Token, verdict: Verdict) -> None:
    if isinstance(verdict, Raised) and not isinstance(verdict.error, (Retry, Release)):
        log.warning("token %s: %s", token.id, describe(verdict.error))
    elif isinstance(verdict, Crashed):
        log.warning("token %s: %s", token.id, verdict.reason)
