"""The feed that wakes idle pilots, on servers: what is asked, what is made of a refusal, and of a broken connection."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest
from aiohttp import web

from apicas._runtime.keeping import doorbell
from apicas.actors import RunActor
from apicas.clients.couch import CouchClient
from apicas.clients.couch.pulse import AFFORDABLE, Pulse, may_follow
from apicas.clients.port import Arrival
from apicas.exceptions import AccessDeniedError, PoolError, PoolUnavailableError
from apicas.iterators import BasicViewIterator, EndlessViewIterator, endless
from apicas.iterators import views as view_iterators
from apicas.policies.retries import Backoff
from apicas.tokens import Token
from tests.couchdb import SERVERS, Server, server
from tests.faults.proxy import FaultProxy
from tests.integration.scripted import Play, Script, answer, drop, playing

NOW = answer(200, {"results": [], "last_seq": "5-now"})


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    async with playing() as script:
        script.on("GET _changes", NOW)
        yield script


def make(script: Script, **options: Any) -> CouchClient:
    options = {"backoff": Backoff(first=0.0), "attempts": 2, **options}
    return CouchClient(script.url, "pool", **options)


def feed(*lines: bytes, then: Play | None = None) -> Play:
    """An answer that has no end but what `then` makes of it."""

    async def play(request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(line + b"\n")
        return response if then is None else await then(request, body)

    return play


async def heard(client: CouchClient) -> list[Arrival]:
    """Everything that comes before the feed breaks."""
    found: list[Arrival] = []
    async with aclosing(client.arrivals(["todo"])) as arrivals:  # type: ignore[type-var]
        with pytest.raises(PoolUnavailableError):
            async for arrival in arrivals:
                found.append(arrival)  # noqa: PERF401 - what came before it broke
    return found


async def test_the_server_is_asked_for_todo_alone(script: Script) -> None:
    """From a place that was fixed before the first answer, so that no arrival falls between."""
    line = b'{"seq":"6-x","id":"a","changes":[{"rev":"1-a"}]}'
    script.on("POST _changes", feed(b"", line, b"", then=drop))
    async with make(script, heartbeat=7.0) as client:
        assert await heard(client) == [Arrival.POSSIBLE, Arrival.NONE, Arrival.POSSIBLE, Arrival.NONE]
    asked = [seen for seen in script.seen if "_changes" in seen.path]
    assert [seen.method for seen in asked] == ["GET", "POST"]
    query = parse_qs(urlsplit(asked[1].path).query)
    assert query == {"feed": ["continuous"], "heartbeat": ["7000"], "since": ["5-now"], "filter": ["_selector"]}
    assert asked[1].json() == {"selector": {"type": {"$in": ["token", "task"]}, "lock": 0, "done": 0}}


async def test_where_the_server_cannot_filter_we_do(script: Script) -> None:
    """It tells of each document, of whatever size, and only one in todo is passed on."""
    script.on("GET pool", answer(200, {"db_name": "pool"}))  # nothing of a cluster: it only speaks like CouchDB
    held = {"_id": "a", "type": "token", "lock": 1_700_000_000, "done": 0, "input": "x" * 400_000}
    documents = [held, {"_id": "n", "lock": 0, "done": 0}, {**held, "lock": "0"}]
    lines = [json.dumps({"seq": 6, "id": one["_id"], "changes": [], "doc": one}).encode() for one in documents]
    deleted = b'{"seq":9,"id":"a","changes":[],"deleted":true,"doc":{"_id":"a","_deleted":true}}'
    script.on("GET _changes", NOW, feed(*lines, deleted, then=drop))
    async with make(script) as client:
        assert await heard(client) == [Arrival.POSSIBLE, Arrival.POSSIBLE]


@pytest.mark.parametrize("status", [400, 404, 405, 410])
async def test_a_refusal_is_no_outage(script: Script, status: int) -> None:
    """A proxy may let nothing through that does not end. Asking again would not help."""
    script.on("POST _changes", answer(status, {"error": "no"}))
    async with make(script) as client, aclosing(client.arrivals(["todo"])) as arrivals:  # type: ignore[type-var]
        assert await anext(arrivals) is Arrival.POSSIBLE
        with pytest.raises(PoolError) as caught:
            await anext(arrivals)
        assert not isinstance(caught.value, PoolUnavailableError)


async def test_a_refused_password_is_not_tried_again(script: Script) -> None:
    """CouchDB locks an account out."""
    script.on("POST _changes", answer(401, {"error": "unauthorized", "reason": "Name or password is incorrect."}))
    async with make(script) as client:
        bell = doorbell.Doorbell(client, ["todo"], Random(0))
        for _ in range(3):
            await bell.wait(0.2)
        assert not bell.works
        await bell.aclose()
        with pytest.raises(AccessDeniedError):
            async for _ in client.arrivals(["todo"]):
                pass
    assert script.count("POST _changes") <= 2


async def test_a_busy_pool_is_not_followed(script: Script) -> None:
    """Each feed costs the server for each write. It is measured now and then, and also before the next one begins."""
    places = [answer(200, {"results": [], "last_seq": f"{number}-x"}) for number in (5, 5, 5, 900_000, 1_800_000)]
    script.on("GET _changes", *places)
    script.on("POST _changes", feed(b"", b"", b"", b"", then=script.hang))
    async with make(script) as client:
        client._pulse.first = client._pulse.interval = 0.0
        found: list[Arrival] = []
        for _ in range(2):
            with pytest.raises(PoolError, match="times a second") as caught:
                async for arrival in client.arrivals(["todo"]):
                    found.append(arrival)  # noqa: PERF401 - what came before the end
            assert not isinstance(caught.value, PoolUnavailableError)
    assert found == [Arrival.POSSIBLE, Arrival.NONE, Arrival.NONE, Arrival.NONE]


def test_the_busier_a_pool_the_fewer_follow_it() -> None:
    """So many that together they cost the server about the same."""
    rng = Random(1)
    for rate, share in ((0.0, 1.0), (AFFORDABLE, 1.0), (2 * AFFORDABLE, 0.5), (20 * AFFORDABLE, 0.05)):
        assert sum(may_follow(rate, rng) for _ in range(10_000)) / 10_000 == pytest.approx(share, abs=0.02)
    pulse = Pulse()
    assert pulse.begin("100-g1", 10.0) == 0.0
    assert pulse.measure("400-g1", 20.0) == 30.0
    assert pulse.measure("what is this", 30.0) == 0.0
    assert pulse.measure("500", 40.0) == 0.0


async def test_silence_is_noticed(script: Script) -> None:
    """A connection that is dead without saying so brings no heartbeats either."""
    script.on("POST _changes", feed(b"", then=script.hang))
    async with make(script, heartbeat=0.05) as client:
        assert await heard(client) == [Arrival.POSSIBLE, Arrival.NONE]


async def test_a_feed_needs_a_connection_of_its_own(script: Script) -> None:
    """With one for all, nothing else would get through."""
    async with make(script, connections=1) as client:
        with pytest.raises(PoolError, match="connection"):
            await anext(client.arrivals(["todo"]))


# On real servers. -----------------------------------------------------------------------------------------------------


class Noted(RunActor):
    """Says which tokens have begun."""

    def __init__(self, tokens: EndlessViewIterator) -> None:
        super().__init__(tokens, tokens.modifier)
        self.begun: set[str] = set()
        self._more = anyio.Event()

    async def process_token(self, token: Token) -> None:
        self.begun.add(token.id)
        self._more.set()

    async def until(self, token_id: str) -> None:
        """Wait until a token has begun."""
        with anyio.fail_after(60):
            while token_id not in self.begun:
                await self._more.wait()
                self._more = anyio.Event()


@pytest.fixture(params=SERVERS)
def couch(request: pytest.FixtureRequest) -> Server:
    return server(request.config, request.param)


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pilots do not look by themselves: what they find, they were told of."""
    monkeypatch.setattr(view_iterators, "SAFETY_LOOK", 10_000.0)
    for module in (view_iterators, endless):
        monkeypatch.setattr(module, "IDLE_POLL", 10_000.0)
    monkeypatch.setattr(view_iterators, "Backoff", lambda **_: Backoff(first=10_000.0, most=10_000.0))
    monkeypatch.setattr(doorbell, "AGAIN", Backoff(first=0.05, most=0.2))


