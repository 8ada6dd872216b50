"""Disturb server processes: stop them for moments, kill them, start them again. For benchmarks; POSIX only."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True, kw_only=True)
class Disturbance:
    """What is done to servers, and how often it was.

    Args:
        pid_files: one file per server, with its process id; read anew each time.
        restart: a command that starts the servers that do not run, with their data; none is killed without it.
        kill_every: seconds between two kills, on average.
        pause: seconds for which a server is stopped, from and to.
        rest: seconds between two stops of the same server, from and to.
        rng: dice.
    """

    pid_files: Sequence[Path] = ()
    restart: str | None = None
    kill_every: float = 60.0
    pause: tuple[float, float] = (0.1, 2.0)
    rest: tuple[float, float] = (0.5, 6.0)
    rng: random.Random = field(default_factory=random.Random)
    pauses: int = 0
    kills: int = 0
    _restarting: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Disturb the servers inside; afterwards all of them run."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._pause(file)) for file in self.pid_files]
            if self.restart is not None and self.pid_files:
                tasks.append(group.create_task(self._kill(self.restart)))
            try:
                yield
            finally:
                async with self._restarting:  # a start that was cut would leave a server away
                    for task in tasks:
                        task.cancel()

    async def _pause(self, file: Path) -> None:
        while True:
            await asyncio.sleep(self.rng.uniform(*self.rest))
            pid = _pid(file)
            if pid is None or not _send(pid, signal.SIGSTOP):
                continue
            self.pauses += 1
            try:
                await asyncio.sleep(self.rng.uniform(*self.pause))
            finally:
                _send(pid, signal.SIGCONT)

    async def _kill(self, restart: str) -> None:
        while True:
            await asyncio.sleep(self.kill_every * self.rng.uniform(0.5, 1.5))
            async with self._restarting:
                pid = _pid(self.rng.choice(self.pid_files))
                if pid is None or not _send(pid, signal.SIGKILL):
                    continue
                self.kills += 1
                await asyncio.sleep(self.rng.uniform(0.5, 3.0))
                process = await asyncio.create_subprocess_shell(
                    restart, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
                )
                await process.wait()


def _pid(file: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return None


def _send(pid: int, number: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False
