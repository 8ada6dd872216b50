"""One measurement: tokens uploaded to a pool of their own, and worked by pilots that begin at the same moment."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from apicas._bench.latencies import Latencies
from apicas._bench.pilot import READY, Order, PilotReport, work_off
from apicas._bench.pools import OwnPool, Place, own_pool
from apicas._bench.records import Sample, Trial
from apicas._bench.work import tokens_of
from apicas._secrets import Secret
from apicas.clients.base import PoolClient
from apicas.exceptions import ApicasError, ConfigError

_START: Final = 60.0
"""Seconds within which a pilot has to be ready."""
_LONGEST_REPORT: Final = 1 << 24

Progress = Callable[[str], None]
"""Called with what is done now."""


async def measure(trial: Trial, place: Place, on_progress: Progress = lambda _: None) -> Sample:
    """Measure one trial.

    Args:
        trial: what.
        place: where the pool is made, which is deleted afterwards.
        on_progress: called at each step.

    Raises:
        ConfigError: this cannot be measured there.
        ApicasError: a pilot failed.
    """
    if place.server == "memory:" and trial.pilots > 1:
        raise ConfigError("a pool in memory is one process's: it has one pilot")
    synchronous = {} if place.server else {"synchronous": trial.wal}
    async with own_pool(place, **synchronous) as pool, pool.opened() as client:
        on_progress("upload")
        uploaded = time.monotonic()
        report = await client.upload(tokens_of(trial))
        uploaded = time.monotonic() - uploaded
        if report.rejected:
            raise ApicasError(f"{report.rejected} tokens were not taken: {report.rejects[0].reason}")
        await build_indexes(client)
        on_progress("work")
        reports, began = await _run_pilots(client, pool, trial)
        done = (await client.counts())["done"]
        return _sample(reports, done, began, uploaded)


async def build_indexes(client: PoolClient) -> None:
    """Build what a claim reads, which is not what is measured."""
    await client.view("todo", limit=1)
    await client.sample("Monitor/todo", 1, 0.0, fresh=True)


async def _run_pilots(client: PoolClient, pool: OwnPool, trial: Trial) -> tuple[list[PilotReport], float]:
    """Run the pilots; answers with what they did, and the monotonic time at which they began."""
    if pool.address == "memory:":
        return await _run_here(client, pool, trial)
    options = {name: _plain(value) for name, value in pool.options.items()}
    order = Order(pool=pool.address, options=options, trial=trial, outbox=str(pool.directory / "outbox"))
    async with AsyncExitStack() as stack:
        pilots = [await stack.enter_async_context(_pilot(order, pool.directory)) for _ in range(trial.pilots)]
        with anyio.fail_after(_START):
            for pilot in pilots:
                await pilot.until_ready()
        began = time.monotonic()
        for pilot in pilots:
            pilot.start()
        return [await pilot.report() for pilot in pilots], began


async def _run_here(client: PoolClient, pool: OwnPool, trial: Trial) -> tuple[list[PilotReport], float]:
    began = 0.0

    async def note_begin() -> None:
        nonlocal began
        began = time.monotonic()

    return [await work_off(client, trial, str(pool.directory / "outbox"), note_begin)], began


def _plain(value: Any) -> str:
    return value.reveal() if isinstance(value, Secret) else str(value)


class _Pilot:
    """A pilot in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Path) -> None:
        self._process = process
        self._errors = errors

    def send(self, line: bytes) -> None:
        """Write a line to it."""
        if self._process.stdin is not None:
            self._process.stdin.write(line + b"\n")

    async def until_ready(self) -> None:
        """Wait until it is about to claim."""
        if await self._line() != READY:
            raise self._failure()

    def start(self) -> None:
        """Let it claim."""
        self.send(b"go")

    async def report(self) -> PilotReport:
        """What it did, at its end."""
        line = await self._line()
        try:
            return msgspec.json.decode(line, type=PilotReport)
        except msgspec.DecodeError:
            raise self._failure() from None

    async def _line(self) -> bytes:
        return b"" if self._process.stdout is None else await self._process.stdout.readline()

    def _failure(self) -> ApicasError:
        lines = self._errors.read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line for line in lines if line.strip()]
        return ApicasError(f"a pilot failed: {said[-1] if said else 'it said nothing'}")


@asynccontextmanager
async def _pilot(order: Order, directory: Path) -> AsyncIterator[_Pilot]:
    """Start a pilot; it is killed where it does not end before this does."""
    errors = directory / f"pilot-{time.monotonic_ns()}.log"
    with errors.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "apicas._bench.pilot"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            limit=_LONGEST_REPORT,
            env=_environment(os.environ),
            # Ctrl-C is for us, and we end it: else its own farewell would be in our way.
            start_new_session=True,
        )
    try:
        pilot = _Pilot(process, errors)
        pilot.send(msgspec.json.encode(order))
        yield pilot
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Wait for a process that has reported; kill one that has not, with the commands that it runs."""
    if process.stdin is not None:
        process.stdin.close()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.communicate()


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of a pilot: what it has to know of ours it is told."""
    plain = {name: value for name, value in inherited.items() if not name.startswith("APICAS_")}
    # Found also where apicas is not installed but in the working directory, as in its repository.
    package = str(Path(__file__).parents[2])
    paths = [package, *filter(None, [inherited.get("PYTHONPATH")])]
    return {**plain, "PYTHONPATH": os.pathsep.join(paths)}


def _sample(reports: Sequence[PilotReport], done: int, began: float, uploaded: float) -> Sample:
    latencies = Latencies()
    for report in reports:
        latencies.merge(report.latencies)
    notes = [note for report in reports for note in report.notes]
    if (confirmed := sum(report.done for report in reports)) != done:
        notes.append(f"{confirmed} outcomes were confirmed, and {done} tokens are done")
    return Sample(
        tokens=done,
        seconds=max((report.last for report in reports), default=began) - began,
        upload_seconds=uploaded,
        executions=sum(report.executions for report in reports),
        lost_races=sum(report.lost_races for report in reports),
        requests=sum(report.requests for report in reports),
        sent=sum(report.sent for report in reports),
        received=sum(report.received for report in reports),
        cpu_seconds=sum(report.cpu_seconds for report in reports),
        memory=max(report.memory for report in reports),
        latency=latencies.spread(),
        notes=notes,
    )
