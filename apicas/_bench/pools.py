"""Pools for measurements alone: a database or a file of their own, gone afterwards."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import anyio

from apicas.clients.base import PoolClient
from apicas.clients.connect import connect
from apicas.exceptions import AccessDeniedError, ConfigError, PoolError

log = logging.getLogger("apicas")

PREFIX: Final = "apicas-bench-"
"""What the names of such databases and directories begin with. No other is ever deleted."""
_FAREWELL: Final = 20.0
"""Seconds that deleting may take, also after Ctrl-C."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where pools are made.

    Args:
        server: `http://name:secret@host:port`, `memory:`, or empty for files.
        directory: for files: pools in files, and what pilots keep.
        options: what a client takes beside the address.
    """

    server: str = ""
    directory: Path
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class OwnPool:
    """A pool of ours, and a directory."""

    address: str
    """With the secrets that were in the server's."""
    directory: Path
    options: Mapping[str, Any]
    was_made: bool = False
    """Whether there may be a database."""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[PoolClient]:
        """Make it, with its views; a client of it."""
        async with connect(self.address, **self.options) as client:
            self.was_made = True
            await _to_its_end(client.setup())
            yield client


async def _to_its_end(making: Coroutine[Any, Any, object]) -> None:
    """Make a database, and when cancelled wait until it is made: else it might come after it was deleted."""
    task = asyncio.ensure_future(making)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_FAREWELL)
        if task.done() and not task.cancelled():
            task.exception()  # looked at, so that nobody complains: the cancellation is what counts
        raise


def beside(pool: str, options: Mapping[str, Any]) -> Place:
    """The place beside a user's pool: on its server, or in the directory of its file, so on the same disk.

    Raises:
        ConfigError: it is no address of a pool.
    """
    if pool.startswith("sqlite:///"):
        return Place(directory=Path(unquote(pool.removeprefix("sqlite:///"))).parent)
    here = Path(tempfile.gettempdir())
    if pool.startswith("memory:"):
        return Place(server="memory:", directory=here)
    parts = urlsplit(pool)
    path, _, database = parts.path.rstrip("/").rpartition("/")
    if not database:
        raise ConfigError("the pool's address names no database: write http(s)://user@host:5984/database")
    return Place(server=parts._replace(path=path).geturl(), directory=here, options=options)


@asynccontextmanager
async def own_pool(place: Place, **options: Any) -> AsyncIterator[OwnPool]:
    """A new, empty pool; deleted at the end, also when cancelled.

    Args:
        place: where.
        options: what its clients take beside what the place says.

    Raises:
        ConfigError: there is no such directory, or it takes no files.
        AccessDeniedError: only an admin of the server makes databases.
    """
    try:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place.directory))
    except OSError as error:
        raise ConfigError(f"no file can be made in {place.directory}: {error.strerror}") from error
    name = f"{PREFIX}{token_hex(8)}"
    address = _address(place.server, directory, name)
    pool = OwnPool(address=address, directory=directory, options={**place.options, **options})
    try:
        yield pool
    finally:
        with anyio.CancelScope(shield=True):
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
            if pool.was_made and place.server not in {"", "memory:"}:
                await _delete(address, name, place.options)


def _address(server: str, directory: Path, name: str) -> str:
    if server == "memory:":
        return server
    if server:
        return f"{server}/{name}"
    return f"sqlite:///{quote(os.path.abspath(directory / 'pool.db'))}"  # noqa: PTH100 - resolves no links


async def _delete(address: str, name: str, options: Mapping[str, Any]) -> None:
    """Delete a database of ours. What went wrong before is told, and not that it cannot be deleted either."""
    from apicas.clients.couch import CouchClient  # noqa: PLC0415 - a pool in a file needs no HTTP library

    try:
        with anyio.fail_after(_FAREWELL):
            async with connect(address, **options) as client:
                if isinstance(client, CouchClient) and name.startswith(PREFIX):
                    await client.delete_database()
    except AccessDeniedError as error:  # then we were not allowed to make it either
        log.debug("the database %s cannot be deleted: %s", name, error)
    except (PoolError, TimeoutError) as error:
        log.warning("the database %s may still be there, and can be deleted: %s", name, error)
