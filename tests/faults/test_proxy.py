"""The fault proxy itself: each fault does what it says, and the same seed does the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from tests.faults.proxy import LIES, REFUSALS, UNSEEN, Fault, FaultProxy, Seeded, rate
from tests.integration.scripted import Script, answer, playing

TEXT = '{"rows":[1,2,3,4,5,6,7,8,9]}'
ROWS = json.loads(TEXT)


@pytest.fixture
async def server() -> AsyncIterator[Script]:
    async with playing() as script:
        script.on("POST _bulk_docs", answer(200, ROWS))
        yield script


@asynccontextmanager
async def through(proxy: FaultProxy, timeout: float = 30.0) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(proxy.url, timeout=aiohttp.ClientTimeout(total=timeout)) as session:
        yield session


async def post(session: aiohttp.ClientSession, body: bytes = b"{}") -> tuple[int, bytes]:
    async with session.post("/pool/_bulk_docs", data=body) as response:
        return response.status, await response.read()


@pytest.mark.parametrize("fault", [Fault.PASS, Fault.DELAY])
async def test_what_passes_is_unchanged(server: Script, fault: Fault) -> None:
    """Bodies of both framings go through in both directions, over one connection."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"some "
        yield b"pieces"

    async def streamed(request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(3):
            await response.write(b"%d" % number + b"x" * 100_000)
        return response

    async with FaultProxy(server.url, lambda _: fault) as proxy, through(proxy) as session:
        status, body = await post(session, b"a" * 300_000)
        assert (status, json.loads(body)) == (200, ROWS)
        assert server.seen[-1].body == b"a" * 300_000
        server.on("PUT log", streamed)
        async with session.put("/pool/t/log?rev=1-a", data=chunks()) as response:
            assert len(await response.read()) == 300_003
        assert (server.seen[-1].body, server.seen[-1].path) == (b"some pieces", "/pool/t/log?rev=1-a")
        async with session.head("/pool") as response:
            assert response.status == 404
        assert [exchange.name for exchange in proxy.seen] == ["POST /pool/_bulk_docs", "PUT /pool/t/log", "HEAD /pool"]
        assert [exchange.body for exchange in proxy.seen] == [b"a" * 300_000, b"some pieces", b""]
        assert proxy.fired == {fault: 3}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.DROP_BEFORE, aiohttp.ClientConnectionError),
        (Fault.DROP_AFTER, aiohttp.ClientConnectionError),
        (Fault.CUT, (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)),
        (Fault.SHORT, aiohttp.ClientPayloadError),
        (Fault.NO_HTTP, aiohttp.ClientError),
    ],
)
async def test_a_broken_answer_is_an_error_of_the_connection(
    server: Script, fault: Fault, expected: type[Exception]
) -> None:
    """Before or after the server has carried the request out; the next request is none the worse."""
    async with FaultProxy(server.url) as proxy, through(proxy) as session:
        proxy.script("POST */_bulk_docs", fault)
        with pytest.raises(expected):
            await post(session)
        assert server.count("POST _bulk_docs") == (0 if fault in UNSEEN else 1)
        assert (await post(session))[0] == 200
        assert proxy.fired == {fault: 1, Fault.PASS: 1}


@pytest.mark.parametrize("fault", [*REFUSALS, *LIES])
async def test_a_status_is_answered(server: Script, fault: Fault) -> None:
    """Where the server has not seen the request, and where it has carried it out."""
    async with FaultProxy(server.url) as proxy, through(proxy) as session:
        proxy.script("POST *", fault)
        status, body = await post(session)
        assert f"{status} " in f"{fault.value} "
        assert json.loads(body)["error"] == "proxy"
        assert server.count("POST _bulk_docs") == (1 if fault in LIES else 0)
        assert (await post(session))[0] == 200


@pytest.mark.parametrize("fault", [Fault.GARBAGE, Fault.TRUNCATED, Fault.PAGE])
async def test_a_spoilt_answer_looks_good(server: Script, fault: Fault) -> None:
    """A good status and a Content-Length that is right, around something else than the server's answer."""
    async with FaultProxy(server.url) as proxy, through(proxy) as session:
        proxy.script("POST *", fault)
        status, body = await post(session)
        assert status == 200
        assert server.count("POST _bulk_docs") == 1
        if fault is Fault.PAGE:
            assert "rows" not in json.loads(body)
        else:
            with pytest.raises(ValueError, match=r"."):
                json.loads(body)
        if fault is Fault.TRUNCATED:
            assert json.dumps(ROWS).encode().startswith(body)


