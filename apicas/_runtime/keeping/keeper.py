"""The keeper: all that keeps a pilot's tokens, over one client: claims, leases, heartbeat, committer, reaper.

Iterators hand out what it claims; whoever worked a token gives it back with a verdict. Leaving it releases what is
still held, writes what waits, and only then stops the heartbeat.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import anyio
from anyio import to_thread

from apicas._documents import Document
from apicas._runtime.attempts.logs import log_root
from apicas._runtime.attempts.scribe import Scribe
from apicas._runtime.environment import Environment, real_environment
from apicas._runtime.keeping.claims import Claimed, Claimer
from apicas._runtime.keeping.committer import Committer
from apicas._runtime.keeping.healer import Healer
from apicas._runtime.keeping.heartbeat import Heartbeat
from apicas._runtime.keeping.leases import Lease, Leases, Phase
from apicas._runtime.keeping.outcomes import Concluding, Cut, Raised, Returned, Verdict, describe, only_leaf, raised
from apicas._runtime.keeping.reaper import Reaper, ReaperOptions, Sweep
from apicas._runtime.keeping.safekeeping import Safekeeping
from apicas._runtime.keeping.settlements import Ending, Outcome, Settlement
from apicas._runtime.outbox.aside import LostVersions
from apicas._runtime.outbox.disk import OutboxSetting, outbox_for
from apicas.clients.port import Client
from apicas.exceptions import ConfigError, Decision, LeaseLostError, PoolError
from apicas.modifiers import TokenModifier
from apicas.policies.leases import LeaseTimes, contact_is_lost
from apicas.policies.retries import MAX_CRASHES, RetryDelays
from apicas.tokens import Token

log = logging.getLogger("apicas")


OnLostContact: TypeAlias = Literal["continue", "stop"]
Settling: TypeAlias = Callable[[Token[Any], Lease, Verdict, Callable[[Ending], None]], Callable[[Ending], None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperOptions:
    """How a pilot keeps its tokens.

    Args:
        lock_timeout: the lease in seconds; None for the store's default (900 on CouchDB, 60 on SQLite), at least 10.
        foreign_lock_timeout: seconds after which a lock that apicas did not set is taken; None for never.
        max_crashes: how many processes a token may take down before it goes to error.
        max_scrub: how many times a token that failed is tried again.
        retry_delay: seconds before a token that failed is tried again, doubling with each failure; 0 for none.
        on_lost_contact: "stop" to stop the work on a token when none of its beats has arrived for a whole lease: others
            may soon take it, and work it a second time; "continue" to go on.
        farewell: seconds that leaving may take to hand tokens back when the pool does not answer.
        outbox: the directory where finished results are kept that are not in the pool yet; None for the default, False
            for none. A pool in memory has none unless it is given one.
    """

    lock_timeout: float | None = None
    foreign_lock_timeout: float | None = None
    max_crashes: int = MAX_CRASHES
    max_scrub: int = 0
    retry_delay: float = RetryDelays().scrub.first
    on_lost_contact: OnLostContact = "continue"
    farewell: float = 4.0
    outbox: OutboxSetting = None


@dataclass(slots=True)
class Tally:
    """How many tokens went which way."""

    claimed: int = 0
    done: int = 0
    failed: int = 0
    scrubbed: int = 0
    crashed: int = 0
    released: int = 0
    lost: int = 0
    reclaimed: int = 0

    def count(self, ending: Ending) -> None:
        """Count one token that left."""
        if ending is Ending.DONE:  # nearly every one
            self.done += 1
        else:
            setattr(self, ending.value, getattr(self, ending.value) + 1)


class Keeper:
    """Keeps the tokens of one pilot; an async context manager.

    Args:
        client: the pool, open.
        modifier: changes tokens.
        options: how.
        environment: clocks and dice; None for the real ones.
    """

    def __init__(
        self,
        client: Client,
        modifier: TokenModifier,
        options: KeeperOptions,
        environment: Environment | None = None,
    ) -> None:
        self.client = client
        self.options = options
        self.environment = environment or real_environment()
        self.tally = Tally()
        lease = client.default_lease if options.lock_timeout is None else options.lock_timeout
        self.times = LeaseTimes(lease=lease)
        modifier.bind(self.environment.owner, client.time)
        delays = RetryDelays.of(options.retry_delay)
        self._concluding = Concluding(
            modifier, client.time, options.max_scrub, options.max_crashes, delays, self.environment.rng
        )
        self._leases = Leases()
        self._leases.scribe = Scribe(self.environment.owner) if self.environment.threads else None
        outbox = outbox_for(options.outbox, client.address, default=self.environment.threads)
        self._safe = Safekeeping(outbox, client, self.environment, lease)
        self.waiting = 0
        """Finished results that could not be written, and were left in the outbox."""
        shared = (modifier, self.times, self.environment)
        self.claimer = Claimer(client, self._leases, *shared, self._hand_back)
        self._heartbeat = Heartbeat(self._leases, *shared)
        self.heed_lost_contact(options.on_lost_contact)
        self._committer = Committer(client, self._leases, self.environment, self._safe, self._rejected)
        aside = None if outbox is None else LostVersions(outbox, client.address, self.environment.owner, client.time)
        self._healer = Healer(client, self.times, self.environment, self.claimer.disowned, aside)
        self.claimer.candidates.notice_split = self._healer.notice
        reaping = ReaperOptions(foreign_lock_timeout=options.foreign_lock_timeout, max_crashes=options.max_crashes)
        self._reaper = Reaper(client, self._leases, *shared, reaping, self._healer)
        self._reaper.delays = delays
        if outbox is not None:
            self._reaper.before_sweep = self._safe.replay
        self._stack = AsyncExitStack()
        self._on_ending: list[Callable[[Ending], None]] = []
        self.settling: Settling | None = None
        """Told of each token that is given back: makes what is called once it is settled; None where nobody asks."""

    async def __aenter__(self) -> Self:
        if isinstance(self.options.outbox, (str, os.PathLike)):  # said at once, to whoever chose it
            await self._safe.check()
        async with AsyncExitStack() as stack:
            if self._leases.scribe is not None:
                stack.callback(self._leases.scribe.close)
            beat = self._heartbeat.in_thread if self.environment.threads else self._heartbeat.in_task
            await stack.enter_async_context(beat(self.client))
            stack.callback(self._committer.give_up)
            group = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(group.cancel_scope.cancel)
            self._leases.attach()
            group.start_soon(self._committer.run)
            group.start_soon(self._reaper.run)
            group.start_soon(self._healer.run)
            stack.push_async_callback(self._farewell)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return await self._stack.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            # The task group is ours, and no business of the user's: one error comes out as itself.
            leaf = only_leaf(group, stop_at=error)
            if leaf is None:
                raise
            if leaf is error:
                return False
        raise leaf from leaf.__cause__

    async def _farewell(self) -> None:
        """Hand back what is held and write what waits, also while being cancelled, within a bounded time."""
        with anyio.move_on_after(self.options.farewell, shield=True) as scope:
            for lease in self._leases:
                self.give_back(self._untouched(lease), Cut())
            try:
                await self._committer.flush()
            except PoolError as error:
                log.error("%d tokens could not be handed back: %s", len(self._leases), error)  # noqa: TRY400
        if scope.cancelled_caught:
            log.error(
                "the pool did not answer within %g s: %d tokens stay locked until their lease ends",
                self.options.farewell,
                len(self._leases),
            )
        self.waiting = await self._committer.put_away()
        if self.waiting:
            log.error(
                "%d finished results are not in the pool: they wait in %s, and are written by your next pilot on this "
                "pool, or by `apicas flush`",
                self.waiting,
                self._safe.place,
            )

    @property
    def held(self) -> int:
        """How many tokens this pilot holds, those whose outcome is being written included."""
        return len(self._leases)

    @property
    def unwritten(self) -> int:
        """How many outcomes wait to be written."""
        return self._committer.unwritten

    async def wait_until_written(self) -> None:
        """Wait until every outcome that was handed in is written, however long the store is away."""
        await self._committer.wait_until_written()

    def limit_scrubs(self, max_scrub: int) -> None:
        """Set how many times a token that failed is tried again."""
        self._concluding = replace(self._concluding, max_scrub=max_scrub)

    def delay_retries(self, retry_delay: float) -> None:
        """Set the seconds before a token that failed is tried again."""
        self._reaper.delays = RetryDelays.of(retry_delay)
        self._concluding = replace(self._concluding, delays=self._reaper.delays)

    async def keep_logs(self, directory: str | os.PathLike[str]) -> None:
        """Have the output of processes written into files below a directory, and not into the tokens.

        Raises:
            ConfigError: it cannot be made, or not be written: said at once, to whoever chose it.
        """
        if self._leases.scribe is not None:
            self._leases.scribe.logs = await to_thread.run_sync(log_root, directory)

    def heed_lost_contact(self, on_lost_contact: OnLostContact) -> None:
        """Set what happens to the work on a token when its beats do not arrive."""
        if on_lost_contact not in {"continue", "stop"}:
            raise ConfigError(f"on_lost_contact is continue or stop, not {on_lost_contact!r}")
        self._heartbeat.stops_out_of_contact = on_lost_contact == "stop"

    @property
    def loop_lags(self) -> bool:
        """Whether the loop stands still, or did so a moment ago: then it should get no more work."""
        return self._heartbeat.loop_lags

    @property
    def on_reclaimed(self) -> Callable[[Sequence[tuple[Document, str]]], None] | None:
        """Called with what was reclaimed, and from whom; None where nobody wants to know."""
        return self._reaper.on_reclaimed

    @on_reclaimed.setter
    def on_reclaimed(self, callback: Callable[[Sequence[tuple[Document, str]]], None] | None) -> None:
        self._reaper.on_reclaimed = callback

    @property
    def on_reached(self) -> Callable[[Lease, Document], None] | None:
        """Called, from any thread, when work tells how far it is; None where nobody wants to know."""
        return self._leases.on_reached

    @on_reached.setter
    def on_reached(self, callback: Callable[[Lease, Document], None] | None) -> None:
        self._leases.on_reached = callback

    def watch_endings(self, callback: Callable[[Ending], None]) -> Callable[[], None]:
        """Have a function called with the ending of each token; answers with what puts an end to that."""
        self._on_ending.append(callback)
        return lambda: self._on_ending.remove(callback)

    async def claim(self, view: str, wanted: int) -> tuple[list[Token], Claimed]:
        """Try once to claim tokens of a view; see Claimer."""
        claimed = await self.claimer.run_once(view, wanted)
        self.tally.claimed += len(claimed.leases)
        return [self._token(lease) for lease in claimed.leases], claimed

    def _token(self, lease: Lease) -> Token:
        return Token(lease.stored, self, lease, shared=True)

    def _untouched(self, lease: Lease) -> Token:
        """A token that nobody works. No deep copy: what somebody wrote into it meanwhile may not even be JSON."""
        return Token(dict(lease.stored), self, lease)

    def reap_also(self, views: Sequence[str]) -> None:
        """Look for stale locks in these views, too, as far as they exist."""
        self._reaper.views = tuple(dict.fromkeys((*self._reaper.views, *views)))

    async def sweep(self) -> Sweep:
        """Look once for stale locks."""
        sweep = await self._reaper.run_once()
        self.tally.reclaimed += sweep.reclaimed
        return sweep

    def begin(self, token: Token, on_lost: Callable[[], None]) -> bool:
        """Note that the work on a token begins, and have a function called in this loop when its lease is lost.

        Returns:
            False where it is lost already, and where none of its beats has arrived for a whole lease, as when this
            process was stopped: what others may have taken meanwhile is not begun.
        """
        lease, now = _lease_of(token), self.environment.monotonic()
        if contact_is_lost(lease.refreshed, now, self.times.lease):
            return False
        lease.began = now
        return self._leases.watch(lease, on_lost)

    def stop_beating(self, token: Token) -> None:
        """Let the lock of a token go stale: it is past its time limit, and its work may not end."""
        _lease_of(token).beats = False

    def give_back(self, token: Token, verdict: Verdict) -> Settlement | None:
        """Hand in a token with what became of it; its outcome is written soon.

        None where its lease was lost, and where it was handed in before: the first outcome counts.
        """
        lease = _lease_of(token)
        if lease.handed_in:
            return None
        lease.handed_in = True
        if self._leases.scribe is not None:
            self._leases.scribe.forget(lease)
        settled = self._count if self.settling is None else self.settling(token, lease, verdict, self._count)
        # What was stopped because it was lost has no result. What came to its end all the same may yet be welcome.
        if lease.phase is not Phase.HELD and not isinstance(verdict, Returned):
            settled(Ending.LOST)
            return None
        return self._submit(lease, self._conclude(token, lease, verdict), settled)

    def _hand_back(self, lease: Lease) -> None:
        """Release a claim that was cut short, and so has not been counted as one."""
        lease.handed_in = True
        self._submit(lease, self._conclude(self._untouched(lease), lease, Cut()), None)

    def _submit(self, lease: Lease, outcome: Outcome, settled: Callable[[Ending], None] | None) -> Settlement:
        settlement = Settlement(lease, outcome, settled, self.environment.monotonic() - lease.began)
        self._committer.submit(settlement)
        return settlement

    def _conclude(self, token: Token, lease: Lease, verdict: Verdict) -> Outcome:
        try:
            return self._concluding.conclude(token, lease, verdict)
        except Exception as error:  # what the user left in the token; one bad token never ends the pilot
            log.exception("token %s was left in a state that cannot be written", lease.token_id)
            return self._rejected(lease, describe(error))

    def _rejected(self, lease: Lease, reason: str) -> Outcome:
        return self._concluding.rejected(lease, reason)

    def _count(self, ending: Ending) -> None:
        self.tally.count(ending)
        for callback in self._on_ending:
            callback(ending)

    def stream_attachment(self, token: Token[Any], name: str) -> AsyncIterator[bytes]:
        """Read an attachment of a token, in chunks."""
        return self.client.stream_attachment(token.id, name)

    async def settle(self, token: Token[Any], error: BaseException | None) -> bool:
        """The end of `async with token:`. Waits until the outcome is written.

        Returns:
            True for an exception that has been dealt with: recorded in the token, and logged.

        Raises:
            LeaseLostError: the work came to its end, but somebody else had taken the token.
        """
        verdict = _verdict(error)
        if _lease_of(token).handed_in:  # by an `async with token:` inside this one, or before it
            return False
        settlement = self.give_back(token, verdict)
        if isinstance(verdict, Cut):  # a cancellation: the keeper writes it on its way out
            return False
        if isinstance(verdict, Raised) and not isinstance(verdict.error, Decision):
            log.warning("token %s: %s: %s", token.id, type(verdict.error).__name__, verdict.error)
        if settlement is not None:
            self._committer.hurry()
            await settlement.wait()
        if settlement is not None and settlement.ending is None:
            raise LeaseLostError(f"the outcome of token {token.id} was not written: the iterator was left before")
        if error is None and (settlement is None or settlement.ending is Ending.LOST):
            raise LeaseLostError(f"token {token.id} was taken by somebody else; its outcome was not written")
        return isinstance(verdict, Raised)


def _lease_of(token: Token[Any]) -> Lease:
    """The lease of a token that a keeper handed out. Not by its id, which may have been claimed again meanwhile."""
    lease: Lease = token.lease
    return lease


def _verdict(error: BaseException | None) -> Verdict:
    if error is None:
        return Returned()
    return raised(error) if isinstance(error, Exception) else Cut()
