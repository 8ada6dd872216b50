"""A password is shown nowhere: no repr, dump, log line or error has it, nor a traceback with values of variables."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from io import StringIO
from pathlib import Path
from traceback import TracebackException
from typing import Any

import pytest
from rich.console import Console
from rich.traceback import Traceback

import apicas
from apicas._secrets import Secret
from apicas.clients.couch import CouchClient
from apicas.clients.couch.credentials import BasicCredentials, CookieCredentials, Login
from apicas.configuration import configure
from apicas.exceptions import ApicasError, ConfigError
from apicas.policies.retries import Backoff
from tests.integration.scripted import Play, Script, answer, drop, playing

SECRET = "s3cr3t-horse"
ODD = ["%\"'\n\r\n\0\x1b]\\", f"{SECRET}%0aX-Evil: 1\r\nX-Evil: 1", f"'{SECRET}\"", f"{SECRET}ü€😀"]
SAFE = "<secret>"


def traces(error: BaseException, skipped: int) -> str:
    """Two kinds of tracebacks that show the values of variables, without the test's own first frames."""
    text: list[str] = []
    while error.__traceback__ is not None and skipped:
        error.__traceback__, skipped = error.__traceback__.tb_next, skipped - 1
    text += TracebackException.from_exception(error, capture_locals=True, compact=False).format()
    screen = Console(file=StringIO(), width=400)
    screen.print(
        Traceback.from_exception(type(error), error, error.__traceback__, show_locals=True, locals_max_string=10_000)
    )
    assert isinstance(screen.file, StringIO)
    return "".join(text) + screen.file.getvalue()


def forms(secret: str) -> list[str]:
    """How a secret could show."""
    pair = b64encode(f"me:{secret}".encode()).decode()
    return [secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], pair, pair[8:-8]]


def assert_hidden(text: str, secret: str = SECRET) -> None:
    assert not [form for form in forms(secret) if form in text]


# The secret itself. ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "show", [str, repr, "{}".format, "{!r:>20}".format, "%s".__mod__, "%r".__mod__, lambda s: f"{[s]}"]
)
def test_a_secret_shows_that_it_is_one(show: Callable[[Secret], str]) -> None:
    assert SAFE in show(Secret(SECRET))
    assert SECRET not in show(Secret(SECRET))


def test_a_secret_is_written_nowhere() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Secret(SECRET))
    with pytest.raises(TypeError):
        json.dumps(Secret(SECRET))
    assert copy.copy(Secret(SECRET)) == copy.deepcopy(Secret(SECRET)) == Secret(SECRET)


def test_secrets_are_compared_by_what_they_hide() -> None:
    assert Secret("a") == Secret("a") == "a"
    assert Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a"), Secret("\udcff")}) == 2


# What holds it. -------------------------------------------------------------------------------------------------------


def holders() -> list[Any]:
    configuration = configure("https://me@couch.example/db", environ={"APICAS_PASSWORD": SECRET})
    client = configuration.connect()
    login = Login("me", Secret(SECRET))

    async def check(response: Any) -> None:
        """Not called."""

    return [
        configuration,
        client,
        client.fork(),
        login,
        BasicCredentials(login),
        CookieCredentials(login, client._server, check),  # type: ignore[attr-defined]
        client._gate,  # type: ignore[attr-defined]
        client._options,  # type: ignore[attr-defined]
        apicas.connect(f"https://me:{SECRET}@couch.example/db"),
    ]


@pytest.mark.parametrize("number", range(9))
def test_what_holds_a_password_does_not_show_it(number: int) -> None:
    holder = holders()[number]
    shown = [repr(holder), str(holder), f"{holder}", repr(getattr(holder, "__dict__", {}))]
    screen = Console(file=StringIO(), width=400)
    screen.print(holder, getattr(holder, "__dict__", {}))
    if dataclasses.is_dataclass(holder) and not isinstance(holder, type) and number != 7:
        shown.append(repr(dataclasses.asdict(holder)))
        shown.append(repr(dataclasses.astuple(holder)))
        shown.append(repr(copy.deepcopy(holder)))
        with pytest.raises(TypeError):
            pickle.dumps(holder)
        with pytest.raises(TypeError):
            json.dumps(dataclasses.asdict(holder))
    assert isinstance(screen.file, StringIO)
    assert_hidden("".join(shown) + screen.file.getvalue())


