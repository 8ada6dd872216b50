"""Workers that start commands, without a store: the ideal for tokens that are processes.

Each command runs in a session of its own, with both outputs captured, as apicas runs it: asyncio's own subprocesses on
its own loop, and nothing else. (On uvloop it takes twice as long.)
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import warnings
from asyncio.subprocess import DEVNULL, PIPE
from typing import Any

from benchmarks.contenders.processes import run_together, sample_of
from benchmarks.contenders.raw_sleep import shares
from benchmarks.contenders.worker import Gate
from benchmarks.measuring import Sample, Trial


def measure(trial: Trial) -> Sample:
    """Measure starting commands."""
    started, reports = run_together(__spec__.name, shares(trial))
    return sample_of(trial, started, reports, upload_seconds=None, notes=["no store: nothing is claimed or committed"])


def work(settings: dict[str, Any], gate: Gate) -> None:
    """Run the workers of one process."""
    asyncio.run(_work(settings, gate))


def _watch_by_pidfd() -> None:
    """Wait for processes as Python does from 3.12 on: a thread for each, as before, makes it half as fast."""
    if sys.version_info < (3, 12):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            watcher = asyncio.PidfdChildWatcher()
            watcher.attach_loop(asyncio.get_running_loop())
            asyncio.set_child_watcher(watcher)


async def _work(settings: dict[str, Any], gate: Gate) -> None:
    numbers = iter(range(settings["first"], settings["tokens"], settings["pilots"]))
    name, *arguments = ["sleep", f"{settings['seconds']:g}"] if settings["seconds"] else ["true"]
    command = [shutil.which(name) or name, *arguments]
    _watch_by_pidfd()

    async def worker() -> None:
        for number in numbers:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
            )
            await process.communicate()
            gate.tally(number)
            gate.acknowledged()

    gate.wait()
    async with asyncio.TaskGroup() as group:
        for _ in range(settings["workers"]):
            group.create_task(worker())
