"""The pilots of a run: processes that are started again when they end before the pool is empty."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.chaos.ledger import Ledger, Life
from benchmarks.chaos.lines import SETTINGS
from benchmarks.chaos.pilot import DRAINED

ROOT: Final = Path(__file__).parents[2]
PICAS: Final = ROOT / ".picas" / "bin" / "python"
"""Where `make setup` puts PiCaS's environment."""
_RESTART: Final = 0.3
"""Seconds between the end of a pilot and the start of the next one in its place."""
_LEAVING: Final = 5.0
"""Seconds that what a killed pilot had started may take to notice."""
_MOST_LIVES: Final = 500
"""Pilots in one place. One that cannot start would be started for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrewOptions:
    """Which pilots, and how they run.

    Args:
        directory: for their files.
        settings: what each apicas pilot is told; see pilot.py.
        picas_settings: what each PiCaS pilot is told.
        pilots: how many of ours.
        picas: how many of PiCaS's.
        environment: variables beside the benchmark's own.
    """

    directory: Path
    settings: Mapping[str, Any]
    picas_settings: Mapping[str, Any] = field(default_factory=dict)
    pilots: int
    picas: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)


class Crew:
    """Pilots, and what was done to them.

    Args:
        options: which.
        ledger: follows the lines of each.
        rng: chooses victims.
    """

    def __init__(self, options: CrewOptions, ledger: Ledger, rng: random.Random) -> None:
        self._options = options
        self._ledger = ledger
        self._rng = rng
        self.lives: dict[str, Life] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self.file_limit: int | None = None
        """Bytes of the largest file that a pilot may write; for those that start later, too."""

    async def run(self) -> None:
        """Run all pilots until each has ended by itself; kill them if this is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._options.pilots):
                    group.create_task(self._keep(f"p{number}", is_picas=False))
                for number in range(self._options.picas):
                    group.create_task(self._keep(f"picas{number}", is_picas=True))
        finally:
            for process in self._processes.values():
                process.kill()
            for process in self._processes.values():
                await process.wait()

    async def _keep(self, place: str, *, is_picas: bool) -> None:
        for number in range(_MOST_LIVES):
            if await self._live(f"{place}.{number}", is_picas=is_picas) == 0:
                return
            await asyncio.sleep(_RESTART)
        raise RuntimeError(f"{place} ended {_MOST_LIVES} times; see {self._options.directory}/{place}.0.log")

    async def _live(self, name: str, *, is_picas: bool) -> int:
        options = self._options
        path = options.directory / f"{name}.lines"
        chosen = {**(options.picas_settings if is_picas else options.settings), "name": name, "ledger": str(path)}
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("APICAS_", "PICAS_"))}
        environment |= {"PYTHONPATH": str(ROOT), **options.environment, SETTINGS: json.dumps(chosen)}
        command = [sys.executable, "-W", "error", "-m", "benchmarks.chaos.pilot"]
        if is_picas:
            command = [str(PICAS), "-W", "ignore", "-m", "benchmarks.chaos.picas_pilot"]
        with (options.directory / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command, env=environment, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        life = self.lives[name] = Life(name, is_picas, path, time.monotonic())
        self._processes[name] = process
        self._ledger.follow(name, path)
        if self.file_limit is not None and not is_picas:
            _limit_files(process.pid, self.file_limit)
        try:
            life.code = await process.wait()
        finally:
            life.ended = time.monotonic()
            del self._processes[name]
        return life.code

    async def left_behind(self) -> int:
        """How many processes the pilots left behind, some seconds after the last of them; they are killed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVING):
                while self._strays():  # noqa: ASYNC110 - not our children: nobody tells
                    await asyncio.sleep(0.1)
        strays = self._strays()
        _send(strays, signal.SIGKILL)
        return len(strays)

    def _strays(self) -> list[int]:
        """Processes that were started by our pilots: each has the path of its pilot's file in its environment."""
        mark = f'"ledger": "{self._options.directory}/'.encode()
        return [int(process.name) for process in Path("/proc").glob("[0-9]*") if mark in _environment(process)]

    def working(self) -> list[Life]:
        """Our pilots that run, are not stopped, and have begun with a token."""
        names = [name for name in self._processes if name in self._ledger.busy]
        return [self.lives[name] for name in names if not self.lives[name].is_picas]

    def choose(self, number: int) -> list[Life]:
        """Choose victims."""
        working = self.working()
        return self._rng.sample(working, min(number, len(working)))

    def kill(self, victim: Life) -> None:
        """SIGKILL."""
        if (process := self._processes.get(victim.name)) is not None and victim.killed is None:
            process.kill()
            victim.killed = time.monotonic()  # after the signal: what it wrote until then counts

    def terminate(self, victim: Life) -> None:
        """SIGTERM."""
        if (process := self._processes.get(victim.name)) is not None:
            process.terminate()
            victim.terminated = True

    async def stop(self, victim: Life, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while, for a pilot and all processes that it started."""
        process = self._processes.get(victim.name)
        if process is None:
            return
        family = [process.pid, *_descendants(process.pid)]
        _send(family, signal.SIGSTOP)
        start = time.monotonic()
        try:
            await asyncio.sleep(seconds)
        finally:
            victim.stops.append((start, time.monotonic()))
            _send(family, signal.SIGCONT)

    def limit_files(self, size: int | None) -> None:
        """Let no pilot write a file larger than this; None takes it back."""
        self.file_limit = size
        for name, process in self._processes.items():
            if not self.lives[name].is_picas:
                _limit_files(process.pid, size)

    @property
    def died(self) -> list[Life]:
        """Pilots of ours that ended though nobody killed them, and not in order."""
        return [
            life
            for life in self.lives.values()
            if not life.is_picas and life.killed is None and life.code not in _in_order(life)
        ]


def _in_order(life: Life) -> set[int | None]:
    # One that has drained, and is told once more when its handlers are off again, ends by that signal.
    return {None, 0, DRAINED, -signal.SIGTERM} if life.terminated else {None, 0, DRAINED}


def _send(processes: list[int], number: signal.Signals) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:  # it is gone, or not ours
        return b""


def _limit_files(pid: int, size: int | None) -> None:
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


def _descendants(pid: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:  # no such file on this system, or it is gone
        return
    for child in children:
        yield int(child)
        yield from _descendants(int(child))
