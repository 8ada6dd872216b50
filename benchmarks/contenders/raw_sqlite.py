"""The least that a correct pilot asks of an SQLite file: claim a batch, work it, commit it. No runtime around it.

A claim selects todo rows, and swaps them to locked, with new JSON, in one transaction; a commit swaps them to done if
they still have the revision of the claim, in another. Both are durable as far as `synchronous` says. Nothing beats,
nothing is retried, reclaimed or checked: a crash loses what was locked.

`raw_sqlite` hands each token through 64 workers on uvloop; `raw_sqlite_loop` only claims and commits.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from benchmarks.contenders.processes import run_together, sample_of
from benchmarks.contenders.worker import Gate, run
from benchmarks.measuring import Sample, Trial

Row: TypeAlias = tuple[int, int, Any]
"""A token's number, its revision, and its document."""
Batch: TypeAlias = Sequence[Row]

BATCH: Final = 256
"""Its best, of 16 to 4,096."""
_PATIENCE: Final = 30.0
"""Seconds that a transaction waits for another process's."""
SCHEMA: Final = (
    "CREATE TABLE tokens (number INTEGER PRIMARY KEY, rev INTEGER NOT NULL, state INT NOT NULL, body BLOB NOT NULL)",
    "CREATE INDEX tokens_in_todo ON tokens (number) WHERE state = 0",
)
INSERT: Final = "INSERT INTO tokens VALUES (?, 1, 0, ?)"
_SELECT: Final = "SELECT number, rev, body FROM tokens WHERE state = 0 LIMIT ?"
_SWAP: Final = "UPDATE tokens SET rev = rev + 1, state = ?, body = ? WHERE number = ? AND rev = ?"
_LOCKED: Final = 1
_DONE: Final = 2

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def measure(trial: Trial) -> Sample:
    """Measure the loop."""
    path = Path(trial.directory) / "raw.db"
    uploaded = _upload(path, trial)
    batch = trial.batch or BATCH
    workers = 0 if trial.contender == "raw_sqlite_loop" else trial.workers
    settings = {"path": str(path), "tokens": trial.tokens, "batch": batch, "workers": workers, "wal": trial.wal}
    started, reports = run_together(__spec__.name, [settings] * trial.pilots)
    notes = [f"batches of {batch}, WAL, synchronous={trial.wal}; no heartbeat, no retry, no recovery"]
    return sample_of(trial, started, reports, upload_seconds=uploaded, notes=notes)


def document(number: int) -> dict[str, Any]:
    """A token with the fields that one of apicas has."""
    ends = {"lock": 0, "done": 0, "hostname": "", "scrub_count": 0, "exit_code": "", "error": [], "uploads": {}}
    return {"_id": f"token-{number:09}", "type": "token", "input": {"number": number}, "output": None, **ends}


def connect(path: str | Path, wal: str) -> sqlite3.Connection:
    """Open a file, without Python's own transactions."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute(f"PRAGMA synchronous = {wal}")
    connection.execute("PRAGMA cache_size = -32000")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def _upload(path: Path, trial: Trial) -> float:
    connection = connect(path, trial.wal)
    for statement in SCHEMA:
        connection.execute(statement)
    began = time.monotonic()
    for start in range(0, trial.tokens, 1000):
        numbers = range(start, min(start + 1000, trial.tokens))
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT, [(number, _encode(document(number))) for number in numbers])
        connection.execute("COMMIT")
    seconds = time.monotonic() - began
    connection.close()
    return seconds


class _Loop:
    """Claims and commits of one process."""

    def __init__(self, settings: dict[str, Any], gate: Gate) -> None:
        self._connection = connect(settings["path"], settings["wal"])
        self._batch = settings["batch"]
        self._gate = gate
        gate.extra.update(requests=0, latencies=[])

    def claim(self) -> Batch:
        """Select a batch of todo tokens, and lock them; none where there are none."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        rows = connection.execute(_SELECT, (self._batch,)).fetchall()
        now = int(time.time())
        claimed: list[Row] = []
        swaps = []
        for number, rev, body in rows:
            token = _decode(body)
            token["lock"] = now
            token["hostname"] = "raw"
            token["apicas"] = {"claim": f"{now}-{number}", "generation": 1, "lock": now}
            swaps.append((_LOCKED, _encode(token), number, rev))
            claimed.append((number, rev + 1, token))
        self._swap(swaps)
        return claimed

    def commit(self, batch: Batch) -> None:
        """Write a batch of worked tokens as done."""
        now = int(time.time())
        swaps = []
        for number, rev, token in batch:
            token["done"] = now
            token["exit_code"] = 0
            del token["apicas"]
            swaps.append((_DONE, _encode(token), number, rev))
        self._connection.execute("BEGIN IMMEDIATE")
        self._swap(swaps)

    def _swap(self, swaps: Sequence[tuple[int, bytes, int, int]]) -> None:
        swapped = self._connection.executemany(_SWAP, swaps).rowcount if swaps else 0
        self._connection.execute("COMMIT")
        self._gate.extra["requests"] += 1
        if swapped != len(swaps):
            raise RuntimeError(f"{len(swaps) - swapped} tokens had another revision")

    async def drain(self, work: Callable[[Batch], Coroutine[Any, Any, None]]) -> None:
        """Work batch after batch until the pool is empty."""
        latencies = self._gate.extra["latencies"]
        while batch := self.claim():
            claimed = time.monotonic()
            await work(batch)
            self.commit(batch)
            self._gate.acknowledged()
            self._gate.tally_all([number for number, _, _ in batch])
            latencies.append(time.monotonic() - claimed)  # the same for each of them


async def _noop(token: dict[str, Any]) -> None:
    token["output"] = token["input"]["number"]


class _Workers:
    """Workers that each take a token from a queue, await its work, and take the next."""

    def __init__(self, number: int) -> None:
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._tasks = [asyncio.create_task(self._run()) for _ in range(number)]

    async def work(self, batch: Batch) -> None:
        """Hand a batch through them."""
        for _, _, token in batch:
            self._queue.put_nowait(token)
        await self._queue.join()

    async def _run(self) -> None:
        while True:
            token = await self._queue.get()
            await _noop(token)
            self._queue.task_done()

    def stop(self) -> None:
        """Let them go."""
        for task in self._tasks:
            task.cancel()


async def _at_once(batch: Batch) -> None:
    for _, _, token in batch:
        token["output"] = token["input"]["number"]


def work(settings: dict[str, Any], gate: Gate) -> None:
    """Run one loop."""
    run(_work(settings, gate))


async def _work(settings: dict[str, Any], gate: Gate) -> None:
    loop = _Loop(settings, gate)
    if not settings["workers"]:
        gate.wait()
        await loop.drain(_at_once)
        return
    workers = _Workers(settings["workers"])
    gate.wait()
    await loop.drain(workers.work)
    workers.stop()
