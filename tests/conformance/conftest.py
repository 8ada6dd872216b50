"""The clients under test, each with a new, empty pool per test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from apicas.clients.base import PoolClient
from apicas.clients.memory import MemoryClient
from apicas.clients.sqlite import SQLiteClient
from tests.couchdb import SERVERS, server

MakeClient = Callable[[], PoolClient]


@pytest.fixture(params=["memory", "sqlite", "sqlite-alone", *SERVERS])
def make_client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeClient]:
    """A factory of clients on one new pool."""
    with ExitStack() as after:
        if request.param == "memory":
            yield MemoryClient().fork
        elif request.param == "sqlite":
            yield SQLiteClient(tmp_path / "pool.db").fork
        elif request.param == "sqlite-alone":  # as on a network file system
            yield SQLiteClient(tmp_path / "pool.db", file_system=lambda _: "nfs4").fork
        else:
            couch = server(request.config, request.param)
            database = after.enter_context(couch.database())
            yield lambda: couch.client(database)
