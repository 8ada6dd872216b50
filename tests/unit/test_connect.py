"""From a pool's address to its client, and never a password in a message."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas.clients.connect import connect
from apicas.clients.memory import MemoryClient
from apicas.exceptions import ConfigError


@pytest.mark.parametrize("pool", ["memory:", "memory://"])
def test_memory_is_a_pool(pool: str) -> None:
    assert isinstance(connect(pool), MemoryClient)


def test_options_go_to_the_client() -> None:
    client = connect("memory:", now=lambda: 5.0)
    assert client.time() == 5.0


@pytest.mark.parametrize(
    "pool",
    [
        *["", "pool.db", "/pool.db", "ftp://host/db", "postgres://host/db", "couch:5984/db", "memory:///x", "sqlite:"],
        *[
            "sqlite:pool.db",
            "sqlite://",
            "sqlite:///",
            "sqlite:///dir/",
            "sqlite://host/pool.db",
            "http://host",
            "http://host:5984/",
        ],
        *["http://host:port/db", "http://host:99999/db", "http:///db", "http://[::1/db", "https://"],
    ],
)
def test_what_is_no_pool_is_a_config_error(pool: str) -> None:
    with pytest.raises(ConfigError):
        connect(pool)


SECRET = "s3cr3t-w0rd"


@pytest.mark.parametrize(
    "pool",
    [
        *[f"ftp://me:{SECRET}@host/db", f"http://me:{SECRET}@host", f"http://me:{SECRET}@host:port/db"],
        *[f"http://me:{SECRET}#1@host/db", f"http://me:{SECRET}/x@host", f"http://me:{SECRET}@[::1/db"],
        *[f"me:{SECRET}@host/db", f"http:me:{SECRET}@host/db", f"sqlite://me:{SECRET}@host/db"],
    ],
)
def test_no_message_holds_a_password(pool: str) -> None:
    with pytest.raises(ConfigError) as caught:
        connect(pool)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@given(st.text(max_size=40))
def test_any_other_text_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        connect(f"x{text}")


def test_an_unknown_option_is_told() -> None:
    options: dict[str, Any] = {"no_such_option": 1}
    with pytest.raises(TypeError, match="no_such_option"):
        connect("memory:", **options)
