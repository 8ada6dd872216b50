"""A pilot that gives tokens what they ask for: never more than there is, nothing in vain, and nobody forgotten."""

from __future__ import annotations

import signal
from collections import Counter
from random import Random
from typing import Any

import anyio
import anyio.to_thread
import pytest

import apicas
from apicas._node.inventory import Inventory
from apicas._node.requests import RequestFields
from apicas._runtime.keeping import candidates
from apicas._runtime.keeping.outcomes import Crashed, Cut, Raised, Returned, Verdict
from apicas._runtime.options import RunOptions
from apicas._runtime.packing import Packed
from apicas._runtime.processes.allotment import running_allocation
from apicas._runtime.signals import SignalLadder
from apicas._runtime.survey import check
from apicas._runtime.timing import by_itself
from apicas.exceptions import CommandError, ConfigError, TokenTimeoutError
from apicas.testing import Faults, FaultyClient, run_virtual, unix_time
from apicas.tokens import Token
from tests.runtime.acting import FarClient, acting, only, work
from tests.runtime.virtual import make_pool, pilot, virtual

NOTHING_FITS = "no more tokens for this node and time"


class Node:
    """Work that takes as long as its token says, and checks what there is of the node meanwhile.

    Args:
        has: how much there is.
    """

    def __init__(self, **has: int) -> None:
        self.has = has
        self.out: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.cores: set[int] = set()
        self.began: dict[str, float] = {}
        self.ended: dict[str, float] = {}

    async def __call__(self, token: Token) -> None:
        allocation = token.allocation
        assert allocation is not None
        asked = Counter(dict(allocation.amounts))
        assert allocation.of("cores") == len(allocation.cores)
        assert not self.cores & {*allocation.cores}
        self.cores |= {*allocation.cores}
        self.out += asked
        self.most |= self.out
        assert all(self.out[name] <= number for name, number in self.has.items())
        self.began[token.id] = unix_time()
        try:
            await anyio.sleep(token.get("seconds", 1))
        finally:
            self.out -= asked
            self.cores -= {*allocation.cores}
            self.ended[token.id] = unix_time()


async def pool_of(*contents: dict[str, Any]) -> FaultyClient:
    client = make_pool()
    await client.upload(contents)
    return client


async def states(client: FaultyClient) -> dict[str, int]:
    return {name: number for name, number in (await client.counts()).items() if number}


@virtual
async def test_as_many_tokens_run_at_once_as_fit() -> None:
    client = await pool_of(*({"_id": f"t{n}"} for n in range(8)))
    node, start = Node(cores=4), unix_time()
    report = await work(client, node, resources="cores=4")
    assert (report.done, report.left, report.reason) == (8, 0, "no more tokens")
    assert node.most["cores"] == 4
    assert unix_time() - start < 2.5


@pytest.mark.parametrize("seed", range(10))
def test_never_more_is_out_than_there_is_and_all_is_worked(seed: int) -> None:
    async def main() -> None:
        dice = Random(seed)
        has = {"cores": dice.randrange(2, 9), "license": 3}
        contents = [
            {
                "_id": f"t{n}",
                "cores": dice.randrange(1, has["cores"] + 1),
                "resources": {"license": dice.randrange(0, 4)},
                "seconds": dice.choice([0, 0.1, 1, 10]),
                "time_request": dice.choice([None, 1, 10]),
            }
            for n in range(60)
        ]
        client, node = await pool_of(*contents), Node(**has)
        report = await work(client, node, resources=has, claim_ahead=dice.choice([None, 0, 5]))
        assert report.done == 60 == len(node.ended)
        assert node.most <= Counter(has)

    run_virtual(main)


@pytest.mark.parametrize("seed", range(10))
def test_whenever_it_is_cut_nothing_stays_claimed_and_nothing_is_out(seed: int) -> None:
    async def main() -> None:
        dice = Random(seed)
        client = FarClient(Faults(), now=unix_time)
        await client.upload(
            [{"_id": f"t{n}", "cores": dice.randrange(1, 5), "seconds": dice.random() / 5} for n in range(60)]
        )
        node = Node(cores=4)
        with anyio.move_on_after(dice.random() * 2):
            await work(client, node, resources="cores=4", claim_ahead=dice.choice([None, 8]))
        assert not node.cores
        assert "locked" not in await states(client)
        report = await work(client, node, resources="cores=4")
        assert report.reason == "no more tokens"
        assert await states(client) == {"done": 60}

    run_virtual(main)


