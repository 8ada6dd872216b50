"""Upload alone, the least that it takes: `_bulk_docs` of 1,000 on a CouchDB, `executemany` on an SQLite file.

The tokens are made and encoded while it runs, as an upload has to do. `seconds` is the upload's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from benchmarks.contenders.couch_pool import couch_pool
from benchmarks.contenders.processes import Report, run_together, sample_of
from benchmarks.contenders.raw_couch import headers_for
from benchmarks.contenders.raw_sqlite import INSERT, SCHEMA, connect, document
from benchmarks.contenders.worker import Gate, run
from benchmarks.measuring import Sample, Trial

_BATCH: Final = 1000

_encode = msgspec.json.Encoder().encode


def measure(trial: Trial) -> Sample:
    """Measure the upload to the store that the trial names, or to a file."""
    batch = trial.batch or _BATCH
    settings = {"tokens": trial.tokens, "batch": batch, "wal": trial.wal}
    notes = [f"batches of {batch}"]
    started: float
    reports: list[Report]
    if trial.store:
        with couch_pool(msgspec.structs.replace(trial, tokens=0)) as pool:
            started, reports = run_together(__spec__.name, [{**pool.settings(), **settings}])
    else:
        path = str(Path(trial.directory) / "raw.db")
        started, reports = run_together(__spec__.name, [{"path": path, **settings}])
        notes.append(f"a transaction each, WAL, synchronous={trial.wal}")
    sample = sample_of(trial, started, reports, upload_seconds=None, notes=notes)
    sample.upload_seconds = sample.seconds
    return sample


def _batches(settings: dict[str, Any]) -> Iterator[range]:
    tokens, batch = settings["tokens"], settings["batch"]
    return (range(start, min(start + batch, tokens)) for start in range(0, tokens, batch))


def work(settings: dict[str, Any], gate: Gate) -> None:
    """Upload, in a process of its own."""
    if "path" in settings:
        _to_file(settings, gate)
    else:
        run(_to_server(settings, gate))


def _to_file(settings: dict[str, Any], gate: Gate) -> None:
    connection = connect(settings["path"], settings["wal"])
    for statement in SCHEMA:
        connection.execute(statement)
    gate.extra["requests"] = 0
    gate.wait()
    for numbers in _batches(settings):
        rows = [(number, _encode(document(number))) for number in numbers]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT, rows)
        connection.execute("COMMIT")
        gate.acknowledged()
        gate.tally_all(numbers)
        gate.extra["requests"] += 1


async def _to_server(settings: dict[str, Any], gate: Gate) -> None:
    gate.extra.update(requests=0, sent=0, received=0)
    url = f"{settings['url']}/{settings['database']}/_bulk_docs"
    async with aiohttp.ClientSession(headers=headers_for(settings)) as session:
        gate.wait()
        for numbers in _batches(settings):
            documents = [document(number) for number in numbers]  # whose ids follow one another, as those of apicas do
            body = _encode({"docs": documents})
            async with session.post(url, data=body) as response:
                text = await response.read()
            rows = msgspec.json.decode(text)
            if response.status != 201 or not all(row.get("ok") for row in rows):
                raise RuntimeError(f"_bulk_docs answers {response.status}: {text[:200]!r}")
            gate.acknowledged()
            gate.tally_all(numbers)
            gate.extra["requests"] += 1
            gate.extra["sent"] += len(body)
            gate.extra["received"] += len(text)
