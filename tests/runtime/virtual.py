"""What the tests in virtual time share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from apicas.iterators import BasicViewIterator
from apicas.modifiers import BasicTokenModifier
from apicas.testing import Faults, FaultyClient, run_virtual, unix_time, virtual_environment

LEASE = 60.0


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in virtual time."""

    @wraps(test)
    def call(*arguments: Any, **keywords: Any) -> None:
        run_virtual(lambda: test(*arguments, **keywords))

    return call


def make_pool() -> FaultyClient:
    """A new pool in virtual time."""
    return FaultyClient(Faults(), now=unix_time)


def pilot(client: FaultyClient, name: str = "one", **keywords: Any) -> BasicViewIterator:
    """A pilot's iterator over a client of its own."""
    environment = keywords.pop("environment", None) or virtual_environment(name)
    return BasicViewIterator(client.fork(), BasicTokenModifier(), environment=environment, **keywords)
