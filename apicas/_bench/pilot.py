"""One pilot that is measured; as a process, `python -m apicas._bench.pilot`.

Of its standard input the first line is an Order; it answers `ready` when it is about to claim, and claims after the
second line. At the end it writes a PilotReport. When its standard input ends before, whoever started it is gone, and it
ends too.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from apicas._bench.records import Trial
from apicas._bench.watching import Watch, counted
from apicas._bench.work import Executions, work_of
from apicas._runtime.dedicated import loop_factory, tune
from apicas.actors import run_options, run_pilot, work_maker
from apicas.clients.base import PoolClient
from apicas.clients.connect import connect
from apicas.iterators import BasicViewIterator

READY: Final = b"ready\n"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a pilot's process is to do. It comes by a pipe, since it may hold a password."""

    pool: str
    options: dict[str, str]
    """What the client takes beside the address."""
    trial: Trial
    outbox: str
    """A directory."""


class PilotReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one pilot did."""

    done: int
    executions: int
    lost_races: int
    last: float
    """Monotonic seconds, the same clock in all processes: when its last outcome was confirmed; 0 if it had none."""
    requests: int
    sent: int
    received: int
    cpu_seconds: float
    memory: int
    """Bytes."""
    latencies: dict[int, int]
    notes: list[str]


async def work_off(
    client: PoolClient, trial: Trial, outbox: str, barrier: Callable[[], Awaitable[None]]
) -> PilotReport:
    """Work the tokens of a pool.

    Args:
        client: the pool, open.
        trial: what is measured.
        outbox: a directory.
        barrier: waits until all pilots may begin.
    """
    iterator = BasicViewIterator(client, linger=False, outbox=outbox)
    async with iterator:
        await barrier()
        before, processor, worked = counted(client.traffic), processor_time(), Executions.number
        watch = Watch(iterator.keeper, client.traffic, trial.tokens // trial.pilots)
        executor = "process" if trial.workload == "cpu" else "auto"
        options = {"workers": trial.workers, "claim_ahead": trial.batch, "executor": executor}
        report = await run_pilot(iterator, work_maker(work_of(trial), iterator), run_options(options))
        requests, sent, received = (now - then for now, then in zip(watch.traffic, before, strict=True))
        return PilotReport(
            done=report.done,
            # What is worked in another process is counted there; of it we know what ended here.
            executions=report.ended if trial.workload == "cpu" else Executions.number - worked,
            lost_races=watch.lost_races,
            last=watch.last,
            requests=requests,
            sent=sent,
            received=received,
            cpu_seconds=processor_time() - processor,
            memory=memory(),
            latencies=watch.latencies.counts,
            notes=[] if report.ended == report.done else [str(report)],
        )


def processor_time() -> float:
    """Seconds, of all threads and of all children that ended."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def memory() -> int:
    """The largest resident set so far, in bytes."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


class _Parent:
    """Who started this process: lines from it, and its end."""

    def __init__(self) -> None:
        self._left = b""

    def line(self) -> bytes:
        """The next line; ends the process where there is none."""
        while b"\n" not in self._left:
            # Not sys.stdin, whose lock a thread would hold at the end.
            some = os.read(0, 65_536)
            if not some:
                os._exit(1)
            self._left += some
        line, _, self._left = self._left.partition(b"\n")
        return line

    async def barrier(self) -> None:
        """Say that we are ready, and wait for the word; from then on end with the parent."""
        loop, go = asyncio.get_running_loop(), asyncio.Event()
        threading.Thread(target=self._watch, args=(loop, go), daemon=True).start()
        os.write(1, READY)
        await go.wait()

    def _watch(self, loop: asyncio.AbstractEventLoop, go: asyncio.Event) -> None:
        self.line()
        loop.call_soon_threadsafe(go.set)
        self.line()


async def _main(order: Order, parent: _Parent) -> PilotReport:
    async with connect(order.pool, **order.options) as client:
        return await work_off(client, order.trial, order.outbox, parent.barrier)


def main() -> None:
    """Run one pilot."""
    parent = _Parent()
    order = msgspec.json.decode(parent.line(), type=Order)
    tune()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        report = runner.run(_main(order, parent))
    os.write(1, msgspec.json.encode(report) + b"\n")


if __name__ == "__main__":
    main()