@pytest.mark.usefixtures("blind")
async def test_an_idle_pilot_is_woken(couch: Server) -> None:
    """By each token that comes, also while it works another."""
    with couch.database() as database:
        async with couch.client(database) as client, couch.client(database) as writer:
            await client.setup()
            actor = Noted(EndlessViewIterator(BasicViewIterator(client)))
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: actor.run(workers=2))
                for number in range(5):
                    await writer.upload([{"_id": f"t{number}"}])
                    await actor.until(f"t{number}")
                actor.iterator.stop()


@pytest.mark.usefixtures("blind")
async def test_a_token_that_comes_while_the_connection_is_broken_is_found(couch: Server) -> None:
    """The feed is opened anew, and then the views are looked at."""
    with couch.database() as database:
        async with couch.client(database) as writer, FaultProxy(couch.url) as proxy:
            await writer.setup()
            behind = CouchClient(proxy.url, database, couch.username, couch.password)
            async with behind:
                actor = Noted(EndlessViewIterator(BasicViewIterator(behind)))
                async with anyio.create_task_group() as group:
                    group.start_soon(lambda: actor.run(workers=2))
                    await writer.upload([{"_id": "before"}])
                    await actor.until("before")
                    await proxy.until(lambda: any(one.is_feed for one in proxy.seen))
                    await proxy.go_away()
                    await writer.upload([{"_id": "meanwhile"}])
                    await proxy.come_back()
                    await actor.until("meanwhile")
                    actor.iterator.stop()
