"""What a pilot does that does not reach its pool for longer than a lease."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import apicas
from apicas.exceptions import ConfigError
from apicas.policies.leases import MIN_LEASE
from apicas.testing import FaultyClient, unix_time
from apicas.testing.virtual import virtual_loop
from apicas.tokens import Token
from tests.runtime.acting import acting
from tests.runtime.virtual import LEASE, make_pool, pilot, virtual


async def work_through_an_outage(
    seconds: float, client: FaultyClient, outage: tuple[float, float], **options: Any
) -> tuple[apicas.Report, list[float]]:
    """Work one token for so long, while the pool is away from one second on to another; and when work was cancelled."""
    await client.upload([{"_id": "t"}])
    begin, cancelled = unix_time(), list[float]()

    async def process(token: Token) -> str:
        try:
            await anyio.sleep(seconds)
        except anyio.get_cancelled_exc_class():
            cancelled.append(unix_time() - begin)
            raise
        return "finished"

    async def fail() -> None:
        await anyio.sleep(outage[0])
        client.faults.away = True
        await anyio.sleep(outage[1] - outage[0])
        client.faults.away = False

    async with anyio.create_task_group() as group:
        group.start_soon(fail)
        async with pilot(client, lock_timeout=LEASE, linger=False) as tokens:
            report = await acting(tokens, process).run(workers=1, max_tokens=1, **options)
    return report, cancelled


@virtual
async def test_work_goes_on_without_contact() -> None:
    """The default: a finished result is worth more than a second execution costs."""
    client = make_pool()
    report, cancelled = await work_through_an_outage(8 * LEASE, client, (LEASE, 5 * LEASE))
    assert (report.done, cancelled) == (1, [])
    assert (await client.fetch("t")).output == "finished"


@virtual
async def test_work_is_stopped_when_no_beat_arrives_for_a_lease() -> None:
    """Not later than a lease after the last beat that arrived; nothing is written, also when the pool is back."""
    client = make_pool()
    report, cancelled = await work_through_an_outage(8 * LEASE, client, (LEASE, 5 * LEASE), on_lost_contact="stop")
    assert (report.lost, report.done, len(cancelled)) == (1, 0, 1)
    assert 1.7 * LEASE <= cancelled[0] <= 2.05 * LEASE
    assert (await client.fetch("t")).output == {}


@virtual
async def test_a_shorter_outage_stops_nothing() -> None:
    client = make_pool()
    report, cancelled = await work_through_an_outage(4 * LEASE, client, (LEASE, 1.65 * LEASE), on_lost_contact="stop")
    assert (report.done, cancelled) == (1, [])


@virtual
async def test_what_was_finished_meanwhile_is_written_when_the_pool_is_back() -> None:
    client = make_pool()
    report, _ = await work_through_an_outage(1.2 * LEASE, client, (LEASE, 5 * LEASE), on_lost_contact="stop")
    assert (report.done, report.lost) == (1, 0)
    assert (await client.fetch("t")).output == "finished"


@virtual
async def test_an_iterator_may_be_told_as_well() -> None:
    """For those who work its tokens themselves: the task is theirs, so they only learn that the token is lost."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with pilot(client, lock_timeout=LEASE, on_lost_contact="stop") as tokens:
        (token,) = await tokens.claim(1)
        client.faults.away = True
        await anyio.sleep(1.1 * LEASE)
        assert tokens.keeper.held == 0
        client.faults.away = False
        assert not tokens.keeper.begin(token, lambda: None)


@virtual
async def test_an_odd_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="continue or stop"):
        async with pilot(make_pool(), on_lost_contact="pause"):
            pass


@virtual
async def test_a_pilot_that_was_stopped_begins_nothing_that_others_may_have() -> None:
    """Its stock was claimed before it was stopped for longer than a lease: the other one has worked it by then."""
    client, worked = make_pool(), list[tuple[str, str]]()
    await client.upload([{"_id": f"t{number:02}"} for number in range(40)])

    def work(name: str, seconds: float) -> Any:
        async def process(token: Token) -> None:
            worked.append((name, token.id))
            await anyio.sleep(seconds)

        return process

    async def run(name: str, seconds: float) -> apicas.Report:
        async with pilot(client, name, lock_timeout=MIN_LEASE) as tokens:
            return await acting(tokens, work(name, seconds)).run(workers=1)

    group = virtual_loop().group("stopped")
    stopped = group.start(run("stopped", 0.1))
    await anyio.sleep(1.05)
    group.pause()
    began = len(worked)
    await run("other", 0.1)
    client.faults.away = True  # so that no beat can say what became of its claims
    group.resume()
    await anyio.sleep(3)
    client.faults.away = False
    report = await stopped
    assert report.claimed > began + 1  # it held a stock
    assert [token for name, token in worked[began:] if name == "stopped"] == []
    assert sorted({token for _, token in worked}) == [f"t{number:02}" for number in range(40)]
    assert len(worked) == 41  # only what it was working when it was stopped came twice
