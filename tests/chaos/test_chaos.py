"""The chaos benchmark, short: real pilots are stopped past their lease, killed and told to end, all in one run."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from benchmarks.chaos.row import Row
from benchmarks.chaos.servers import POUCHDB, PouchDB
from benchmarks.chaos.trial import Options, Store, run_row

# Few tokens ahead: each that a dead pilot held is worked in a process of its own, and starting one takes time.
OPTIONS = Options(tokens=200, pilots=3, workers=3, ahead=1, seconds=0.4, limit=100)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """What came of it on every store that is here, at the same time: a pilot that is stopped takes its time."""
    return asyncio.run(_all(tmp_path_factory.mktemp("chaos")))


async def _all(directory: Path) -> dict[str, Row]:
    async with AsyncExitStack() as stack:
        stores = {"sqlite": Store(name="SQLite")}
        if POUCHDB.exists():
            home = directory / "server"
            home.mkdir()
            server = await stack.enter_async_context(PouchDB(home))
            stores["pouchdb"] = Store(name="pouchdb", address=server.address, server=server)
        async with asyncio.TaskGroup() as group:
            running = {
                name: group.create_task(run_row("storm", store, OPTIONS, directory / name))
                for name, store in stores.items()
            }
    return {name: task.result() for name, task in running.items()}


@pytest.fixture(params=["sqlite", pytest.param("pouchdb", marks=pytest.mark.couchdb)])
def row(request: pytest.FixtureRequest, rows: dict[str, Row]) -> Row:
    """The row of one store."""
    if request.param not in rows:
        pytest.skip("no pouchdb-server in .pouchdb/: run `make setup`")
    return rows[request.param]


def test_nothing_is_lost_committed_twice_or_worked_by_two(row: Row) -> None:
    """Every promise holds, and what was worked again is explained by what was done to its pilots."""
    assert row.problems == []
    assert row.done == row.tokens


def test_the_faults_did_hit(row: Row) -> None:
    """A pilot was killed, one stopped and one told to end; what the first two worked was reclaimed and worked again."""
    assert row.faults == 3
    assert row.why.get("killed", 0) + row.why.get("stopped", 0) > 0
    assert row.executions == row.tokens + row.duplicates
    assert row.reclaim is not None
