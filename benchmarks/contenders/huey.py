"""huey on SQLite, and on Redis: its own consumer with threads, since it has no asyncio.

`huey` and `huey_redis` have as many threads as the others have workers, `huey_one` has one: it works one job at a time,
which is its fastest for jobs that take no time.
"""

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
_NOTE: Final = "huey deletes a job before it runs it: a crash loses what was running"


def measure(trial: Trial) -> Sample:
    """Measure huey."""
    threads = 1 if trial.contender == "huey_one" else trial.workers
    notes = [_NOTE, f"{threads} threads" if threads > 1 else "one thread, so one job at a time"]
    if trial.contender == "huey_redis":
        return measure_on_redis(__spec__.name, trial, _upload, *notes)
    path = Path(trial.directory) / "huey.db"
    settings = {"path": str(path), "tokens": trial.tokens, "workers": threads, "full": trial.wal == "FULL"}
    began = time.monotonic()
    _fill(settings)
    uploaded = time.monotonic() - began
    started, reports = run_together(__spec__.name, [settings] * trial.pilots)
    # It knows no NORMAL: either each commit waits for the disk, or none does.
    notes.append(f"WAL, synchronous={'FULL' if settings['full'] else 'OFF'}")
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

    consumer = Consumer(huey, workers=settings["workers"], periodic=False)
    gate.wait()
    consumer.start()
    while not gate.is_quiet():
        time.sleep(_LOOK)
    consumer.stop(graceful=True)
