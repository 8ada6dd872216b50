"""huey on SQLite, and on Redis: its own consumer with threads, since it has no asyncio."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from huey import RedisHuey, SqliteHuey  # type: ignore[import-not-found]  # it is in an environment of its own
from huey.consumer import Consumer  # type: ignore[import-not-found]  # as above

from benchmarks.contenders.processes import run_together, sample_of
from benchmarks.contenders.redis_server import Settings, measure_on_redis
from benchmarks.contenders.worker import Gate
from benchmarks.measuring import Sample, Trial

_LOOK: Final = 0.1
"""Seconds between two looks whether the queue is empty: a consumer runs for ever."""
_THREADS: Final = 4
_NOTES: Final = (f"huey: {_THREADS} threads", "huey deletes a job before it runs it: a crash loses what was running")


def measure(trial: Trial) -> Sample:
    """Measure huey."""
    if trial.contender == "huey_redis":
        return measure_on_redis(__spec__.name, trial, _upload, *_NOTES)
    path = Path(trial.directory) / "huey.db"
    settings = {"path": str(path), "tokens": trial.tokens, "full": trial.wal == "FULL"}
    began = time.monotonic()
    _fill(settings)
    uploaded = time.monotonic() - began
    started, reports = run_together(__spec__.name, [settings] * trial.pilots)
    synchronous = "FULL" if settings["full"] else "OFF"
    notes = [*_NOTES, f"WAL, synchronous={synchronous}"]
    return sample_of(trial, started, reports, upload_seconds=uploaded, notes=notes)


def _huey(settings: Settings, gate: Gate | None) -> tuple[Any, Any]:
    if "path" in settings:
        huey = SqliteHuey(filename=settings["path"], fsync=settings["full"])
    else:
        huey = RedisHuey(settings["queue"], url=settings["url"])

    @huey.task(name="noop")  # type: ignore[untyped-decorator]  # an untyped package, here
    def noop(number: int) -> None:
        if gate is not None:
            gate.tally(number)

    return huey, noop


def _fill(settings: Settings) -> None:
    _, noop = _huey(settings, None)
    for number in range(settings["tokens"]):
        noop(number)


async def _upload(settings: Settings) -> None:
    _fill(settings)


def work(settings: Settings, gate: Gate) -> None:
    """Run one consumer."""
    huey, _ = _huey(settings, gate)

    @huey.post_execute()  # type: ignore[untyped-decorator]  # as above
    def ended(*_: Any) -> None:
        gate.acknowledged()

    consumer = Consumer(huey, workers=settings.get("threads", _THREADS), periodic=False)
    gate.wait()
    consumer.start()
    while not gate.is_quiet():
        time.sleep(_LOOK)
    consumer.stop(graceful=True)
