"""The stock: the order, the turn of the loop, and that no token waits beside a worker that waits for one."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apicas._runtime.stock import TURN, Stock
from apicas.testing import run_virtual
from apicas.tokens import Token
from tests.runtime.virtual import virtual

LONG = 2 * TURN


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(*, tokens: int = 0) -> tuple[Stock, Clock, list[Token]]:
    clock = Clock()
    stock = Stock(clock)
    made = [token(number) for number in range(tokens)]
    stock.put(made)
    return stock, clock, made


def token(number: int) -> Token:
    return Token({"_id": f"t{number}"})


async def settle() -> None:
    """Let every task get as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


@virtual
async def test_the_oldest_comes_first() -> None:
    stock, _, tokens = make(tokens=3)
    assert [await stock.take() for _ in tokens] == tokens
    assert not len(stock)


@virtual
async def test_what_is_left_is_still_handed_out_after_the_end() -> None:
    stock, _, (first, second) = make(tokens=2)
    stock.close()
    assert [await stock.take() for _ in range(4)] == [first, second, None, None]


@virtual
async def test_the_end_lets_everybody_go_who_waits() -> None:
    stock, _, _ = make()
    waiting = [asyncio.create_task(stock.take()) for _ in range(3)]
    await settle()
    stock.close()
    assert await asyncio.gather(*waiting) == [None, None, None]


@virtual
async def test_each_token_wakes_one_who_waits() -> None:
    stock, _, _ = make()
    waiting = [asyncio.create_task(stock.take()) for _ in range(3)]
    await settle()
    tokens = [token(0), token(1)]
    stock.put(tokens)
    await settle()
    assert [task.result() for task in waiting[:2]] == tokens
    assert not waiting[2].done()
    stock.put([last := token(2)])
    assert await waiting[2] is last


@virtual
async def test_a_worker_that_is_cancelled_as_it_is_woken_passes_that_on() -> None:
    stock, _, _ = make()
    first, second = (asyncio.create_task(stock.take()) for _ in range(2))
    await settle()
    stock.put([only := token(0)])
    first.cancel()
    assert await second is only
    with pytest.raises(asyncio.CancelledError):
        await first


@virtual
async def test_a_worker_that_is_cancelled_as_it_waits_is_not_woken_later() -> None:
    stock, _, _ = make()
    first, second = (asyncio.create_task(stock.take()) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    stock.put([only := token(0)])
    assert await second is only


@virtual
async def test_a_worker_that_finds_its_token_taken_waits_again() -> None:
    stock, _, _ = make()
    waiting = asyncio.create_task(stock.take())
    await settle()
    stock.put([first := token(0)])
    assert stock.take_ready(stock.turn()) is first  # by one that had not to be woken
    await settle()
    assert not waiting.done()
    stock.put([second := token(1)])
    assert await waiting is second


@virtual
async def test_work_that_waits_for_nothing_goes_on_until_the_loop_has_to_have_its_turn() -> None:
    stock, clock, tokens = make(tokens=3)
    turn = stock.turn()
    assert stock.take_ready(turn) is tokens[0]
    clock.now += LONG
    assert stock.take_ready(stock.turn()) is None
    others: list[str] = []
    asyncio.get_running_loop().call_soon(others.append, "had a turn")
    assert await stock.take() is tokens[1]
    assert others
    assert stock.take_ready(stock.turn()) is tokens[2]  # a new turn, of 2 ms again


@virtual
async def test_work_that_has_waited_needs_no_turn() -> None:
    stock, clock, (only,) = make(tokens=1)
    turn = stock.turn()
    clock.now += LONG
    await asyncio.sleep(0)
    assert stock.take_ready(turn) is only


@virtual
async def test_what_was_claimed_too_long_ago_is_taken_out() -> None:
    stock, clock, old = make(tokens=2)
    assert stock.remove(clock.now) == []
    clock.now += 1
    stock.put([young := token(2)])
    assert stock.remove(clock.now) == old
    assert [await stock.take()] == [young]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["put", "worker", "cancel", "ready", "step", "remove", "late"]), max_size=40))
def test_no_token_is_lost_or_handed_out_twice_and_nobody_waits_beside_one(steps: list[str]) -> None:
    async def main() -> None:
        stock, clock, _ = make()
        put: list[Token] = []
        got: list[Token] = []
        workers: list[asyncio.Task[Token | None]] = []
        for step in steps:
            clock.now += LONG if step == "late" else 0
            if step == "put":
                put += (tokens := [token(len(put)), token(len(put) + 1)])
                stock.put(tokens)
            elif step == "worker":
                workers.append(asyncio.create_task(stock.take()))
            elif step == "cancel" and workers:
                workers[len(put) % len(workers)].cancel()
            elif step == "ready" and (ready := stock.take_ready(stock.turn())) is not None:
                got.append(ready)
            elif step == "remove" and len(put) % 3 == 0:
                got += stock.remove(clock.now)
            elif step == "step":
                await asyncio.sleep(0)
        await settle()
        assert not len(stock) or all(worker.done() for worker in workers)
        stock.close()
        ended = await asyncio.gather(*workers, return_exceptions=True)
        got += [one for one in ended if isinstance(one, Token)]
        while (left := await stock.take()) is not None:
            got.append(left)
        assert sorted(one.id for one in got) == sorted(one.id for one in put)

    run_virtual(main)
