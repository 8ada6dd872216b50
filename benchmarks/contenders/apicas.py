"""apicas itself: pilots as processes on a pool of their own, in a file, on a server, or (one pilot) in memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

from apicas._bench.measure import measure as measure_trial
from apicas._bench.pools import Place
from apicas._runtime.dedicated import loop_factory
from benchmarks.measuring import Sample, Trial


def place_of(trial: Trial) -> Place:
    """Where the pool is made."""
    return Place(server=trial.store.rstrip("/"), directory=Path(trial.directory or "."))


def measure(trial: Trial) -> Sample:
    """Measure one trial."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(measure_trial(trial, place_of(trial)))
