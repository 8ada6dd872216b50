"""What the CouchDB client makes of a server that refuses, fails, hangs or breaks off, answer by answer."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from apicas.clients.couch import CouchClient
from apicas.clients.couch.failures import translated
from apicas.clients.port import SaveResult, SaveStatus
from apicas.exceptions import (
    AccessDeniedError,
    ApicasError,
    ConfigError,
    PoolError,
    PoolNotFoundError,
    PoolUnavailableError,
    ViewNotFoundError,
)
from apicas.policies.retries import Backoff
from tests.integration.scripted import DATABASE, Play, Script, answer, drop, playing

SECRET = "correct-horse"
REFUSED = {"error": "unauthorized", "reason": "Name or password is incorrect."}
NO_DATABASE = {"error": "not_found", "reason": "Database does not exist."}
AT_ONCE = Backoff(first=0.0)
WRITTEN, CONFLICT, UNKNOWN, REJECTED = (
    SaveStatus.WRITTEN,
    SaveStatus.CONFLICT,
    SaveStatus.UNKNOWN,
    SaveStatus.REJECTED,
)


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    async with playing() as script:
        yield script


def make(script: Script, **options: Any) -> CouchClient:
    options = {"username": "pilot", "password": SECRET, "backoff": AT_ONCE, "attempts": 3, **options}
    return CouchClient(script.url, "pool", **options)


def row(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"t{number}", **({"ok": True, "rev": f"1-{number}"} if not fields.get("error") else {}), **fields}


def statuses(results: list[SaveResult]) -> list[SaveStatus]:
    return [result.status for result in results]


def documents(count: int) -> list[dict[str, Any]]:
    return [{"_id": f"t{number}"} for number in range(count)]


# Access. --------------------------------------------------------------------------------------------------------------


async def test_refused_credentials_are_sent_once(script: Script) -> None:
    """CouchDB locks an account out after repeated failures, so the first refusal is the last request."""
    script.on("GET pool", answer(401, REFUSED))
    client = make(script)
    for _ in range(3):
        with pytest.raises(AccessDeniedError, match="incorrect") as caught:
            await client.open()
        assert SECRET not in str(caught.value)
    assert len(script.seen) == 1


async def test_who_gives_no_password_is_told_so(script: Script) -> None:
    script.on("GET pool", answer(401, REFUSED))
    with pytest.raises(AccessDeniedError, match="No password was given"):
        await CouchClient(script.url, "pool", "me").open()
    with pytest.raises(AccessDeniedError) as caught:
        await make(script).open()
    assert "No password" not in str(caught.value)


async def test_credentials_refused_later_are_not_sent_again(script: Script) -> None:
    """A password that is changed while pilots run locks nobody out."""
    script.on("POST _bulk_get", answer(401, REFUSED))
    async with make(script) as client:
        for _ in range(3):
            with pytest.raises(AccessDeniedError):
                await client.get(["t"])
    assert script.count("POST _bulk_get") == 1


async def test_a_missing_permission_is_not_repeated_but_not_remembered(script: Script) -> None:
    """Being no admin forbids one request, not the others."""
    script.on("PUT _security", answer(401, {"error": "unauthorized", "reason": "You are not a db or server admin."}))
    script.on("GET _security", answer(200, {}))
    script.on("POST _bulk_get", answer(200, {"results": []}))
    async with make(script) as client:
        with pytest.raises(AccessDeniedError, match="admin"):
            await client.set_permissions(members=["you"])
        assert await client.get(["t"]) == [None]
    assert script.count("PUT _security") == 1


@pytest.mark.parametrize(("roles", "expected"), [([], AccessDeniedError), (["_admin"], PoolUnavailableError)])
async def test_permissions_refused_with_a_500(script: Script, roles: list[str], expected: type[Exception]) -> None:
    """CouchDB tells who may not change them the same as when it has no majority; who we are makes the difference."""
    script.on("GET _security", answer(200, {"admins": {"roles": ["_admin"]}}))
    script.on("PUT _security", answer(500, {"error": "error", "reason": "no_majority"}))
    script.on("GET _session", answer(200, {"ok": True, "userCtx": {"name": "pilot", "roles": roles}}))
    async with make(script) as client:
        with pytest.raises(expected):
            await client.set_permissions(members=["you"])


async def test_a_setup_without_rights_is_a_check(script: Script) -> None:
    """A pilot that is no admin may set up a pool that has Monitor; the help for `total` is left out."""
    from apicas.clients.couch.designs import OWN_NAME
    from apicas.views import monitor_design

    script.on("GET Monitor", answer(200, {**monitor_design(), "_rev": "1-a"}))
    script.on("HEAD Monitor", answer(200))
    script.on(f"PUT {OWN_NAME}", answer(403, {"error": "forbidden", "reason": "You are not a db or server admin."}))
    async with make(script) as client:
        report = await client.setup()
    assert (report.created, report.installed, report.kept) == (False, (), ())


async def test_a_redirect_is_not_followed(script: Script) -> None:
    """The credentials would go along, to wherever the redirect points."""
    async with playing() as elsewhere:
        target = f"{elsewhere.url.replace('//', '//thief:x@')}/pool"
        script.on("GET pool", answer(302, headers={"Location": target}))
        with pytest.raises(ConfigError, match="redirect") as caught:
            await make(script).open()
        assert "thief" not in str(caught.value)
        assert not elsewhere.seen


@pytest.mark.parametrize("play", [answer(401, REFUSED), answer(503), answer(404, NO_DATABASE), answer(400), drop])
async def test_no_secret_is_shown(script: Script, play: Play) -> None:
    """Neither a repr nor an error, nor what caused it, has the password."""
    script.on("POST _bulk_get", play)
    client = CouchClient(script.url.replace("//", f"//pilot:{SECRET}@"), "pool", backoff=AT_ONCE, attempts=1)
    shown = [repr(client), client.address, repr(client.fork()), repr(vars(client))]
    async with client:
        with pytest.raises(ApicasError) as caught:
            await client.get(["t"])
    error: BaseException | None = caught.value
    while error is not None:
        shown += [repr(error), str(error)]
        error = error.__cause__ or error.__context__
    assert not [text for text in shown if SECRET in text]
    assert client.address == f"{script.url.replace('//', '//pilot@')}/pool"


async def test_a_session_is_opened_once_and_renewed(script: Script) -> None:
    """With cookies the password goes out once, and again when the session has expired; requests at once share one."""
    logins = iter(range(1, 10))

    async def login(request: web.Request, body: bytes) -> web.StreamResponse:
        cookie = f"AuthSession=c{next(logins)}; Version=1; Path=/; HttpOnly"
        return web.json_response({"ok": True}, headers={"Set-Cookie": cookie})

    valid = {"c1"}

    async def read(request: web.Request, body: bytes) -> web.StreamResponse:
        if request.cookies.get("AuthSession") not in valid:
            return web.json_response({"error": "unauthorized", "reason": "You are not authorized"}, status=401)
        return web.json_response({"results": []})

    script.on("POST _session", login)
    script.on("POST _bulk_get", read)
    async with make(script, auth="cookie") as client:
        assert await client.get(["t"]) == [None]
        valid.clear()
        valid.add("c2")
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(client.get, ["t"])
    assert script.count("POST _session") == 2
    assert script.seen[0].json() == {"name": "pilot", "password": SECRET}
    assert all("Authorization" not in seen.headers for seen in script.seen)


async def test_a_refused_session_is_final(script: Script) -> None:
    """A wrong password is sent once also where it goes for a cookie."""
    script.on("POST _session", answer(401, REFUSED))
    client = make(script, auth="cookie")
    for _ in range(2):
        with pytest.raises(AccessDeniedError):
            await client.open()
    assert script.count("POST _session") == 1


# Reading. -------------------------------------------------------------------------------------------------------------


async def test_a_server_that_is_away_is_unavailable() -> None:
    """One line that names the pool, with the cause kept."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    client = CouchClient(f"http://127.0.0.1:{port}", "pool", "me", SECRET, backoff=AT_ONCE, attempts=2)
    with pytest.raises(PoolUnavailableError, match=f"http://me@127.0.0.1:{port}/pool") as caught:
        await client.open()
    assert isinstance(caught.value.__cause__, OSError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("failure", [answer(429), answer(500), answer(502), answer(503), answer(504), drop])
async def test_reads_are_repeated(script: Script, failure: Play) -> None:
    """A read goes through once the server answers again."""
    script.on("POST _bulk_get", failure, failure, answer(200, {"results": []}))
    async with make(script) as client:
        assert await client.get(["t"]) == [None]
    assert script.count("POST _bulk_get") == 3


async def test_repeating_is_bounded(script: Script) -> None:
    """A server that keeps failing is unavailable after the attempts allowed."""
    script.on("POST todo", answer(503, {"error": "service_unavailable", "reason": "busy"}))
    async with make(script) as client:
        with pytest.raises(PoolUnavailableError, match="503 service_unavailable: busy"):
            await client.view("todo")
    assert script.count("POST todo") == 3


async def test_a_read_that_takes_too_long_is_lost(script: Script) -> None:
    """A server that does not answer within the timeout is unavailable."""
    script.on("POST _bulk_get", script.hang)
    async with make(script, timeout=0.2, attempts=2) as client:
        with pytest.raises(PoolUnavailableError, match="timed out"):
            await client.get(["t"])


async def test_an_unreadable_document_is_not_a_missing_one(script: Script) -> None:
    """On a cluster a row may say that it timed out; taking that for deleted would end the lease on it."""
    timed_out = {"results": [{"id": "t", "docs": [{"error": {"id": "t", "error": "timeout", "reason": "late"}}]}]}
    there = {"results": [{"id": "t", "docs": [{"ok": {"_id": "t", "_rev": "1-a"}}]}]}
    script.on("POST _bulk_get", answer(200, timed_out), answer(200, there))
    async with make(script) as client:
        assert await client.get(["t"]) == [{"_id": "t", "_rev": "1-a"}]


async def test_a_missing_database_says_what_to_do(script: Script) -> None:
    """Every operation on it does; opening does not, since setup creates it."""
    script.on("GET pool", answer(404, NO_DATABASE))
    for name in ("POST _bulk_get", "POST _bulk_docs", "POST todo", "GET _changes", "GET _security", "GET Monitor"):
        script.on(name, answer(404, NO_DATABASE))
    script.on("PUT Monitor", answer(404, NO_DATABASE))
    async with make(script) as client:
        for operation in (
            client.get(["t"]),
            client.save([{"_id": "t"}]),
            client.view("todo"),
            client.permissions(),
            client.add_view("mine", "function (doc) {}"),
            anext(client.changes()),
        ):
            with pytest.raises(PoolNotFoundError, match="apicas init"):
                await operation


async def test_a_missing_view_says_what_to_do(script: Script) -> None:
    """A view that is not there is not an empty one."""
    script.on("POST todo", answer(404, {"error": "not_found", "reason": "missing_named_view"}))
    async with make(script) as client:
        with pytest.raises(ViewNotFoundError, match="apicas init"):
            await client.view("todo")


async def test_an_answer_that_is_not_couchdbs_is_no_answer(script: Script) -> None:
    """A page that a proxy shows is not taken for an empty pool."""

    async def page(request: web.Request, body: bytes) -> web.StreamResponse:
        return web.Response(text="<html>welcome to this hotel</html>", content_type="text/html")

    script.on("POST _bulk_get", page)
    async with make(script) as client:
        with pytest.raises(PoolUnavailableError, match="no JSON"):
            await client.get(["t"])


async def test_a_client_that_is_not_open_says_so(script: Script) -> None:
    """Before it is entered, and after it was left."""
    client = make(script)
    with pytest.raises(PoolError, match="not open"):
        await client.get(["t"])
    async with client:
        pass
    await client.aclose()
    with pytest.raises(PoolError, match="not open"):
        await client.get(["t"])


@pytest.mark.parametrize("url", ["localhost:5984", "ftp://host", "", "http://", "http://[::1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """With an error of the configuration, not of the network."""
    with pytest.raises(ConfigError):
        CouchClient(url, "pool")


async def test_the_servers_time_is_learned(script: Script) -> None:
    """Locks are stamped by the store's clock, whatever this machine believes."""
    script.on("GET pool", answer(200, DATABASE | {"cluster": {"n": 3}}, {"Date": "Tue, 14 Nov 2023 22:13:20 GMT"}))
    async with make(script, now=lambda: 1_700_000_100.0) as client:
        assert client.time() == 1_700_000_000.5
        assert client.replicated


# Writing. -------------------------------------------------------------------------------------------------------------


async def test_rows_say_what_became_of_each_document(script: Script) -> None:
    """Only a plain ok is written; what a minority accepted is unknown; what cannot be stored has its reason."""
    rows = [
        row(0),
        row(1, accepted=True),
        row(2, error="conflict", reason="Document update conflict."),
        row(3, error="forbidden", reason="no cats"),
        row(4, error="timeout", reason="timeout"),
        row(5, error="unknown_error", reason="badmatch"),
    ]
    script.on("POST _bulk_docs", answer(202, rows))
    async with make(script) as client:
        results = await client.save(documents(6))
    assert statuses(results) == [WRITTEN, UNKNOWN, CONFLICT, REJECTED, UNKNOWN, UNKNOWN]
    assert results[0].rev == "1-0"
    assert results[3].reason == "forbidden: no cats"


async def test_accepted_without_a_mark_is_unknown(script: Script) -> None:
    """An answer of 202 in which no row is marked may mean any of them."""
    script.on("POST _bulk_docs", answer(202, [row(0), row(1, error="conflict")]))
    async with make(script) as client:
        assert statuses(await client.save(documents(2))) == [UNKNOWN, CONFLICT]


async def test_rows_of_a_failed_bulk_count(script: Script) -> None:
    """A cluster that times out answers 500, with what it knows of each row."""
    script.on("POST _bulk_docs", answer(500, [row(0), row(1, error="internal_server_error", reason="timeout")]))
    async with make(script) as client:
        assert statuses(await client.save(documents(2))) == [WRITTEN, UNKNOWN]
    assert script.count("POST _bulk_docs") == 1


async def test_rows_that_are_not_ours_are_unknown(script: Script) -> None:
    """Too few rows, or those of other documents, are never counted as written."""
    async with make(script) as client:
        for rows in ([row(0)], [row(1), row(0)], {"ok": True}):
            script.on("POST _bulk_docs", answer(201, rows))
            assert statuses(await client.save(documents(2))) == [UNKNOWN, UNKNOWN]


@pytest.mark.parametrize("broken", [drop, answer(504), None], ids=["reset", "gateway timeout", "timeout"])
async def test_a_write_without_an_answer_is_unknown_and_not_repeated(script: Script, broken: Play | None) -> None:
    """It may have been carried out: a second one would meet its own conflict."""
    script.on("POST _bulk_docs", broken or script.hang)
    async with make(script, timeout=0.3) as client:
        assert statuses(await client.save(documents(2))) == [UNKNOWN, UNKNOWN]
    assert script.count("POST _bulk_docs") == 1


async def test_a_conflict_after_a_failure_is_unknown(script: Script) -> None:
    """The attempt that failed may have written the document; the one without a conflict was not."""
    script.on("POST _bulk_docs", answer(503), answer(201, [row(0, error="conflict"), row(1)]))
    async with make(script) as client:
        assert statuses(await client.save(documents(2))) == [UNKNOWN, WRITTEN]


async def test_a_throttled_write_was_not_carried_out(script: Script) -> None:
    """429 turns the request away at the door, so a conflict afterwards is one."""
    script.on("POST _bulk_docs", answer(429), answer(201, [row(0, error="conflict")]))
    async with make(script) as client:
        assert statuses(await client.save(documents(1))) == [CONFLICT]


async def test_a_busy_server_is_unavailable_for_writes(script: Script) -> None:
    """After the attempts allowed; nothing is blamed on the documents."""
    script.on("POST _bulk_docs", answer(503))
    async with make(script) as client:
        with pytest.raises(PoolUnavailableError, match="503"):
            await client.save(documents(2))


async def test_a_full_disk_is_not_the_documents_fault(script: Script) -> None:
    """500 because of it must not end in tokens that are rejected."""
    script.on("POST _bulk_docs", answer(500, {"error": "error", "reason": "enospc"}))
    async with make(script) as client:
        with pytest.raises(PoolUnavailableError, match="enospc"):
            await client.save(documents(2))


@pytest.mark.parametrize("failure", [answer(500), answer(500, {"error": "unknown_error", "reason": "badmatch"})])
async def test_a_server_that_fails_every_write_is_unwell(script: Script, failure: Play) -> None:
    """Not even a write of next to nothing goes through: no document is blamed, and none is looked for."""
    script.on("POST _bulk_docs", failure)
    async with make(script) as client:
        with pytest.raises(PoolUnavailableError, match="500"):
            await client.save(documents(64))
    assert script.count("POST _bulk_docs") == 4
    assert script.seen[-1].json() == {"docs": [{"_id": "_local/apicas-canary"}]}


async def test_a_document_that_never_gets_through_is_found(script: Script) -> None:
    """A proxy breaks the connection at what is too large for it, and says nothing; the others are written."""

    async def store(request: web.Request, body: bytes) -> web.StreamResponse:
        if len(body) > 500_000:
            return await drop(request, body)
        ids = [document["_id"] for document in script.seen[-1].json()["docs"]]
        return web.json_response([{"id": i, "ok": True, "rev": "1-a"} for i in ids], status=201)

    script.on("POST _bulk_docs", store)
    script.on("POST _bulk_get", answer(200, {"results": []}))
    script.on("POST _all_docs", answer(200, {"rows": []}))
    large = [
        document | {"text": "x" * size} for document, size in zip(documents(4), (9, 300_000, 600_000, 1), strict=True)
    ]
    async with make(script) as client:
        results = await client.save(large)
    assert statuses(results) == [WRITTEN, WRITTEN, REJECTED, WRITTEN]
    assert "no answer" in results[2].reason


async def test_what_was_refused_in_the_end_may_be_written_all_the_same(script: Script) -> None:
    """A server that stores a document, and fails after it, each time: the store is asked before it is said."""
    revs: list[str] = []

    async def store(request: web.Request, body: bytes) -> web.StreamResponse:
        if b"canary" in body:
            return web.json_response([{"id": "_local/apicas-canary", "ok": True, "rev": "0-1"}], status=201)
        revs[:] = ["1-a"]
        return web.json_response({}, status=500)

    async def read(request: web.Request, body: bytes) -> web.StreamResponse:
        return web.json_response({"rows": [{"id": "t0", "doc": {"_id": "t0", "_rev": rev}} for rev in revs]})

    script.on("POST _bulk_docs", store)
    script.on("POST _all_docs", read)
    script.on("GET pool", answer(200, {"db_name": "pool"}))
    async with make(script) as client:
        assert statuses(await client.save(documents(1))) == [UNKNOWN]


@pytest.mark.parametrize(("status", "word"), [(413, "document_too_large"), (500, "badmatch"), (500, "doc_validation")])
async def test_the_document_that_spoils_a_bulk_is_found(script: Script, status: int, word: str) -> None:
    """It is rejected alone, with the server's reason; the others are written, or were before."""
    stored: set[str] = set()

    async def store(request: web.Request, body: bytes) -> web.StreamResponse:
        ids = [document["_id"] for document in script.seen[-1].json()["docs"]]
        if "t3" in ids:
            if word == "badmatch":  # a failure on the way: the first document is stored already
                stored.update({"t0"} & set(ids))
            return web.json_response({"error": word, "reason": "because"}, status=status)
        rows = [{"id": i, "error": "conflict"} if i in stored else {"id": i, "ok": True, "rev": "1-a"} for i in ids]
        stored.update(ids)
        return web.json_response(rows, status=201)

    script.on("POST _bulk_docs", store)
    script.on("POST _bulk_get", answer(200, {"results": []}))
    script.on("POST _all_docs", answer(200, {"rows": []}))
    async with make(script) as client:
        results = await client.save(documents(8))
    first = UNKNOWN if word == "badmatch" else WRITTEN
    assert statuses(results) == [first, WRITTEN, WRITTEN, REJECTED, *[WRITTEN] * 4]
    assert "because" in results[3].reason


async def test_a_write_that_cannot_leave_is_unavailable() -> None:
    """Without a connection nothing was written: the pool is away, the documents are not unknown."""
    async with playing() as script:
        script.on("GET pool", answer(200, DATABASE, {"Connection": "close"}))
        client = make(script)
        await client.open()
    try:
        with pytest.raises(PoolUnavailableError, match="no connection"):
            await client.save(documents(1))
    finally:
        await client.aclose()


# Attachments and changes. ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("play", "expected"),
    [
        (answer(201, {"ok": True, "rev": "2-b"}), WRITTEN),
        (answer(202, {"ok": True, "rev": "2-b"}), UNKNOWN),
        (answer(409, {"error": "conflict", "reason": "Document update conflict."}), CONFLICT),
        (answer(413, {"error": "attachment_too_large", "reason": "log"}), REJECTED),
        (answer(500), UNKNOWN),
        (drop, UNKNOWN),
    ],
)
async def test_a_stream_is_sent_once(script: Script, play: Play, expected: SaveStatus) -> None:
    """It cannot be read again, and aiohttp would send a second, empty one."""

    async def stream() -> AsyncIterator[bytes]:
        yield b"some lines"

    script.on("PUT log%2Etxt", play)
    script.on("PUT log.txt", play)
    async with make(script) as client:
        result = await client.put_attachment("t", "1-a", "log.txt", stream(), "text/plain")
    assert result.status is expected
    puts = [seen for seen in script.seen if seen.method == "PUT"]
    assert [seen.body for seen in puts] == [b"some lines"]


async def test_a_stream_that_fails_raises_its_own_error(script: Script) -> None:
    """What the user's stream raises is what the user sees."""

    async def stream() -> AsyncIterator[bytes]:
        yield b"some"
        raise ZeroDivisionError

    script.on("PUT log.txt", answer(201, {"rev": "2-b"}))
    async with make(script) as client:
        with pytest.raises(ZeroDivisionError):
            await client.put_attachment("t", "1-a", "log.txt", stream(), "text/plain")


async def test_an_attachment_that_breaks_off_is_no_attachment(script: Script) -> None:
    """Half a file is an error."""

    async def half(request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        return await drop(request, body)

    script.on("GET log.txt", half)
    async with make(script) as client:
        with pytest.raises(PoolUnavailableError):
            await client.get_attachment("t", "log.txt")


async def test_the_feed_goes_on_after_a_broken_connection(script: Script) -> None:
    """From the change that came last; design documents and heartbeats are not passed on."""
    sinces: list[str] = []

    def feed(*lines: bytes) -> Play:
        async def play(request: web.Request, body: bytes) -> web.StreamResponse:
            sinces.append(request.query["since"])
            response = web.StreamResponse()
            await response.prepare(request)
            for line in lines:
                await response.write(line + b"\n")
            return await drop(request, body) if lines and not lines[-1].startswith(b'{"last') else response

        return play

    script.on(
        "GET _changes",
        answer(200, {"results": [], "last_seq": "5-now"}),
        feed(b'{"seq":"6-x","id":"a","changes":[{"rev":"1-a"}]}', b""),
        feed(),
        feed(b'{"seq":"7-x","id":"_design/Monitor","changes":[{"rev":"1-a"}]}', b'{"last_seq":"7-x","pending":0}'),
        feed(b"", b'{"seq":8,"id":"b","changes":[{"rev":"2-b"}],"deleted":true}'),
    )
    async with make(script) as client, aclosing(client.changes()) as changes:  # type: ignore[type-var]
        found = [await anext(changes), await anext(changes)]
    assert [(change.seq, change.id, change.rev, change.deleted) for change in found] == [
        ("6-x", "a", "1-a", False),
        ("8", "b", "2-b", True),
    ]
    assert sinces == ["5-now", "6-x", "6-x", "7-x"]


async def test_a_feed_of_a_server_that_is_away_ends(script: Script) -> None:
    """It fails after the attempts allowed, so that its user can say so."""
    script.on("GET _changes", drop)
    async with make(script) as client, aclosing(client.changes("0")) as changes:  # type: ignore[type-var]
        with pytest.raises(PoolUnavailableError):
            await anext(changes)
    assert len([seen for seen in script.seen if "_changes" in seen.path]) >= 3


# TLS. -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


async def test_certificates_are_verified(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    """A stranger's certificate is refused before the password leaves; the right CA, or no verification, lets in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    async with playing(context) as script:
        with pytest.raises(ConfigError, match="ca_file") as caught:
            await make(script).open()
        assert caught.value.__cause__ is not None
        assert not script.seen
        for options in ({"ca_file": certificate[0]}, {"verify": False}):
            async with make(script, **options) as client:
                assert not client.replicated
    with pytest.raises(ConfigError, match="ca_file"):
        await make(script, ca_file=tmp_path / "nothing.pem").open()


async def test_for_a_certificate_that_is_too_old_nobody_is_sent_to_look_for_an_authority() -> None:
    key = aiohttp.client_reqrep.ConnectionKey("127.0.0.1", 6984, True, True, None, None, None)
    refused = ssl.SSLCertVerificationError(1, "certificate verify failed: certificate has expired")
    with pytest.raises(ConfigError, match=r"expired$"), translated("https://127.0.0.1:6984/pool", ConfigError):
        raise aiohttp.ClientConnectorCertificateError(key, refused)


async def test_http_to_a_port_for_https_is_no_outage() -> None:
    """It is refused at once, with what to write instead; the bytes are CouchDB's."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"\x15\x03\x01\x00\x02\x02\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConfigError, match="write https://"):
            await CouchClient(f"http://127.0.0.1:{port}", "pool").open()
