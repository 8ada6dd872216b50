"""Real pilots through the fault proxy: every token is worked once, though a fourth of all requests goes wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import anyio
import pytest

from apicas._runtime.environment import Environment
from apicas._runtime.reports import Report
from apicas.actors import RunActor
from apicas.clients.couch import CouchClient
from apicas.exceptions import PoolUnavailableError
from apicas.iterators import BasicViewIterator
from apicas.modifiers import BasicTokenModifier, Owner
from apicas.policies.retries import Backoff
from apicas.tokens import Token, annex
from tests.couchdb import SERVERS, Server, server
from tests.faults.proxy import Fault, FaultProxy, Seeded, rate

TOKENS: Final = 60
PILOTS: Final = 3
SHARE: Final = 0.25
# A refusal for its size is an answer: it ends in an error that is stored in the token. Silence costs a timeout.
FAULTS: Final = [fault for fault in Fault if fault not in {Fault.PASS, Fault.TOO_LARGE, Fault.HANG}]
OPTIONS: Final[dict[str, Any]] = {"attempts": 4, "backoff": Backoff(first=0.001, most=0.01)}


@dataclass
class Clock:
    """Monotonic seconds of one pilot, which passes as its tokens say."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Fleet:
    """Pilots on one pool, and what they have done."""

    behind: Server
    database: str
    executions: Counter[str] = field(default_factory=Counter)
    reports: list[Report] = field(default_factory=list)

    async def run_pilot(self, number: int) -> None:
        """Work until there is nothing left; a pilot that cannot even begin is started again."""
        for life in range(10):
            try:
                return await self._live(f"{number}.{life}")
            except PoolUnavailableError:
                continue
        pytest.fail("no pilot could begin")

    async def _live(self, name: str) -> None:
        clock = Clock()
        environment = Environment(
            owner=Owner(pilot=name, hostname="here"),
            monotonic=clock,
            rng=Random(name),
            owner_is_gone=lambda _: False,
            threads=False,
        )
        async with self.behind.client(self.database, **OPTIONS) as client:
            iterator = BasicViewIterator(client, BasicTokenModifier(), environment=environment)
            self.reports.append(await _Actor(iterator, self.executions, clock).run(workers=4, max_tokens=TOKENS))


class _Actor(RunActor):
    """Works tokens, a third of which are held for longer than a beat."""

    def __init__(self, iterator: BasicViewIterator, executions: Counter[str], clock: Clock) -> None:
        super().__init__(iterator, iterator.modifier)
        self._executions = executions
        self._clock = clock
        self._source = iterator

    async def process_token(self, token: Token) -> dict[str, Any]:
        self._executions[token.id] += 1
        keeper = self._source.keeper
        self._clock.seconds += keeper.times.heartbeat
        client = self._source.client
        assert isinstance(client, CouchClient)
        if token["input"] % 3 == 0:
            with suppress(TimeoutError):
                await keeper._heartbeat.run_once(client)
        return {"of": token["input"]}


@pytest.fixture(params=SERVERS)
def couch(request: pytest.FixtureRequest) -> Server:
    return server(request.config, request.param)


@pytest.fixture
def database(couch: Server) -> Iterator[str]:
    with couch.database() as name:
        yield name


@pytest.mark.parametrize("seed", range(3))
async def test_every_token_is_worked_once(couch: Server, database: str, seed: int) -> None:
    """Each is done, was executed once, and is counted as done once; nobody has lost a token, or left one locked."""
    async with couch.client(database) as truth, FaultProxy(couch.url, Seeded(seed, rate(SHARE, *FAULTS))) as proxy:
        await truth.setup()
        through = Server(proxy.url, couch.username, couch.password)
        async with through.client(database, **OPTIONS) as client:
            uploaded = await client.upload({"_id": f"t{number}", "input": number} for number in range(TOKENS))
        assert (uploaded.uploaded, uploaded.rejected) == (TOKENS, 0)
        fleet = Fleet(through, database)
        async with anyio.create_task_group() as group:
            for number in range(PILOTS):
                group.start_soon(fleet.run_pilot, number)
            await proxy.until(lambda: len(proxy.seen) > 50)
            await proxy.go_away()  # the server is restarted
            await proxy.come_back()
        counts = await truth.counts()
        documents = await truth.get([f"t{number}" for number in range(TOKENS)])
    assert counts == {"todo": 0, "locked": 0, "done": TOKENS, "error": 0}
    assert fleet.executions == Counter({f"t{number}": 1 for number in range(TOKENS)})
    assert [document and document["output"] for document in documents] == [{"of": n} for n in range(TOKENS)]
    assert sum(report.done for report in fleet.reports) == TOKENS
    assert sum(report.lost + report.failed + report.scrubbed for report in fleet.reports) == 0
    assert {annex(document or {}).get("crashes", 0) for document in documents} == {0}
    assert len(proxy.seen) - proxy.fired[Fault.PASS] > 0.15 * len(proxy.seen)
