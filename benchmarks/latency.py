"""How long does a token wait for an idle pilot, and what does that pilot cost the store meanwhile?

    python -m benchmarks.latency                                   # SQLite, and CouchDB where BENCH_COUCH names one
    python -m benchmarks.latency --store sqlite --tokens 1000
    python -m benchmarks.latency --store http://admin:secret@127.0.0.1:5984 --idle 300

The pilot is a process of its own, at default settings, endless, on a pool that is empty and has its views. Tokens are
uploaded one at a time from another process, at random moments. The time is taken from the moment at which the upload
begins, and at which it returns, to the first line of process_token; the latter is negative where the pilot was faster
than the answer to the upload. Both processes read the same monotonic clock.

Before that the pilot is left alone for a while, and what it asks is counted: with the heartbeat, the sweeps, the looks
for tokens that nobody told of. The feed that wakes it is one request for as long as it lasts, and was made before.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

import apicas
from apicas._bench.pools import Place, own_pool
from apicas._bench.statistics import quantile
from benchmarks.goals import is_quick, parser, scratch, show
from benchmarks.suite.verdicts import COUCH, LEFT_OUT, Verdict

LIMITS: Final = {"SQLite": 0.050, "CouchDB": 0.250}
"""Seconds: the most that one token in a hundred may wait, from the return of its upload."""
MOST_REQUESTS: Final = 2.0
"""A minute, of an idle pilot, on a server."""
SETTLE: Final = 12.0
"""Seconds until a pilot is idle: it has looked a few times, and the feed stands."""
GAPS: Final = (0.2, 0.5)
"""Seconds between two uploads, drawn from this range."""
PATIENCE: Final = 150.0
"""Seconds to wait for one token, before the measurement has failed."""


class Starts(apicas.RunActor):
    """An idle pilot's work: says when each token begins."""

    async def process_token(self, token: apicas.Token) -> None:
        tell({"token": token.id, "at": time.monotonic()})


def tell(said: dict[str, Any]) -> None:
    """Write one line for the other process."""
    print(json.dumps(said), flush=True)


async def be_idle() -> None:
    """The pilot's process: reads the pool's address, then what is asked, one line each, until there are no more."""
    asked = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
    address = (await asked.readline()).decode().strip()
    async with apicas.connect(address) as client:
        tokens = apicas.EndlessViewIterator(apicas.BasicViewIterator(client))

        async def answer() -> None:
            while await asked.readline():
                traffic, cpu = client.traffic, time.process_time()
                tell({"requests": traffic.requests, "received": traffic.received, "cpu s": cpu})
            tokens.stop()

        async with asyncio.TaskGroup() as group:
            group.create_task(Starts(tokens, tokens.modifier).run(workers=4))
            tell({"ready": True})
            group.create_task(answer())


class Pilot:
    """The idle pilot, seen from here."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._starts: dict[str, float] = {}

    async def ask(self) -> dict[str, float]:
        """What it has asked of the store so far, and its CPU seconds."""
        self.say("")
        while True:
            said = await self._read()
            if "requests" in said:
                return said

    async def start_of(self, token_id: str) -> float:
        """When it began a token, in monotonic seconds."""
        while token_id not in self._starts:
            said = await self._read()
            self._starts[said["token"]] = said["at"]
        return self._starts[token_id]

    def say(self, line: str) -> None:
        """Write a line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), PATIENCE)
        if not line:
            raise RuntimeError("the idle pilot has ended")
        said: dict[str, Any] = json.loads(line)
        return said

    async def ready(self) -> None:
        """Wait until it runs."""
        while not (await self._read()).get("ready"):
            pass


@asynccontextmanager
async def idle_pilot(address: str, directory: Path) -> AsyncIterator[Pilot]:
    """A pilot in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.latency",
        "--measure",
        "{}",
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "XDG_STATE_HOME": str(directory)},
    )
    pilot = Pilot(process)
    try:
        pilot.say(address)  # not on the command line: others can read that
        await pilot.ready()
        yield pilot
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            process.kill()
            await process.wait()


async def measure(store: str, tokens: int, idle: float, seed: int) -> list[Verdict]:
    """The rows of one store."""
    rng = Random(seed)
    with scratch() as scratched:
        directory = Path(scratched)
        place = Place(server="" if store == "sqlite" else store.rstrip("/"), directory=directory)
        async with own_pool(place) as pool, pool.opened() as client, idle_pilot(pool.address, directory) as pilot:
            await asyncio.sleep(SETTLE)
            before = await pilot.ask()
            await asyncio.sleep(idle)
            asked = {name: value - before[name] for name, value in (await pilot.ask()).items()}
            returned, begun = [], []
            for number in range(tokens):
                await asyncio.sleep(rng.uniform(*GAPS))
                sent = time.monotonic()
                await client.upload([{"_id": f"t{number}"}])
                answered = time.monotonic()
                start = await pilot.start_of(f"t{number}")
                begun.append(start - sent)
                returned.append(start - answered)
    return verdicts("SQLite" if store == "sqlite" else "CouchDB", returned, begun, asked, idle)


def verdicts(
    name: str, returned: Sequence[float], begun: Sequence[float], asked: dict[str, float], idle: float
) -> list[Verdict]:
    """What came out."""
    minutes = idle / 60
    rates = {f"{what} an idle minute": round(number / minutes, 3) for what, number in asked.items()}
    figures: dict[str, Any] = {"tokens": len(returned), **rates}
    for what, found in (("from the return", sorted(returned)), ("from the begin", sorted(begun))):
        figures |= {f"{label} s {what}": round(quantile(found, share), 6) for label, share in SHARES.items()}
    p99 = quantile(sorted(returned), SHARES["p99"])
    latency = Verdict(
        name=f"start of a token by an idle pilot, {name}",
        figures=figures,
        target=f"p99 <= {LIMITS[name] * 1000:g} ms from the return of its upload",
        ratio=round(p99 / LIMITS[name], 4),
        met=p99 <= LIMITS[name],
    )
    if name == "SQLite":  # there is no server
        return [latency]
    requests = asked["requests"] / minutes
    cost = Verdict(
        name=f"requests of an idle pilot, {name}",
        figures={"idle s": idle, **rates},
        target=f"<= {MOST_REQUESTS:g} a minute",
        ratio=round(requests / MOST_REQUESTS, 4),
        met=requests <= MOST_REQUESTS,
        note="sweeps come every 225 s, and looks without an arrival every 120 s: a short while has few or none",
    )
    return [latency, cost]


SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    made = parser(__doc__)
    made.add_argument("--store", help="sqlite, or a server: http://admin:secret@host:port; both where left out")
    made.add_argument("--tokens", type=int, help="uploads (default 200)")
    made.add_argument("--idle", type=float, help="seconds for which the pilot is left alone (default 120)")
    made.add_argument("--seed", type=int, default=1, help="of the moments")
    chosen = made.parse_args(arguments)
    if chosen.measure is not None:
        asyncio.run(be_idle())
        return 0
    stores = [chosen.store] if chosen.store else ["sqlite", *filter(None, [os.environ.get(COUCH)])]
    for store in stores:
        if store != "sqlite" and urlsplit(store).scheme not in {"http", "https"}:
            print(f"--store is sqlite or http(s)://name:secret@host:port, not {store!r}", file=sys.stderr)
            return LEFT_OUT
    tokens = chosen.tokens or (10 if is_quick() else 200)
    idle = chosen.idle if chosen.idle is not None else 2.0 if is_quick() else 120.0
    for store in stores:
        show(asyncio.run(measure(store, tokens, idle, chosen.seed)), as_json=chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
