"""Outcomes that come one by one gather for a moment; but never while somebody waits for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from typing_extensions import override

from apicas._runtime.feeder import MAX_UNWRITTEN
from apicas._runtime.keeping.committer import GATHER_TIME, MAX_BATCH
from apicas._runtime.keeping.outcomes import Returned
from apicas.clients.port import SaveResult
from apicas.iterators import BasicViewIterator
from apicas.policies.claiming import CLAIM_PORTION
from apicas.testing import Faults, FaultyClient, unix_time, virtual_environment
from tests.runtime.acting import acting
from tests.runtime.virtual import virtual

TOKENS = 20


class CountingClient(FaultyClient):
    """Notes how many documents each write had."""

    def __init__(self) -> None:
        super().__init__(Faults(), now=unix_time)
        self.writes: list[int] = []
        self.seconds = 0.0
        """What a write takes."""
        self.seconds_of_outcomes: float | None = None
        """What one of outcomes takes; None for as much as any."""

    @override
    async def save(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        self.writes.append(len(documents))
        is_slow = self.seconds_of_outcomes is not None and any(document.get("done") for document in documents)
        await anyio.sleep(self.seconds_of_outcomes or 0.0 if is_slow else self.seconds)
        return await super().save(documents)


async def filled() -> CountingClient:
    client = CountingClient()
    await client.upload([{"_id": f"t{number:02}"} for number in range(TOKENS)])
    return client


@virtual
async def test_outcomes_that_come_one_by_one_share_a_write() -> None:
    client = await filled()
    async with BasicViewIterator(client, environment=virtual_environment()) as mine:
        tokens = await mine.claim(TOKENS)
        client.writes.clear()
        for token in tokens:
            mine.keeper.give_back(token, Returned())
            await anyio.sleep(GATHER_TIME / 10)
        await mine.keeper.wait_until_written()
    assert sum(client.writes) == TOKENS
    assert client.writes[0] == 1  # nothing had been written before, so there was no reason to wait
    assert len(client.writes) <= 4


@virtual
async def test_what_comes_while_others_are_written_gathers_too() -> None:
    """Else a pilot whose tokens end faster than the store writes would never gather again."""
    client = await filled()
    client.seconds = GATHER_TIME / 5
    async with BasicViewIterator(client, environment=virtual_environment()) as mine:
        tokens = await mine.claim(TOKENS)
        client.writes.clear()
        for token in tokens:
            mine.keeper.give_back(token, Returned())
            await anyio.sleep(GATHER_TIME / 10)
        await mine.keeper.wait_until_written()
    assert sum(client.writes) == TOKENS
    assert len(client.writes) <= 4


@virtual
async def test_nobody_who_waits_for_an_outcome_waits_for_others() -> None:
    """One token after the other in the user's own loop: each end is written at once."""
    client = await filled()
    async with BasicViewIterator(client, environment=virtual_environment(), linger=False) as mine:
        began = anyio.current_time()
        for token in await mine.claim(TOKENS):
            async with token:
                token["output"] = 1
        assert anyio.current_time() - began < GATHER_TIME
    assert client.writes[1:] == [1] * TOKENS


@virtual
async def test_the_end_of_a_pilot_waits_for_nobody() -> None:
    client = await filled()

    async def work(_token: Any) -> None:
        await anyio.sleep(0.001)

    iterator = BasicViewIterator(client, environment=virtual_environment(), linger=False)
    began = anyio.current_time()
    report = await acting(iterator, work).run(workers=1, max_tokens=3, handle_signals=False)
    assert report.done == 3
    assert anyio.current_time() - began < GATHER_TIME


@virtual
async def test_a_store_that_is_behind_with_outcomes_gets_no_more_claims() -> None:
    """Each outcome is kept until it is written: a pilot that went on would keep ever more of them."""
    many = 8 * MAX_UNWRITTEN
    client = CountingClient()
    await client.upload([{} for _ in range(many)])
    client.seconds = 0.2
    client.seconds_of_outcomes = 2.0
    waiting: list[int] = []
    iterator = BasicViewIterator(client, environment=virtual_environment(), linger=False)

    async def work(_token: Any) -> None:
        waiting.append(iterator.keeper.unwritten)

    report = await acting(iterator, work).run(workers=64, handle_signals=False)
    assert report.done == many
    # What was claimed before, and claims under way, still come on top.
    assert max(waiting) <= MAX_UNWRITTEN + 4 * CLAIM_PORTION
    assert report.seconds < 20 + many / MAX_BATCH * 2.2