# Errors. --------------------------------------------------------------------------------------------------------------


def from_file(text: str, mode: int = 0o600) -> Callable[[Path], Any]:
    def attempt(directory: Path) -> Any:
        (directory / "apicas.toml").write_text(text)
        (directory / "apicas.toml").chmod(mode)
        return configure(environ={}, directory=directory, user_directory=directory / "user")

    return attempt


def from_environment(**environ: str) -> Callable[[Path], Any]:
    def attempt(directory: Path) -> Any:
        values = {f"APICAS_{name.upper()}": value for name, value in environ.items()}
        return configure(environ=values, directory=directory, user_directory=directory / "user").connect()

    return attempt


def from_netrc(directory: Path) -> Any:
    (directory / ".netrc").write_text(f"machine h login me password {SECRET} {SECRET}")
    (directory / ".netrc").chmod(0o600)
    return configure("https://h/db", environ={"HOME": str(directory)}, directory=directory, user_directory=directory)


FAILING: dict[str, Callable[[Path], Any]] = {
    "no TOML": from_file(f"password = {SECRET}"),
    "no key": from_file(f'passwort = "{SECRET}"'),
    "no string": from_file(f'password = ["{SECRET}"]'),
    "an address": from_file(f'pool = "https://me:{SECRET}/x@h/db"'),
    "too open": from_file(f'password = "{SECRET}"', 0o644),
    "an address in the environment": from_environment(pool=f"https://me:{SECRET}/x@h/db"),
    "an argument": lambda path: configure(f"https://me:{SECRET}@h/db", environ={}, directory=path, user_directory=path),
    "no host": from_environment(pool=f"https://me:{SECRET}@/db"),
    "no database": from_environment(pool=f"https://me:{SECRET}@h"),
    "no port": from_environment(pool=f"https://me:{SECRET}@h:x/db"),
    "no text": from_environment(pool="https://me@h/db", password=f"{SECRET}\udcff"),
    "a colon": from_environment(pool=f"https://m%3A{SECRET}@h/db", password=SECRET),
    "netrc": from_netrc,
    "a client": lambda _: CouchClient(f"ftp://me:{SECRET}@h", "db"),
    "a client's option": lambda _: CouchClient("https://h", "db", "me", SECRET, auth="wrong"),  # type: ignore[arg-type]
    "a client's name": lambda _: CouchClient("https://h", "db", "m:e", SECRET),
    "a connection": lambda _: apicas.connect(f"https://me:{SECRET}@h:x/db"),
    "a connection's option": lambda _: apicas.connect("https://me@h/db", password=SECRET, auth="wrong"),
}


@pytest.mark.parametrize("name", FAILING)
def test_no_refusal_shows_a_password(tmp_path: Path, name: str) -> None:
    """Neither its words, nor the variables of the functions that it came through."""
    with pytest.raises(ConfigError) as caught:
        FAILING[name](tmp_path)
    assert_hidden(str(caught.value))
    trace = traces(caught.value, 2)
    assert "configuration/" in trace or "couch" in trace or "connect.py" in trace or "credentials.py" in trace
    assert_hidden(trace)


def client(script: Script, password: str = SECRET, **options: Any) -> CouchClient:
    return CouchClient(script.url, "pool", "me", password, backoff=Backoff(first=0.0), attempts=1, **options)


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    async with playing() as script:
        script.on("POST _session", answer(200, {"ok": True}, headers={"Set-Cookie": f"AuthSession={SECRET}-cookie"}))
        yield script


