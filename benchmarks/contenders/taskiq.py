"""taskiq on a Redis stream, with acknowledgements: its own receiver, and the moment at which a job is acknowledged."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

from taskiq.api import run_receiver_task  # type: ignore[import-not-found]  # it is in an environment of its own
from taskiq.receiver import Receiver  # type: ignore[import-not-found]  # as above
from taskiq_redis import RedisStreamBroker  # type: ignore[import-not-found]  # as above

from benchmarks.contenders.redis_server import Settings, measure_on_redis
from benchmarks.contenders.worker import Gate, run
from benchmarks.measuring import Sample, Trial

_LOOK: Final = 0.1
"""Seconds between two looks whether the queue is empty: a receiver runs for ever."""


def measure(trial: Trial) -> Sample:
    """Measure taskiq."""
    return measure_on_redis(__spec__.name, trial, _upload, "taskiq keeps no result here")


def _broker(settings: Settings, gate: Gate | None) -> tuple[Any, Any]:
    broker = RedisStreamBroker(settings["url"], queue_name=settings["queue"], consumer_id="0")

    @broker.task(task_name="noop")  # type: ignore[untyped-decorator]  # an untyped package, here
    async def noop(number: int) -> None:
        if gate is not None:
            gate.tally(number)

    return broker, noop


async def _upload(settings: Settings) -> None:
    broker, noop = _broker(settings, None)
    await broker.startup()
    for start in range(0, settings["tokens"], 100):
        numbers = range(start, min(start + 100, settings["tokens"]))
        await asyncio.gather(*(noop.kiq(number) for number in numbers))
    await broker.shutdown()


def work(settings: Settings, gate: Gate) -> None:
    """Run one receiver."""
    run(_work(settings, gate))


async def _work(settings: Settings, gate: Gate) -> None:
    broker, _ = _broker(settings, gate)
    broker.is_worker_process = True

    class Timed(Receiver):  # type: ignore[misc]  # as above
        async def callback(self, *arguments: Any, **options: Any) -> None:
            await super().callback(*arguments, **options)
            gate.acknowledged()

    await broker.startup()
    await gate.opened()
    workers = settings["workers"]
    receiving = asyncio.create_task(
        run_receiver_task(broker, Timed, validate_params=False, max_async_tasks=workers, max_prefetch=workers)
    )
    while not gate.is_quiet():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(_LOOK)
    receiving.cancel()
    with suppress(asyncio.CancelledError):
        await receiving
    await broker.shutdown()
