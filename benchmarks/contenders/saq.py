"""SAQ on Redis: its own worker in burst mode, with a hook that runs after each job's end is written."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from saq import Queue, Worker  # type: ignore[import-not-found]  # it is in an environment of its own

from benchmarks.contenders.redis_server import Settings, measure_on_redis
from benchmarks.contenders.worker import Gate, run
from benchmarks.measuring import Sample, Trial

_SWEEP: Final = 60
"""Seconds between two sweeps: SAQ's default."""
_NOTE: Final = "SAQ's sweep ran before: it would take jobs that are just being started for stuck, and work them twice"


def measure(trial: Trial) -> Sample:
    """Measure SAQ."""
    return measure_on_redis(__spec__.name, trial, _upload, _NOTE)


async def _upload(settings: Settings) -> None:
    queue = Queue.from_url(settings["url"], name=settings["queue"])
    await queue.connect()
    for start in range(0, settings["tokens"], 1000):
        numbers = range(start, min(start + 1000, settings["tokens"]))
        await asyncio.gather(*(queue.enqueue("noop", number=number) for number in numbers))
    # A worker sweeps when it starts, unless another has just done so. A job that it then meets between the queue and
    # its worker is worked again five seconds later, and the measurement would be of that.
    await queue.sweep(_SWEEP)
    await queue.disconnect()


def work(settings: Settings, gate: Gate) -> None:
    """Run one worker."""
    run(_work(settings, gate))


async def _work(settings: Settings, gate: Gate) -> None:
    queue = Queue.from_url(settings["url"], name=settings["queue"])
    await queue.connect()

    async def noop(_: Any, *, number: int) -> None:
        gate.tally(number)

    async def ready(_: Any) -> None:
        await gate.opened()

    async def ended(_: Any) -> None:
        gate.acknowledged()

    worker = Worker(
        queue,
        [("noop", noop)],
        concurrency=settings["workers"],
        startup=ready,
        after_process=ended,
        burst=True,
        dequeue_timeout=1,
    )
    await worker.start()
    await queue.disconnect()
