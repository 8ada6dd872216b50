"""Time limits, stop criteria, signals, and what a pilot leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import pytest
from typing_extensions import override

import apicas
from apicas._documents import Document
from apicas._runtime.hooks import Work
from apicas._runtime.options import RunOptions
from apicas._runtime.pilot import Pilot
from apicas.clients.port import SaveResult
from apicas.exceptions import ConfigError
from apicas.testing import FaultyClient, unix_time
from apicas.tokens import Token, is_suspect
from tests.runtime.acting import filled, only, retried_once, returns, work
from tests.runtime.virtual import LEASE, make_pool, pilot, virtual


@virtual
async def test_the_time_limit_ends_the_work() -> None:
    """At the limit, not later; a failure that says so. cleanup_run still runs."""
    client = make_pool()
    await client.upload([{}])
    ended: list[tuple[str, float]] = []
    start = unix_time()

    class Actor(apicas.RunActor):
        async def process_token(self, token: Token) -> None:
            try:
                await anyio.sleep(1000)
            finally:
                ended.append(("process", unix_time() - start))

        async def cleanup_run(self, token: Token) -> None:
            ended.append(("cleanup", unix_time() - start))

    report = await Actor(pilot(client)).run(max_token_time=10)
    assert ended == [("process", 10), ("cleanup", 10)]
    assert report.failed == 1
    assert (await only(client)).errors[0]["message"] == "not done within the time limit of 10 s"


@virtual
async def test_work_that_ignores_its_time_limit_loses_its_lease() -> None:
    """It cannot be ended, so it is beaten no longer: another pilot works the token, and what it says late is lost."""
    client = make_pool()
    await client.upload([{"_id": "t"}])

    async def stubborn(token: Token) -> str:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(20 * LEASE)
        return "late"

    async def run_stubborn() -> None:
        report = await work(client, stubborn, workers=1, max_token_time=LEASE, max_tokens=1)
        assert (report.lost, report.done, report.failed) == (1, 0, 0)

    async with anyio.create_task_group() as group:
        group.start_soon(run_stubborn)
        await anyio.sleep(LEASE + 1)  # before, it is seen to live, and nobody waits for it
        async with pilot(client, "two") as tokens:
            async for token in tokens:
                async with token:
                    token["output"] = "in time"
    stored = await client.fetch("t")
    assert (stored.output, is_suspect(stored)) == ("in time", True)


@virtual
async def test_a_timeout_of_the_users_own_is_an_exception() -> None:
    """Not mistaken for the token's time limit."""
    client = make_pool()
    await client.upload([{}])

    async def process(token: Token) -> None:
        with anyio.fail_after(5):
            await anyio.sleep(1000)

    await work(client, process, max_token_time=10)
    assert (await only(client)).errors[0]["message"].startswith("TimeoutError")


@virtual
async def test_max_total_time_finishes_what_runs() -> None:
    """Nothing new is begun after it, and nothing that runs is cut."""
    client = make_pool()
    await client.upload([{} for _ in range(100)])

    async def process(token: Token) -> None:
        await anyio.sleep(7)

    report = await work(client, process, workers=2, max_total_time=20)
    assert report.done == 6
    assert report.reason.startswith("max_total_time")
    assert await client.counts() == {"todo": 94, "locked": 0, "done": 6, "error": 0}


@pytest.mark.parametrize("name", ["max_tokens", "max_tasks"])
@virtual
async def test_max_tokens_is_exact(name: str) -> None:
    """No more are worked, and none beyond stay claimed."""
    client = make_pool()
    await client.upload([{} for _ in range(50)])

    async def process(token: Token) -> None:
        await anyio.sleep(0.01)

    report = await work(client, process, workers=4, **{name: 17})
    assert report.done == 17
    assert await client.counts() == {"todo": 33, "locked": 0, "done": 17, "error": 0}


@virtual
async def test_stop_function_ends_the_pilot() -> None:
    """Asked after each token, with the keywords that are no options of ours, as in PiCaS."""
    client = make_pool()
    await client.upload([{} for _ in range(10)])
    worked: list[str] = []

    async def process(token: Token) -> None:
        worked.append(token.id)

    report = await work(client, process, workers=1, stop_function=lambda limit: len(worked) >= limit, limit=3)
    assert report.done == 3
    assert (await client.counts())["todo"] == 7


@virtual
async def test_unknown_options_are_refused() -> None:
    """A misspelt keyword is no stop_function's business where there is none."""
    with pytest.raises(ConfigError, match="max_tokenz"):
        await work(make_pool(), returns, max_tokenz=3)
    with pytest.raises(ConfigError, match="workers is 0"):
        await work(make_pool(), returns, workers=0)


@virtual
async def test_workers_work_at_once() -> None:
    """Twenty tokens of one second on ten workers take two seconds."""
    client = make_pool()
    await client.upload([{} for _ in range(20)])
    running = most = 0

    async def process(token: Token) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1)
        running -= 1

    report = await work(client, process, workers=10)
    assert most == 10
    assert report.done == 20
    assert report.seconds < 3


