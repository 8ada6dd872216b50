"""What a pilot asks of a store, counted: requests, transactions and bytes. A change that makes any of it dearer fails.

No clock is involved: these numbers are the same on a slow machine. Speed is measured in benchmarks/.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import apicas
from apicas._runtime.keeping.outcomes import Returned
from apicas.clients.base import PoolClient
from apicas.clients.port import Traffic
from apicas.clients.sqlite import SQLiteClient
from tests.couchdb import SERVERS, server

TOKENS = 2500
SMALL = 250
"""Bytes of JSON of a token with a small input, as it is uploaded; and room for longer ids."""
CLAIM = 380
"""Bytes that a claim adds to a token."""


@pytest.fixture(params=["sqlite", *SERVERS])
def make_client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], PoolClient]]:
    """A factory of clients on one new pool."""
    with ExitStack() as after:
        if request.param == "sqlite":
            yield SQLiteClient(tmp_path / "pool.db").fork
        else:
            couch = server(request.config, request.param)
            database = after.enter_context(couch.database())
            yield lambda: couch.client(database)


@pytest.fixture
async def client(make_client: Callable[[], PoolClient]) -> AsyncIterator[PoolClient]:
    """A pool without tokens, its views built."""
    async with make_client() as client:
        await client.setup()
        await client.view("todo", limit=1)
        yield client


@contextmanager
def counted(client: PoolClient) -> Iterator[Traffic]:
    """What was asked of the store inside the block, known after it."""
    before = client.traffic.requests, client.traffic.sent, client.traffic.received
    traffic = Traffic()
    yield traffic
    traffic.requests = client.traffic.requests - before[0]
    traffic.sent = client.traffic.sent - before[1]
    traffic.received = client.traffic.received - before[2]


async def test_an_upload_is_a_request_per_thousand_tokens(client: PoolClient) -> None:
    with counted(client) as traffic:
        await client.upload({"input": number} for number in range(TOKENS))
    assert traffic.requests == 3
    assert traffic.sent <= TOKENS * SMALL


async def test_a_claim_is_a_look_and_a_write(client: PoolClient) -> None:
    """And on CouchDB at most one request more, for the bodies; and one where a round goes on at the beginning."""
    await client.upload({"input": number} for number in range(TOKENS))
    async with apicas.BasicViewIterator(client, outbox=False) as tokens:
        await tokens.claim(1)  # what is asked once, at the first claim
        with counted(client) as traffic:
            claimed = [await tokens.claim(30) for _ in range(5)]  # so few also where the server is slow
        assert [len(some) for some in claimed] == [30] * 5
        assert traffic.requests <= (5 * 2 if isinstance(client, SQLiteClient) else 5 * 3 + 1)
        assert traffic.sent <= 155 * (SMALL + CLAIM) + 50_000  # the keys of the looks
        assert traffic.received <= 310 * (SMALL + CLAIM)


async def test_a_hundred_outcomes_are_one_write(client: PoolClient) -> None:
    await client.upload({"input": number} for number in range(100))
    async with apicas.BasicViewIterator(client, outbox=False) as tokens:
        claimed = await tokens.claim(100)
        with counted(client) as traffic:
            settlements = [tokens.keeper.give_back(token, Returned("worked")) for token in claimed]
            await tokens.keeper.wait_until_written()
        assert all(settlement is not None for settlement in settlements)
        assert traffic.requests == 1 + client.replicated  # all versions are read first
        assert traffic.sent <= 100 * (SMALL + CLAIM)


async def test_a_file_rides_inside_the_outcome(client: PoolClient) -> None:
    """A small attachment is no request of its own."""
    await client.upload({"input": number} for number in range(10))
    async with apicas.BasicViewIterator(client, outbox=False) as tokens:
        claimed = await tokens.claim(10)
        for token in claimed:
            token.put_attachment("log.txt", "a line\n")
        with counted(client) as traffic:
            for token in claimed:
                tokens.keeper.give_back(token, Returned())
            await tokens.keeper.wait_until_written()
        assert traffic.requests == 1 + client.replicated


async def test_a_run_asks_little_for_each_token(client: PoolClient) -> None:
    """At saturation: claims and outcomes by the hundred. PiCaS takes four requests for a token."""

    async def work(token: apicas.Token) -> int:
        number: int = token.input
        return number * number

    await client.upload({"input": number} for number in range(TOKENS))
    with counted(client) as traffic:
        report = await apicas.run(work, client, workers=64)
    assert report.done == TOKENS
    # 0.01 on a server that is quick. From a slow one less is claimed at a time, and this is no test of its speed.
    most = 0.06 if isinstance(client, SQLiteClient) else 0.15
    assert traffic.requests <= most * TOKENS * (1 + client.replicated)
    # Read once, locked once, written once: and on CouchDB the rows of the view, and the answers of the writes.
    assert traffic.sent <= TOKENS * (2 * SMALL + CLAIM + 60)
    assert traffic.received <= TOKENS * (3 * SMALL + CLAIM)
