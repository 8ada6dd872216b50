"""The clients under test, each with a new, empty pool per test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from apicas.clients.base import PoolClient
from apicas.clients.memory import MemoryClient

MakeClient = Callable[[], PoolClient]


@pytest.fixture(params=["memory"])
def make_client(request: pytest.FixtureRequest) -> MakeClient:
    """A factory of clients on one new pool."""
    first = MemoryClient()
    return first.fork