@virtual
async def test_a_slow_token_does_not_hold_up_the_others() -> None:
    """Workers take the next token one by one, not batch by batch."""
    client = make_pool()
    await client.upload([{"_id": "a-slow"}, *({"_id": f"b{n}"} for n in range(30))])

    async def process(token: Token) -> None:
        await anyio.sleep(100 if token.id == "a-slow" else 1)

    report = await work(client, process, workers=4)
    assert report.done == 31
    assert report.seconds < 115


@virtual
async def test_a_drain_lets_tokens_finish_within_the_grace_period() -> None:
    """What ends in time is done; the rest is cancelled and released, uncharged."""
    client = make_pool()
    await client.upload([{"_id": f"t{n}", "input": seconds} for n, seconds in enumerate([5, 15, 100, 1000])])
    started = anyio.Event()
    from apicas._runtime.hooks import Work
    from apicas._runtime.options import RunOptions
    from apicas._runtime.pilot import Pilot

    async def process(token: Token) -> None:
        if token["input"] == 1000:
            started.set()
        await anyio.sleep(token["input"])

    running = Pilot(pilot(client), Work(process=process), RunOptions(grace=20), 4)
    async with anyio.create_task_group() as group:

        async def run() -> None:
            start = unix_time()
            report = await running.run()
            assert (report.done, report.released, report.reason) == (2, 2, "SIGTERM")
            assert 20 <= unix_time() - start <= 21

        group.start_soon(run)
        await started.wait()
        running.drain("SIGTERM")
    for name in ("t2", "t3"):
        token = await client.fetch(name)
        assert (token.state, token.scrub_count, token.releases) == ("todo", 0, 1)


@virtual
async def test_a_second_signal_waits_for_no_cleanup() -> None:
    """After a drain cleanup_run has the grace period; once more, and it has a moment."""
    from apicas._runtime.hooks import Work
    from apicas._runtime.options import RunOptions
    from apicas._runtime.pilot import Pilot

    client = make_pool()
    await client.upload([{"_id": "t"}])
    cleaning = anyio.Event()

    async def process(token: Token) -> None:
        await anyio.sleep(1000)

    async def cleanup(token: Token) -> None:
        cleaning.set()
        await anyio.sleep(1000)

    running = Pilot(pilot(client), Work(process=process, cleanup=cleanup), RunOptions(grace=20), 1)
    async with anyio.create_task_group() as group:
        group.start_soon(running.run)
        await anyio.sleep(5)
        running.drain("SIGTERM")
        await cleaning.wait()
        start = unix_time()
        running.cut()
    assert unix_time() - start <= 2
    assert (await client.fetch("t")).state == "todo"


@virtual
async def test_a_second_signal_may_come_before_anything_else() -> None:
    """Even before the pilot has entered its iterator."""
    from apicas._runtime.hooks import Work
    from apicas._runtime.options import RunOptions
    from apicas._runtime.pilot import Pilot

    client = make_pool()
    await client.upload([{}])
    early = Pilot(pilot(client), Work(process=returns), RunOptions(), 1)
    early.drain("SIGTERM")
    early.cut()
    report = await early.run()
    assert (report.done, report.reason) == (0, "SIGTERM")
    assert (await client.counts())["todo"] == 1


@pytest.mark.parametrize("where", ["sample", "save", "prepare_env"])
@pytest.mark.parametrize("signals", [1, 2])
@virtual
async def test_a_signal_ends_a_pilot_that_waits_for_an_answer(where: str, signals: int) -> None:
    """A claim without an answer, or a prepare_env that hangs, does not outlast the grace period, or a second signal."""

    class Hanging(FaultyClient):
        async def hang(self, request: str) -> None:
            if request == where:
                await anyio.sleep(100 * LEASE)

        @override
        def fork(self) -> FaultyClient:
            fork = Hanging(self.faults, now=self._now)
            fork._pool = self._pool
            return fork

        @override
        async def sample(
            self, view: str, limit: int, place: float, *, window: int = 0, fresh: bool = False
        ) -> list[Document]:
            await self.hang("sample")
            return await super().sample(view, limit, place, window=window, fresh=fresh)

        @override
        async def save(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
            results = await super().save(documents)
            if documents[0].get("lock"):
                await self.hang("save")
            return results

    async def prepare_env() -> None:
        if where == "prepare_env":
            await anyio.sleep(100 * LEASE)

    client = await filled(1)
    hanging = Hanging(client.faults, now=unix_time)
    hanging._pool = client._pool
    running = Pilot(pilot(hanging), Work(process=retried_once, prepare_env=prepare_env), RunOptions(grace=20), 1)
    async with anyio.create_task_group() as group:
        group.start_soon(running.run)
        await anyio.sleep(5)
        start = unix_time()
        running.drain("SIGTERM")
        if signals == 2:
            running.cut()
    assert unix_time() - start <= (30 if signals == 1 else 10)
    assert (await client.counts())["todo"] == 1
