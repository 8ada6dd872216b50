"""The pilot: claims ahead of its workers, runs many tokens at once, and ends in good order.

The way down is a ladder: stop claiming, hand back what has not started, let what runs finish within the grace period,
cancel it, hand it back, write what waits, and only then let the leases go.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Any, Literal, Protocol

import anyio

from apicas._runtime.committer import Ending
from apicas._runtime.executor import Executor, ExecutorOptions
from apicas._runtime.hooks import Work
from apicas._runtime.isolation import Isolation
from apicas._runtime.keeper import Keeper, OnLostContact, Tally
from apicas._runtime.outcomes import Crashed, Cut, Raised, Returned, Verdict, describe, only_leaf
from apicas._runtime.process import leave_nothing, memory_limit
from apicas._runtime.processes import ProcessPool
from apicas._runtime.stock import Stock
from apicas.exceptions import ConfigError, Release, Retry
from apicas.policies import CALM_TIME, CLAIM_PORTION, claim_ahead
from apicas.tokens import Token

log = logging.getLogger("apicas")

UNSTARTED_LIMIT = 30.0
"""Seconds after which a token that was claimed ahead, and has not started, is handed back."""
RATE_TIME = 0.1
"""Seconds over which the rate is measured at least: within a millisecond all that one claim has brought may end."""
MAX_UNWRITTEN = 1000
"""Outcomes that wait to be written, or are being written, beyond which nothing is claimed: a store that is behind with
them would get ever more, and each is kept in memory until then."""
PROGRESS_INTERVAL = 0.25
"""Seconds between two calls of on_progress."""


class TokenSource(Protocol):
    """What a pilot asks of an iterator; see apicas.iterators.ViewIterator."""

    @property
    def keeper(self) -> Keeper:
        """What keeps its tokens; RuntimeError before it is entered."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        ...

    @property
    def overlaps(self) -> bool:
        """Whether `claim` may be called again before it has answered."""
        ...

    async def __aenter__(self) -> object: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None: ...

    async def claim(self, wanted: int = 1) -> list[Token]:
        """Claim up to `wanted` tokens; none only if there is none to be had for certain."""
        ...

    async def more(self) -> bool:
        """Wait until there may be something to claim again; False at the end."""
        ...

    async def wait_for_work(self, longest: float) -> bool:
        """Wait until it is time to claim again, at most so many seconds, and not beyond `stop`."""
        ...

    def stop(self) -> None:
        """Hand out nothing from now on."""
        ...

    def resume(self) -> None:
        """Take `stop` back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a pilot runs.

    Args:
        workers: tokens worked at once; None for the number of cores that this process may use.
        max_token_time: seconds for one token; what takes longer is a failure.
        max_token_memory: bytes of memory that the commands of one token, or its worker process, may take together; what
            takes more is ended, and a failure.
        max_total_time: seconds after which nothing is claimed any more; what runs is finished.
        max_tokens: tokens worked before the pilot ends.
        max_scrub: how many times a failed token is tried again; over that it goes to error. None for the iterator's,
            which is 0 unless it was given one.
        retry_delay: seconds before a token that failed is tried again, doubling with each failure, with jitter; 0 for
            none. None for the iterator's, which is 1 s unless it was given one.
        stop_function: asked after each token; the pilot ends when it says True. Plain or async.
        stop_arguments: what it is called with.
        grace: seconds that running tokens get to finish after a drain was asked for.
        claim_ahead: most tokens held beyond those being worked; None for the default.
        on_progress: called a few times a second with a Report so far.
        handle_signals: drain on SIGTERM and SIGINT; only in the main thread, and only over default handlers.
        executor: "auto" for a process of its own for each token under which a pilot vanished; "process" for one for
            every token, as work needs it that may take its process down, or holds the interpreter for long.
        on_lost_contact: "stop" to stop the work on a token when none of its beats has arrived for a whole lease;
            "continue" to go on. None for the iterator's, which goes on unless it was told otherwise.
        logs: a directory for what commands and worker processes print; None to attach it to their tokens.
    """

    workers: int | None = None
    max_token_time: float | None = None
    max_token_memory: int | None = None
    max_total_time: float | None = None
    max_tokens: int | None = None
    max_scrub: int | None = None
    retry_delay: float | None = None
    stop_function: Callable[..., Any] | None = None
    stop_arguments: Mapping[str, Any] = field(default_factory=dict)
    grace: float = 20.0
    claim_ahead: int | None = None
    on_progress: Callable[[Report], None] | None = None
    handle_signals: bool = False
    executor: Literal["auto", "process"] = "auto"
    on_lost_contact: OnLostContact | None = None
    logs: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.executor not in {"auto", "process"}:
            raise ConfigError(f"executor is auto or process, not {self.executor!r}")
        for name in ("workers", "max_tokens", "max_token_memory"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it is at least 1")
        for name in ("max_token_time", "max_total_time"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value:g} s; it is more than 0")
        for name in ("max_scrub", "retry_delay", "grace", "claim_ahead"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"{name} is {value:g}; it is not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a pilot did; also what it has done so far."""

    claimed: int = 0
    done: int = 0
    failed: int = 0
    """Ended in error."""
    scrubbed: int = 0
    """Failed, and sent back to todo: one that was tried three times counts two here."""
    crashed: int = 0
    """Took the process down that they had to themselves, and were sent back to todo."""
    released: int = 0
    """Handed back unfinished."""
    lost: int = 0
    """Taken by somebody else while it was worked."""
    running: int = 0
    seconds: float = 0.0
    reason: str = ""
    """Why the pilot ended."""
    held: int = 0
    """Held now. At the end, those whose outcome could not be written: their locks go stale by themselves."""
    waiting: int = 0
    """Finished results that are in the outbox and not in the pool, at the end: the next pilot writes them."""
    signals: int = 0
    """How many signals ended the pilot: 0 if it ended by itself, 1 if it drained, more if it was cut."""

    @property
    def ended(self) -> int:
        """Attempts that came to an end of their own: done, failed, scrubbed or crashed."""
        return self.done + self.failed + self.scrubbed + self.crashed

    @property
    def tokens_per_second(self) -> float:
        """The rate of these ends."""
        return self.ended / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        counts = ", ".join(
            f"{number} {name}"
            for name in ("done", "failed", "scrubbed", "crashed", "released", "lost", "waiting")
            if (number := getattr(self, name)) or name == "done"
        )
        return f"{counts} in {self.seconds:.1f} s ({self.tokens_per_second:.1f} tokens/s)"


class Pilot:
    """Runs the tokens of an iterator.

    Args:
        iterator: claims them; entered here unless it is already.
        work: what is done to each.
        options: how many, how long.
    """

    def __init__(self, iterator: TokenSource, work: Work, options: RunOptions, workers: int) -> None:
        self._iterator = iterator
        self._work = work
        self._options = options
        self._workers = workers
        self._idle = workers
        self._stock: Stock
        self._changed = asyncio.Event()
        self._came_back = anyio.Event()
        self._is_behind = False
        """Whether nothing is claimed because too many outcomes wait to be written."""
        self._reason = ""
        self._draining = anyio.Event()
        self._writing = anyio.CancelScope()
        # What workers were sent and have not begun with, whether it is in the stream or already out of it: a worker
        # that has been handed a token is no reason to claim another.
        self._unstarted = 0
        self._low = math.inf
        """How many of these are so few that claiming has to look at it."""
        self._mine: dict[int, Token] = {}
        """What was claimed and has not been given back."""
        self._started = self._ended = 0
        self._asked = 0
        """Tokens that claims under way are to bring."""
        self._is_plenty = False
        """Whether the last claim brought all that it was to bring."""
        self._rate = 0.0
        self._rate_of = (0.0, 0)
        self._keeper: Keeper
        self._executor: Executor
        self._processes: ProcessPool | None = None
        self._entered = False
        self._begun = 0.0
        self._before = Tally()
        self._has_stopped_it = False
        self._preparing = anyio.CancelScope()
        self._feeding = anyio.CancelScope()
        self._cleaning = anyio.CancelScope()

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
        report = self.report()
        if self._options.on_progress is not None:
            self._options.on_progress(report)
        return report

    async def _work_all(self) -> None:
        async with anyio.create_task_group() as services:
            services.start_soon(self._watch_time)
            services.start_soon(self._watch_grace)
            if self._processes is not None:
                services.start_soon(self._processes.tend)
            if self._options.on_progress is not None:
                services.start_soon(self._tell_progress)
            async with anyio.create_task_group() as group:
                for _ in range(self._workers):
                    group.start_soon(self._work_tokens)
                with self._feeding:
                    await self._feed()
                self._stock.close()
            with self._writing:
                await self._keeper.wait_until_written()
            services.cancel_scope.cancel()

    async def _enter(self, stack: AsyncExitStack) -> None:
        stack.callback(self._let_go)
        try:
            self._keeper = self._iterator.keeper
        except RuntimeError:
            await stack.enter_async_context(self._iterator)
            self._keeper = self._iterator.keeper
        self._begun = self._keeper.environment.monotonic()
        self._stock = Stock(self._keeper.environment.monotonic)
        self._rate_of = (self._begun, 0)
        if self._options.max_scrub is not None:
            self._keeper.limit_scrubs(self._options.max_scrub)
        if self._options.retry_delay is not None:
            self._keeper.delay_retries(self._options.retry_delay)
        if self._options.on_lost_contact is not None:
            self._keeper.heed_lost_contact(self._options.on_lost_contact)
        if self._options.logs is not None:
            await self._keeper.keep_logs(self._options.logs)
        stack.callback(self._keeper.watch_endings(self._note_ending))
        stack.callback(self._give_back_all)
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
                always_isolate=self._options.executor == "process",
            ),
            self._processes,
        )
        self._executor.make_room = partial(self._hand_back_unstarted, math.inf)
        self._entered = True

    def _pool(self, stack: AsyncExitStack) -> ProcessPool | None:
        isolation = self._isolation()
        if isolation is None:
            return None
        pool = ProcessPool(isolation, self._workers, cleanup_time=self._options.grace)
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
        if isolation.unfit is not None and self._options.executor == "process":
            raise ConfigError(f"executor is process, but the work cannot be sent to one: {isolation.unfit}")
        return isolation

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

    def _give_back_all(self) -> None:
        """Hand back what a cancellation or an error left, wherever it was."""
        for token in list(self._mine.values()):
            self._give_back(token, Cut())

    def _give_back(self, token: Token, verdict: Verdict) -> None:
        self._mine.pop(id(token), None)
        self._keeper.give_back(token, verdict)

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
        )

    # Claiming. ----------------------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        """Claim what the workers need, until the end."""
        async with anyio.create_task_group() as group:
            if self._iterator.overlaps:
                group.start_soon(self._feed_beside)
            await self._feed_until_empty()

    async def _feed_until_empty(self) -> None:
        while not self._reason:
            wanted = self._wanted()
            if wanted <= 0:
                await self._wait_for_change()
            elif await self._claim(wanted):
                pass
            elif self._holds_work:  # what is being worked may yet come back to todo
                await self._wait_for_return()
            elif not await self._iterator.more():
                self.stop("the iterator was stopped" if self._iterator.stopped else "no more tokens")

    async def _feed_beside(self) -> None:
        """Have a second claim under way as long as the workers are through with one before the next has come."""
        while not self._reason:
            wanted = self._wanted() if self._asked and self._is_plenty else 0
            if wanted > 0:
                await self._claim(wanted)
            else:
                await self._wait_for_change()

    async def _claim(self, wanted: int) -> int:
        """Claim tokens, hand them to the workers, and answer how many they are."""
        self._asked += wanted
        self._changed.set()
        try:
            tokens = await self._iterator.claim(wanted)
        finally:
            self._asked -= wanted
            self._came_back.set()  # for whoever waits because of this claim
        self._is_plenty = len(tokens) == wanted
        self._take(tokens)
        return len(tokens)

    @property
    def _holds_work(self) -> bool:
        return bool(self._mine or self._asked or self._keeper.unwritten)

    def _wanted(self) -> int:
        self._measure_rate()
        self._is_behind = self._keeper.unwritten > MAX_UNWRITTEN
        if self._is_behind:
            return 0
        if self._executor.wants_no_more or self._keeper.loop_lags:
            self._low = math.inf
            return 0
        buffered = self._unstarted + self._asked
        ahead = claim_ahead(self._rate, self._workers, self._options.claim_ahead)
        self._low = (self._workers + ahead) * 3 / 4
        wanted = self._idle + ahead - buffered
        if self._options.max_tokens is not None:
            wanted = min(wanted, self._options.max_tokens - self._started - buffered)
        # Not one by one as workers come free while there is a stock: in batches worth a request.
        if buffered >= self._idle and wanted * 4 < self._workers + ahead:
            return 0
        return min(wanted, CLAIM_PORTION)

    def _measure_rate(self) -> None:
        now = self._keeper.environment.monotonic()
        since, ended = self._rate_of
        if self._ended - ended >= self._workers and now - since >= RATE_TIME:
            latest = (self._ended - ended) / (now - since)
            # By the time that it is about: what two claims bring one after the other is not the rate of a second.
            self._rate += (latest - self._rate) * (min(1.0, now - since) if self._rate else 1.0)
            self._rate_of = (now, self._ended)

    def _take(self, tokens: list[Token]) -> None:
        self._mine.update((id(token), token) for token in tokens)
        if self._reason:
            for token in tokens:
                self._give_back(token, Cut())
            return
        self._unstarted += len(tokens)
        self._stock.put(tokens)

    async def _wait_for_change(self) -> None:
        if self._changed.is_set():  # else the other feeder waits for it
            self._changed = asyncio.Event()
        with anyio.move_on_after(CALM_TIME if self._keeper.loop_lags else UNSTARTED_LIMIT / 2):
            await self._changed.wait()
        self._hand_back_unstarted(self._keeper.environment.monotonic() - UNSTARTED_LIMIT)

    async def _wait_for_return(self) -> None:
        """Wait for more work, or until a token of ours is back in todo, or nothing is held any more."""
        self._came_back = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(self._wait_for_work)
            await self._came_back.wait()
            group.cancel_scope.cancel()

    async def _wait_for_work(self) -> None:
        await self._iterator.wait_for_work(math.inf)
        self._came_back.set()

    def _hand_back_unstarted(self, before: float) -> None:
        """Hand back buffered tokens that were claimed before a monotonic time: somebody else may be idle."""
        if not self._entered:
            return
        for token in self._stock.remove(before):
            self._unstarted -= 1
            self._give_back(token, Cut())

    # Working. -----------------------------------------------------------------------------------------------------

    async def _work_tokens(self) -> None:
        """Be one worker."""
        while (token := await self._stock.take()) is not None:
            await self._work_some(token)

    async def _work_some(self, token: Token | None) -> None:
        """Work a token, and at the same desk those that lie ready after it."""
        verdict: Verdict | None = None
        with self._executor.desk() as desk:
            while token is not None:
                verdict = None
                self._idle -= 1
                self._unstarted -= 1
                self._started += 1
                turn = self._stock.turn()
                try:
                    verdict = await desk.work(token)
                finally:
                    self._idle += 1
                    if self._unstarted <= self._low:
                        self._changed.set()
                if desk.is_cut or self._options.stop_function is not None:
                    break
                self._finish(token, verdict)
                token = self._stock.take_ready(turn)
        if token is not None:
            self._finish(token, Cut() if verdict is None else verdict)
            await self._ask_stop_function()

    def _finish(self, token: Token, verdict: Verdict) -> None:
        if not isinstance(verdict, Returned):
            _say_what_happened(token, verdict)
        self._give_back(token, verdict)
        self._ended += 1
        if self._options.max_tokens is not None and self._started >= self._options.max_tokens:
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

    def _note_ending(self, ending: Ending) -> None:
        if self._is_behind:
            self._changed.set()
        is_final = ending is Ending.DONE or ending is Ending.FAILED or ending is Ending.LOST
        if not (is_final and self._holds_work):
            self._came_back.set()

    # Ending. ------------------------------------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """Claim nothing more and hand back what has not started; what runs is finished."""
        if self._reason:
            return
        self._reason = reason
        if not self._iterator.stopped:
            self._has_stopped_it = True
            self._iterator.stop()
        self._hand_back_unstarted(math.inf)
        if self._processes is not None:
            self._processes.keep_none()
        self._changed.set()
        self._came_back.set()

    def drain(self, reason: str) -> None:
        """Stop, and give what runs the grace period to finish; then it is cancelled and handed back."""
        self.stop(reason)
        self._reason = reason
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

    async def _watch_grace(self) -> None:
        await self._draining.wait()
        await anyio.sleep(self._options.grace)
        if self._executor.running:
            log.warning("%d tokens still run after %g s: cancelled", self._executor.running, self._options.grace)
        self._feeding.cancel()  # a claim that has no answer yet
        self._executor.cancel()
        await anyio.sleep(self._keeper.options.farewell)
        self._writing.cancel()

    async def _tell_progress(self) -> None:
        while True:
            self._options.on_progress(self.report())  # type: ignore[misc]  # started only where there is one
            await anyio.sleep(PROGRESS_INTERVAL)


def _say_what_happened(token: Token, verdict: Verdict) -> None:
    if isinstance(verdict, Raised) and not isinstance(verdict.error, (Retry, Release)):
        log.warning("token %s: %s", token.id, describe(verdict.error))
    elif isinstance(verdict, Crashed):
        log.warning("token %s: %s", token.id, verdict.reason)
