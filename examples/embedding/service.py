"""A pilot inside an aiohttp service: it starts, works and stops with the application.

    python service.py
    curl -d '[1, 2, 3]' localhost:8080/numbers      # push tokens
    curl localhost:8080/numbers                     # see what became of them

The pilot installs no signal handlers here: the application has its own, and cancels the pilot when it stops. What was
being worked then goes back to todo.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from aiohttp import web

import apicas
from apicas.clients.base import PoolClient

POOL = web.AppKey("POOL", PoolClient)


async def square(token: apicas.Token) -> int:
    """The work."""
    await asyncio.sleep(0.05)
    return int(token["input"]) ** 2


async def pilot(app: web.Application) -> AsyncIterator[None]:
    """Keep a pilot running while the application runs."""
    async with apicas.connect(os.environ.get("APICAS_POOL", "sqlite:///service.db")) as client:
        await client.setup()
        app[POOL] = client
        task = asyncio.create_task(apicas.run(square, client, workers=16, endless=True, handle_signals=False))
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def push(request: web.Request) -> web.Response:
    """POST /numbers: a list of numbers, each a token."""
    report = await request.app[POOL].upload({"input": number} for number in await request.json())
    return web.json_response({"pushed": report.uploaded}, status=202)


async def results(request: web.Request) -> web.Response:
    """GET /numbers: what is done, and how many tokens are in which state."""
    client = request.app[POOL]
    rows: list[Any] = [row.document for row in await client.view("done", include_docs=True) if row.document]
    squares = {str(document["input"]): document["output"] for document in rows}
    return web.json_response({"counts": await client.counts(), "squares": squares})


def make_app() -> web.Application:
    """The application."""
    app = web.Application()
    app.cleanup_ctx.append(pilot)
    app.add_routes([web.post("/numbers", push), web.get("/numbers", results)])
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=8080)
