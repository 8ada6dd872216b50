"""The same service on Starlette; FastAPI takes the same lifespan. Any ASGI server runs it:

uvicorn asgi_service:app
"""

from __future__ import annotations

import asyncio
import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import apicas
from apicas.embedding import EmbeddedPilot, lifespan


async def square(token: apicas.Token) -> int:
    """The work."""
    await asyncio.sleep(0.05)
    return int(token["input"]) ** 2


async def push(request: Request) -> Response:
    """POST /numbers: a list of numbers, each a token."""
    pilot: EmbeddedPilot = request.app.state.pilot
    report = await pilot.client.upload({"input": number} for number in await request.json())
    return JSONResponse({"pushed": report.uploaded}, status_code=202)


async def results(request: Request) -> Response:
    """GET /numbers: how many tokens are in which state."""
    pilot: EmbeddedPilot = request.app.state.pilot
    return JSONResponse({"counts": await pilot.client.counts()})


async def health(request: Request) -> Response:
    """GET /health: what the pilot has done; 503 where it has died."""
    pilot: EmbeddedPilot = request.app.state.pilot
    try:
        pilot.check()
    except apicas.PilotDiedError as error:
        return PlainTextResponse(f"{error}\n", status_code=503)
    return PlainTextResponse(f"{pilot.report}\n")


def make_app() -> Starlette:
    """The application."""
    pilot = EmbeddedPilot(square, os.environ.get("APICAS_POOL", "sqlite:///service.db"), workers=16)
    routes = [
        Route("/numbers", push, methods=["POST"]),
        Route("/numbers", results),
        Route("/health", health),
    ]
    app = Starlette(routes=routes, lifespan=lifespan(pilot))
    app.state.pilot = pilot
    return app


app = make_app()
