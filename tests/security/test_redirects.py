"""A redirect is an error: credentials go to the server that was named, and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from apicas.clients.couch import CouchClient
from apicas.exceptions import ApicasError, ConfigError, PoolUnavailableError
from apicas.policies.retries import Backoff
from tests.integration.scripted import DATABASE, Play, Script, answer, playing

CODES = [301, 302, 303, 307, 308]
SESSION = answer(200, {"ok": True}, headers={"Set-Cookie": "AuthSession=the-cookie"})


def client(script: Script, auth: Any = "basic") -> CouchClient:
    return CouchClient(script.url, "pool", "me", "s3cr3t", auth=auth, backoff=Backoff(first=0.0), attempts=2)


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    async with playing() as script:
        script.on("POST _session", SESSION)
        yield script


@pytest.fixture
async def elsewhere() -> AsyncIterator[Script]:
    """Another port of the same host, with all that a redirected client could want."""
    async with playing() as script:
        for what in ("POST _bulk_get", "POST _bulk_docs", "PUT log", "GET log", "GET _changes", "GET _security"):
            script.on(what, answer(200, {"results": [], "rows": []}))
        script.on("POST _session", SESSION)
        yield script


def redirect(status: int, target: str) -> Play:
    return answer(status, headers={"Location": target, "Set-Cookie": "AuthSession=theirs"})


@pytest.mark.parametrize("auth", ["basic", "cookie"])
@pytest.mark.parametrize("status", CODES)
async def test_a_redirect_at_first_contact_is_one_clear_error(
    script: Script, elsewhere: Script, status: int, auth: str
) -> None:
    script.on("GET pool", redirect(status, f"{elsewhere.url}/pool"))
    with pytest.raises(ConfigError, match="redirects are not followed: use that address"):
        await client(script, auth).open()
    assert not elsewhere.seen


@pytest.mark.parametrize("status", CODES)
async def test_a_login_is_not_redirected(script: Script, elsewhere: Script, status: int) -> None:
    """With 307 and 308 the password in its body would go along."""
    script.on("POST _session", redirect(status, f"{elsewhere.url}/_session"))
    with pytest.raises(ConfigError, match="redirects are not followed"):
        await client(script, "cookie").open()
    assert not elsewhere.seen


async def one_byte() -> AsyncIterator[bytes]:
    yield b"x"


async def _changes(pool: CouchClient) -> None:
    async for _ in pool.changes("0"):
        break


async def _download(pool: CouchClient) -> None:
    async for _ in pool.stream_attachment("t", "log"):
        break


async def _upload(pool: CouchClient) -> None:
    result = await pool._put_attachment("t", "1-a", "log", one_byte(), "text/plain")
    raise PoolUnavailableError(result.reason)


async def _save(pool: CouchClient) -> None:
    (result,) = await pool.save([{"_id": "t"}])
    raise PoolUnavailableError(result.reason)


REQUESTS: dict[str, tuple[str, Callable[[CouchClient], Awaitable[Any]]]] = {
    "read": ("POST _bulk_get", lambda pool: pool.get(["t"])),
    "write": ("POST _bulk_docs", _save),
    "view": ("POST todo", lambda pool: pool.view("todo")),
    "upload": ("PUT log", _upload),
    "download": ("GET log", _download),
    "changes": ("GET _changes", _changes),
    "administration": ("GET _security", lambda pool: pool.permissions()),
}


@pytest.mark.parametrize("auth", ["basic", "cookie"])
@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("name", REQUESTS)
async def test_no_request_follows_a_redirect(
    script: Script, elsewhere: Script, name: str, status: int, auth: str
) -> None:
    """Ours and those of aiocouch, whatever they are for."""
    what, request = REQUESTS[name]
    script.on(what, redirect(status, f"{elsewhere.url}/pool/{what.split()[1]}"))
    async with client(script, auth) as pool:
        with pytest.raises(ApicasError, match="redirect"):
            await request(pool)
    assert script.count(what) >= 1
    assert not elsewhere.seen


async def test_a_cookie_of_a_redirect_is_not_taken(script: Script, elsewhere: Script) -> None:
    script.on("POST _bulk_get", redirect(302, elsewhere.url), answer(200, {"results": []}))
    async with client(script, "cookie") as pool:
        assert await pool.get(["t"]) == [None]
    assert script.seen[-1].headers["Cookie"] == "AuthSession=the-cookie"


@pytest.mark.parametrize(
    "location",
    [
        "",
        "//thief.example/",
        "/relative",
        "http://thief:x@h/?token=s3",
        "javascript:x",
        "http://[",
        "\xa0\u202e",
        "x" * 8000,
    ],
)
async def test_an_odd_target_is_as_much_an_error(script: Script, location: str) -> None:
    script.on("GET pool", redirect(302, location))
    with pytest.raises(ConfigError, match="redirect") as caught:
        await client(script).open()
    assert str(caught.value).isprintable()
    assert "s3" not in str(caught.value)
    assert "thief:" not in str(caught.value)


async def test_each_client_logs_in_at_its_own_server_only(script: Script) -> None:
    """A proxy or a netrc that the environment names for other tools is not used behind our back."""
    seen: list[web.Request] = []

    async def look(request: web.Request, _: bytes) -> web.StreamResponse:
        seen.append(request)
        return web.json_response(DATABASE)

    script.on("GET pool", look)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        async with CouchClient(script.url, "pool"):
            pass
    assert "Authorization" not in seen[0].headers
    assert seen[0].host == script.url.removeprefix("http://")
