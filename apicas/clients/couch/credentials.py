"""Who we are to the server: nobody, a name and a password with each request, or a session's cookie.

Credentials sign requests as an aiohttp middleware sees them, so that aiocouch needs no password. A password is in no
repr, no message and no URL.
"""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp import hdrs
from yarl import URL

from apicas._documents import encode
from apicas._secrets import Secret
from apicas.exceptions import AccessDeniedError, ConfigError

_COOKIE: Final = "AuthSession"
# What may stand in a header as a cookie's value. The library decodes quotes and escapes, line ends among them.
_COOKIE_VALUE: Final = re.compile(r"[!#-+\--:<-\[\]-~]{1,4096}", re.ASCII)
Check = Callable[[aiohttp.ClientResponse], Awaitable[None]]
"""Raises for an answer that refuses."""


@dataclass(frozen=True, slots=True)
class Login:
    """A name and its password.

    Raises:
        ConfigError: they are no text that can be sent, as where the environment's bytes are not UTF-8.
    """

    username: str
    password: Secret

    def __post_init__(self) -> None:
        if not (_is_text(self.username) and _is_text(self.password.reveal())):
            raise ConfigError("the name or the password is no text: it holds bytes that are not UTF-8")


class Anonymous:
    """No credentials."""

    async def sign(self, request: aiohttp.ClientRequest) -> None:
        """Leave the request as it is."""

    async def renew(self, request: aiohttp.ClientRequest) -> bool:
        """There is nothing to renew."""
        del request
        return False

    def note(self, response: aiohttp.ClientResponse) -> None:
        """There is nothing to remember."""


class BasicCredentials(Anonymous):
    """Name and password with each request.

    Raises:
        ConfigError: the name has a colon, which would end it.
    """

    def __init__(self, login: Login) -> None:
        if ":" in login.username:  # not shown: what stands behind the colon may be the password
            raise ConfigError("the user name has a colon, which basic authentication cannot send")
        pair = f"{login.username}:{login.password.reveal()}"
        self._header = Secret("Basic " + b64encode(pair.encode()).decode())

    async def sign(self, request: aiohttp.ClientRequest) -> None:
        """Add the header."""
        request.headers[hdrs.AUTHORIZATION] = self._header.reveal()


class CookieCredentials(Anonymous):
    """A session, opened with name and password when the first request needs it, and again after it has expired.

    The server hands out a younger cookie with its answers from time to time, so a session in use does not expire.

    Args:
        login: name and password.
        server: the server's URL.
        check: raises for an answer that refuses the login.
    """

    def __init__(self, login: Login, server: URL, check: Check) -> None:
        self._login = login
        self._url = server / "_session"
        self._check = check
        self._cookie: Secret | None = None
        self._opening = asyncio.Lock()

    async def sign(self, request: aiohttp.ClientRequest) -> None:
        """Add the cookie; without one, open a session first."""
        if self._cookie is None:
            await self._open(request.session, None)
        self._add(request)

    async def renew(self, request: aiohttp.ClientRequest) -> bool:
        """Open a new session after a request was refused, and sign the request with it."""
        await self._open(request.session, _cookie_of(request))
        self._add(request)
        return True

    def note(self, response: aiohttp.ClientResponse) -> None:
        """Keep the younger cookie that an answer brings."""
        cookie = response.cookies.get(_COOKIE)
        if cookie is not None and _COOKIE_VALUE.fullmatch(cookie.value):
            self._cookie = Secret(cookie.value)

    def _add(self, request: aiohttp.ClientRequest) -> None:
        if self._cookie is None:
            raise AccessDeniedError(f"{self._url.origin()} opens no session: it answered the login with no cookie")
        request.headers[hdrs.COOKIE] = f"{_COOKIE}={self._cookie.reveal()}"

    async def _open(self, session: aiohttp.ClientSession, refused: Secret | None) -> None:
        """Open a session, unless another request has done so since the refused cookie was sent."""
        async with self._opening:
            if self._cookie != refused:
                return
            headers = {hdrs.CONTENT_TYPE: "application/json", hdrs.ACCEPT: "application/json"}
            # No middlewares: this request has no cookie to send yet.
            async with session.post(
                self._url, data=self._body(), headers=headers, middlewares=(), allow_redirects=False
            ) as response:
                await self._check(response)
                self.note(response)

    def _body(self) -> bytes:
        return encode({"name": self._login.username, "password": self._login.password.reveal()})


def _cookie_of(request: aiohttp.ClientRequest) -> Secret | None:
    value = request.headers.get(hdrs.COOKIE, "").removeprefix(f"{_COOKIE}=")
    return Secret(value) if value else None


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
