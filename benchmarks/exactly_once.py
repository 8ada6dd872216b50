"""Is every token worked exactly once? Real pilot processes on one pool, executions counted outside of it.

    python -m benchmarks.exactly_once                                   # 10,000 tokens, four pilots, SQLite
    python -m benchmarks.exactly_once --pool http://admin@host:5984/db  # on CouchDB; the password from $APICAS_PASSWORD
    python -m benchmarks.exactly_once --kill                            # one pilot gets SIGKILL in the middle

Each execution appends the token's id to a file of its pilot's, by one write that no other can split. Every pilot's log
must stay free of errors. With --kill the tokens that the victim held are worked again, and only they.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import apicas
from apicas.clients.base import PoolClient

_PILOT = """
import asyncio, os, sys
import apicas

async def main(executions, lock_timeout, workers, seconds):
    log = os.open(executions, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def work(token):
        os.write(log, f"{token.id}\\n".encode())
        if seconds:
            await asyncio.sleep(seconds)

    # Not from argv, which all users of the machine can read: it may hold a password.
    report = await apicas.run(work, os.environ["APICAS_POOL"], workers=workers, lock_timeout=lock_timeout)
    print(report)

asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
"""


EXPECTED = ("reclaimed token", "should run in a process of its own")
"""What a pilot has to say that finds another one dead. Our work is a closure, which no other process can import."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What to try."""

    pool: str
    tokens: int = 10_000
    pilots: int = 4
    workers: int = 16
    seconds: float = 0.0
    lock_timeout: float = 10.0
    kill: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of it."""

    trial: Trial
    counts: dict[str, int]
    executions: int
    twice: list[str]
    """Tokens that were worked more than once."""
    held_by_victim: set[str]
    """Tokens that the killed pilot had claimed when it died."""
    begun_by_victim: set[str]
    """Those of them that it had begun to work."""
    logs: str
    seconds: float

    @property
    def problems(self) -> list[str]:
        """What was promised and not kept; empty is good."""
        found = []
        if self.counts["done"] != self.trial.tokens or sum(self.counts.values()) != self.trial.tokens:
            found.append(f"not all done: {self.counts}")
        if set(self.twice) != self.begun_by_victim:
            found.append(f"worked more than once: {len(self.twice)}, begun by the victim: {len(self.begun_by_victim)}")
        if self.logs:
            found.append(f"in the logs: {self.logs[:2000]}")
        return found

    def __str__(self) -> str:
        trial = self.trial
        rows = [
            ("pool", trial.pool.split("@")[-1]),
            ("pilots x workers", f"{trial.pilots} x {trial.workers}" + (", one killed" if trial.kill else "")),
            ("tokens done", f"{self.counts['done']:,} of {trial.tokens:,}"),
            ("executions", f"{self.executions:,}"),
            ("worked twice", f"{len(self.twice)}"),
            ("  of these begun by the killed pilot", f"{len(self.begun_by_victim)}"),
            ("claimed by the killed pilot when it died", f"{len(self.held_by_victim)}"),
            ("lines of errors in logs", str(len(self.logs.splitlines()))),
            ("seconds", f"{self.seconds:.1f}"),
            ("tokens/s", f"{trial.tokens / self.seconds:,.0f}"),
        ]
        return "\n".join(f"{name:<42} {value}" for name, value in rows)


async def run_trial(trial: Trial, directory: Path) -> Result:
    """Run one trial; files go to a directory."""
    async with apicas.connect(trial.pool) as client:
        await client.setup()
        await client.upload({"_id": f"token-{n:06}", "input": n} for n in range(trial.tokens))
        await client.view("todo", limit=1)  # builds the index, which is not what is tried here
        start = time.monotonic()
        pilots = [await _start(trial, directory / f"pilot{n}") for n in range(trial.pilots)]
        held: set[str] = set()
        if trial.kill:
            held = await _kill(client, pilots[0], trial)
        logs = [await pilot.communicate() for pilot in pilots]
        seconds = time.monotonic() - start
        counts = await client.counts()
    worked = [(directory / f"pilot{n}.executions").read_text().split() for n in range(trial.pilots)]
    times = Counter(token for tokens in worked for token in tokens)
    errors = "".join(error.decode() for n, (_, error) in enumerate(logs) if not (trial.kill and n == 0))
    return Result(
        trial=trial,
        counts=counts,
        executions=times.total(),
        twice=[token for token, number in times.items() if number > 1],
        held_by_victim=held,
        begun_by_victim=held & set(worked[0]),
        logs="".join(f"{line}\n" for line in errors.splitlines() if not any(words in line for words in EXPECTED)),
        seconds=seconds,
    )


async def _start(trial: Trial, files: Path) -> asyncio.subprocess.Process:
    executions = files.with_suffix(".executions")
    executions.touch()
    arguments = [str(executions), str(trial.lock_timeout), str(trial.workers), str(trial.seconds)]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", _PILOT, *arguments),
        env={**os.environ, "APICAS_POOL": trial.pool},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def _kill(client: PoolClient, victim: asyncio.subprocess.Process, trial: Trial) -> set[str]:
    """Stop a pilot in the middle, at a moment when it holds tokens; note which, and kill it."""
    while victim.returncode is None:
        await asyncio.sleep(0.05)
        if (await client.counts())["done"] < trial.tokens / 10:
            continue
        # Stopped first, so that what it holds cannot change between the look and the kill.
        victim.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.3)  # a write that was under way is through
        rows = await client.view("locked", include_docs=True)
        # The view may be older than the documents, which have ended since.
        held = {
            str(row.id)
            for row in rows
            if row.document and f".{victim.pid}." in row.document["apicas"].get("process", "")
        }
        if held:
            victim.kill()
            return held
        victim.send_signal(signal.SIGCONT)
    return set()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trial of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", help="where: an empty database; a new SQLite file if left out")
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--pilots", type=int, default=4)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=0.0, help="how long a token takes")
    parser.add_argument("--lock-timeout", type=float, default=10.0)
    parser.add_argument("--kill", action="store_true", help="kill one pilot in the middle")
    options = vars(parser.parse_args(arguments))
    with tempfile.TemporaryDirectory() as directory:
        options["pool"] = options["pool"] or f"sqlite:///{directory}/pool.db"
        result = asyncio.run(run_trial(Trial(**options), Path(directory)))
    print(result)
    for problem in result.problems:
        print(f"NOT AS PROMISED: {problem}")
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
