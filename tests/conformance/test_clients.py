"""Every client passes the conformance suite that apicas ships."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from apicas.clients.base import PoolClient
from apicas.testing.conformance import CLIENT_CHECKS, Check

MakeClient = Callable[[], PoolClient]


@pytest.mark.parametrize("check", CLIENT_CHECKS, ids=lambda check: check.__name__)
async def test_client(check: Check, make_client: MakeClient) -> None:
    """One duty of one client."""
    await check(make_client)
