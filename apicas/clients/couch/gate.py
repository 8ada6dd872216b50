"""The gate: what every request to the server passes, ours and aiocouch's. An aiohttp client middleware.

It signs requests, learns the store's time from answers, and turns an answer that no caller could use into an error,
in one place:

- 401 and 403 are final. CouchDB locks an account out after repeated failures, so once the credentials are refused
  nothing is sent any more.
- 408, 429 and 5xx: the server cannot now.
- A redirect is not followed, since the credentials would go along.
"""

from __future__ import annotations

from typing import Final

import aiohttp
from aiohttp import hdrs
from aiohttp.payload import AsyncIterablePayload
from yarl import URL

from apicas.clients.couch.answers import are_bad_credentials, error_of, reason_of
from apicas.clients.couch.clock import StoreClock
from apicas.clients.couch.credentials import Anonymous, BasicCredentials, CookieCredentials, Login
from apicas.clients.couch.failures import ServerFailedError
from apicas.exceptions import AccessDeniedError, ApicasError, ConfigError, PoolUnavailableError

_CANNOT_NOW: Final = frozenset({408, 425, 429})
_NOTHING_GIVEN: Final = (
    " No password was given: say password=, or use apicas.configuration.configure(pool).connect(), which finds it "
    "where `apicas` does; `apicas doctor` says whether there is one"
)


class Gate:
    """Passes requests to one server, under one set of credentials.

    Args:
        address: the pool's, without secrets, for messages.
        server: the server's URL, without secrets.
        login: name and password; None for neither.
        cookie: authenticate by session.
        clock: learns from answers.
    """

    def __init__(self, address: str, server: URL, login: Login | None, *, cookie: bool, clock: StoreClock) -> None:
        self._address = address
        self._clock = clock
        self._denied: str | None = None
        self._lacks_password = login is not None and not login.password.reveal()
        self._answered = False
        self._credentials: Anonymous
        if login is None:
            self._credentials = Anonymous()
        elif cookie:
            self._credentials = CookieCredentials(login, server, self._check)
        else:
            self._credentials = BasicCredentials(login)

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Pass one request.

        Raises:
            AccessDeniedError: now, or already before.
            ServerFailedError: the server cannot.
            ConfigError: the first answer is a redirect.
        """
        if self._denied is not None:
            raise AccessDeniedError(self._denied)
        request.headers[hdrs.ACCEPT] = "application/json"
        await self._credentials.sign(request)
        response = await self._send(request, handler)
        if response.status == 401 and await self._credentials.renew(request):
            response.release()
            if isinstance(request.body, AsyncIterablePayload):
                raise PoolUnavailableError(f"{self._address}: the session had expired; a new one is open: try again")
            response = await self._send(request, handler)
        await self._check(response)
        self._credentials.note(response)
        self._answered = True
        return response

    def unusable(self, message: str) -> ApicasError:
        """The error for a server that cannot be used as it is addressed: at first contact the address is to blame."""
        return PoolUnavailableError(message) if self._answered else ConfigError(message)

    async def _send(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        sent = self._clock.now()
        response = await handler(request)
        self._clock.learn(response.headers.get(hdrs.DATE), sent, self._clock.now())
        return response

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status in {401, 403}:
            raise self._deny(status, await _body(response))
        if status in _CANNOT_NOW or status >= 500:
            body = await _body(response)
            raise ServerFailedError(f"{self._address}: {reason_of(status, body)}", status, body)
        if 300 <= status < 400:
            await _body(response)
            target = _without_secrets(response.headers.get(hdrs.LOCATION, ""))
            raise self.unusable(
                f"{self._address} redirects to {target!r}; redirects are not followed: use that address"
            )

    def _deny(self, status: int, body: bytes) -> AccessDeniedError:
        message = f"{self._address}: access denied: {reason_of(status, body)}"
        if self._lacks_password and status == 401:
            message += _NOTHING_GIVEN
        if not self._answered or are_bad_credentials(error_of(body)[1]):
            self._denied = message
        return AccessDeniedError(message)


async def _body(response: aiohttp.ClientResponse) -> bytes:
    async with response:
        return await response.read()


def _without_secrets(location: str) -> str:
    try:
        return str(URL(location).with_user(None).with_query(None))
    except ValueError:
        return "elsewhere"