@virtual
async def test_two_pilots_that_pack_work_every_token_once() -> None:
    client = await pool_of(*({"_id": f"t{n}", "cores": 1 + n % 2, "seconds": 0.1} for n in range(60)))
    worked: Counter[str] = Counter()

    async def process(token: Token) -> None:
        worked[token.id] += 1
        await anyio.sleep(token["seconds"])

    async def run(name: str) -> None:
        async with pilot(client, name) as tokens:
            await acting(tokens, process).run(resources="cores=3", handle_signals=False)

    async with anyio.create_task_group() as group:
        group.start_soon(run, "one")
        group.start_soon(run, "two")
    assert set(worked.values()) == {1}
    assert await states(client) == {"done": 60}


@virtual
async def test_what_never_fits_is_left_to_others_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    big = [{"_id": f"big{n}", "cores": 64} for n in range(3)]
    client = await pool_of(*big, {"_id": "odd", "cores": "many"}, *({"_id": f"t{n}"} for n in range(5)))
    async with pilot(client) as tokens:
        report = await acting(tokens, Node(cores=2)).run(resources="cores=2", handle_signals=False)
        forked: Any = tokens.client
        asked = Counter(forked.requests)
    assert (report.done, report.left, report.reason) == (5, 4, NOTHING_FITS)
    assert await states(client) == {"todo": 4, "done": 5}
    said = [record.getMessage() for record in caplog.records if "left to others" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("4 tokens were left to others: it asks for 64 cores, and this node has 2 cores (3 tokens")
    assert "'many' is no whole number (token odd)" in said[0]
    assert asked["sample"] < 15
    assert str(report).startswith("5 done, 4 left to others in ")


@pytest.mark.parametrize("in_order", [False, True])
@virtual
async def test_what_fits_is_found_among_many_that_do_not(in_order: bool) -> None:
    client = await pool_of(*({"_id": f"t{n:04}", "cores": 64 if n % 500 else 1} for n in range(1500)))
    async with pilot(client, in_order=in_order) as tokens:
        report = await acting(tokens, Node(cores=2)).run(resources="cores=2", handle_signals=False)
    assert report.done == 3
    assert await states(client) == {"todo": 1497, "done": 3}


@virtual
async def test_what_fits_is_found_beyond_what_is_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a few pages at once; the next look goes on from there, and not always from the beginning."""
    monkeypatch.setattr(candidates, "FIRST_PAGE", 4)
    monkeypatch.setattr(candidates, "MAX_SCAN_PAGES", 2)
    client = await pool_of(*({"_id": f"t{n:04}", "cores": 1 if n == 299 else 64} for n in range(300)))
    report = await work(client, Node(cores=2), resources="cores=2")
    assert (report.done, report.left, report.reason) == (1, 299, NOTHING_FITS)


@virtual
async def test_a_view_in_which_nothing_fits_is_seldom_read_by_a_pilot_that_waits() -> None:
    client = FarClient(Faults(), now=unix_time)
    await client.upload([{"_id": "busy", "seconds": 3600}, *({"_id": f"t{n}", "cores": 64} for n in range(600))])
    async with pilot(client) as tokens:
        report = await acting(tokens, Node(cores=2)).run(resources="cores=2", handle_signals=False)
        forked: Any = tokens.client
        asked = Counter(forked.requests)
    assert (report.done, report.left) == (1, 600)
    assert asked["query"] < 600  # in an hour


@virtual
async def test_beside_an_end_no_more_is_read_than_without_one() -> None:
    """What nearly all take is not looked at twice as much of."""
    sampled: list[int] = []
    for walltime in (None, 3600):
        client = await pool_of(*({"_id": f"t{n}"} for n in range(40)))
        async with pilot(client) as tokens:
            inner = tokens.client.sample

            async def sample(view: str, limit: int, *arguments: Any, **keywords: Any) -> Any:
                sampled[-1] += limit
                return await inner(view, limit, *arguments, **keywords)  # noqa: B023 - called within the round

            tokens.client.sample = sample  # type: ignore[method-assign]
            sampled.append(0)
            await acting(tokens, _sleep).run(workers=4, handle_signals=False, walltime=walltime)
    assert sampled[0] == sampled[1]


@virtual
async def test_a_pilot_that_has_room_for_nothing_more_asks_for_nothing() -> None:
    """One that is busy for an hour does not look again and again at what it cannot start."""
    client = await pool_of(
        {"_id": "a", "cores": 1, "seconds": 3600}, *({"_id": f"b{n}", "cores": 2, "seconds": 1} for n in range(10))
    )
    async with pilot(client, in_order=True) as tokens:
        forked: Any = tokens.client
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: acting(tokens, Node(cores=2)).run(resources="cores=2", handle_signals=False))
            await anyio.sleep(60)
            before = Counter(forked.requests)
            assert await states(client) == {"locked": 2, "todo": 9}  # one waits, for which the second core is free
            await anyio.sleep(3000)
            since = Counter(forked.requests) - before
    assert since["query"] <= 2 * 3000 / 15 + 20  # looks for something small, and sweeps
    assert await states(client) == {"done": 11}


@virtual
async def test_a_big_one_does_not_starve_among_small_ones() -> None:
    client = await pool_of({"_id": "t003 big", "cores": 4}, *({"_id": f"t{n:03}"} for n in range(400)))
    node = Node(cores=4)
    async with pilot(client, in_order=True) as tokens:
        report = await acting(tokens, node).run(resources="cores=4", handle_signals=False)
    assert report.done == 401
    before = sum(began < node.began["t003 big"] for began in node.began.values())
    assert before <= 4 * 16 + 8  # those that may pass it, and the ones that ran


@virtual
async def test_hooks_see_what_they_were_given() -> None:
    client = await pool_of({"_id": "t", "cores": 2, "memory": "1G"})
    seen: list[Any] = []

    def in_thread() -> Any:
        return running_allocation.get()

    async def process(token: Token) -> None:
        seen.extend([token.allocation, running_allocation.get(), await anyio.to_thread.run_sync(in_thread)])

    await work(client, process, resources={"cores": 2, "memory": 2 << 30})
    assert seen[0] is seen[1] is seen[2]
    assert (len(seen[0].cores), seen[0].gpus, seen[0].memory) == (2, (), 1 << 30)


@virtual
async def test_a_pilot_of_workers_gives_nothing_out() -> None:
    client = await pool_of({"_id": "t", "cores": 64})
    seen: list[Any] = []

    async def process(token: Token) -> None:
        seen.extend([token.allocation, running_allocation.get()])

    report = await work(client, process, workers=1)
    assert (report.done, seen) == (1, [None, None])


@virtual
async def test_a_failure_gives_back_what_it_had() -> None:
    client = await pool_of(*({"_id": f"t{n}", "cores": 2} for n in range(5)))

    async def process(token: Token) -> None:
        raise LookupError("no such galaxy")

    report = await work(client, process, resources="cores=2")
    assert report.failed == 5


@virtual
async def test_fields_and_defaults_are_the_users() -> None:
    client = await pool_of({"_id": "says", "ncpus": 1}, {"_id": "does not"})
    asked: dict[str, int] = {}

    async def process(token: Token) -> None:
        assert token.allocation is not None
        asked[token.id] = len(token.allocation.cores)

    await work(client, process, resources="cores=4", request={"cores": 3}, request_fields={"cores": "ncpus"})
    assert asked == {"says": 1, "does not": 3}


@virtual
async def test_what_has_not_begun_is_handed_back_by_a_drain() -> None:
    """Also what waits for more than is free."""
    client = await pool_of({"_id": "a", "seconds": 5}, {"_id": "b", "cores": 2})
    node = Node(cores=2)
    async with pilot(client, in_order=True) as tokens:
        report = await acting(tokens, node).run(resources="cores=2", max_total_time=2, handle_signals=False)
    assert (report.done, report.released) == (1, 1)
    assert (await client.fetch("b")).state == "todo"


def test_a_token_that_no_claim_has_judged_is_refused_if_it_can_never_start() -> None:
    """As from a source of the user's own."""

    async def main() -> None:
        room = Packed(Inventory({"cores": 2}), RequestFields())
        room.open(lambda: 0.0)
        fits, big = Token({"_id": "fits"}), Token({"_id": "big", "cores": 3})
        ((refused, reason),) = room.put([fits, big])
        assert refused is big
        assert reason == "it asks for 3 cores, and this node has 2 cores"
        assert await room.stock.take() is fits

    run_virtual(main)


def test_what_was_started_and_not_begun_is_taken_back_whole() -> None:
    async def main() -> None:
        room = Packed(Inventory({"cores": 2}), RequestFields())
        room.open(lambda: 0.0)
        tokens = [Token({"_id": f"t{n}"}) for n in range(3)]
        assert room.put(tokens) == []
        assert room.unstarted == 3
        assert sorted(token.id for token in room.remove(float("inf"))) == ["t0", "t1", "t2"]
        assert room.unstarted == 0
        assert room.put(tokens[:2]) == []  # both cores are free again
        assert {(await room.stock.take()).id, (await room.stock.take()).id} == {"t0", "t1"}  # type: ignore[union-attr]

    run_virtual(main)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"resources": "auto", "workers": 2}, "workers and resources"),
        ({"resources": "cores"}, "resources: 'cores' is nothing such as cores=2"),
        ({"resources": "cores=many"}, "cores: 'many' is no whole number"),
        ({"resources": "auto", "request": "memory=4"}, "memory: .* less than a megabyte"),
        ({"resources": "auto", "request": "time=soon"}, "request: time: 'soon' is no time"),
        ({"resources": "auto", "request_fields": {"2 cores": "n"}}, "no resource and field"),
        ({"request": "cores=2"}, "give resources, too"),
        ({"pin": True}, "give resources, too"),
        ({"walltime": "soon"}, "walltime: 'soon' is no time"),
        ({"walltime": "-5"}, "walltime: '-5' is no time"),
        ({"walltime": -5}, "walltime: -5 is no time"),
        ({"walltime": 0}, "UNLIMITED stands for no end"),
        ({"end_margin": -1}, "end_margin is -1"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check(RunOptions(**options))


# The end of the batch job. --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [{"workers": 2}, {"resources": "cores=2"}])
@virtual
async def test_what_would_not_be_over_in_time_is_left_to_others(
    room: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    client = await pool_of(
        {"_id": "short", "time_request": "50s"}, {"_id": "long", "time_request": 80}, {"_id": "unknown"}
    )
    report = await work(client, _sleep, walltime=100, grace=20, **room)
    assert (report.done, report.left, report.reason) == (2, 1, NOTHING_FITS)
    assert (await client.fetch("long")).state == "todo"
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "the batch job ends at " in said
    assert "in 0:01:40 (given); draining begins 30 s before" in said
    assert "it takes 80 s, and " in said


async def _sleep(token: Token) -> None:
    await anyio.sleep(token.get("seconds", 1))


@pytest.mark.parametrize("room", [{"workers": 1}, {"resources": "cores=1"}])
@virtual
async def test_how_long_tokens_take_is_learned(room: dict[str, Any]) -> None:
    """After three of 20 s there are 10 s left for a fourth: it is not begun."""
    client = await pool_of(*({"_id": f"t{n}", "seconds": 20} for n in range(6)))
    start = unix_time()
    report = await work(client, _sleep, walltime=100, grace=20, claim_ahead=0, **room)
    assert (report.done, report.left, report.reason) == (3, 3, NOTHING_FITS)
    assert unix_time() - start < 65
    assert report.released == 0


@pytest.mark.parametrize("room", [{"workers": 1}, {"resources": "cores=1"}])
@virtual
async def test_tokens_that_the_end_cuts_off_are_released_and_not_charged(room: dict[str, Any]) -> None:
    client = await pool_of({"_id": "t", "seconds": 1000})
    start = unix_time()
    report = await work(client, _sleep, walltime=100, grace=20, **room)
    assert (report.released, report.reason) == (1, "the batch job is about to end")
    assert 90 <= unix_time() - start <= 95
    token = await only(client)
    assert (token.state, token.scrub_count, token.crashes, token.errors) == ("todo", 0, 0, [])


@virtual
async def test_a_field_that_means_something_else_keeps_no_pilot_of_workers_from_a_token() -> None:
    client = await pool_of({"_id": "t", "time_request": "after lunch", "cores": "many"})
    assert (await work(client, _sleep, walltime=100)).done == 1


@virtual
async def test_a_job_that_is_about_to_end_begins_with_nothing() -> None:
    client = await pool_of({"_id": "t"})
    report = await work(client, _sleep, walltime=10, workers=1)
    assert (report.claimed - report.released, report.done) == (0, 0)
    assert await states(client) == {"todo": 1}


@virtual
async def test_what_waits_in_vain_is_handed_back() -> None:
    """The big one could have been over in time when it was claimed; now it could not."""
    client = await pool_of({"_id": "a", "seconds": 60}, {"_id": "b", "cores": 2, "time_request": 30})
    seen: list[str] = []

    async def look() -> None:
        await anyio.sleep(30)
        seen.append((await client.fetch("b")).state)
        await anyio.sleep(28)
        seen.append((await client.fetch("b")).state)

    async with pilot(client, in_order=True) as tokens, anyio.create_task_group() as group:
        group.start_soon(look)
        report = await acting(tokens, Node(cores=2)).run(
            resources="cores=2", walltime=100, grace=20, handle_signals=False
        )
    assert seen == ["locked", "todo"]
    assert (report.done, report.released, report.left) == (1, 1, 1)


@virtual
async def test_the_end_is_found_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import time

    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 1000))
    client = await pool_of({"_id": "long", "time_request": "1h"}, {"_id": "short"})
    report = await work(client, _sleep, workers=1)
    assert (report.done, report.left) == (1, 1)
    assert "($SLURM_JOB_END_TIME)" in caplog.text


