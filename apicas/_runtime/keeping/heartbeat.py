"""The heartbeat: refreshes the locks of what this pilot holds, in bulk, before they go stale.

It writes the document as stored plus the new lock, never the user's half-changed mapping. Short tokens cost no beat at
all, since only locks older than the interval are refreshed. It has its own thread, loop and connection, so that user
code which blocks the loop starves no lease; in virtual time it is a task.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import anyio

from apicas._documents import Document
from apicas._runtime.environment import Environment
from apicas._runtime.keeping.branches import overtaken, read_own
from apicas._runtime.keeping.lag import LoopWatch
from apicas._runtime.keeping.leases import Lease, Leases
from apicas.clients.port import Client, SaveStatus
from apicas.exceptions import PoolError, PoolUnavailableError
from apicas.modifiers import TokenModifier, noted
from apicas.policies.fence import Standing, beat_was_applied, standing
from apicas.policies.leases import LeaseTimes
from apicas.tokens import annex

log = logging.getLogger("apicas.heartbeat")

# A look at a table in memory: often enough that a lock is never much older than the interval.
_LOOKS_PER_BEAT = 10
_LONGEST_LOOK = 5.0  # seconds


class Heartbeat:
    """Keeps leases fresh.

    Args:
        leases: what the pilot holds.
        modifier: refreshes a lock.
        times: the lease and what follows from it.
        environment: clocks.
    """

    stops_out_of_contact = False
    """Whether the work on a token is stopped when none of its beats has arrived for a whole lease."""

    def __init__(self, leases: Leases, modifier: TokenModifier, times: LeaseTimes, environment: Environment) -> None:
        self._leases = leases
        self._modifier = modifier
        self._times = times
        self._environment = environment
        self._monotonic = environment.monotonic
        self._away = False
        self._watch: LoopWatch | None = None

    @property
    def loop_lags(self) -> bool:
        """Whether the pilot's loop stands still, or did so a moment ago. In virtual time it never does."""
        return self._watch is not None and self._watch.lags

    async def run_once(self, client: Client) -> int:
        """Beat every lease that is due, and answer how many have to be tried again."""
        sent = self._monotonic()
        due = self._leases.take_due(sent, self._times.heartbeat)
        if not due:
            return 0
        try:
            with anyio.fail_after(self._times.beat_retry):
                ours = await self._still_ours(client, due, sent)
                again = await self._beat(client, ours, sent) if ours else 0
        except PoolError as error:
            self._say_away(error)
            return len(due)
        finally:
            for lease in due:
                if lease.beating:
                    self._leases.beaten(lease)
        self._say_back()
        return again

    async def _beat(self, client: Client, due: Sequence[Lease], sent: float) -> int:
        now = client.time()
        documents = [self._refreshed(lease, now) for lease in due]
        unclear: list[tuple[Lease, Document]] = []
        results = await client.save(documents)
        for lease, document, result in zip(due, documents, results, strict=True):
            if result.written:
                self._leases.beaten(lease, stored={**document, "_rev": result.rev}, refreshed=sent)
            elif result.status is SaveStatus.REJECTED:
                log.error("the lock of token %s cannot be refreshed: %s", lease.token_id, result.reason)
            else:
                unclear.append((lease, document))
        return await self._look(client, unclear, sent)

    def _refreshed(self, lease: Lease, now: float) -> Document:
        """The document as stored with a new lock, and with what is known of the attempt."""
        document = self._modifier.refresh(dict(lease.stored), now)
        if lease.notes is None:
            return document
        return noted(document, **lease.notes.entries(annex(document), now))

    async def _look(self, client: Client, unclear: Sequence[tuple[Lease, Document]], sent: float) -> int:
        """Read back what met a conflict or no clear answer: an edit, a beat that did arrive, or a lost lease."""
        if not unclear:
            return 0
        again = 0
        fresh = await read_own(client, [lease for lease, _ in unclear])
        for (lease, beaten), document in zip(unclear, fresh, strict=True):
            arrived = document is not None and beat_was_applied(lease.stored, document, lease.claim_id, beaten["lock"])
            if arrived:
                # On a replicated store it is there, but not by a majority: go on from it, and beat again.
                self._leases.beaten(lease, stored=document, refreshed=None if client.replicated else sent)
                again += client.replicated
            elif standing(lease.stored, document, lease.claim_id) is Standing.OURS:
                self._leases.beaten(lease, stored=document)
                again += 1
            else:
                self._lose(lease)
        return again

    async def _still_ours(self, client: Client, due: Sequence[Lease], sent: float) -> list[Lease]:
        """What of this to beat: all but those that were silent for so long that another branch has overtaken them.

        Where nobody can tell, it is beaten. A beat makes only our own branch longer; a commit would have to wait.
        """
        silent = [lease for lease in due if sent - lease.refreshed > self._times.lease / 2]
        lost: set[Lease] = set()
        with anyio.move_on_after(self._times.beat_retry / 2), suppress(PoolError):
            lost = await overtaken(client, silent)
        for lease in lost:
            self._lose(lease)
        return [lease for lease in due if lease not in lost]

    def _lose(self, lease: Lease) -> None:
        log.warning("token %s is not ours any more: its work is stopped", lease.token_id)
        self._leases.beaten(lease)
        self._leases.lose(lease)

    async def _connect(self, client: Client) -> bool:
        try:
            await client.open()
        except PoolUnavailableError as error:
            self._say_away(error)
            return False
        return True

    def _say_away(self, error: PoolError) -> None:
        if not self._away:
            self._away = True
            log.warning("heartbeat: %s; the work goes on", error)

    def _say_back(self) -> None:
        if self._away:
            self._away = False
            log.info("heartbeat: the pool answers again")

    async def run(self, client: Client) -> None:
        """Connect, and beat for ever."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch_contact)
            while not await self._connect(client):  # nobody tells when a server is back
                await self._environment.sleep(self._look_time)
            while True:
                try:
                    await self.run_once(client)
                except TimeoutError:
                    self._say_away(PoolError(f"no answer within {self._times.beat_retry:g} s"))
                await self._environment.sleep(self._look_time)

    @property
    def _look_time(self) -> float:
        return min(self._times.heartbeat / _LOOKS_PER_BEAT, _LONGEST_LOOK)

    async def _watch_contact(self) -> None:
        """Stop for ever what is out of contact. A task of its own, since a beat may hang."""
        look = self._look_time
        while True:
            asked = self._monotonic()
            await self._environment.sleep(look)
            now = self._monotonic()
            if not self.stops_out_of_contact or now - asked > 2 * look:  # stopped ourselves: first let it beat
                continue
            for lease in self._leases.out_of_contact(now, self._times.lease):
                log.warning("token %s: out of contact for %g s, its work is stopped", lease.token_id, self._times.lease)
                self._leases.lose(lease)

    @asynccontextmanager
    async def in_task(self, client: Client) -> AsyncIterator[None]:
        """Beat in a task of the running loop, over a client of its own."""
        own = client.fork()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self.run, own)
                try:
                    yield
                finally:
                    group.cancel_scope.cancel()
        finally:
            await own.aclose()

    @asynccontextmanager
    async def in_thread(self, client: Client) -> AsyncIterator[None]:
        """Beat in a thread with its own loop, over a client of its own."""
        self._watch = watch = LoopWatch(self._environment, self._times.lease)
        thread = _HeartbeatThread(self, client.fork(), watch)
        async with anyio.create_task_group() as group:
            thread.start()
            group.start_soon(thread.watch)
            group.start_soon(watch.tick)
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await thread.stop()
                watch.finish()
                group.cancel_scope.cancel()


class _HeartbeatThread(threading.Thread):
    """A thread that beats until it is stopped. A daemon: a hung store must not keep the process from ending."""

    def __init__(self, heartbeat: Heartbeat, client: Client, loop_watch: LoopWatch) -> None:
        super().__init__(name="apicas-heartbeat", daemon=True)
        self._loop_watch = loop_watch
        self._heartbeat = heartbeat
        self._client = client
        self._owner = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._stopping = threading.Event()
        self._inner: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Run the loop of the thread."""
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - watch() raises it where the pilot lives
            self._error = error
        finally:
            if not self._owner.is_closed():
                self._owner.call_soon_threadsafe(self._ended.set)

    async def _main(self) -> None:
        stop = asyncio.Event()
        self._inner = (asyncio.get_running_loop(), stop)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._heartbeat.run, self._client)
                group.start_soon(self._loop_watch.run)
                if not self._stopping.is_set():
                    await stop.wait()
                group.cancel_scope.cancel()
        finally:
            await self._client.aclose()

    async def watch(self) -> None:
        """Wait for the end of the thread.

        Raises:
            RuntimeError: it ended though nobody stopped it. Its pilot must end too: its locks go stale.
        """
        await self._ended.wait()
        if not self._stopping.is_set():
            raise RuntimeError("the heartbeat ended by itself") from self._error

    async def stop(self) -> None:
        """Let the present beat end, and wait for the thread."""
        self._stopping.set()
        if self._inner is not None:
            loop, stop = self._inner
            if not loop.is_closed():
                loop.call_soon_threadsafe(stop.set)
        await self._ended.wait()
        self.join()
