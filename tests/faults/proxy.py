"""A proxy in front of a server that speaks the CouchDB protocol, which does to requests what networks do.

Each request gets one fault: scripted for the next request of a kind, else drawn from a seed, else none. Every request
is recorded with its fault, so that a test can say that a fault has fired. The proxy can go away and come back on its
port, as a server that is restarted.

    async with FaultProxy(server.url) as proxy:
        proxy.script("POST */_bulk_docs", Fault.DROP_AFTER)
        async with CouchClient(proxy.url, "pool") as client: ...
        assert proxy.fired[Fault.DROP_AFTER] == 1
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from random import Random
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from tests.faults.http import MAX_HEAD, BrokenOffError, Head, pieces, read_body, read_head, unframed

DELAY: Final = 0.02
"""Seconds by which a delayed request is late: more than the server needs for the next one."""


class Fault(Enum):
    """What is done to a request."""

    PASS = "pass"
    DROP_BEFORE = "drop before"
    """The connection breaks, and the server never sees the request."""
    DROP_AFTER = "drop after"
    """The server carries it out, and the connection breaks before the answer."""
    DELAY = "delay"
    """It reaches the server a moment later than those that were sent after it."""
    LATE = "late"
    """The connection breaks, and only then does the request reach the server. See FaultProxy.hold."""
    HANG = "hang"
    """It is taken, and nothing is ever said; the server does not see it."""
    CUT = "cut"
    """The connection breaks in the middle of the answer."""
    STATUS_500 = "500"
    STATUS_503 = "503"
    STATUS_429 = "429"
    STATUS_408 = "408"
    """Refused with that status; the server does not see it."""
    STATUS_500_AFTER = "500 after"
    STATUS_503_AFTER = "503 after"
    STATUS_408_AFTER = "408 after"
    STATUS_504_AFTER = "504 after"
    """The server carries it out, and the client is told that it failed."""
    TOO_LARGE = "413"
    """Refused by its head; the connection breaks while its body is on the way."""
    GARBAGE = "garbage"
    """The server carries it out; the answer says that it is JSON, and is not."""
    PAGE = "page"
    """The server carries it out; the answer is JSON, but somebody else's."""
    NO_HTTP = "no http"
    """The server carries it out; what comes back is not even HTTP."""
    TRUNCATED = "truncated"
    """The server carries it out; the answer stops in the middle, and its Content-Length agrees."""
    SHORT = "short"
    """The same, but the Content-Length promises the rest."""


REFUSALS: Final[Mapping[Fault, str]] = {
    Fault.STATUS_500: "500 Internal Server Error",
    Fault.STATUS_503: "503 Service Unavailable",
    Fault.STATUS_429: "429 Too Many Requests",
    Fault.STATUS_408: "408 Request Timeout",
}
LIES: Final[Mapping[Fault, str]] = {
    Fault.STATUS_500_AFTER: "500 Internal Server Error",
    Fault.STATUS_503_AFTER: "503 Service Unavailable",
    Fault.STATUS_408_AFTER: "408 Request Timeout",
    Fault.STATUS_504_AFTER: "504 Gateway Timeout",
}
_TOLD_TO: Final = b'{"error":"proxy","reason":"told to"}'
UNSEEN: Final = frozenset({Fault.DROP_BEFORE, Fault.HANG, Fault.TOO_LARGE, *REFUSALS})
"""Faults of which the server never sees the request."""


@dataclass(slots=True)
class Exchange:
    """A request as it came, and what was done to it."""

    method: str
    target: str
    """The path with its query."""
    fault: Fault
    body: bytes = b""
    """Without frames; empty where the body was not awaited."""
    status: int | None = None
    """The server's answer; None where it did not get the request, or has not answered yet."""

    @property
    def name(self) -> str:
        """What scripts match: the method, and the path without its query."""
        return f"{self.method} {self.target.partition('?')[0]}"

    @property
    def is_feed(self) -> bool:
        """Whether its answer has no end."""
        return "feed=continuous" in self.target