@virtual
async def test_an_end_that_the_user_rules_out_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1700000000")
    client = await pool_of({"_id": "long", "time_request": "1h"})
    assert (await work(client, _sleep, workers=1, walltime="UNLIMITED")).done == 1


@pytest.mark.parametrize(
    ("exit_code", "drained_after", "charged"),
    [
        (143, -1.0, False),
        (138, -1.0, False),
        (143, 0.5, False),  # the command had the signal first
        (143, 2.0, True),
        (1, -1.0, True),
    ],
)
@virtual
async def test_a_command_that_the_batch_system_ends_with_its_pilot_is_not_charged(
    exit_code: int, drained_after: float, charged: bool
) -> None:
    """It sends the signal to all processes of the job, in any order."""
    from apicas._runtime.hooks import Work
    from apicas._runtime.pilot import Pilot

    client = await pool_of({"_id": "t"})
    begun, go = anyio.Event(), anyio.Event()

    async def process(token: Token) -> None:
        begun.set()
        await go.wait()
        raise CommandError("ended", exit_code)

    running = Pilot(pilot(client), Work(process=process), RunOptions(grace=20), 1)
    async with anyio.create_task_group() as group:
        group.start_soon(running.run)
        await begun.wait()
        if drained_after < 0:
            running.drain("SIGTERM")
        go.set()
        await anyio.sleep(max(0.0, drained_after))
        running.drain("SIGTERM")
    assert (await only(client)).state == ("error" if charged else "todo")


def test_a_signal_ahead_of_the_end_only_drains() -> None:
    """It may come twice, from the batch system and from `srun`; what comes at the end ends all work."""
    calls: list[str] = []
    ladder = SignalLadder(calls.append, lambda: calls.append("cut"))
    ladder.take(signal.SIGUSR1)
    ladder.take(signal.SIGUSR1)
    assert (calls, len(ladder.received)) == (["SIGUSR1"], 1)
    ladder.take(signal.SIGTERM)
    ladder.take(signal.SIGUSR1)
    assert (calls, len(ladder.received)) == (["SIGUSR1", "cut"], 2)


@pytest.mark.parametrize(
    ("verdict", "tells"),
    [
        (Returned(), True),
        (Raised(TokenTimeoutError("late")), False),
        (Cut(), False),
        (None, False),
        (Raised(ValueError("no")), None),
        (Crashed("it died"), None),
    ],
)
def test_what_the_time_of_a_token_tells(verdict: Verdict | None, tells: bool | None) -> None:
    assert by_itself(verdict) is tells


def test_the_report_has_a_place_for_what_was_left() -> None:
    assert "left" not in str(apicas.Report(done=1))
