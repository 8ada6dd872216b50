"""How close does a pilot come to the ideal time of tokens that only sleep? On SQLite.

    python -m benchmarks.sleeping
    python -m benchmarks.sleeping --only short --repeats 5

| row | tokens | seconds each | workers | ideal |
|---|---|---|---|---|
| long | 20,000 | 1 | 1,000 | 20 s |
| short | 1,000 | 0.1 | 10 | 10 s |

The time is that of `apicas.run` on an open pool: from before the first claim until the last outcome is written and all
services of the pilot have ended. The loop is the one that `apicas run` takes. Each repeat is a process of its own. The
bare rows are the same sleeps on a bare loop without a pool: what the loop and the machine's timers cost by themselves.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import apicas
from apicas._runtime.dedicated import loop_factory
from benchmarks.goals import apart, is_quick, middle, parser, scratch, show
from benchmarks.suite.verdicts import Verdict


@dataclass(frozen=True)
class Row:
    """What is measured: tokens, their sleep in seconds, workers, and the share of the ideal that is asked for."""

    tokens: int
    seconds: float
    workers: int
    share: float

    @property
    def ideal(self) -> float:
        """Seconds that it takes if nothing else does."""
        return self.tokens * self.seconds / self.workers


ROWS: Final = {"long": Row(20_000, 1.0, 1_000, 0.97), "short": Row(1_000, 0.1, 10, 0.99)}
QUICK: Final = {"long": Row(400, 0.2, 200, 0.97), "short": Row(40, 0.02, 10, 0.99)}


async def piloted(row: Row) -> dict[str, float]:
    """The row as tokens of a pool."""

    async def work(_token: apicas.Token) -> None:
        await asyncio.sleep(row.seconds)

    with scratch() as directory:
        pool = f"sqlite:///{directory}/pool.db"
        async with apicas.connect(pool) as client:
            await client.setup()
            await client.upload({"input": number} for number in range(row.tokens))
        async with apicas.connect(pool) as client:
            run = apicas.run  # imported here, and not in the time that is taken
            start, used = time.perf_counter(), time.process_time()
            report = await run(work, client, workers=row.workers)
            seconds, used = time.perf_counter() - start, time.process_time() - used
        if report.done != row.tokens:
            raise RuntimeError(f"not all tokens are done: {report}")
        return {"seconds": seconds, "cpu": used}


async def bare(row: Row) -> dict[str, float]:
    """The same sleeps, and nothing else."""
    left = iter(range(row.tokens))

    async def work() -> None:
        for _ in left:
            await asyncio.sleep(row.seconds)

    start, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(row.workers)))
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - used}


def measure(who: str, row: Row) -> dict[str, float]:
    """One measurement, in this process."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run((piloted if who == "pilot" else bare)(row))


def compare(name: str, row: Row, repeats: int) -> Verdict:
    """One row, several times."""
    trial: dict[str, Any] = {"row": name, "quick": is_quick()}
    runs = [
        {who: apart("benchmarks.sleeping", {**trial, "who": who}) for who in ("bare", "pilot")} for _ in range(repeats)
    ]
    shares = [row.ideal / run["pilot"]["seconds"] for run in runs]
    ratio = middle(shares)
    return Verdict(
        name=f"{row.tokens:,} x sleep({row.seconds:g}) with {row.workers:,} workers, SQLite",
        figures={
            "ideal s": row.ideal,
            "pilot s": middle([run["pilot"]["seconds"] for run in runs]),
            "bare loop s": middle([run["bare"]["seconds"] for run in runs]),
            "pilot CPU s": middle([run["pilot"]["cpu"] for run in runs]),
            "lowest share": min(shares),
            "highest share": max(shares),
        },
        target=f">= {row.share:.0%} of the ideal",
        ratio=ratio,
        met=ratio >= row.share,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows of the command line."""
    rows = QUICK if is_quick() else ROWS
    options = parser(__doc__)
    options.add_argument("--only", choices=sorted(rows), action="append", help="a row")
    options.add_argument("--repeats", type=int, default=1 if is_quick() else 3)
    chosen = options.parse_args(arguments)
    if chosen.measure:
        trial = json.loads(chosen.measure)
        print(json.dumps(measure(trial["who"], (QUICK if trial["quick"] else ROWS)[trial["row"]])))
        return 0
    verdicts = [compare(name, rows[name], chosen.repeats) for name in chosen.only or rows]
    return show(verdicts, as_json=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
