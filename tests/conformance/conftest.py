"""The clients under test, each with a new, empty pool per test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from apicas.clients.base import PoolClient
from apicas.clients.memory import MemoryClient
from apicas.clients.sqlite import SQLiteClient

MakeClient = Callable[[], PoolClient]


@pytest.fixture(params=["memory", "sqlite", "sqlite-alone"])
def make_client(request: pytest.FixtureRequest, tmp_path: Path) -> MakeClient:
    """A factory of clients on one new pool."""
    if request.param == "memory":
        return MemoryClient().fork
    if request.param == "sqlite":
        return SQLiteClient(tmp_path / "pool.db").fork
    # As on a network file system.
    return SQLiteClient(tmp_path / "pool.db", file_system=lambda _: "nfs4").fork
