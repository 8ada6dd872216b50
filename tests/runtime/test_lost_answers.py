"""A store whose answers all get lost is not hammered, and gets every outcome once it answers again."""

from __future__ import annotations

import anyio

from apicas.testing import FaultyClient
from tests.runtime.acting import acting
from tests.runtime.virtual import make_pool, pilot, virtual

SECONDS = 60.0


@virtual
async def test_a_commit_that_is_never_answered_is_tried_again_at_leisure() -> None:
    """The pauses grow, and the outcome is written when one answer comes through."""
    client = make_pool()
    await client.upload([{"input": 1}])

    async def lose(*_: object) -> dict[str, int]:
        client.faults.lose_requests = 1_000_000
        return {"answer": 42}

    async with pilot(client) as tokens, anyio.create_task_group() as group:
        group.start_soon(_heal, client)
        report = await acting(tokens, lose).run(handle_signals=False, workers=1)
    assert (report.done, report.lost) == (1, 0)
    assert await client.counts() == {"todo": 0, "locked": 0, "done": 1, "error": 0}


async def _heal(client: FaultyClient) -> None:
    await anyio.sleep(SECONDS)
    lost = 1_000_000 - client.faults.lose_requests
    assert 5 < lost < 100
    client.faults.lose_requests = 0
