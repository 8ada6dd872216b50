"""One row of the table: a new pool, pilots, a fault script beside them, and then the count."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apicas
from benchmarks.chaos import audit as audits
from benchmarks.chaos import disks
from benchmarks.chaos.audit import Audit
from benchmarks.chaos.couch import Address
from benchmarks.chaos.faults import SCRIPTS, Disk, Field
from benchmarks.chaos.judging import count_stale, judge
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.pilots import Crew, CrewOptions
from benchmarks.chaos.relay import Relay
from benchmarks.chaos.row import Outcome, Row, measure
from benchmarks.chaos.servers import Server
from benchmarks.ports import free_port

MEMORY = 1 << 28
"""Bytes of address space that a pilot has beyond those that it starts with, where memory is limited."""
HOGS = 3
"""Tokens that eat all of it."""
MAX_CRASHES = 2
"""How many processes a token may take down in the row with the one that does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a row is run.

    Args:
        tokens: how many.
        pilots: how many of ours.
        picas: how many of PiCaS's.
        workers: tokens that a pilot works at once.
        ahead: tokens that a pilot claims before it can work them, at most: what it holds when it is killed.
        seconds: how long a token takes.
        lease: the pilots' lock_timeout in seconds.
        every: seconds between two faults.
        limit: seconds after which a row is ended; what is not done by then is lost.
        seed: of the dice.
    """

    tokens: int = 4000
    pilots: int = 4
    picas: int = 0
    workers: int = 4
    ahead: int = 16
    seconds: float = 0.1
    lease: float = 10.0
    every: float = 5.0
    limit: float = 900.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Where the pools are.

    Args:
        name: in the table.
        address: a server that speaks the CouchDB protocol; None for SQLite.
        server: how to kill that server; None where nobody told.
    """

    name: str
    address: Address | None = None
    server: Server | None = None


@dataclass(slots=True)
class _Pool:
    """The pool of one row."""

    direct: str
    """The address for us."""
    pilots: str
    """The address for the pilots, perhaps through the relay."""
    database: Address | None = None
    path: Path | None = None
    relay: Relay | None = None
    disk: Disk | None = None
    state: Path | None = None
    """Where pilots keep results aside."""


def left_out(name: str, store: Store) -> str | None:
    """Why a row makes no sense on a store; None if it does."""
    if name in {"server", "hang"}:
        if store.address is None:
            return "SQLite has no server"
        if store.server is None:
            return "somebody's server: say --server-pids and --server-command"
    if name == "cut" and store.address is None:
        return "SQLite has no connections"
    return None


async def run_row(name: str, store: Store, options: Options, directory: Path) -> Row:
    """Run one row.

    Args:
        name: of SCRIPTS.
        store: where.
        options: how much.
        directory: for its files; made here.
    """
    directory.mkdir(parents=True)  # noqa: ASYNC240 - a moment
    async with AsyncExitStack() as stack:
        pool = await _make_pool(name, store, directory, stack)
        ledger, rng = Ledger(), random.Random(f"{options.seed}/{name}")
        crew = Crew(_crew_options(name, pool, options, directory), ledger, rng)
        if name == "disk" and pool.disk is None:
            pool.disk = disks.LimitedFiles(crew)
        field = Field(crew, ledger, rng, options.tokens, options.lease, options.every)
        field.server, field.relay, field.disk = store.server, pool.relay, pool.disk
        await _fill(name, pool, options)
        begun = time.monotonic()
        in_time = await _run_pilots(SCRIPTS[name], field, options.limit)
        ended = time.monotonic()
        left_behind = await crew.left_behind()
        outcome = await _look(name, pool, ledger, crew, options)
    outcome = replace(outcome, left_behind=left_behind, in_time=in_time, seconds=ended - begun)
    findings = judge(ledger.executions.values(), crew.lives, options.lease, outcome.audit.committed)
    ours = [one for one in ledger.executions.values() if not crew.lives[one.pilot].is_picas]
    findings.stale = count_stale(ours, ledger.reclaims)
    return measure(name, store.name, field, findings, outcome)


async def _make_pool(name: str, store: Store, directory: Path, stack: AsyncExitStack) -> _Pool:
    small = directory / "small"
    mounted = name == "disk" and stack.enter_context(disks.small_file_system(small))
    disk = disks.SmallDisk(small) if mounted else None
    state = small if mounted else directory / "state"
    state.mkdir(exist_ok=True)
    if store.address is None:
        path = (small if mounted else directory) / "pool.db"
        return _Pool(f"sqlite:///{path}", f"sqlite:///{path}", path=path, disk=disk, state=state)
    prefix = store.address.database or "chaos"
    database = store.address.of(f"{prefix}-{name}-{uuid.uuid4().hex[:8]}")
    await stack.enter_async_context(_dropped(database))
    relay = None
    if name == "cut" or (name == "disk" and mounted):
        relay = await stack.enter_async_context(Relay(database.host, database.port, free_port()))
    pilots = database.at(relay.port) if relay else database
    return _Pool(database.pool, pilots.pool, database=database, relay=relay, disk=disk, state=state)


