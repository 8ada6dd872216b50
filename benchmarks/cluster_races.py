"""Does a claim have one owner on a cluster whose nodes are stopped, killed and started again?

    export APICAS_PASSWORD=...
    python -m benchmarks.cluster_races http://admin@a:5984/db http://admin@b:5984/db http://admin@c:5984/db \\
        --pid-files a.pid b.pid c.pid --restart ./start-what-does-not-run.sh

The URLs are of one empty database, on each node of a cluster. Two parts:

- Races: four writers read the same tokens, and lock them at the same moment, through the claim that pilots use.
- A long run: pilots with many workers, in processes of their own, hold tokens for seconds. Every execution is recorded
  outside of the pool, with its begin and its end.

Afterwards everything is healed, and counted: tokens with two owners at once, races without an owner, tokens that
vanished, and tokens with more than one version left.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apicas
from apicas._documents import Document
from apicas._runtime.environment import real_environment
from apicas._runtime.keeping.claims import Claimer
from apicas._runtime.keeping.healer import Healer
from apicas._runtime.keeping.leases import Leases
from apicas.clients.base import PoolClient
from apicas.clients.port import SaveResult, SaveStatus
from apicas.exceptions import PoolError
from apicas.modifiers import BasicTokenModifier
from apicas.policies.claiming import MAX_CLAIM
from apicas.policies.leases import LeaseTimes
from apicas.tokens import TokenState, state_of
from benchmarks.disturbance import Disturbance

WRITERS = 4
BATCH = 40
"""Tokens raced for at the same time."""
SHORT_LEASE = 10.0

_PILOT = """
import asyncio, os, random, sys, time
import apicas

async def main(pool, record, lock_timeout, workers, hold):
    log = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def work(token):
        begin = time.monotonic()
        completed = 0
        try:
            await asyncio.sleep(hold + random.expovariate(1 / hold))
            completed = 1
        finally:
            os.write(log, f"{token.id} {begin} {time.monotonic()} {completed}\\n".encode())
        return f"{os.getpid()} {begin}"

    async with apicas.connect(pool, password=os.environ.get("APICAS_PASSWORD")) as client:
        report = await apicas.run(work, client, workers=workers, lock_timeout=lock_timeout)
    print(report)

asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])))
"""


@dataclass(slots=True)
class Races:
    """What came of the races."""

    ids: list[str] = field(default_factory=list)
    races: int = 0
    """Tokens that at least two writers tried to lock from the same revision."""
    of_four: int = 0
    double: int = 0
    """Tokens of which a second writer was told that it owns them."""
    without_owner: int = 0
    unknown: int = 0
    """Locks that a minority took, or whose answer got lost."""
    outputs: dict[str, str] = field(default_factory=dict)
    """What owners wrote as their result, where they were told that it is written."""
    owners: dict[str, int] = field(default_factory=dict)


class _Start:
    """Lets writers go together: when all have come, or some time after the first."""

    def __init__(self, parties: int, patience: float = 6.0) -> None:
        self._parties = parties
        self._patience = patience
        self._come = 0
        self._go = asyncio.Event()
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.unknown = 0

    async def wait(self) -> None:
        self._come += 1
        if self._come >= self._parties:
            self._go.set()
        try:
            await asyncio.wait_for(self._go.wait(), self._patience)
        except TimeoutError:
            self._go.set()


class _Writer:
    """One writer: a claim of its own, whose lock waits for the others."""

    def __init__(self, client: PoolClient) -> None:
        self.client = client
        self.start: _Start | None = None
        self._save = client.save
        client.save = self._locked  # type: ignore[method-assign]  # the claim's own write waits for the others
        self.claimer = Claimer(
            client,
            Leases(),
            BasicTokenModifier(),
            LeaseTimes(lease=SHORT_LEASE),
            real_environment(),
            hand_back=lambda _: None,
        )

    async def _locked(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        if self.start is None:
            return await self._save(documents)
        await self.start.wait()
        self.start.attempts.update((document["_id"], document["_rev"]) for document in documents)
        results = await self._save(documents)
        self.start.unknown += sum(result.status is SaveStatus.UNKNOWN for result in results)
        return results


async def run_races(urls: Sequence[str], number: int, races: Races) -> None:
    """Race for new tokens until there were so many races."""
    async with AsyncExitStack() as stack:
        clients = [_connect(urls[writer % len(urls)]) for writer in range(WRITERS)]
        for client in clients:
            await stack.enter_async_context(client)
        writers = [_Writer(client) for client in clients]
        round_ = 0
        while races.races < number:
            ids = [f"race-{round_:05}-{place:02}" for place in range(BATCH)]
            round_ += 1
            races.ids += ids
            await _patiently(lambda ids=ids: clients[0].upload([{"_id": token_id} for token_id in ids]))
            await _race(writers, races)


async def _race(writers: Sequence[_Writer], races: Races) -> None:
    start = _Start(len(writers))
    for writer in writers:
        writer.start = start
    won = await asyncio.gather(*(_claim(writer) for writer in writers))
    for writer in writers:
        writer.start = None
    raced = {key for key, attempts in start.attempts.items() if attempts > 1}
    races.races += len(raced)
    races.of_four += sum(attempts == WRITERS for attempts in start.attempts.values())
    races.unknown += start.unknown
    owned = Counter(token_id for tokens in won for token_id in tokens)
    races.without_owner += sum(not owned[token_id] for token_id, _ in raced)
    for number, (writer, tokens) in enumerate(zip(writers, won, strict=True)):
        for token_id in tokens:
            races.double += token_id in races.owners
            races.owners[token_id] = number
        await _finish(writer, tokens, races)


async def _claim(writer: _Writer) -> dict[str, Mapping[str, Any]]:
    try:
        claimed = await writer.claimer.run_once("Monitor/todo", MAX_CLAIM)
    except PoolError:  # its node is away
        return {}
    return {lease.token_id: lease.stored for lease in claimed.leases}


async def _finish(writer: _Writer, tokens: Mapping[str, Mapping[str, Any]], races: Races) -> None:
    """Write the results, all but a few: these must outlive the healing. The others are left to be reclaimed."""
    modifier, now = BasicTokenModifier(), writer.client.time()
    outcomes = []
    for place, token_id in enumerate(tokens):
        if place % 10 == 9:
            continue
        outcome = modifier.close(dict(tokens[token_id]), now)
        outcomes.append({**outcome, "output": f"by writer {races.owners[token_id]}"})
    try:
        results = await writer.client.save(outcomes)
    except PoolError:
        return
    written = zip(outcomes, results, strict=True)
    races.outputs |= {outcome["_id"]: outcome["output"] for outcome, result in written if result.written}


def _connect(url: str) -> PoolClient:
    """A client; the password is in the environment, since a command line is public."""
    return apicas.connect(url, password=os.environ.get("APICAS_PASSWORD"))


async def _patiently(operation: Any) -> Any:
    while True:
        try:
            return await operation()
        except PoolError:
            await asyncio.sleep(0.5)


@dataclass(slots=True)
class Executions:
    """What was recorded of the long run."""

    number: int = 0
    completed: int = 0
    double: list[str] = field(default_factory=list)
    """Tokens that two pilots worked at the same time."""
    repeated: int = 0
    """Executions of tokens that had been completed before."""
    seconds: float = 0.0
    logs: str = ""

    def read(self, files: Iterable[Path]) -> None:
        """Read what pilots recorded."""
        spans: dict[str, list[tuple[float, float, bool]]] = defaultdict(list)
        for file in files:
            for line in file.read_text().splitlines():
                token_id, first, last, completed = line.split()
                spans[token_id].append((float(first), float(last), completed == "1"))
        for token_id, found in spans.items():
            found.sort()
            self.number += len(found)
            self.completed += sum(completed for _, _, completed in found)
            self.repeated += max(0, sum(completed for _, _, completed in found) - 1)
            busy_until = 0.0
            for begin, end, _ in found:
                if begin < busy_until:
                    self.double.append(token_id)
                    break
                busy_until = max(busy_until, end)


async def run_long(options: argparse.Namespace, directory: Path) -> Executions:
    """Have pilots work tokens, each by one node."""
    executions = Executions()
    async with _connect(options.urls[0]) as client:
        await _patiently(lambda: client.upload({"_id": f"token-{n:06}"} for n in range(options.tokens)))
    begin = time.monotonic()
    pilots = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _PILOT, options.urls[n % len(options.urls)], str(directory / f"{n}.executions")),
            *(str(options.lock_timeout), str(options.workers), str(options.hold)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        for n in range(options.pilots)
    ]
    for pilot, (out, error) in zip(pilots, await asyncio.gather(*(p.communicate() for p in pilots)), strict=True):
        executions.logs += f"pilot {pilot.pid}: {out.decode().strip()}\n" + error.decode()
    executions.seconds = time.monotonic() - begin
    executions.read(directory / f"{n}.executions" for n in range(options.pilots))
    return executions


@dataclass(slots=True)
class Remains:
    """What the pool has in the end."""

    split_before: int
    """Tokens with several versions before the last healing."""
    vanished: int
    split: int
    """Tokens with several versions, as any node sees it."""
    done: int
    results_lost: int


async def heal_and_count(urls: Sequence[str], ids: Sequence[str], outputs: Mapping[str, str]) -> Remains:
    """Heal as pilots do, and look at every token from every node."""
    async with _connect(urls[0]) as client:
        split_before = len(await client.conflicted())
        healer = Healer(client, LeaseTimes(lease=SHORT_LEASE), real_environment())
        while (await _patiently(healer.run_once)).conflicted:  # noqa: ASYNC110 - nobody tells when it is time
            await asyncio.sleep(SHORT_LEASE / 4)
    versions: dict[str, int] = {}
    leaves: dict[str, list[Document]] = {}
    for url in urls:
        async with _connect(url) as client:
            for part in _parts(ids):
                leaves |= zip(part, await client.leaves(part), strict=True)
        for token_id, found in leaves.items():
            versions[token_id] = max(versions.get(token_id, 0), len(found))
    shown = {token_id: found[0] for token_id, found in leaves.items() if found}
    return Remains(
        split_before=split_before,
        vanished=sum(number == 0 for number in versions.values()),
        split=sum(number > 1 for number in versions.values()),
        done=sum(state_of(document) is TokenState.DONE for document in shown.values()),
        results_lost=sum(shown.get(token_id, {}).get("output") != output for token_id, output in outputs.items()),
    )


def _parts(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    for start in range(0, len(ids), 1000):
        yield ids[start : start + 1000]


async def _tidy(url: str) -> None:
    """Work off what the races left: claims that nobody owns, or whose owner never ended them."""

    async def work(token: apicas.Token) -> None:
        del token

    async with _connect(url) as client:
        await apicas.run(work, client, workers=50, lock_timeout=SHORT_LEASE)


async def try_all(options: argparse.Namespace, disturbance: Disturbance, directory: Path) -> int:
    """Run both parts, print what came of them; answers with the number of broken promises."""
    async with _connect(options.urls[0]) as client:
        await client.setup()
        await client.view("todo", limit=1)
    broken = 0
    if options.races:
        races = Races()
        begin = time.monotonic()
        async with disturbance.running():
            await run_races(options.urls, options.races, races)
        seconds = time.monotonic() - begin
        async with _connect(options.urls[0]) as client:
            split = len(await client.conflicted())
        await _tidy(options.urls[0])
        remains = await heal_and_count(options.urls, races.ids, races.outputs)
        broken += races.double + remains.split + remains.vanished + remains.results_lost
        _show(
            "races",
            ("races of two writers and more", races.races),
            ("  of these of four", races.of_four),
            ("double owners", races.double),
            ("races without an owner", races.without_owner),
            ("locks without a plain answer", races.unknown),
            ("tokens", len(races.ids)),
            ("tokens with several versions after the races", split),
            ("tokens with several versions after healing", remains.split),
            ("tokens vanished", remains.vanished),
            ("results that owners wrote", len(races.outputs)),
            ("  of these lost", remains.results_lost),
            ("tokens done in the end", remains.done),
            ("seconds", f"{seconds:.0f}"),
        )
    _show("disturbances", ("nodes stopped (SIGSTOP)", disturbance.pauses), ("nodes killed", disturbance.kills))
    if options.tokens:
        broken += await _try_long(options, disturbance, directory)
    return broken


async def _try_long(options: argparse.Namespace, disturbance: Disturbance, directory: Path) -> int:
    pauses, kills = disturbance.pauses, disturbance.kills
    async with disturbance.running():
        executions = await run_long(options, directory)
    tokens: int = options.tokens
    ids = [f"token-{n:06}" for n in range(tokens)]
    remains = await heal_and_count(options.urls, ids, {})
    if options.verbose:
        print(executions.logs)
    _show(
        "long run",
        ("pilots x workers", f"{options.pilots} x {options.workers}"),
        ("hold", f"{options.hold:g} s and more, {2 * options.hold:g} s on average; lease {options.lock_timeout:g} s"),
        ("tokens done", f"{remains.done:,} of {tokens:,}"),
        ("executions", f"{executions.number:,}"),
        ("  of these completed", f"{executions.completed:,}"),
        ("double owners: worked by two at once", len(executions.double)),
        ("completed again", executions.repeated),
        ("tokens vanished", remains.vanished),
        ("tokens with several versions when the pilots ended", remains.split_before),
        ("tokens with several versions after healing", remains.split),
        ("nodes stopped (SIGSTOP)", disturbance.pauses - pauses),
        ("nodes killed", disturbance.kills - kills),
        ("seconds", f"{executions.seconds:.0f}"),
    )
    return len(executions.double) + remains.vanished + remains.split + (tokens - remains.done)


def _show(title: str, *rows: tuple[str, object]) -> None:
    print(f"{title}")
    for name, value in rows:
        print(f"  {name:<52} {value}")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", nargs="+", help="one empty database, by the address of each node")
    parser.add_argument("--races", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=10_000, help="of the long run; 0 for none")
    parser.add_argument("--pilots", type=int, default=4)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--hold", type=float, default=3.0, help="seconds that a token takes at least")
    parser.add_argument("--lock-timeout", type=float, default=30.0)
    parser.add_argument("--pid-files", nargs="*", type=Path, default=[], help="of the nodes: stop them at random")
    parser.add_argument("--restart", help="a command that starts what does not run: kill nodes at random, too")
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds, on average")
    parser.add_argument("--verbose", action="store_true", help="show what the pilots wrote")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory:
        disturbance = Disturbance(pid_files=options.pid_files, restart=options.restart, kill_every=options.kill_every)
        broken = asyncio.run(try_all(options, disturbance, Path(directory)))
    print("all promises kept" if not broken else f"NOT AS PROMISED: {broken}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
