"""Iterators: order, waiting, contention, and who may enter."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from apicas.iterators import EndlessViewIterator, PrioritizedViewIterator
from apicas.testing import unix_time, virtual_environment
from apicas.tokens import Token, TokenState
from apicas.views import View, field
from tests.runtime.acting import acting, filled, retried_once
from tests.runtime.virtual import LEASE, make_pool, pilot, virtual


@virtual
async def test_one_bad_token_does_not_end_a_loop_by_hand() -> None:
    """`async with token` records the exception and goes on."""
    client = make_pool()
    await client.upload([{"input": n} for n in range(5)])
    async with pilot(client, max_scrub=1) as tokens:
        async for token in tokens:
            async with token:
                if token["input"] == 3:
                    raise ValueError("three")
    assert await client.counts() == {"todo": 0, "locked": 0, "done": 4, "error": 1}
    assert tokens is not None


@virtual
async def test_an_iterator_has_to_be_entered() -> None:
    """Without its heartbeat no token is handed out."""
    with pytest.raises(RuntimeError, match="enter the iterator"):
        await pilot(make_pool()).claim(1)


@virtual
async def test_an_iterator_is_entered_once() -> None:
    """Two runs at once over one that nobody has entered: the second is refused, and does the first no harm."""
    client = await filled(3)
    actor = acting(pilot(client), retried_once)
    async with anyio.create_task_group() as group:

        async def first() -> None:
            assert (await actor.run(workers=1)).done == 3

        group.start_soon(first)
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="entered already"):
            async with actor.iterator:
                pass
    assert (await client.counts())["done"] == 3
    await client.upload([{}])
    assert (await actor.run(workers=1)).done == 1


@virtual
async def test_priorities_are_strict() -> None:
    """From a view only what the views before it do not have."""
    client = make_pool()
    await client.upload([{"_id": f"t{n}", "urgent": n % 3 == 0} for n in range(12)])
    await client.add_view(View("Urgent/todo", TokenState.TODO, field("urgent") == True))  # noqa: E712
    views = ["Urgent/todo", "Monitor/todo"]
    async with PrioritizedViewIterator(client, views=views, environment=virtual_environment()) as tokens:
        order = []
        async for token in tokens:
            async with token:
                order.append(token["urgent"])
    assert order == [True] * 4 + [False] * 8


@virtual
async def test_an_endless_iterator_waits_for_work() -> None:
    """It finds tokens that are pushed later, and ends when its callback says so."""
    client = make_pool()
    worked: list[str] = []

    async def push() -> None:
        for number in range(3):
            await anyio.sleep(100)
            await client.upload([{"_id": f"t{number}"}])

    async with anyio.create_task_group() as group:
        group.start_soon(push)
        endless = EndlessViewIterator(pilot(client), poll=10, stop_callback=lambda limit: len(worked) >= limit, limit=3)
        async with endless as tokens:
            async for token in tokens:
                async with token:
                    worked.append(token.id)
    assert worked == ["t0", "t1", "t2"]


@virtual
async def test_stopping_the_inner_iterator_ends_an_endless_one() -> None:
    """It would wait for ever for an iterator that hands out nothing any more."""
    inner = pilot(await filled(3))
    seen: list[str] = []
    with anyio.fail_after(LEASE):
        async with EndlessViewIterator(inner) as tokens:
            async for token in tokens:
                async with token:
                    seen.append(token.id)
                inner.stop()
    assert len(seen) == 1


@virtual
async def test_an_endless_iterator_over_priorities_works_both() -> None:
    """And its stop ends all of them."""
    client = await filled(4)
    await client.add_view(View("First/todo", TokenState.TODO, field("first") == True))  # noqa: E712
    views = ["First/todo", "Monitor/todo"]
    inner = PrioritizedViewIterator(client.fork(), views=views, environment=virtual_environment())
    report = await acting(EndlessViewIterator(inner), retried_once).run(workers=2, max_total_time=60)
    assert report.done == 4


@virtual
async def test_contention_never_ends_a_pilot() -> None:
    """Rivals win every race for a long while; as soon as they stop, the token is claimed."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    races = 0

    def rival(documents: Any) -> None:
        nonlocal races
        if races < 50 and documents[0].get("lock"):
            races += 1
            stored = client._pool.documents["t"]
            client._store({**stored.document(), "touched": races}, {})

    client.faults.before_save = rival
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)
        assert races == 50
        async with token:
            pass


@virtual
async def test_waiting_tokens_do_not_hide_others() -> None:
    """A whole window of tokens that wait for their time, and one that does not, behind them."""
    client = make_pool()
    later = unix_time() + 10_000
    documents = [
        {"_id": f"a{n:05}", "type": "token", "lock": 0, "done": 0, "apicas": {"not_before": later}} for n in range(5000)
    ]
    assert all(result.written for result in await client.save(documents))
    await client.upload([{"_id": "z"}])
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)
        assert token.id == "z"


@virtual
async def test_the_first_tokens_of_a_view_come_first_if_asked_for() -> None:
    """Also behind some that wait, and when there are fewer than asked for."""
    client = make_pool()
    await client.upload([{"_id": f"t{n:03}"} for n in range(200)])
    await client.edit("t001", lambda token: token.update({"apicas": {"not_before": unix_time() + 10_000}}))
    async with pilot(client, in_order=True) as tokens:
        claimed = [[token.id for token in await tokens.claim(60)] for _ in range(4)]
    expected = ["t000", *(f"t{n:03}" for n in range(2, 200))]
    assert claimed == [expected[0:60], expected[60:120], expected[120:180], expected[180:]]


@virtual
async def test_pilots_share_a_pool_without_working_anything_twice() -> None:
    """Eight pilots, many races, every token exactly once."""
    client = make_pool()
    await client.upload([{"_id": f"t{n:04}"} for n in range(400)])
    worked: list[str] = []

    async def run(name: str) -> None:
        async def process(token: Token) -> None:
            await anyio.sleep(0.5)
            worked.append(token.id)

        tokens = pilot(client, environment=virtual_environment(name, seed=int(name[-1])))
        await acting(tokens, process).run(workers=4)

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(run, f"pilot{number}")
    assert sorted(worked) == [f"t{n:04}" for n in range(400)]
