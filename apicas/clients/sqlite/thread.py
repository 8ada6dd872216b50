"""The thread that owns a connection.

Operations are plain functions over the connection. They are queued, run one after another, and hand their result back
to the event loop that asked; one hop each way, so callers bring a whole batch. A caller that is cancelled stops
waiting; what it asked for is done all the same, and never half.

A statement gives up Python's global lock each time that it is stepped, and in a process with a busy loop waits up to
5 ms to get it back. So operations step seldom: hundreds of rows go in, or come out, in one step.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from random import Random
from typing import Any, Final, Protocol, TypeVar

import msgspec

from apicas.clients.sqlite.failures import is_busy, translate
from apicas.clients.sqlite.schema import PoolConnection
from apicas.exceptions import PoolError

T = TypeVar("T")
Operation = Callable[[PoolConnection], T]


class Read(Protocol):
    """Has the thread run an operation that writes nothing, and answers what it returns."""

    async def __call__(self, operation: Operation[T], /) -> T:
        """Run it."""
        ...


PATIENCE: Final = 30.0
"""Seconds that an operation waits for other processes, before it tells the user. A transaction takes milliseconds."""
# Seconds. SQLite's own waiting sleeps for 100 ms at a time, and then often misses the gap between two busy writers.
_FIRST_PAUSE: Final = 0.000_5
_LONGEST_PAUSE: Final = 0.01


class _Job(msgspec.Struct):
    operation: Operation[Any]
    begin: str
    """What starts the transaction; empty for none."""
    loop: asyncio.AbstractEventLoop | None = None
    future: asyncio.Future[Any] | None = None

    async def answer(self) -> Any:
        """Wait for the outcome."""
        assert self.future is not None  # noqa: S101 - only jobs that somebody waits for are asked
        return await self.future

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Hand the outcome over to whoever waits, from the thread."""
        if self.loop is not None:
            with suppress(RuntimeError):  # that loop was closed meanwhile
                self.loop.call_soon_threadsafe(self.resolve, result, error)

    def resolve(self, result: Any, error: BaseException | None) -> None:
        """Hand the outcome over, in the loop."""
        if self.future is None or self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


def _nothing(_: PoolConnection) -> None:
    """An operation that only opens the connection."""


class ConnectionThread:
    """A thread with a connection of its own, from the first operation to `stop`. Any event loop may use it.

    Args:
        connect: makes the connection, in the thread.
        address: the pool's, for errors.
        patience: seconds to wait while other processes keep the file busy.
    """

    def __init__(self, connect: Callable[[], PoolConnection], address: str, *, patience: float = PATIENCE) -> None:
        self.address = address
        self.commits = 0
        """How many transactions were committed here; SQLite's data_version counts only those of others."""
        self._connect = connect
        self._patience = patience
        self._pid = os.getpid()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._watchers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._rng = Random()
        self._stopping = False
        self._over = False
        self._waiters: list[_Job] = []
        self._lock = threading.Lock()
        # A daemon, so that a client which somebody forgot to close does not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, name=f"apicas {address}", daemon=True)
        self._thread.start()

    @property
    def here(self) -> bool:
        """Whether the thread is of this process: a forked one has its memory, but not the thread."""
        return self._pid == os.getpid()

    async def opened(self) -> None:
        """Wait until there is a connection."""
        await self.read(_nothing)

    async def read(self, operation: Operation[T]) -> T:
        """Run an operation that reads with one statement, or does not mind what happens between two."""
        return await self._submit(operation, "")

    async def read_snapshot(self, operation: Operation[T]) -> T:
        """Run an operation whose statements all see the same moment."""
        return await self._submit(operation, "BEGIN")

    async def write(self, operation: Operation[T]) -> T:
        """Run an operation as one transaction; it is run again from its start if another process is in the way."""
        return await self._submit(operation, "BEGIN IMMEDIATE")

    def send(self, operation: Operation[object]) -> None:
        """Have an operation run as one transaction, without waiting for it; nobody hears of its failure."""
        with self._lock:
            if self.here and not self._stopping:
                self._jobs.put(_Job(operation, "BEGIN IMMEDIATE"))

    @contextmanager
    def watch(self) -> Iterator[asyncio.Event]:
        """An event of the running loop that is set whenever this thread has committed."""
        entry = (asyncio.get_running_loop(), asyncio.Event())
        self._watchers.add(entry)
        try:
            yield entry[1]
        finally:
            self._watchers.discard(entry)

    def stop(self) -> None:
        """End the thread after what was asked so far. May be called twice, and from a finaliser: it takes no lock."""
        self._stopping = True
        self._jobs.put(None)

    async def stopped(self) -> None:
        """Wait until a thread that was told to stop has closed its connection."""
        if not self.here:
            return
        loop = asyncio.get_running_loop()
        waiter = _Job(_nothing, "", loop, loop.create_future())
        with self._lock:
            if self._over:
                waiter.resolve(None, None)
            else:
                self._waiters.append(waiter)
        await waiter.answer()
        self._thread.join()

    async def _submit(self, operation: Operation[T], begin: str) -> T:
        loop = asyncio.get_running_loop()
        job = _Job(operation, begin, loop, loop.create_future())
        with self._lock:
            self._check()
            self._jobs.put(job)
        answer: T = await job.answer()
        return answer

    def _check(self) -> None:
        if not self.here:
            raise PoolError(
                f"{self.address} was opened before this process was forked off, and cannot be used in it: "
                "open the pool after the fork, or start processes with spawn"
            )
        if self._stopping:
            raise PoolError(f"the client of {self.address} is closed")

    # In the thread. -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        connection: PoolConnection | None = None
        while (job := self._jobs.get()) is not None:
            connection = self._do(job, connection)
            del job  # while the thread waits for the next one, it keeps no result alive
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()
        self._end()

    def _do(self, job: _Job, connection: PoolConnection | None) -> PoolConnection | None:
        """Run one job, and answer with the connection, which the first one opens."""
        try:
            opened = connection or self._patiently(self._connect)
            connection = opened
            result = self._patiently(lambda: self._perform(job, opened))
        except sqlite3.Error as error:
            job.settle(None, translate(error, self.address))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the caller
            job.settle(None, error)
        else:
            job.settle(result, None)
        return connection

    def _perform(self, job: _Job, connection: PoolConnection) -> Any:
        if not job.begin:
            return job.operation(connection)
        connection.execute(job.begin)
        try:
            result = job.operation(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # some errors, as a full disk, have rolled it back already
                connection.execute("ROLLBACK")
            raise
        if job.begin == "BEGIN IMMEDIATE":
            self._committed()
        return result

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Try until other processes are out of the way, or the patience is at its end."""
        deadline = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return attempt()
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() >= deadline:
                    raise
            time.sleep(pause * self._rng.uniform(0.5, 1.0))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _committed(self) -> None:
        self.commits += 1
        for loop, event in tuple(self._watchers):
            with suppress(RuntimeError):  # that loop was closed meanwhile
                loop.call_soon_threadsafe(event.set)

    def _end(self) -> None:
        """Answer those who wait for the end, and what was asked in the very moment of stopping."""
        with self._lock:
            self._over = True
        while not self._jobs.empty():
            if (job := self._jobs.get()) is not None:
                job.settle(None, PoolError(f"the client of {self.address} is closed"))
        for waiter in self._waiters:
            waiter.settle(None, None)
