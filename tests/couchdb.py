"""Servers that speak the CouchDB protocol, for tests.

`pouchdb-server` is started when the first test asks for it, and stopped at the end of the run; `make` puts it into
`.pouchdb/`. A CouchDB, or a cluster of them, joins in where APICAS_TEST_COUCHDB_URL names one, with an admin's name
and password: http://admin:secret@host:port. Each test gets a database of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import pytest

from apicas.clients.couch import CouchClient
from benchmarks.ports import free_port

POUCHDB: Final = Path(__file__).parents[1] / ".pouchdb" / "node_modules" / ".bin" / "pouchdb-server"
COUCHDB_URL: Final = os.environ.get("APICAS_TEST_COUCHDB_URL")
# Seconds. It takes one; a machine under load may take longer.
_START: Final = 60.0

SERVERS: Final = [
    pytest.param("pouchdb", marks=pytest.mark.couchdb),
    *([pytest.param("couchdb", marks=pytest.mark.couchdb)] if COUCHDB_URL else []),
]
"""Parameters for a fixture that takes the name of a server."""


@dataclass(frozen=True)
class Server:
    """A server, and an admin's credentials."""

    url: str
    username: str | None = None
    password: str | None = None

    def client(self, database: str, **options: Any) -> CouchClient:
        """A client of a database, as the admin unless the options say otherwise."""
        return CouchClient(self.url, database, **{"username": self.username, "password": self.password, **options})

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request, past the code under test."""
        request = urllib.request.Request(f"{self.url}/{path}", method=method)
        request.add_header("Content-Type", "application/json")
        if self.username is not None:
            credentials = b64encode(f"{self.username}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {credentials}")
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(request, data, timeout=60) as response:
            return json.loads(response.read() or b"null")

    @contextmanager
    def database(self) -> Iterator[str]:
        """The name of a database that nobody uses yet; deleted afterwards."""
        name = f"apicas-test-{uuid.uuid4().hex}"
        try:
            yield name
        finally:
            self.drop(name)

    def drop(self, name: str) -> None:
        """Delete a database if it is there."""
        try:
            self.request("DELETE", name)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise


def server(config: pytest.Config, name: str) -> Server:
    """The server of that name, started if it has to be; skips the test where there is none."""
    servers = config.stash.setdefault(_servers, {})
    if name not in servers:
        servers[name] = _couchdb() if name == "couchdb" else start_pouchdb(config.add_cleanup)
    return servers[name]


def guarded_server(config: pytest.Config) -> Server:
    """A pouchdb-server that wants credentials."""
    servers = config.stash.setdefault(_servers, {})
    if "guarded" not in servers:
        servers["guarded"] = start_pouchdb(config.add_cleanup, Server("", "admin", "s3cret"))
    return servers["guarded"]


_servers = pytest.StashKey[dict[str, Server]]()


def _couchdb() -> Server:
    parts = urlsplit(COUCHDB_URL or "")
    address = f"{parts.scheme}://{parts.hostname}:{parts.port}"
    return Server(address, unquote(parts.username or ""), unquote(parts.password or ""))


def start_pouchdb(at_end: Callable[[Callable[[], None]], None], admin: Server | None = None) -> Server:
    """Start a pouchdb-server with nothing in it.

    Args:
        at_end: takes what stops it.
        admin: whose credentials it is to ask for.
    """
    if not POUCHDB.exists():
        pytest.skip(f"no pouchdb-server in {POUCHDB.parents[2]}: run `make setup`")
    directory = Path(tempfile.mkdtemp(prefix="apicas-pouchdb-"))
    at_end(lambda: shutil.rmtree(directory, ignore_errors=True))
    port = free_port()
    config = directory / "config.json"
    config.write_text(json.dumps({"admins": {admin.username: admin.password}} if admin else {}))
    command = [str(POUCHDB), "--in-memory", "--port", str(port), "--host", "127.0.0.1", "--config", str(config)]
    process = subprocess.Popen(
        command, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    at_end(lambda: _stop(process))
    _wait_until_started(process)
    return Server(f"http://127.0.0.1:{port}", *((admin.username, admin.password) if admin else ()))


def _wait_until_started(process: subprocess.Popen[str]) -> None:
    """Wait for the line that says so. The thread reads on, since a full pipe would stop the server."""
    started, lines = threading.Event(), []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if not started.is_set():
                lines.append(line)
                if "has started" in line:
                    started.set()
        started.set()

    threading.Thread(target=read, daemon=True).start()
    if not started.wait(_START) or process.poll() is not None:
        raise RuntimeError("pouchdb-server did not start: " + "".join(lines))


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
