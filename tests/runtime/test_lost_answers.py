"""A store whose answers all get lost is not hammered, and gets every outcome once it answers again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from typing_extensions import override

import apicas
from apicas._documents import Document
from apicas.modifiers import BasicTokenModifier, Claim, Owner
from apicas.testing import Faults, FaultyClient, unix_time
from apicas.tokens import Token, annex
from tests.runtime.acting import acting, work
from tests.runtime.virtual import LEASE, make_pool, pilot, virtual

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


async def _work_elsewhere(client: FaultyClient, token: Mapping[str, Any]) -> None:
    """Somebody else claims a token, in whatever state it is, and brings it to its end."""
    claim = Claim(claim_id="another's", owner=Owner(pilot="two", hostname="node2"), now=unix_time(), lease=LEASE)
    modifier = BasicTokenModifier()
    rival = client.rival()
    locked = modifier.lock({**token, "lock": 0, "done": 0}, claim)
    (result,) = await rival.save([locked])
    closed = modifier.close({**locked, "_rev": result.rev}, unix_time())
    (result,) = await rival.save([closed])
    assert result.written


class _Hasty(FaultyClient):
    """A pool where somebody works what waits, between a write without an answer and the look at what became of it."""

    @override
    def fork(self) -> _Hasty:
        fork = _Hasty(self.faults, now=self._now)
        fork._pool = self._pool
        return fork

    @override
    async def get(self, ids: Sequence[str]) -> list[Document | None]:
        for row in await self.rival().view("todo", include_docs=True):
            assert row.document is not None
            await _work_elsewhere(self, row.document)
        return await super().get(ids)


@virtual
async def test_a_token_that_was_handed_back_and_went_on_to_somebody_else_is_not_called_lost() -> None:
    """It is where it was to go, whether or not the write without an answer brought it there."""
    client = _Hasty(Faults(), now=unix_time)
    await client.upload([{"_id": "a"}])

    async def process(token: Token) -> None:
        client.faults.lose_answers = 1
        raise apicas.Release

    report = await work(client, process, workers=1, max_tokens=1)
    assert (report.released, report.lost) == (1, 0)
    assert annex((await client.fetch("a")).document)["settled"] == "another's"


@virtual
async def test_a_token_that_was_taken_away_before_it_was_handed_back_is_lost() -> None:
    """Then somebody works what we worked: a person should know."""
    client = make_pool()
    await client.upload([{"_id": "a"}])

    async def process(token: Token) -> None:
        await _work_elsewhere(client, (await client.fetch("a")).document)
        raise apicas.Release

    report = await work(client, process, workers=1, max_tokens=1)
    assert (report.released, report.lost) == (0, 1)
    assert annex((await client.fetch("a")).document)["settled"] == "another's"