@asynccontextmanager
async def _dropped(database: Address) -> AsyncIterator[None]:
    """Delete a database at the end."""
    try:
        yield
    finally:
        with suppress(OSError):
            await asyncio.to_thread(database.request, "DELETE")


def _crew_options(name: str, pool: _Pool, options: Options, directory: Path) -> CrewOptions:
    keeping: dict[str, Any] = {"lock_timeout": options.lease}
    if name == "memory":
        keeping["max_crashes"] = MAX_CRASHES
    settings = {
        "pool": pool.pilots,
        "keeping": keeping,
        "running": {"workers": options.workers, "claim_ahead": options.ahead},
        "memory": MEMORY if name == "memory" else None,
    }
    picas: dict[str, Any] = {}
    if pool.database is not None:
        database = pool.database.at(pool.relay.port) if pool.relay else pool.database
        picas = {"url": database.url, "database": database.database}
        picas |= {"username": database.username, "password": database.password}
    return CrewOptions(
        directory=directory,
        settings=settings,
        picas_settings=picas,
        pilots=options.pilots,
        picas=options.picas,
        environment={"XDG_STATE_HOME": str(pool.state)},
    )


def _tokens(name: str, pool: _Pool, options: Options) -> Iterator[dict[str, Any]]:
    padding = {"padding": "x" * disks.PADDING} if isinstance(pool.disk, disks.LimitedFiles) else {}
    harmful = _harmful(name, options)
    for number in range(options.tokens):
        order = harmful.get(number, {"seconds": options.seconds})
        yield {"_id": f"token-{number:06}", "input": order, **padding}


def _harmful(name: str, options: Options) -> Mapping[int, dict[str, Any]]:
    """Tokens that end in error: by place in the pool, what they do."""
    if name != "memory":
        return {}
    places = [options.tokens * (number + 1) // (HOGS + 2) for number in range(HOGS + 1)]
    return {place: {"hog": True} if number else {"die": True} for number, place in enumerate(places)}


async def _fill(name: str, pool: _Pool, options: Options) -> None:
    async with apicas.connect(pool.direct) as client:
        await client.setup()
        await client.upload(_tokens(name, pool, options))
        await client.view("todo", limit=1)  # builds the index, which is not what is tried here
    if pool.path is not None:
        audits.watch_sqlite(pool.path)


async def _run_pilots(script: Any, field: Field, limit: float) -> bool:
    """Run the pilots and the faults; False if the time was up."""

    async def read() -> None:
        while True:
            field.ledger.poll()
            await asyncio.sleep(0.05)

    reading = asyncio.create_task(read())
    faults = asyncio.create_task(script(field))
    crew = asyncio.create_task(field.crew.run())
    try:
        async with asyncio.timeout(limit):
            await asyncio.wait({crew, faults}, return_when=asyncio.FIRST_COMPLETED)
            if faults.done():
                faults.result()
            await crew
    except TimeoutError:
        return False
    finally:
        for task in (faults, crew, reading):
            task.cancel()
        results = await asyncio.gather(faults, crew, reading, return_exceptions=True)
        field.ledger.poll()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return True


async def _look(name: str, pool: _Pool, ledger: Ledger, crew: Crew, options: Options) -> Outcome:
    audit = Audit()
    async with apicas.connect(pool.direct) as client:
        counts = await client.counts()
        total = await client.total()
        conflicted = len(await client.conflicted())
        failed = {str(row.id) for row in await client.view("error")}
    tokens = [f"token-{number:06}" for number in range(options.tokens)]
    if pool.path is not None:
        writes = audits.sqlite_writes(pool.path)
    else:
        assert pool.database is not None
        writes = await asyncio.to_thread(audits.couch_writes, pool.database, tokens, audit)
    finished = {execution.id for execution in ledger.executions.values() if execution.finished}
    picas = {execution.id for execution in ledger.executions.values() if crew.lives[execution.pilot].is_picas}
    audits.judge_writes(writes, finished, picas, audit)
    meant = {f"token-{number:06}" for number in _harmful(name, options)}
    return Outcome(
        counts=counts,
        total=total,
        conflicted=conflicted,
        failed=len(failed & meant),
        lost=options.tokens - counts["done"] - len(failed & meant),
        audit=audit,
        disk=pool.disk.how if pool.disk is not None else "",
    )
