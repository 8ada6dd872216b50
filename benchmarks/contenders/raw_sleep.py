"""Workers that sleep, without a store: the ideal for tokens that only take time."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.contenders.processes import run_together, sample_of
from benchmarks.contenders.worker import Gate, run
from benchmarks.measuring import Sample, Trial


def measure(trial: Trial) -> Sample:
    """Measure sleeping workers."""
    started, reports = run_together(__spec__.name, shares(trial))
    return sample_of(trial, started, reports, upload_seconds=None, notes=["no store: nothing is claimed or committed"])


def shares(trial: Trial) -> list[dict[str, Any]]:
    """What each process gets: tokens are dealt out before."""
    common = {"tokens": trial.tokens, "workers": trial.workers, "seconds": trial.seconds, "pilots": trial.pilots}
    return [{**common, "first": number} for number in range(trial.pilots)]


def work(settings: dict[str, Any], gate: Gate) -> None:
    """Run the workers of one process."""
    run(_work(settings, gate))


async def _work(settings: dict[str, Any], gate: Gate) -> None:
    numbers = iter(range(settings["first"], settings["tokens"], settings["pilots"]))

    async def worker() -> None:
        for number in numbers:
            await asyncio.sleep(settings["seconds"])
            gate.tally(number)
            gate.acknowledged()

    gate.wait()
    async with asyncio.TaskGroup() as group:
        for _ in range(settings["workers"]):
            group.create_task(worker())
