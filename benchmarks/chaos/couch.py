"""A server that speaks the CouchDB protocol, as the benchmark talks to it: past the code under test."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Address:
    """A server, or a database on it."""

    host: str
    port: int
    scheme: str = "http"
    username: str | None = None
    password: str | None = None
    database: str = ""

    @classmethod
    def parse(cls, url: str, password: str | None) -> Address:
        """From http://user:password@host:port/database; the password may come apart from it."""
        parts = urlsplit(url)
        return cls(
            parts.hostname or "localhost",
            parts.port or (6984 if parts.scheme == "https" else 5984),
            parts.scheme,
            unquote(parts.username) if parts.username else None,
            unquote(parts.password) if parts.password else password,
            parts.path.strip("/"),
        )

    @property
    def url(self) -> str:
        """The server, without credentials."""
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def pool(self) -> str:
        """The pool's address, for apicas, with credentials."""
        credentials = ""
        if self.username:
            credentials = f"{quote(self.username, safe='')}:{quote(self.password or '', safe='')}@"
        return f"{self.scheme}://{credentials}{self.host}:{self.port}/{self.database}"

    def at(self, port: int) -> Address:
        """The same on another port of this machine."""
        return replace(self, host="127.0.0.1", port=port, scheme="http")

    def of(self, database: str) -> Address:
        """Another database."""
        return replace(self, database=database)

    def request(self, method: str, path: str = "", body: Any = None, timeout: float = 60) -> Any:
        """Send one request about the database, or about the server where there is none.

        Raises:
            OSError: no answer, or one that is no success.
        """
        place = "/".join(part for part in (self.database, path) if part)
        request = urllib.request.Request(f"{self.url}/{place}", method=method)
        request.add_header("Content-Type", "application/json")
        if self.username is not None:
            credentials = b64encode(f"{self.username}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {credentials}")
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(request, data, timeout=timeout) as response:
            return json.loads(response.read() or b"null")

    def answers(self) -> bool:
        """Whether the server answers."""
        try:
            self.of("").request("GET", timeout=5)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True
