"""Requests to one CouchDB server: sent once, or repeated where that is safe, for a bounded number of times.

Two sessions, ours for the hot path and aiocouch's for administration, share one pool of connections and one gate.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from json import JSONDecodeError
from typing import Any, Final, TypeVar

import aiocouch
import aiohttp
import anyio
import anyio.to_thread
from aiohttp import hdrs
from yarl import URL

from apicas._documents import decode
from apicas.clients.couch.answers import error_of, is_no_database, reason_of
from apicas.clients.couch.failures import AnswerLostError, translated
from apicas.clients.couch.gate import Gate
from apicas.clients.couch.options import CouchOptions
from apicas.clients.port import Traffic
from apicas.exceptions import ConfigError, InvalidTokenError, PoolError, PoolNotFoundError, PoolUnavailableError

T = TypeVar("T")

# A server that takes no connection within this time is away, or its queue of connections is full.
_CONNECT_SECONDS: Final = 10.0
_JSON: Final[dict[str, str]] = {hdrs.CONTENT_TYPE: "application/json"}


@dataclass(frozen=True)
class Answer:
    """An answer that was read whole."""

    address: str
    status: int
    body: bytes

    @property
    def reason(self) -> str:
        """Why, in one line for people."""
        return reason_of(self.status, self.body)

    def value(self) -> dict[str, Any]:
        """The JSON object of a good answer. A field that it lacks is no KeyError either, but PoolUnavailableError.

        Raises:
            PoolError: the request was refused.
            PoolUnavailableError: the answer is not CouchDB's.
        """
        value = self.json()
        if not isinstance(value, dict):
            raise PoolUnavailableError(f"{self.address}: an answer that is not CouchDB's, as a proxy gives")
        return _Fields(self.address, value)

    def json(self) -> Any:
        """The JSON of a good answer, whatever it is; raises as `value` does."""
        if self.status >= 400:
            raise PoolError(f"{self.address}: {self.reason}")
        return self._decoded

    @cached_property
    def _decoded(self) -> Any:
        try:
            return decode(self.body)
        except InvalidTokenError as error:
            raise PoolUnavailableError(f"{self.address}: an answer that is no JSON, as a proxy gives") from error


class _Fields(dict[str, Any]):
    """The fields of an answer."""

    def __init__(self, address: str, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self._address = address

    def __missing__(self, name: str) -> Any:
        raise PoolUnavailableError(f"{self._address}: an answer without {name!r}, as a proxy gives")


class Transport:
    """Connections to one server; `open` first.

    Args:
        address: the pool's, without secrets.
        server: the server's URL, without secrets.
        gate: what every request passes.
        options: how to go about it.
    """

    def __init__(self, address: str, server: URL, gate: Gate, options: CouchOptions) -> None:
        self.address = address
        self.traffic = Traffic()
        self._server = str(server).rstrip("/")
        self._gate = gate
        self._options = options
        self._session: aiohttp.ClientSession | None = None
        self._couch: aiocouch.CouchDB | None = None

    async def open(self) -> bool:
        """Make the sessions, unless they are there; connections follow with the first requests.

        Raises:
            ConfigError: the file with certificates cannot be read.
        """
        if self._session is not None:
            return False
        # Reading certificates takes milliseconds, in which the loop would stand still.
        trust = await anyio.to_thread.run_sync(self._trust)
        connector = aiohttp.TCPConnector(limit=self._options.connections, ssl=trust)
        settings: dict[str, Any] = {
            "connector": connector,
            "timeout": self._timeout(self._options.timeout),
            "middlewares": (self._gate, self._count),
            # The credentials keep the one cookie that matters; a jar would keep none for a numeric address.
            "cookie_jar": aiohttp.DummyCookieJar(),
        }
        self._session = aiohttp.ClientSession(**settings)
        self._couch = aiocouch.CouchDB(self._server, connector_owner=False, **settings)
        return True

    async def aclose(self) -> None:
        """Close the connections. May be called twice."""
        session, couch = self._session, self._couch
        self._session = self._couch = None
        # Shielded, since a cancellation in the first would leave the second open; neither waits for the server.
        with anyio.CancelScope(shield=True):
            # aiocouch first: it looks into the connector, which the other session closes.
            if couch is not None:
                await couch.close()
            if session is not None:
                await session.close()

    @property
    def couch(self) -> aiocouch.CouchDB:
        """The handle for administration."""
        return self._opened(self._couch)

    def _opened(self, handle: T | None) -> T:
        if handle is None:
            raise PoolError(f"{self.address} is not open: enter the client first, with `async with`")
        return handle

    def _trust(self) -> ssl.SSLContext | bool:
        if not self._server.startswith("https:"):
            return True
        if not self._options.verify:
            return False
        if self._options.ca_file is None:
            return True
        try:
            return ssl.create_default_context(cafile=self._options.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"ca_file {str(self._options.ca_file)!r} cannot be used: {error}") from error

    @staticmethod
    def _timeout(seconds: float) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, _CONNECT_SECONDS))

    async def send(self, method: str, path: str, body: bytes | None = None, *, timeout: float | None = None) -> Answer:
        """Send a request once.

        Args:
            method: of HTTP.
            path: with its query, both encoded.
            body: JSON.
            timeout: seconds; None for what the options say.

        Raises:
            NotConnectedError: it never left.
            AnswerLostError: it may have been carried out.
            ServerFailedError: the server answered 408, 429 or 5xx.
            AccessDeniedError: 401 or 403.
            PoolNotFoundError: the database does not exist.
        """
        seconds = self._options.timeout if timeout is None else timeout
        self.traffic.sent += len(body or b"")
        async with self._request(method, path, body, timeout=self._timeout(seconds)) as response:
            answer = Answer(self.address, response.status, await response.read())
        self.traffic.received += len(answer.body)
        self._check_database(answer)
        return answer

    async def ask(self, method: str, path: str, body: bytes | None = None, *, timeout: float | None = None) -> Answer:
        """Send a request that only reads: once, or until it succeeds, with JSON, within the attempts allowed."""

        async def attempt() -> Answer:
            answer = await self.send(method, path, body, timeout=timeout)
            if answer.status < 400:
                answer.json()
            return answer

        return await self.repeat(attempt)

    async def repeat(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Do what may be done twice, until it succeeds or the attempts are used up.

        Raises:
            PoolUnavailableError: it failed each time; this is the last failure.
        """
        for number in range(self._options.attempts - 1):
            try:
                return await self.administer(attempt)
            except PoolUnavailableError:
                await self.pause(number)
        return await self.administer(attempt)

    async def administer(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Do one thing that may raise errors of aiohttp's, as aiocouch does, which also trusts every answer."""
        with translated(self.address, self._gate.unusable):
            try:
                return await attempt()
            except (JSONDecodeError, UnicodeDecodeError) as error:
                raise AnswerLostError(f"{self.address}: an answer that is no JSON, as a proxy gives") from error
            except KeyError as error:
                if type(error) is not KeyError:  # aiocouch's own errors are KeyErrors too
                    raise
                raise AnswerLostError(f"{self.address}: an answer without {error}, as a proxy gives") from error

    async def pause(self, attempt: int) -> None:
        """Wait before the next attempt; `attempt` counts from 0."""
        await anyio.sleep(self._options.backoff.delay(attempt, self._options.rng))

    @asynccontextmanager
    async def stream(
        self, path: str, *, silence: float, body: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask for an answer to be read in pieces, for as long as it takes.

        Args:
            path: with its query, both encoded.
            silence: seconds without a byte after which the answer counts as lost.
            body: JSON to POST; None for a GET.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=silence)
        # Compression, by the server or a proxy, holds back what does not fill a block: a change, or a heartbeat.
        headers: dict[str, str] = {hdrs.ACCEPT_ENCODING: "identity", **(_JSON if body is not None else {})}
        method = "GET" if body is None else "POST"
        async with self._request(method, path, body, headers=headers, timeout=timeout) as response:
            if response.status >= 400:
                self._check_database(Answer(self.address, response.status, await response.read()))
            yield response

    async def upload(self, path: str, data: AsyncIterator[bytes], content_type: str) -> Answer:
        """PUT a stream, once, for as long as it moves.

        Raises:
            NotConnectedError: it never left, and nothing of the stream was used.
            AnswerLostError: it may have been carried out.
        """
        headers: dict[str, str] = {hdrs.CONTENT_TYPE: content_type}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=self._options.timeout)
        async with self._request("PUT", path, data, headers=headers, timeout=timeout, once=True) as response:
            answer = Answer(self.address, response.status, await response.read())
        self._check_database(answer)
        return answer

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        data: bytes | AsyncIterator[bytes] | None,
        *,
        timeout: aiohttp.ClientTimeout,
        headers: dict[str, str] | None = None,
        once: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        # Encoded by us: the library would take an id of `..`, or with a slash, for a part of the path.
        url = URL(f"{self._server}/{path}", encoded=True)
        with translated(self.address, self._gate.unusable):
            async with self._opened(self._session).request(
                method,
                url,
                data=data,
                headers=_JSON if headers is None else headers,
                timeout=timeout,
                allow_redirects=False,
                middlewares=(self._gate, self._count, _Once()) if once else None,
            ) as response:
                yield response

    async def _count(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        self.traffic.requests += 1
        return await handler(request)

    def _check_database(self, answer: Answer) -> None:
        if answer.status == 404 and is_no_database(error_of(answer.body)[1]):
            raise PoolNotFoundError(f"{self.address} does not exist: run `apicas init`")


class _Once:
    """Keeps aiohttp from repeating a PUT by itself when a connection breaks: the first may have been carried out."""

    def __init__(self) -> None:
        self._sent = False

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if self._sent:
            raise aiohttp.ServerDisconnectedError("the connection broke")
        try:
            return await handler(request)
        except aiohttp.ClientConnectorError:
            raise
        except BaseException:
            self._sent = True
            raise