REFUSED = answer(401, {"error": "unauthorized", "reason": "Name or password is incorrect."})


@pytest.mark.parametrize("auth", ["basic", "cookie"])
@pytest.mark.parametrize("play", [REFUSED, answer(403), answer(500), answer(400), answer(302), drop])
async def test_no_failed_request_shows_a_password(
    script: Script, play: Play, auth: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does a log at its most talkative, of ours or of a library."""
    caplog.set_level(logging.DEBUG)
    script.on("POST _bulk_get", play)
    async with client(script, auth=auth) as pool:
        with pytest.raises(ApicasError) as caught:
            await pool.get(["t"])
    assert_hidden(str(caught.value) + caplog.text)
    assert_hidden(traces(caught.value, 1))


@pytest.mark.parametrize("play", [REFUSED, answer(403), answer(500), answer(400), answer(404), drop])
@pytest.mark.parametrize("changed", [False, True])
async def test_no_refusal_of_a_new_password_shows_it(script: Script, play: Play, changed: bool) -> None:
    new = f"{SECRET}-new"
    script.on("GET org.couchdb.user:ann", answer(200, {"_id": "org.couchdb.user:ann", "name": "ann"}))
    script.on("PUT org.couchdb.user:ann", play)
    async with client(script) as pool:
        with pytest.raises(ApicasError) as caught:
            if changed:
                await pool.accounts.change_password("ann", Secret(new))
            else:
                await pool.accounts.add("ann", Secret(new))
    assert script.count("PUT org.couchdb.user%3Aann") >= 1
    assert_hidden(str(caught.value) + traces(caught.value, 1), new)


async def test_a_session_s_cookie_is_as_secret(script: Script) -> None:
    script.on("POST _bulk_get", answer(500))
    async with client(script, auth="cookie") as pool:
        with pytest.raises(ApicasError) as caught:
            await pool.get(["t"])
        shown = repr(vars(pool._gate._credentials)) + repr(vars(pool._gate)) + traces(caught.value, 1)
    assert script.seen[-1].headers["Cookie"] == f"AuthSession={SECRET}-cookie"
    assert_hidden(shown)


# Odd characters. ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ODD)
@pytest.mark.parametrize("auth", ["basic", "cookie"])
async def test_a_password_of_odd_characters_arrives_as_it_is_and_adds_no_header(
    script: Script, password: str, auth: Any
) -> None:
    async with client(script, password, auth=auth):
        pass
    pair = b64encode(f"me:{password}".encode()).decode()
    if auth == "basic":
        assert script.seen[0].headers["Authorization"] == f"Basic {pair}"
    else:
        assert script.seen[0].json() == {"name": "me", "password": password}
    assert not [name for seen in script.seen for name in seen.headers if "evil" in name.lower()]


@pytest.mark.parametrize("cookie", ['"a\\012X-Evil: 1"', '"a\\015\\012X-Evil: 1"', '""', "a" * 5000])
async def test_a_cookie_that_no_header_can_hold_is_not_sent(script: Script, cookie: str) -> None:
    """A server, or who plays one, could add headers to our requests by it."""
    script.on("POST _session", answer(200, {"ok": True}, headers={"Set-Cookie": f"AuthSession={cookie}"}))
    with pytest.raises(ApicasError, match="no cookie"):
        await client(script, auth="cookie").open()
    assert [seen.path for seen in script.seen] == ["/_session"]


@pytest.mark.parametrize("pool", ["https://m%0d%0aX-Evil:1%40x:y@h/db", "https://me:%0d%0aX-Evil@h/db"])
def test_a_line_end_in_a_login_is_no_line_end_elsewhere(tmp_path: Path, pool: str) -> None:
    found = configure(environ={"APICAS_POOL": pool}, directory=tmp_path, user_directory=tmp_path)
    assert not re.search(r"[\r\n]", found.connect().address)
