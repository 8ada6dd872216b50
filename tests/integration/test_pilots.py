"""Real pilots on real stores: every token exactly once; what a killed one held is worked again, and only that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.exactly_once import Trial, run_trial
from tests.couchdb import SERVERS, server


@pytest.fixture(params=["sqlite", *SERVERS])
def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a new pool."""
    with ExitStack() as after:
        if request.param == "sqlite":
            yield f"sqlite:///{tmp_path}/pool.db"
        else:
            couch = server(request.config, request.param)
            credentials = f"{couch.username}:{couch.password}@" if couch.username else ""
            database = after.enter_context(couch.database())
            yield couch.url.replace("://", f"://{credentials}") + f"/{database}"


async def test_every_token_is_worked_exactly_once(pool: str, tmp_path: Path) -> None:
    """Four pilots, no-op tokens, many races, no error in any log."""
    result = await run_trial(Trial(pool=pool, tokens=400), tmp_path)
    assert result.problems == []
    assert result.executions == 400


async def test_a_killed_pilot_loses_nothing(pool: str, tmp_path: Path) -> None:
    """One of four gets SIGKILL in the middle: what it had begun is worked twice, nothing else is."""
    result = await run_trial(Trial(pool=pool, tokens=300, seconds=0.2, workers=4, kill=True), tmp_path)
    assert result.problems == []
    assert result.held_by_victim
