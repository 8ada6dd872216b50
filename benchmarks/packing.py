"""How close does a pilot that packs come to the ideal time of tokens of one and two cores? On SQLite.

    python -m benchmarks.packing
    python -m benchmarks.packing --only commands --repeats 3

| row | tokens | what each is | seconds each | cores | ideal |
|---|---|---|---|---|---|
| commands | 1,000 | `sleep`, pinned to the cores it was given | 0.05 to 0.15 | this node's | 150 s / cores |
| many | 1,000 | a coroutine that sleeps | 1 to 3 | 64, which it is told that there are | 47 s |

Every second token asks for two cores. The ideal is their work shared evenly by all cores, which no packing can beat: it
has no end with fewer tokens left than cores. No token says how long it takes. The time is that of `apicas.run` on an
open pool, as in benchmarks/sleeping.py. It is checked, too, that never more cores are out than there are, none twice.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import apicas
from apicas._runtime.dedicated import loop_factory, tune
from benchmarks.goals import apart, cores, is_quick, middle, parser, scratch, show
from benchmarks.suite.verdicts import Verdict

LIMIT: Final = 1.05
"""The most that a pilot may take of the ideal time."""


@dataclass(frozen=True)
class Row:
    """What is measured: tokens, the mean of their seconds, cores (0 for this node's), and whether they are commands."""

    tokens: int
    seconds: float
    cores: int = 0
    runs_commands: bool = False

    @property
    def node(self) -> int:
        """How many cores there are."""
        return self.cores or max(2, cores())

    def contents(self) -> list[dict[str, Any]]:
        """The tokens: the same ones each time."""
        dice = Random(20)
        return [
            {"input": self.seconds * (0.5 + dice.random()), "cores": 1 + number % 2} for number in range(self.tokens)
        ]

    @property
    def ideal(self) -> float:
        """Seconds that no packing can beat."""
        return float(sum(one["input"] * one["cores"] for one in self.contents())) / self.node


ROWS: Final = {"commands": Row(1_000, 0.1, runs_commands=True), "many": Row(1_000, 2.0, cores=64)}
QUICK: Final = {"commands": Row(20, 0.02, runs_commands=True), "many": Row(100, 0.1, cores=16)}


@dataclass
class Node:
    """Works tokens, and counts who has which cores."""

    row: Row
    taken: set[int] = field(default_factory=set)
    busy_seconds: float = 0.0

    async def work(self, token: apicas.Token) -> None:
        """Work one token."""
        allocation = token.allocation
        if allocation is None or len(allocation.cores) != token["cores"] or self.taken & {*allocation.cores}:
            raise RuntimeError(f"{allocation} for {token['cores']} cores, beside {sorted(self.taken)}")
        self.taken |= {*allocation.cores}
        if len(self.taken) > self.row.node:
            raise RuntimeError(f"more cores are out than there are: {sorted(self.taken)}")
        began = time.perf_counter()
        if self.row.runs_commands:
            await apicas.run_command([SLEEP, f"{token['input']:.6f}"], check=True)
        else:
            await asyncio.sleep(token["input"])
        self.busy_seconds += (time.perf_counter() - began) * len(allocation.cores)
        self.taken -= {*allocation.cores}


SLEEP: Final = shutil.which("sleep") or "sleep"


async def piloted(row: Row) -> dict[str, float]:
    """The row as tokens of a pool."""
    with scratch() as directory:
        pool = f"sqlite:///{directory}/pool.db"
        async with apicas.connect(pool) as client:
            await client.setup()
            await client.upload(row.contents())
        async with apicas.connect(pool) as client:
            run, node = apicas.run, Node(row)  # imported here, and not in the time that is taken
            tune()
            start, used = time.perf_counter(), time.process_time()
            report = await run(node.work, client, resources={"cores": row.node}, pin=row.runs_commands)
            seconds, used = time.perf_counter() - start, time.process_time() - used
        if report.done != row.tokens:
            raise RuntimeError(f"not all tokens are done: {report}")
        return {"seconds": seconds, "cpu": used, "busy": node.busy_seconds / (seconds * row.node)}


def measure(row: Row) -> dict[str, float]:
    """One measurement, in this process."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(piloted(row))


def compare(name: str, row: Row, repeats: int) -> Verdict:
    """One row, several times."""
    runs = [apart("benchmarks.packing", {"row": name, "quick": is_quick()}) for _ in range(repeats)]
    ratios = [run["seconds"] / row.ideal for run in runs]
    ratio = middle(ratios)
    what = "commands" if row.runs_commands else "coroutines"
    return Verdict(
        name=f"{row.tokens:,} {what} of 1 and 2 cores, some {row.seconds:g} s each, on {row.node} cores, SQLite",
        figures={
            "ideal s": round(row.ideal, 3),
            "pilot s": middle([run["seconds"] for run in runs]),
            "pilot CPU s": middle([run["cpu"] for run in runs]),
            "share of the cores in use": middle([run["busy"] for run in runs]),
            "lowest ratio": min(ratios),
            "highest ratio": max(ratios),
        },
        target=f"<= {LIMIT:g} x the ideal packing, never oversubscribed",
        ratio=ratio,
        met=ratio <= LIMIT,
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
        print(json.dumps(measure((QUICK if trial["quick"] else ROWS)[trial["row"]])))
        return 0
    verdicts = [compare(name, rows[name], chosen.repeats) for name in chosen.only or rows]
    return show(verdicts, as_json=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
