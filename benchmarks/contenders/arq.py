"""arq on Redis: its own worker in burst mode, which reads on at once instead of every half second."""

from __future__ import annotations

import asyncio
from typing import Any

from arq import create_pool, func  # type: ignore[import-not-found]  # it is in an environment of its own
from arq.connections import RedisSettings  # type: ignore[import-not-found]  # as above
from arq.worker import Worker  # type: ignore[import-not-found]  # as above

from benchmarks.contenders.redis_server import Settings, measure_on_redis
from benchmarks.contenders.worker import Gate, run
from benchmarks.measuring import Sample, Trial


def measure(trial: Trial) -> Sample:
    """Measure arq."""
    return measure_on_redis(__spec__.name, trial, _upload)


async def _upload(settings: Settings) -> None:
    pool = await create_pool(RedisSettings.from_dsn(settings["url"]), default_queue_name=settings["queue"])
    for start in range(0, settings["tokens"], 100):
        numbers = range(start, min(start + 100, settings["tokens"]))
        await asyncio.gather(*(pool.enqueue_job("noop", number) for number in numbers))
    await pool.aclose()


def work(settings: Settings, gate: Gate) -> None:
    """Run one worker."""
    run(_work(settings, gate))


async def _work(settings: Settings, gate: Gate) -> None:
    async def noop(_: Any, number: int) -> None:
        gate.tally(number)

    async def ready(_: Any) -> None:
        await gate.opened()

    async def ended(_: Any) -> None:
        gate.acknowledged()

    worker = Worker(
        functions=[func(noop, name="noop")],
        queue_name=settings["queue"],
        redis_settings=RedisSettings.from_dsn(settings["url"]),
        max_jobs=settings["workers"],
        on_startup=ready,
        after_job_end=ended,
        burst=True,
        poll_delay=0,
        log_results=False,
        handle_signals=False,
    )
    await worker.async_run()
    await worker.close()
