"""Real measurements of few tokens: what is counted is right, and nothing stays behind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, get_args

import pytest

from apicas._bench.measure import measure
from apicas._bench.pools import PREFIX, Place, beside, own_pool
from apicas._bench.records import Sample, Trial, Workload
from apicas._bench.work import tokens_of
from apicas.clients.couch.administration import Administration
from apicas.exceptions import ApicasError, ConfigError, PoolUnavailableError
from tests.couchdb import SERVERS, Server, server

WORKLOADS = get_args(Workload)


def trial(**fields: Any) -> Trial:
    return Trial(**{"contender": "apicas", "tokens": 30, "workers": 4, "seconds": 0.001, "size": 500, **fields})


def check(sample: Sample, tokens: int = 30) -> None:
    """That every token was worked once, and all that can be known is known."""
    assert (sample.tokens, sample.executions, sample.notes) == (tokens, tokens, [])
    assert sample.seconds > 0
    assert sample.upload_seconds
    assert sample.cpu_seconds
    assert sample.memory
    assert sample.latency is not None
    assert 0 < sample.latency.p50 <= sample.latency.p95 <= sample.latency.p99


@pytest.fixture(params=SERVERS)
def couch(request: pytest.FixtureRequest) -> Server:
    return server(request.config, request.param)


def address(couch: Server) -> str:
    login = f"{couch.username}:{couch.password}@" if couch.username else ""
    return couch.url.replace("http://", f"http://{login}")


@pytest.mark.parametrize("workload", WORKLOADS)
async def test_each_workload_works_each_token_once_in_a_file(workload: Workload, tmp_path: Path) -> None:
    sample = await measure(trial(workload=workload), Place(directory=tmp_path))
    check(sample)
    assert sample.requests
    assert sample.sent
    assert left(tmp_path) == []


@pytest.mark.parametrize("workload", [one for one in WORKLOADS if one != "cpu"])
async def test_and_in_memory(workload: Workload, tmp_path: Path) -> None:
    check(await measure(trial(workload=workload), Place(server="memory:", directory=tmp_path)))


async def test_and_on_a_server_whose_database_is_gone_afterwards(couch: Server, tmp_path: Path) -> None:
    check(await measure(trial(pilots=2), Place(server=address(couch), directory=tmp_path)))
    assert databases(couch) == []


async def test_several_pilots_share_the_work(tmp_path: Path) -> None:
    sample = await measure(trial(pilots=3, tokens=300), Place(directory=tmp_path))
    check(sample, 300)


async def test_a_pool_in_memory_has_one_pilot(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one process"):
        await measure(trial(pilots=2), Place(server="memory:", directory=tmp_path))


async def test_large_documents_are_as_large_as_was_asked_for() -> None:
    tokens = list(tokens_of(trial(workload="large", size=70_001, tokens=3)))
    assert [len(token["input"]) for token in tokens] == [70_001] * 3
    assert len({token["input"] for token in tokens}) == 3


async def test_a_pilot_that_fails_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    monkeypatch.setattr("apicas._bench.measure.READY", b"something else\n")
    with pytest.raises(ApicasError, match="a pilot failed"):
        await measure(trial(), Place(directory=tmp_path))
    assert left(tmp_path) == []


async def test_a_measurement_that_is_cut_short_leaves_nothing(couch: Server, tmp_path: Path) -> None:
    working = asyncio.Event()

    def note(step: str) -> None:
        if step == "work":
            working.set()

    place = Place(server=address(couch), directory=tmp_path)
    running = asyncio.create_task(measure(trial(workload="sleep", seconds=1000.0), place, note))
    await working.wait()
    assert len(databases(couch)) == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert databases(couch) == []
    assert left(tmp_path) == []


async def test_nor_one_that_is_cut_short_while_its_database_is_made(
    couch: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, answered = asyncio.Event(), asyncio.Event()
    requests: list[asyncio.Task[None]] = []

    async def arrive(self: Administration) -> None:
        await answered.wait()
        await asyncio.to_thread(couch.request, "PUT", self._name)

    async def send(self: Administration) -> None:
        under_way.set()
        # A request that has left: the server does what it says, whoever still waits for the answer.
        requests.append(asyncio.create_task(arrive(self)))
        await asyncio.shield(requests[0])

    monkeypatch.setattr(Administration, "create", send)
    running = asyncio.create_task(measure(trial(), Place(server=address(couch), directory=tmp_path)))
    await under_way.wait()
    running.cancel()
    await asyncio.wait([running], timeout=0.1)
    answered.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.wait(requests)
    assert databases(couch) == []
    assert left(tmp_path) == []


async def test_a_server_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(PoolUnavailableError):
        await measure(trial(), Place(server="http://127.0.0.1:9", directory=tmp_path))
    assert left(tmp_path) == []


async def test_a_directory_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file can be made"):
        async with own_pool(Place(directory=tmp_path / "missing")):
            pass


def test_the_place_beside_a_pool_is_on_the_same_server_or_disk() -> None:
    assert beside("sqlite:////data/survey/pool.db", {}).directory == Path("/data/survey")
    assert beside("sqlite:///pool.db", {}).directory == Path()
    assert beside("https://couch.example:6984/sub/survey", {}).server == "https://couch.example:6984/sub"
    assert beside("memory:", {}).server == "memory:"
    with pytest.raises(ConfigError, match="names no database"):
        beside("https://couch.example:6984/", {})


def databases(couch: Server) -> list[str]:
    return [name for name in couch.request("GET", "_all_dbs") if name.startswith(PREFIX)]


def left(directory: Path) -> list[Path]:
    """What is still there."""
    return list(directory.iterdir())