@dataclass(slots=True)
class Seeded:
    """Faults drawn from a seed, one for each request in the order of their arrival.

    Args:
        seed: the same one draws the same faults.
        weights: by fault; what is not named never comes.
    """

    seed: int
    weights: Mapping[Fault, float]
    _rng: Random = field(init=False)

    def __post_init__(self) -> None:
        self._rng = Random(self.seed)

    def __call__(self, _exchange: Exchange) -> Fault:
        """The next fault."""
        return self._rng.choices(list(self.weights), list(self.weights.values()))[0]


def rate(share: float, *faults: Fault) -> dict[Fault, float]:
    """Weights by which that share of all requests gets one of these faults."""
    return {Fault.PASS: 1 - share, **dict.fromkeys(faults, share / len(faults))}


# Of the loop, in which a connection that was just taken comes to be served.
_TURNS: Final = 10


class FaultProxy:
    """A proxy on loopback; an async context manager.

    Args:
        server: the URL of the server behind it.
        plan: the fault of a request that no script is for.
        delay: seconds that a delayed request waits, and a late one after it is let go.
    """

    def __init__(
        self, server: str, plan: Callable[[Exchange], Fault] = lambda _: Fault.PASS, *, delay: float = DELAY
    ) -> None:
        parts = urlsplit(server)
        assert parts.hostname is not None
        self._behind = parts.hostname, parts.port or 80
        self.plan = plan
        self.seen: list[Exchange] = []
        self.meanwhile: Callable[[Exchange], Awaitable[None]] | None = None
        """Called with each request before it is passed on: a rival's chance."""
        self._delay = delay
        self._scripts: list[tuple[str, deque[Fault]]] = []
        self._port = 0
        self._listener: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._held = asyncio.Event()
        self._held.set()
        self._changed = asyncio.Condition()

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def fired(self) -> Counter[Fault]:
        """How many requests got which fault."""
        return Counter(exchange.fault for exchange in self.seen)

    def script(self, pattern: str, *faults: Fault) -> None:
        """Give the next requests of a kind these faults, in order.

        Args:
            pattern: of the method and the path without its query, as in a shell: `POST */_bulk_docs`.
            faults: one for each request; those after them are the plan's again.
        """
        self._scripts.append((pattern, deque(faults)))

    def clear(self) -> None:
        """Forget scripts that have not been used up, and what was seen."""
        self._scripts.clear()
        self.seen.clear()

    def _fault_of(self, exchange: Exchange) -> Fault:
        for pattern, faults in self._scripts:
            if faults and fnmatchcase(exchange.name, pattern):
                return faults.popleft()
        return self.plan(exchange)

    # Coming and going. --------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.come_back()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.deliver()
        await self.go_away()

    async def go_away(self) -> None:
        """Take no connections any more, and break those that there are, as a server that is killed."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # Python 3.11 leaves a connection open that it has taken when a listener is closed, and says nothing: close
            # it only when none is on its way.
            for each in listener.sockets:
                asyncio.get_running_loop().remove_reader(each.fileno())
        await self._break_connections()
        if listener is not None:
            listener.close()
            await listener.wait_closed()

    async def _break_connections(self) -> None:
        for _ in range(_TURNS):
            await asyncio.sleep(0)
            clients = list(self._clients.items())
            for task, writer in clients:
                writer.transport.abort()
                task.cancel()
            if clients:
                await asyncio.wait([task for task, _ in clients])

    async def come_back(self) -> None:
        """Listen again, on the same port as before."""
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=MAX_HEAD)
        self._port = self._listener.sockets[0].getsockname()[1]

    def hold(self) -> None:
        """Keep late requests until `deliver`."""
        self._held.clear()

    def deliver(self) -> None:
        """Let late requests reach the server."""
        self._held.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds of what was seen; looked at after each request and each answer of the server."""
        async with self._changed:
            await self._changed.wait_for(condition)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # Requests. ----------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients[task] = writer
        try:
            with suppress(BrokenOffError, ConnectionError, asyncio.CancelledError):
                while await self._one(reader, writer):
                    pass
        finally:
            del self._clients[task]
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; False where the connection ends with it."""
        head = await read_head(reader)
        if head is None:
            return False
        method, target, _ = head.first_line.split(" ", 2)
        exchange = Exchange(method, target, Fault.PASS)
        exchange.fault = self._fault_of(exchange)
        self.seen.append(exchange)
        if exchange.fault is Fault.TOO_LARGE:
            await _answer(writer, "413 Payload Too Large", b'{"error":"too_large","reason":"the proxy says so"}')
            await self._tell()
            return False
        body = await read_body(reader, head, is_answer=False)
        exchange.body = unframed(head, body)
        await self._tell()
        if exchange.fault in UNSEEN:
            return await self._refuse(exchange, reader, writer)
        if exchange.fault is Fault.LATE:
            writer.transport.abort()
            await self._held.wait()
        if exchange.fault in {Fault.DELAY, Fault.LATE}:
            await asyncio.sleep(self._delay)
        return await self._forward(exchange, head, body, writer)

    async def _refuse(self, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Do what the server does not see."""
        if exchange.fault in REFUSALS:
            await _answer(writer, REFUSALS[exchange.fault], _TOLD_TO)
            return exchange.method != "HEAD"  # whose answer has no body
        if exchange.fault is Fault.HANG:
            await reader.read()
        return False

    async def _forward(self, exchange: Exchange, head: Head, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Pass a request on, over a connection of its own, and give back the answer, or what is made of it."""
        if self.meanwhile is not None:
            await self.meanwhile(exchange)
        async with _connection(*self._behind) as (behind, to_behind):
            to_behind.write(head.with_headers(connection="close").encode() + body)
            await to_behind.drain()
            answer = await read_head(behind)
            if answer is None:
                return False
            exchange.status = answer.status
            source = _body_of(exchange, behind, answer)
            if exchange.fault in {Fault.PASS, Fault.DELAY}:
                await self._tell()
                return await _relay(answer, source, writer)
            content = await anext(source, b"") if exchange.is_feed else b"".join([piece async for piece in source])
        await self._tell()
        return await _spoil(exchange.fault, answer, content, writer) and exchange.method != "HEAD"


async def _body_of(exchange: Exchange, behind: asyncio.StreamReader, answer: Head) -> AsyncIterator[bytes]:
    """The pieces of the server's answer; none where there is no body, whatever the head says."""
    if exchange.method != "HEAD" and answer.status not in {204, 304}:
        async for piece in pieces(behind, answer, is_answer=True):
            yield piece


async def _relay(answer: Head, source: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> bool:
    """Give back an answer as it comes."""
    writer.write(answer.with_headers(connection=None).encode())
    async for piece in source:
        writer.write(piece)
        await writer.drain()
    await writer.drain()
    return answer.is_chunked or answer.length is not None or answer.status in {204, 304}


async def _spoil(fault: Fault, answer: Head, content: bytes, writer: asyncio.StreamWriter) -> bool:
    """Give back what a fault makes of an answer; False where the connection ends with it."""
    if fault in LIES:
        await _answer(writer, LIES[fault], _TOLD_TO)
    elif fault is Fault.GARBAGE:
        await _answer(writer, "200 OK", b"\x00\xff<<<[[[{")
    elif fault is Fault.PAGE:
        await _answer(writer, "200 OK", b'{"hello":"you are now connected"}')
    elif fault is Fault.TRUNCATED:
        half = unframed(answer, content)
        await _answer(writer, answer.first_line.split(" ", 1)[1], half[: len(half) // 2])
    elif fault is Fault.SHORT:
        half = unframed(answer, content)
        await _answer(writer, answer.first_line.split(" ", 1)[1], half[: len(half) // 2], promise=len(half) or 1)
        return await _hang_up(writer)
    elif fault is Fault.CUT:
        writer.write(answer.encode() + content[: len(content) // 2])
        await writer.drain()
        return False
    elif fault is Fault.NO_HTTP:
        writer.write(b"\x16\x03\x01 what was the question?\r\n\r\n")
        return await _hang_up(writer)
    else:  # DROP_AFTER, and LATE, whose client is gone
        return False
    return True


async def _answer(writer: asyncio.StreamWriter, status: str, body: bytes, *, promise: int | None = None) -> None:
    headers = (("Content-Type", "application/json"), ("Content-Length", str(promise or len(body))))
    writer.write(Head(f"HTTP/1.1 {status}", headers).encode() + body)
    await writer.drain()


async def _hang_up(writer: asyncio.StreamWriter) -> bool:
    """Close a connection in good order, so that all that was written arrives."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return False


@asynccontextmanager
async def _connection(host: str, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(host, port, limit=MAX_HEAD)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