async def test_what_is_too_large_is_refused_by_its_head(server: Script) -> None:
    """The connection breaks while the body is on the way; whether the answer is still read is a matter of luck."""
    async with FaultProxy(server.url) as proxy, through(proxy) as session:
        proxy.script("POST *", Fault.TOO_LARGE)
        try:
            status, _ = await post(session, b"a" * 1_000_000)
        except aiohttp.ClientError:
            status = 413
        assert status == 413
        assert not server.seen


async def test_a_late_request_arrives_after_its_connection_broke(server: Script) -> None:
    """Its client believes that it is lost; the server sees it when it is let go, and not before."""
    async with FaultProxy(server.url) as proxy, through(proxy) as session:
        proxy.hold()
        proxy.script("POST *", Fault.LATE)
        with pytest.raises(aiohttp.ClientConnectionError):
            await post(session)
        assert (await post(session, b"a later one"))[0] == 200
        proxy.deliver()
        await proxy.until(lambda: proxy.seen[0].status is not None)
        assert [seen.body for seen in server.seen] == [b"a later one", b"{}"]


async def test_a_hanging_request_costs_the_timeout(server: Script) -> None:
    """It is taken, and nothing comes back; the server does not see it."""
    async with FaultProxy(server.url) as proxy, through(proxy, timeout=0.05) as session:
        proxy.script("POST *", Fault.HANG)
        with pytest.raises(TimeoutError):
            await post(session)
        assert not server.seen


async def test_an_answer_without_end_is_passed_on_as_it_comes(server: Script) -> None:
    """And can be cut after its first piece."""

    async def feed(request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"seq":1}\n' * 2)
        await server.closing.wait()
        return response

    server.on("GET _changes", feed)
    async with FaultProxy(server.url) as proxy, through(proxy) as session:
        async with session.get("/pool/_changes?feed=continuous") as response:
            assert await response.content.readline() == b'{"seq":1}\n'
        proxy.script("GET */_changes", Fault.CUT)
        async with session.get("/pool/_changes?feed=continuous") as response:
            with pytest.raises(aiohttp.ClientError):
                await response.read()


async def test_a_proxy_that_was_away_comes_back_on_its_port(server: Script) -> None:
    """Requests that are under way break, and later ones find nobody, until it is back."""
    async with FaultProxy(server.url) as proxy, through(proxy) as session:
        url = proxy.url
        assert (await post(session))[0] == 200
        proxy.script("POST *", Fault.HANG)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(_fails(session))
            await proxy.until(lambda: bool(proxy.fired[Fault.HANG]))
            await proxy.go_away()
            assert isinstance(await waiting, aiohttp.ClientConnectionError)
        assert isinstance(await _fails(session), aiohttp.ClientConnectorError)
        await proxy.come_back()
        assert proxy.url == url
        assert (await post(session))[0] == 200


async def _fails(session: aiohttp.ClientSession) -> aiohttp.ClientError:
    with pytest.raises(aiohttp.ClientError) as caught:
        await post(session)
    return caught.value


async def test_a_seed_draws_the_same_faults(server: Script) -> None:
    """In the order of the requests; another seed draws others; scripts take nothing from it."""

    async def faults(seed: int) -> list[Fault]:
        plan = Seeded(seed, rate(0.5, Fault.STATUS_500, Fault.STATUS_429, Fault.GARBAGE))
        async with FaultProxy(server.url, plan) as proxy, through(proxy) as session:
            proxy.script("POST *", Fault.STATUS_503)
            for _ in range(41):
                await post(session)
            assert proxy.seen[0].fault is Fault.STATUS_503
            return [exchange.fault for exchange in proxy.seen[1:]]

    first = await faults(1)
    assert first == await faults(1)
    assert first != await faults(2)
    assert set(first) == {Fault.PASS, Fault.STATUS_500, Fault.STATUS_429, Fault.GARBAGE}
    assert 10 < first.count(Fault.PASS) < 30


async def test_scripts_are_for_the_next_requests_of_a_kind(server: Script) -> None:
    """In their order; other requests pass."""
    server.on("GET pool", answer(200, {}))
    async with FaultProxy(server.url) as proxy, through(proxy) as session:
        proxy.script("POST */_bulk_docs", Fault.STATUS_500, Fault.PASS, Fault.STATUS_429)
        async with session.get("/pool") as response:
            assert response.status == 200
        assert [(await post(session))[0] for _ in range(4)] == [500, 200, 429, 200]
        proxy.script("GET *", Fault.STATUS_408)
        proxy.clear()
        async with session.get("/pool") as response:
            assert response.status == 200
        assert proxy.fired == {Fault.PASS: 1}
