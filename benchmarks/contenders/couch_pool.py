"""A pool on a CouchDB for one measurement, as apicas sets it up and fills it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import Any
from urllib.parse import unquote, urlsplit

from apicas import CouchClient
from apicas.clients.port import ViewQuery
from benchmarks.measuring import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class CouchPool:
    """A database that is there for one measurement."""

    url: str
    """Of the server, without a name or a password."""
    database: str
    username: str
    password: str
    upload_seconds: float

    def settings(self) -> dict[str, Any]:
        """What a worker gets."""
        names = ("url", "database", "username", "password")
        return {name: getattr(self, name) for name in names}


def client_of(url: str, database: str, username: str, password: str) -> CouchClient:
    """A client of a database; a server without accounts is asked without a name."""
    return CouchClient(url, database, username=username or None, password=password or None)


@contextmanager
def couch_pool(trial: Trial) -> Iterator[CouchPool]:
    """Make a pool with the tokens of a trial, its views built; it is deleted at the end.

    Raises:
        ValueError: the trial names no server.
    """
    parts = urlsplit(trial.store)
    if not parts.hostname:
        raise ValueError(f"{trial.contender} needs a CouchDB: store is http://name:secret@host:port")
    url = f"{parts.scheme}://{parts.hostname}:{parts.port}"
    where = (url, f"apicas-bench-{token_hex(8)}", unquote(parts.username or ""), unquote(parts.password or ""))
    try:
        seconds = asyncio.run(_fill(client_of(*where), trial.tokens))
        yield CouchPool(url=url, database=where[1], username=where[2], password=where[3], upload_seconds=seconds)
    finally:
        asyncio.run(_delete(client_of(*where)))


async def _fill(client: CouchClient, tokens: int) -> float:
    async with client:
        await client.setup()
        began = time.monotonic()
        report = await client.upload({"input": number} for number in range(tokens))
        seconds = time.monotonic() - began
        if report.uploaded != tokens:
            raise RuntimeError(f"{report.uploaded} of {tokens} tokens were uploaded")
        await client.query("todo", ViewQuery(limit=1))
    return seconds


async def _delete(client: CouchClient) -> None:
    async with client:
        await client.delete_database()
