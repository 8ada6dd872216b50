"""What does a pilot keep in memory? Its resident set over a run of no-op tokens, and what is there before the first.

    python -m benchmarks.memory                                  # 100,000 tokens, SQLite
    python -m benchmarks.memory --tokens 1000000
    BENCH_COUCH=http://admin:secret@host:5984 python -m benchmarks.memory

A process of its own uploads the tokens; the pilot's does nothing else than run `apicas.run` with 64 workers on asyncio,
as `apicas run` does, with a function that does nothing. It reads its resident set from /proc/self/statm all the time.
*start* is Python with apicas imported and the pool open, before the run; *largest* is the peak that the kernel kept.

It is flat if the set at 100 % of the tokens is at most 5 % above the one at 10 %. What the work needs beyond the 60 MB
is nothing here: tokens of 100 bytes that do nothing. 1 MB is 1,000,000 bytes.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from secrets import token_hex
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import apicas
from apicas._runtime.dedicated import loop_factory, tune
from benchmarks.goals import apart, is_quick, parser, scratch, show
from benchmarks.suite.verdicts import COUCH, Verdict

LIMIT: Final = 60.0
"""MB."""
GROWTH: Final = 1.05
MARKS: Final = (10, 25, 50, 75, 100)
"""Percent of the tokens at which the memory is read."""


def resident() -> float:
    """MB that this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def upload(pool: str, tokens: int) -> None:
    """Make a pool with so many tokens."""
    async with apicas.connect(pool) as client:
        await client.setup()
        await client.upload({"input": number} for number in range(tokens))
        await client.view("todo", limit=1)  # builds the index


async def delete(pool: str) -> None:
    """Delete a database; a file is in a directory that goes anyway."""
    if not pool.startswith("sqlite"):
        from apicas.clients.couch import CouchClient  # noqa: PLC0415

        async with apicas.connect(pool) as client:
            if isinstance(client, CouchClient):
                await client.delete_database()


async def piloted(pool: str, tokens: int) -> dict[str, float]:
    """Run a pilot; MB at its marks."""
    worked = 0
    marks = {max(tokens * mark // 100, 1): f"at {mark} % MB" for mark in MARKS}
    figures: dict[str, float] = {}

    async def work(_token: apicas.Token) -> None:
        nonlocal worked
        worked += 1
        if worked in marks:
            figures[marks[worked]] = resident()

    async with apicas.connect(pool) as client:
        run = apicas.run
        tune()
        figures["start MB"] = resident()
        start = time.perf_counter()
        report = await run(work, client, workers=64)
        figures["seconds"] = time.perf_counter() - start
    if report.done != tokens:
        raise RuntimeError(f"not all tokens are done: {report}")
    return {**figures, "largest MB": getrusage(RUSAGE_SELF).ru_maxrss * 1024 / 1e6}


def measure(what: str, pool: str, tokens: int) -> dict[str, float]:
    """One step, in this process."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        if what == "pilot":
            return runner.run(piloted(pool, tokens))
        runner.run(upload(pool, tokens) if what == "upload" else delete(pool))
        return {}


def judge(store: str, pool: str, tokens: int) -> list[Verdict]:
    """One store: its two verdicts."""
    trial: dict[str, Any] = {"pool": pool, "tokens": tokens}
    try:
        apart("benchmarks.memory", {**trial, "what": "upload"})
        measured = apart("benchmarks.memory", {**trial, "what": "pilot"})
    finally:
        apart("benchmarks.memory", {**trial, "what": "delete"})
    figures = {"tokens": tokens, **{name: round(value, 3) for name, value in measured.items()}}
    growth, share = figures["at 100 % MB"] / figures["at 10 % MB"], figures["largest MB"] / LIMIT
    return [
        Verdict(
            name=f"memory of a pilot over {tokens:,} tokens, {store}",
            figures=figures,
            target=f"flat: at the end <= {GROWTH} x what it is at 10 %",
            ratio=round(growth, 4),
            met=growth <= GROWTH,
        ),
        Verdict(
            name=f"largest memory of a pilot, {store}",
            figures=figures,
            target=f"<= {LIMIT:g} MB and what the work needs",
            ratio=round(share, 4),
            met=share <= 1,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the stores that there are."""
    options = parser(__doc__)
    options.add_argument("--tokens", type=int, default=2_000 if is_quick() else 100_000)
    options.add_argument("--only", choices=("sqlite", "couchdb"), help="one store")
    chosen = options.parse_args(arguments)
    if chosen.measure:
        trial = json.loads(chosen.measure)
        print(json.dumps(measure(trial["what"], trial["pool"], trial["tokens"])))
        return 0
    verdicts: list[Verdict] = []
    if chosen.only != "couchdb":
        with scratch() as directory:
            verdicts += judge("SQLite", f"sqlite:///{directory}/pool.db", chosen.tokens)
    server = os.environ.get(COUCH)
    if server and chosen.only != "sqlite":
        address = urlsplit(server)
        verdicts += judge("CouchDB", urlunsplit(address._replace(path=f"/memory-{token_hex(4)}")), chosen.tokens)
    return show(verdicts, as_json=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
