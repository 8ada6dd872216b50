"""A server that plays prepared answers: for what a real server cannot be made to answer on demand."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Play = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Script:
    """Answers by method and the path's last part; the last of a list is repeated for ever."""

    url: str = ""
    plays: dict[str, list[Play]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def on(self, what: str, *plays: Play) -> None:
        """Prepare answers: `on("POST _bulk_docs", answer(503), answer(201, [...]))`."""
        self.plays[what] = list(plays)

    def count(self, what: str) -> int:
        return sum(_name(seen.method, seen.path) == what for seen in self.seen)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append(Seen(request.method, request.raw_path, dict(request.headers), body))
        plays = self.plays.get(_name(request.method, request.path))
        if not plays:
            return await answer(404, {"error": "not_found", "reason": "missing"})(request, body)
        play = plays.pop(0) if len(plays) > 1 else plays[0]
        return await play(request, body)

    async def hang(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """Never answer, until the test is over."""
        await self.closing.wait()
        return web.Response()


def _name(method: str, path: str) -> str:
    return f"{method} {path.partition('?')[0].rstrip('/').rpartition('/')[2]}"


def answer(status: int, body: Any = None, headers: dict[str, str] | None = None) -> Play:
    """Answer with JSON."""

    async def play(request: web.Request, _: bytes) -> web.StreamResponse:
        return web.json_response({} if body is None else body, status=status, headers=headers)

    return play


async def drop(request: web.Request, body: bytes) -> web.StreamResponse:
    """Take the request, and break the connection."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


DATABASE = {"db_name": "pool", "cluster": {"n": 1}}


@asynccontextmanager
async def playing(tls: ssl.SSLContext | None = None) -> AsyncIterator[Script]:
    """Run a server; its database `pool` exists."""
    script = Script()
    script.on("GET pool", answer(200, DATABASE))
    application = web.Application(client_max_size=1 << 30)
    application.router.add_route("*", "/{path:.*}", script.handle)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    host, port = runner.addresses[0][:2]
    script.url = f"http{'s' if tls else ''}://{host}:{port}"
    try:
        yield script
    finally:
        script.closing.set()
        await runner.cleanup()
