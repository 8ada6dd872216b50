"""The changes feed: what is written to a pool, followed over broken connections, and tokens that come into todo."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final
from urllib.parse import urlencode

import aiohttp
import anyio

from apicas._documents import decode, encode
from apicas.clients.couch.answers import change_of
from apicas.clients.couch.failures import AnswerLostError
from apicas.clients.couch.options import CouchOptions
from apicas.clients.couch.pulse import Pulse, may_follow
from apicas.clients.couch.transport import Transport
from apicas.clients.port import Arrival, StoredChange
from apicas.exceptions import InvalidTokenError, PoolError, PoolUnavailableError
from apicas.tokens import TYPES, TokenState, state_of

# Heartbeats that may fail to come before the connection counts as dead.
_MISSED_BEATS: Final = 3
# What pilots and uploads write. A person's `"0"` or `false` is in todo as well, and waits for the next look.
_TODO: Final = {"type": {"$in": [*TYPES]}, "lock": 0, "done": 0}


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


async def await_arrivals(
    transport: Transport, path: str, options: CouchOptions, pulse: Pulse, *, selects: bool
) -> AsyncGenerator[Arrival, None]:
    """Tell when a token may have come into todo, over one connection.

    The place in the feed is asked for first. So nothing is missed from the first answer on, however long the server
    takes to begin.

    Args:
        transport: to the server.
        path: of the database's `_changes`.
        options: for the heartbeat.
        pulse: how often the database is written to.
        selects: whether the server can leave out what is not in todo; else each document comes here.

    Raises:
        PoolUnavailableError: the connection broke, or was silent.
        PoolError: the server, or a proxy before it, has no such feed for us; or it is too busy for one.
    """
    if options.connections < 2:
        raise PoolError(f"{transport.address}: a feed takes a connection for itself, and connections is 1")
    query: dict[str, object] = {"feed": "continuous", "heartbeat": round(options.heartbeat * 1000)}
    query["since"] = since = await _now(transport, path)
    _check_pulse(transport, pulse.begin(since, anyio.current_time()), options)
    yield Arrival.POSSIBLE
    body = encode({"selector": _TODO}) if selects else None
    query |= {"filter": "_selector"} if selects else {"include_docs": "true"}
    silence = options.heartbeat * _MISSED_BEATS
    async with transport.stream(f"{path}?{urlencode(query)}", silence=silence, body=body) as response:
        _check_feed(transport, response.status)
        async with aclosing(_lines(transport, response)) as lines:
            async for line in lines:
                if not line.strip():
                    yield Arrival.NONE
                    if pulse.is_due(anyio.current_time()):
                        seq = await _now(transport, path)
                        _check_pulse(transport, pulse.measure(seq, anyio.current_time()), options)
                elif selects or _is_todo(line):
                    yield Arrival.POSSIBLE
    raise AnswerLostError(f"{transport.address}: the feed of arrivals ended")


def _check_pulse(transport: Transport, rate: float, options: CouchOptions) -> None:
    if not may_follow(rate, options.rng):
        raise PoolError(f"{transport.address}: it is written to {rate:.0f} times a second, too often to follow")


def _check_feed(transport: Transport, status: int) -> None:
    if status >= 500:
        raise AnswerLostError(f"{transport.address}: the feed of arrivals answers {status}")
    if status != 200:
        raise PoolError(f"{transport.address}: there is no feed of arrivals, the answer is {status}")


async def _lines(transport: Transport, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """The lines of an answer, of any length: some bring a whole document."""
    rest = b""
    async for data in response.content.iter_any():
        transport.traffic.received += len(data)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line


def _is_todo(line: bytes) -> bool:
    """Whether a change with its document says that a token is in todo."""
    try:
        document = decode(line).get("doc")
    except InvalidTokenError:  # what we cannot read may be one
        return True
    return isinstance(document, dict) and state_of(document) is TokenState.TODO
