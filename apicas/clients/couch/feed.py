"""The changes feed: what is written to a pool, followed over broken connections."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final
from urllib.parse import urlencode

from apicas.clients.couch.answers import change_of
from apicas.clients.couch.failures import AnswerLostError
from apicas.clients.couch.options import CouchOptions
from apicas.clients.couch.transport import Transport
from apicas.clients.port import StoredChange
from apicas.exceptions import PoolUnavailableError

# Heartbeats that may fail to come before the connection counts as dead.
_MISSED_BEATS: Final = 3


async def follow(
    transport: Transport, path: str, since: str | None, options: CouchOptions
) -> AsyncGenerator[StoredChange, None]:
    """Yield changes until closed, those of design documents left out.

    Args:
        transport: to the server.
        path: of the database's `_changes`.
        since: a `seq`, "0" for the beginning, None for now.
        options: for the heartbeat, and for how often in a row a connection may fail.

    Raises:
        PoolUnavailableError: the feed failed as often as the options allow, without a sign of life in between.
    """
    # "Now" is made a number at once: after a broken connection, the feed must go on from where it began.
    last = await _now(transport, path) if since is None else since
    failures = 0
    while True:
        try:
            async with aclosing(_connection(transport, path, last, options.heartbeat)) as changes:
                async for change in changes:
                    failures = 0
                    if change is None:
                        continue
                    last = change.seq
                    if not change.id.startswith("_design/"):
                        yield change
        except PoolUnavailableError:
            failures += 1
            if failures >= options.attempts:
                raise
        await transport.pause(failures)


async def _now(transport: Transport, path: str) -> str:
    answer = await transport.ask("GET", f"{path}?since=now&limit=1")
    return str(answer.value()["last_seq"])


async def _connection(
    transport: Transport, path: str, since: str, heartbeat: float
) -> AsyncGenerator[StoredChange | None, None]:
    """What one connection brings; None for a sign of life."""
    query = urlencode({"feed": "continuous", "since": since, "heartbeat": round(heartbeat * 1000)})
    async with transport.stream(f"{path}?{query}", silence=heartbeat * _MISSED_BEATS) as response:
        if response.status >= 400:
            raise AnswerLostError(f"{transport.address}: the changes feed answers {response.status}")
        async for line in response.content:
            yield change_of(line)
    # A server that shuts down ends the feed in good order; to those who follow it, that is the same.
    raise AnswerLostError(f"{transport.address}: the changes feed ended")
