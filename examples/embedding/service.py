"""A pilot inside an aiohttp service: it starts, works and stops with the application.

    python service.py
    curl -d '[1, 2, 3]' localhost:8080/numbers      # push tokens
    curl localhost:8080/numbers                     # see what became of them
    curl -f localhost:8080/health                   # whether the pilot lives

The pilot installs no signal handlers: the application has its own. When it stops, the pilot claims nothing more, what
is being worked gets 20 s to finish (`grace=`), and goes back to todo after that.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from aiohttp import web

import apicas
from apicas.embedding import EmbeddedPilot, cleanup_ctx

PILOT = web.AppKey("PILOT", EmbeddedPilot)


async def square(token: apicas.Token) -> int:
    """The work."""
    await asyncio.sleep(0.05)
    return int(token["input"]) ** 2


async def push(request: web.Request) -> web.Response:
    """POST /numbers: a list of numbers, each a token."""
    client = request.app[PILOT].client
    report = await client.upload({"input": number} for number in await request.json())
    return web.json_response({"pushed": report.uploaded}, status=202)


async def results(request: web.Request) -> web.Response:
    """GET /numbers: what is done, and how many tokens are in which state."""
    client = request.app[PILOT].client
    rows: list[Any] = [row.document for row in await client.view("done", include_docs=True) if row.document]
    squares = {str(document["input"]): document["output"] for document in rows}
    return web.json_response({"counts": await client.counts(), "squares": squares})


async def health(request: web.Request) -> web.Response:
    """GET /health: what the pilot has done; 503 where it has died."""
    pilot = request.app[PILOT]
    try:
        pilot.check()
    except apicas.PilotDiedError as error:
        return web.Response(text=f"{error}\n", status=503)
    return web.Response(text=f"{pilot.report}\n")


def make_app() -> web.Application:
    """The application."""
    app = web.Application()
    app[PILOT] = EmbeddedPilot(square, os.environ.get("APICAS_POOL", "sqlite:///service.db"), workers=16)
    app.cleanup_ctx.append(cleanup_ctx(app[PILOT]))
    app.add_routes([web.post("/numbers", push), web.get("/numbers", results), web.get("/health", health)])
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=8080)
