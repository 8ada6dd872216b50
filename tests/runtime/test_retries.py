"""What goes back to todo waits there, and what kills its process ends in error: three counters, each with its limit."""

from __future__ import annotations

from itertools import pairwise

import anyio
import pytest

import apicas
from apicas._runtime.keeping.keeper import Keeper
from apicas._runtime.keeping.outcomes import Crashed, Cut, Raised, Verdict
from apicas.clients.memory import MemoryClient
from apicas.testing import unix_time
from apicas.tokens import Token, not_before
from tests.runtime.acting import acting, raising, work
from tests.runtime.virtual import make_pool, pilot, virtual


async def ended(client: MemoryClient, keeper: Keeper, verdict: Verdict) -> tuple[Token, float]:
    """Claim the only token, as soon as that may be, end it so, and say how long it waits afterwards."""
    while not (claimed := (await keeper.claim("Monitor/todo", 1))[0]):
        await anyio.sleep(1)
    settlement = keeper.give_back(claimed[0], verdict)
    assert settlement is not None
    await settlement.wait()
    token = await client.fetch("t")
    return token, max(0.0, not_before(token) - unix_time())


@virtual
async def test_a_token_whose_process_dies_ends_in_error_with_its_history() -> None:
    """Not by the scrub's limit, which is another counter."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with pilot(client, max_crashes=2, max_scrub=5) as tokens:
        for number in (1, 2):
            token, wait = await ended(client, tokens.keeper, Crashed("killed by SIGSEGV", "at line 3"))
            assert (token.state, token.crashes, token.scrub_count) == ("todo", number, 0)
            assert 0.5 * 2 ** (number - 1) <= wait <= 5.0 * 2 ** (number - 1)
        token, _ = await ended(client, tokens.keeper, Crashed("killed by SIGSEGV"))
        assert (tokens.keeper.tally.crashed, tokens.keeper.tally.failed) == (2, 1)
    assert (token.state, token.crashes) == ("error", 3)
    assert [error["message"] for error in token.errors[:3]] == ["killed by SIGSEGV"] * 3
    assert token.errors[0]["exception"] == "at line 3"
    assert token.errors[3]["message"] == "its work took 3 processes down; the limit is 2"


@virtual
async def test_releases_are_never_charged_but_wait_from_the_tenth_on() -> None:
    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with pilot(client) as tokens:
        waits = [(await ended(client, tokens.keeper, Cut()))[1] for _ in range(14)]
        token = await client.fetch("t")
    assert waits[:9] == [0.0] * 9
    assert all(0 < wait <= 2**number for number, wait in enumerate(waits[9:]))
    assert (token.state, token.releases, token.crashes, token.scrub_count) == ("todo", 14, 0, 0)


@pytest.mark.parametrize("error", [apicas.Retry(after=100), apicas.Release(after=100)])
@virtual
async def test_what_the_user_asked_for_wins(error: Exception) -> None:
    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with pilot(client, retry_delay=7) as tokens:
        _, wait = await ended(client, tokens.keeper, Raised(error))
    assert wait == 100


@virtual
async def test_scrubs_wait_longer_each_time() -> None:
    """All pilots honour it: the time is in the token."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    begins: list[float] = []

    async def process(token: Token) -> None:
        begins.append(unix_time())
        raise ValueError

    await work(client, process, max_scrub=6, retry_delay=10)
    waits = [after - before for before, after in pairwise(begins)]
    assert len(waits) == 6
    assert all(2**number <= wait <= 10.5 * 2**number for number, wait in enumerate(waits))


@virtual
async def test_no_wait_where_none_is_wanted() -> None:
    client = make_pool()
    await client.upload([{"_id": "t"}])
    begin = unix_time()
    report = await work(client, lambda token: raising(ValueError()), max_scrub=6, retry_delay=0)
    assert (report.scrubbed, report.failed) == (6, 1)
    assert unix_time() - begin < 1


@virtual
@pytest.mark.parametrize("workers", [1, 4])
async def test_what_waits_for_a_worker_is_handed_back_when_a_token_has_to_be_alone(workers: int) -> None:
    """With one worker nobody else takes it out of the way: the token waited half a minute, and was not alone then."""
    client = make_pool()
    await client.upload([{} for _ in range(40)])
    charged = (await client.fetch(str((await client.view("todo"))[20].id))).document
    await client.rival().save([{**charged, "apicas": {"generation": 1, "suspect": True, "crashes": 1}}])
    beside: list[int] = []

    async with pilot(client) as tokens:

        async def process(token: Token) -> None:
            if token.id == charged["_id"]:
                beside.append(tokens.keeper.held - 1)
            await anyio.sleep(0.01)

        report = await acting(tokens, process).run(workers=workers)
    assert (report.done, beside) == (40, [0])
    assert report.seconds < 10
