"""What do tokens cost whose work is a process? A pilot on SQLite against a bare asyncio spawner of the same commands.

    python -m benchmarks.spawning
    python -m benchmarks.spawning --only 100 --repeats 9

The bare spawner starts each command with `asyncio.create_subprocess_exec` in a session of its own, with both pipes
captured, as many at once as the pilot has workers, and does nothing else. Its loop is asyncio's own, and waits for
processes by pidfd, as Python does from 3.12 on: with the threads of Python 3.11 it is half as fast. (On uvloop it is
slower still.) The pilot runs as `apicas run` does: on the same loop, in a process that is nothing else. Its time is
from the first claim to the last commit; opening the pool is not in it, since the bare spawner has none.

Both run in turns, each in a process of its own; a ratio is the median over pairs.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import anyio.lowlevel

import apicas
from apicas._runtime.commands.command import CommandRunner
from apicas._runtime.dedicated import loop_factory, tune
from benchmarks.goals import apart, cores, is_quick, middle, parser, scratch, show
from benchmarks.suite.verdicts import Verdict

LIMITS: Final = {0: 1.10, 10: 1.10, 100: 1.03}
"""Milliseconds of a command, and the most that a pilot may take of the bare spawner's time."""
SECONDS: Final = 3.0
"""How long one measurement is to take, about."""
_OVERHEAD: Final = 0.001
"""Seconds of all cores that starting a process takes, about: only to choose the number of tokens."""


@dataclass
class Taken:
    """The time that something takes: of the clock, and of this process alone, without its children's."""

    seconds: float = field(default_factory=time.perf_counter)
    own_cpu: float = field(default_factory=time.process_time)

    def so_far(self) -> Taken:
        """Read both."""
        self.seconds = time.perf_counter() - self.seconds
        self.own_cpu = time.process_time() - self.own_cpu
        return self


def command_of(milliseconds: int) -> list[str]:
    """The command that a token is: the smallest there is, or a pause."""
    name, *arguments = ["true"] if not milliseconds else ["sleep", f"{milliseconds / 1000:g}"]
    return [shutil.which(name) or name, *arguments]


async def bare(command: Sequence[str], tokens: int, workers: int) -> Taken:
    """Start commands, and do nothing else."""
    if sys.version_info < (3, 12):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            watcher = asyncio.PidfdChildWatcher()
            watcher.attach_loop(asyncio.get_running_loop())
            asyncio.set_child_watcher(watcher)
    left = iter(range(tokens))

    async def work() -> None:
        for _ in left:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            await process.communicate()

    taken = Taken()
    await asyncio.gather(*(work() for _ in range(workers)))
    return taken.so_far()


async def piloted(command: Sequence[str], tokens: int, workers: int) -> Taken:
    """The same commands as tokens of a pool."""
    with scratch() as directory:
        pool = f"sqlite:///{directory}/pool.db"
        async with apicas.connect(pool) as client:
            await client.setup()
            await client.upload({"input": number} for number in range(tokens))
        async with apicas.connect(pool) as client:
            work, run = CommandRunner(command), apicas.run  # imported here, and not in the time that is taken
            await anyio.lowlevel.checkpoint()  # and so is its backend
            tune()
            taken = Taken()
            report = await run(work, client, workers=workers)
            taken.so_far()
        if report.done != tokens:
            raise RuntimeError(f"not all tokens are done: {report}")
        return taken


def measure(who: str, milliseconds: int, tokens: int, workers: int) -> Taken:
    """One measurement, in this process."""
    if who == "bare":
        return asyncio.run(bare(command_of(milliseconds), tokens, workers))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(piloted(command_of(milliseconds), tokens, workers))


def compare(milliseconds: int, workers: int, repeats: int, seconds: float) -> Verdict:
    """One row: both in turns."""
    each = max(milliseconds / 1000 / workers, _OVERHEAD)
    tokens = max(round(seconds / each / workers), 2) * workers
    trial = {"milliseconds": milliseconds, "tokens": tokens, "workers": workers}
    pairs = [
        {who: apart("benchmarks.spawning", {**trial, "who": who}) for who in ("bare", "pilot")} for _ in range(repeats)
    ]
    ratios = [pair["pilot"]["seconds"] / pair["bare"]["seconds"] for pair in pairs]
    figures = {"tokens": tokens, "lowest ratio": min(ratios), "highest ratio": max(ratios)}
    for who in ("bare", "pilot"):
        figures[f"{who} s"] = middle([pair[who]["seconds"] for pair in pairs])
        figures[f"{who} own CPU us per token"] = middle([1e6 * pair[who]["own_cpu"] / tokens for pair in pairs])
    limit, ratio = LIMITS[milliseconds], middle(ratios)
    return Verdict(
        name=f"processes of {milliseconds} ms, {workers} workers, SQLite",
        figures=figures,
        target=f"makespan <= {limit:.2f} x a bare asyncio spawner of the same commands",
        ratio=ratio,
        met=ratio <= limit,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison of the command line."""
    options = parser(__doc__)
    options.add_argument("--only", type=int, choices=sorted(LIMITS), action="append", help="milliseconds of a command")
    options.add_argument("--workers", type=int, action="append", help="default: the cores, and twice as many")
    options.add_argument("--repeats", type=int, default=1 if is_quick() else 5)
    options.add_argument("--seconds", type=float, default=0.1 if is_quick() else SECONDS, help="of each, about")
    chosen = options.parse_args(arguments)
    if chosen.measure:
        print(json.dumps(asdict(measure(**json.loads(chosen.measure)))))
        return 0
    verdicts = [
        compare(milliseconds, workers, chosen.repeats, chosen.seconds)
        for milliseconds in chosen.only or sorted(LIMITS)
        for workers in chosen.workers or ([cores()] if is_quick() else [cores(), 2 * cores()])
    ]
    return show(verdicts, as_json=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
