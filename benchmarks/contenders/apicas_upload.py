"""Uploading alone: a stream of tokens into an empty pool, by one process. What it does is in `seconds`."""

from __future__ import annotations

import asyncio
import time

from apicas._bench.pilot import memory, processor_time
from apicas._bench.pools import own_pool
from apicas._bench.watching import counted
from apicas._bench.work import tokens_of
from apicas._runtime.dedicated import loop_factory
from benchmarks.contenders.apicas import place_of
from benchmarks.measuring import Sample, Trial


async def _measure(trial: Trial) -> Sample:
    synchronous = {} if trial.store else {"synchronous": trial.wal}
    async with own_pool(place_of(trial), **synchronous) as pool, pool.opened() as client:
        before, processor, began = counted(client.traffic), processor_time(), time.monotonic()
        report = await client.upload(tokens_of(trial))
        seconds = time.monotonic() - began
        requests, sent, received = (now - then for now, then in zip(counted(client.traffic), before, strict=True))
        return Sample(
            tokens=report.uploaded,
            seconds=seconds,
            upload_seconds=seconds,
            requests=requests,
            sent=sent,
            received=received,
            cpu_seconds=processor_time() - processor,
            memory=memory(),
        )


def measure(trial: Trial) -> Sample:
    """Measure one trial."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_measure(trial))
