"""Does Python's own work scale with the cores? Tokens in worker processes against bare processes doing the same.

    python -m benchmarks.computing
    python -m benchmarks.computing --only 10 --repeats 9

The work is arithmetic in Python, which holds the interpreter's lock: some 10 or 100 ms a token. The bare processes are
as many as there are cores; each does its share in one loop, with nothing between the pieces. The pilot has as many
workers, and `executor="process"`. Both times are from the first start of a process to the last result, so that of the
pilot has the start of its processes in it, its claims and its commits.

Both run in turns; a ratio is the median over pairs, and 1 is what the bare processes do.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

import apicas
from apicas._runtime.dedicated import loop_factory, tune
from benchmarks.goals import apart, cores, is_quick, middle, parser, scratch, show
from benchmarks.suite.verdicts import Verdict

LIMIT: Final = 0.97
"""The least that a pilot is to reach of the bare processes' rate."""
ROUNDS: Final = {10: 150_000, 100: 1_500_000}
"""How often the loop goes round that takes so many milliseconds, about."""
SECONDS: Final = 20.0
"""How long one measurement is to take, about: a pilot is for hours, and starts its processes once."""


def compute(rounds: int) -> int:
    """The work of a token."""
    total = 0
    for number in range(rounds):
        total = (total * 31 + number) & 0xFFFFFF
    return total


def process_token(token: apicas.Token) -> int:
    """The same as a token."""
    return compute(token["input"])


def bare(rounds: int, tokens: int, processes: int) -> float:
    """Seconds that bare processes take; each has its share."""
    shares = [len(range(number, tokens, processes)) for number in range(processes)]
    line = "from benchmarks.computing import compute\nfor _ in range({share}): compute({rounds})"
    start = time.perf_counter()
    running = [subprocess.Popen([sys.executable, "-c", line.format(share=share, rounds=rounds)]) for share in shares]
    if any(process.wait() for process in running):
        raise RuntimeError("a bare process has failed")
    return time.perf_counter() - start


async def piloted(rounds: int, tokens: int, processes: int) -> float:
    """Seconds that a pilot takes for the same."""
    from benchmarks.computing import process_token as work  # noqa: PLC0415 - by the name that other processes import

    with scratch() as directory:
        pool = f"sqlite:///{directory}/pool.db"
        async with apicas.connect(pool) as client:
            await client.setup()
            await client.upload({"input": rounds} for _ in range(tokens))
        async with apicas.connect(pool) as client:
            tune()
            start = time.perf_counter()
            report = await apicas.run(work, client, workers=processes, executor="process")
            seconds = time.perf_counter() - start
        if report.done != tokens:
            raise RuntimeError(f"not all tokens are done: {report}")
        return seconds


def measure(who: str, rounds: int, tokens: int, processes: int) -> float:
    """One measurement, in this process."""
    if who == "bare":
        return bare(rounds, tokens, processes)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(piloted(rounds, tokens, processes))


def compare(milliseconds: int, repeats: int, seconds: float) -> Verdict:
    """One row: both in turns."""
    processes = cores()
    tokens = max(round(seconds * 1000 / milliseconds), 2) * processes
    trial = {"rounds": ROUNDS[milliseconds], "tokens": tokens, "processes": processes}
    pairs = [
        {who: apart("benchmarks.computing", {**trial, "who": who})["seconds"] for who in ("bare", "pilot")}
        for _ in range(repeats)
    ]
    ratios = [pair["bare"] / pair["pilot"] for pair in pairs]
    ratio = middle(ratios)
    return Verdict(
        name=f"Python computing {milliseconds} ms a token in {processes} worker processes, SQLite",
        figures={
            "tokens": tokens,
            "bare s": middle([pair["bare"] for pair in pairs]),
            "pilot s": middle([pair["pilot"] for pair in pairs]),
            "lowest ratio": min(ratios),
            "highest ratio": max(ratios),
        },
        target=f">= {LIMIT:g} x {processes} bare processes",
        ratio=ratio,
        met=ratio >= LIMIT,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison of the command line."""
    options = parser(__doc__)
    options.add_argument("--only", type=int, choices=sorted(ROUNDS), action="append", help="milliseconds of a token")
    options.add_argument("--repeats", type=int, default=1 if is_quick() else 3)
    options.add_argument("--seconds", type=float, default=0.1 if is_quick() else SECONDS, help="of each, about")
    chosen = options.parse_args(arguments)
    if chosen.measure:
        print(json.dumps({"seconds": measure(**json.loads(chosen.measure))}))
        return 0
    verdicts = [compare(milliseconds, chosen.repeats, chosen.seconds) for milliseconds in chosen.only or sorted(ROUNDS)]
    return show(verdicts, as_json=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
