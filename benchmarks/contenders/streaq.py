"""streaQ on Redis: its own worker in burst mode, and the moment at which it has written a job's end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import streaq  # type: ignore[import-not-found]  # it is in an environment of its own

from benchmarks.contenders.redis_server import Settings, measure_on_redis
from benchmarks.contenders.worker import Gate, run
from benchmarks.measuring import Sample, Trial


def measure(trial: Trial) -> Sample:
    """Measure streaQ."""
    return measure_on_redis(__spec__.name, trial, _upload)


class _Worker(streaq.Worker):  # type: ignore[misc]  # an untyped package, here
    gate: Gate

    async def finish_task(self, *arguments: Any, **options: Any) -> None:
        await super().finish_task(*arguments, **options)
        self.gate.acknowledged()


def _worker(settings: Settings, gate: Gate | None) -> _Worker:
    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        if gate is not None:
            await gate.opened()
        yield

    return _Worker(
        redis_url=settings["url"],
        queue_name=settings["queue"],
        concurrency=settings["workers"],
        lifespan=lifespan,
        handle_signals=False,
    )


async def _upload(settings: Settings) -> None:
    worker = _worker(settings, None)

    @worker.task(name="noop")  # type: ignore[untyped-decorator]  # as above
    async def noop(number: int) -> None: ...

    async with worker:
        for start in range(0, settings["tokens"], 1000):
            numbers = range(start, min(start + 1000, settings["tokens"]))
            await worker.enqueue_many([noop.enqueue(number) for number in numbers])


def work(settings: Settings, gate: Gate) -> None:
    """Run one worker."""
    run(_work(settings, gate))


async def _work(settings: Settings, gate: Gate) -> None:
    worker = _worker(settings, gate)
    worker.gate = gate
    worker.burst = True

    @worker.task(name="noop")  # type: ignore[untyped-decorator]  # as above
    async def noop(number: int) -> None:
        gate.tally(number)

    await worker.run_async()
