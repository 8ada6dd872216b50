"""The outbox in virtual time: a finished result is never lost, never written twice, never over a newer generation."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from typing_extensions import override

import apicas
from apicas._documents import Document
from apicas._runtime.environment import Environment
from apicas._runtime.hooks import Work
from apicas._runtime.keeping.outcomes import Returned
from apicas._runtime.options import RunOptions
from apicas._runtime.outbox.disk import DiskOutbox
from apicas._runtime.outbox.replay import ReplayReport, replay
from apicas._runtime.pilot import Pilot
from apicas.clients.port import SaveResult
from apicas.exceptions import ConfigError, LeaseLostError, PoolUnavailableError
from apicas.iterators import BasicViewIterator
from apicas.modifiers import BasicTokenModifier
from apicas.testing import Faults, FaultyClient, MemoryOutbox, run_virtual, unix_time, virtual_environment
from apicas.testing.virtual import virtual_loop
from apicas.tokens import Token, TokenState, annex
from tests.runtime.acting import FarClient, acting, filled
from tests.runtime.virtual import LEASE, make_pool, pilot, virtual


def successor(name: str = "two") -> Environment:
    """A pilot that knows that all others are gone."""
    return virtual_environment(name, gone=lambda _document: True)


async def finish(
    client: FaultyClient,
    box: MemoryOutbox,
    seconds: float = 2.0,
    environment: Environment | None = None,
    **options: Any,
) -> apicas.Report:
    """Work the pool's tokens with one pilot, each for so long."""

    async def process(token: Token) -> str:
        await anyio.sleep(seconds)
        return "worked"

    iterator = pilot(client, outbox=box, farewell=1.0, environment=environment)
    return await acting(iterator, process).run(handle_signals=False, **options)


async def cut_off(client: FaultyClient, box: MemoryOutbox, number: int = 1, output: Any = "late") -> list[Token]:
    """Work tokens, and end while the pool is away; it is back afterwards."""
    async with pilot(client, "one", outbox=box, farewell=1.0) as mine:
        tokens = await mine.claim(number)
        await anyio.sleep(2)
        client.faults.away = True
        for token in tokens:
            mine.keeper.give_back(token, Returned(output))
    client.faults.away = False
    assert len(box.waiting) == number
    return tokens


async def change(client: FaultyClient, token_id: str, changed: Any) -> Document:
    """Write a change of a token, as somebody else would."""
    document: Document = changed(dict((await client.fetch(token_id)).document))
    (result,) = await client.rival().save([document])
    assert result.written
    return document


async def reclaim(client: FaultyClient, token_id: str = "t0") -> Document:
    """Take a token from its owner."""
    return await change(client, token_id, lambda document: BasicTokenModifier().reclaim(document, unix_time()))


@virtual
async def test_the_outcome_of_long_work_is_kept_before_it_is_written() -> None:
    """A kill between the end of the work and its commit costs nothing; afterwards nothing is left."""
    client, box = await filled(1), MemoryOutbox(delay=0.01)
    seen: list[list[str]] = []

    def note(documents: Sequence[Mapping[str, Any]]) -> None:
        if any(document["done"] for document in documents):
            seen.append([entry.outcome["output"] for entry in box.waiting])

    client.faults.before_save = note
    report = await finish(client, box)
    assert (report.done, report.waiting) == (1, 0)
    assert seen == [["worked"]]
    assert not box.waiting


@virtual
async def test_the_outcome_of_short_work_costs_no_write_to_the_disk() -> None:
    """Its commit comes as soon as the disk would have it."""
    client, box = await filled(5), MemoryOutbox()
    assert (await finish(client, box, seconds=0.5)).done == 5
    assert not {"put", "remove"} & set(box.calls)


@virtual
async def test_a_slow_disk_holds_up_only_what_it_keeps() -> None:
    """The outcome of short work is written while that of long work is still on its way to the disk."""
    client, box = await filled(2), MemoryOutbox(delay=30)
    async with pilot(client, outbox=box) as mine:
        long, short = await mine.claim(2)
        await anyio.sleep(2)
        mine.keeper.begin(short, lambda: None)  # its work begins
        for token in (long, short):
            mine.keeper.give_back(token, Returned())
        await anyio.sleep(1)
        assert (await client.fetch(short.id)).state == TokenState.DONE
        assert (await client.fetch(long.id)).state == TokenState.LOCKED
        await anyio.sleep(60)
        assert (await client.fetch(long.id)).state == TokenState.DONE


@virtual
async def test_what_a_pilot_could_not_write_the_next_one_writes(caplog: pytest.LogCaptureFixture) -> None:
    """Of short work, too. The pilot says in one line how much waits, where, and what writes it."""
    client, box = await filled(3), MemoryOutbox()

    async def process(_token: Token) -> str:
        client.faults.away = True
        return "early"

    running = Pilot(pilot(client, outbox=box, farewell=1.0), Work(process=process), RunOptions(grace=5), 3)
    async with anyio.create_task_group() as group:

        async def run() -> None:
            report = await running.run()
            assert (report.done, report.waiting) == (0, 3)

        group.start_soon(run)
        await anyio.sleep(10)
        assert len(box.waiting) == 3
        running.drain("SIGTERM")
    (line,) = [line for line in caplog.messages if "apicas flush" in line]
    assert line.startswith("3 finished results are not in the pool: they wait in memory")
    client.faults.away = False
    report = await finish(client, box, environment=successor())
    assert report.claimed == 0, "there was nothing to work any more"
    assert {(await client.fetch(f"t{n}"))["output"] for n in range(3)} == {"early"}
    assert (await client.counts())["done"] == 3
    assert not box.waiting
    assert not box.aside


@virtual
async def test_entries_of_pilots_that_live_are_left_to_them_for_half_a_lease() -> None:
    """Then others help: before anybody may take the token for silent."""
    began = unix_time()
    client, box = await filled(1), MemoryOutbox()
    await cut_off(client, box)
    async with pilot(client, "two", outbox=box):
        await anyio.sleep(1)
        assert (await client.fetch("t0")).state == TokenState.LOCKED
        await anyio.sleep(LEASE)
        stored = await client.fetch("t0")
    assert (stored.state, stored.output, stored.crashes) == (TokenState.DONE, "late", 0)
    assert stored["done"] < began + 10


@virtual
async def test_a_late_result_of_a_token_that_nobody_claimed_since_is_welcome() -> None:
    """In todo or in error; the generation, the counters and the history of the reclaim stay."""
    client, box = await filled(2), MemoryOutbox()
    await cut_off(client, box, 2)
    modifier = BasicTokenModifier()
    await reclaim(client, "t0")
    await change(
        client,
        "t1",
        lambda document: modifier.set_error(modifier.reclaim(document, unix_time()), "too many", None, unix_time()),
    )
    before = [await client.fetch("t0"), await client.fetch("t1")]
    report = await replay(client, box)
    assert len(report.written) == 2
    for old in before:
        new = await client.fetch(old.id)
        assert (new.state, new.output, new.generation) == (TokenState.DONE, "late", old.generation)
        assert annex(new)["history"] == annex(old)["history"]
    assert not box.waiting


@virtual
async def test_a_pilot_writes_its_own_late_result() -> None:
    """It was taken for silent, and nobody has claimed the token since: at the commit, and after a beat noticed it."""
    client, box = await filled(2), MemoryOutbox()
    async with pilot(client, outbox=box) as mine:
        first, second = await mine.claim(2)
        await reclaim(client, first.id)
        async with first:
            first["output"] = "late"
        await reclaim(client, second.id)
        await anyio.sleep(LEASE)
        async with second:
            second["output"] = "later"
        assert mine.keeper.tally.done == 2
        assert mine.keeper.held == 0
    assert [(await client.fetch(token.id)).output for token in (first, second)] == ["late", "later"]


@virtual
async def test_a_release_of_a_token_that_was_reclaimed_is_dropped() -> None:
    """It is in todo, and nothing of a release is kept."""
    client, box = await filled(1), MemoryOutbox()
    async with pilot(client, outbox=box) as mine:
        (token,) = await mine.claim(1)
        await anyio.sleep(2)
        await reclaim(client)
        async with token:
            raise apicas.Release
        stored = await client.fetch("t0")
    assert stored.releases == 0


@virtual
async def test_a_stale_result_is_kept_aside(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody else has the token: nothing is written to it, and one line says where the result is."""
    client, box = await filled(1), MemoryOutbox()
    async with pilot(client, outbox=box) as mine:
        (token,) = await mine.claim(1)
        await reclaim(client)
        async with pilot(client, "two", outbox=box) as other:
            (again,) = await other.claim(1)
            with pytest.raises(LeaseLostError):
                async with token:
                    token["output"] = "stale"
            async with again:
                again["output"] = "fresh"
    assert (await client.fetch("t0")).output == "fresh"
    (entry,) = box.aside
    assert (entry.token, entry.outcome["output"], entry.ending) == ("t0", "stale", "done")
    assert entry.reason
    assert not box.waiting
    (line,) = [line for line in caplog.messages if "is kept in" in line]
    assert f"memory/lost/{entry.aside_name}" in line


@virtual
async def test_a_result_that_the_pool_does_not_take_is_kept_aside() -> None:
    """Also where it is no JSON. The token gets the reason."""
    client, box = await filled(1), MemoryOutbox()

    async def process(_token: Token) -> Any:
        return {"value": float("nan"), "thing": {1, 2}}

    report = await acting(pilot(client, outbox=box), process).run(handle_signals=False)
    assert report.failed == 1
    (entry,) = box.aside
    assert entry.outcome["output"] == {"value": "nan", "thing": [1, 2]}
    assert (await client.fetch("t0")).state == TokenState.ERROR


@virtual
async def test_a_full_disk_is_said_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Said again after it had recovered; the outcomes are written all the same."""
    client, box = await filled(6), MemoryOutbox()
    box.failure = errno.ENOSPC
    done = 0

    async def process(_token: Token) -> None:
        nonlocal done
        await anyio.sleep(2)
        done += 1
        box.failure = None if done == 3 else errno.ENOSPC

    report = await acting(pilot(client, outbox=box), process).run(handle_signals=False, workers=1)
    assert report.done == 6
    said = [line for line in caplog.messages if "No space left" in line]
    assert len(said) == 2
    assert all("kept in memory only" in line for line in said[1:])


@virtual
async def test_a_replay_may_be_done_twice_and_by_many_at_once() -> None:
    """Also while answers get lost: every outcome is written once."""
    client, box = await filled(20), MemoryOutbox(delay=0.01)
    await cut_off(client, box, 20)
    client.faults.lose_answers = client.faults.lose_requests = 1
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(replay, client.fork(), box)
    again = await replay(client, box)
    assert again == ReplayReport()
    revisions = {(await client.fetch(f"t{n}"))["_rev"].partition("-")[0] for n in range(20)}
    assert revisions == {"3"}, "pushed, claimed, done"
    assert not box.waiting
    assert not box.aside


@virtual
async def test_a_replay_keeps_what_somebody_edited() -> None:
    """Both changes are in the token afterwards."""
    client, box = await filled(1), MemoryOutbox()
    await cut_off(client, box)
    await change(client, "t0", lambda document: {**document, "note": "mine"})
    await replay(client, box)
    stored = await client.fetch("t0")
    assert (stored["note"], stored.output, stored.state) == ("mine", "late", TokenState.DONE)


@virtual
async def test_a_replay_writes_over_no_newer_generation() -> None:
    """A token that was reset, or claimed again, or is gone, gets nothing; the result is kept aside."""
    client, box = await filled(3), MemoryOutbox()
    await cut_off(client, box, 3)
    await change(client, "t0", lambda document: BasicTokenModifier().reset(document, unix_time()))
    await reclaim(client, "t1")
    async with pilot(client, "two") as other:
        tokens = {token.id: token for token in await other.claim(2)}
        await client.rival().delete([(await client.fetch("t2")).document])
        report = await replay(client, box)
        assert {entry.token for _, entry in report.lost} == {"t0", "t1", "t2"}
        async with tokens["t1"]:
            tokens["t1"]["output"] = "newer"
    assert (await client.fetch("t1")).output == "newer"
    assert {entry.outcome["output"] for entry in box.aside} == {"late"}
    assert not box.waiting


@virtual
async def test_a_replay_says_that_the_pool_is_away() -> None:
    """And leaves everything where it is."""
    client, box = await filled(1), MemoryOutbox()
    await cut_off(client, box)
    client.faults.away = True
    with pytest.raises(PoolUnavailableError):
        await replay(client, box)
    assert len(box.waiting) == 1


@virtual
async def test_a_replay_waits_for_a_token_to_be_healed() -> None:
    """Of several live versions none is written to."""
    client, box = await filled(1), MemoryOutbox()
    await cut_off(client, box)
    get = client.get

    async def conflicted(ids: Sequence[str]) -> list[Any]:
        return [{**document, "_conflicts": ["2-x"]} for document in await get(ids) if document]

    client.get = conflicted  # type: ignore[method-assign]
    report = await replay(client, box)
    assert [entry.token for entry in report.waiting] == ["t0"]
    assert len(box.waiting) == 1


@virtual
async def test_an_hour_without_the_pool() -> None:
    """Pilots go on with what they hold; when it is back all is written within seconds, and nothing is reclaimed."""
    client, box = await filled(8), MemoryOutbox()
    worked: list[str] = []
    durations = {"t0": 900.0, "t1": 1800.0, "t2": 2700.0, "t3": 4000.0}
    reports: list[apicas.Report] = []

    async def process(token: Token) -> str:
        await anyio.sleep(durations.get(token.id, 7200.0))
        worked.append(token.id)
        return "worked"

    async def run(name: str) -> None:
        actor = acting(pilot(client, name, outbox=box), process)
        reports.append(await actor.run(handle_signals=False, workers=4))

    async with anyio.create_task_group() as group:
        for name in ("one", "two"):
            group.start_soon(run, name)
        await anyio.sleep(600)
        locks = {row.id: row.key for row in await client.rival().view("locked")}
        assert len(locks) == 8
        client.faults.away = True
        await anyio.sleep(3600)
        assert sorted(worked) == ["t0", "t1", "t2", "t3"]
        assert {entry.token for entry in box.waiting} == {"t0", "t1", "t2", "t3"}
        client.faults.away = False
        back = unix_time()
        await anyio.sleep(6)
        assert (await client.rival().counts())["done"] == 4
        assert not box.waiting
        held = [await client.fetch(f"t{n}") for n in range(4, 8)]
        assert all(token["lock"] >= back for token in held), "they beat again at once"
    assert sorted(worked) == sorted(f"t{n}" for n in range(8)), "each once"
    assert sum(report.done for report in reports) == 8
    assert sum(report.lost for report in reports) == 0
    for n in range(8):
        token = await client.fetch(f"t{n}")
        assert (token.state, token.generation, token.crashes) == (TokenState.DONE, 1, 0)
        assert "history" not in annex(token)


@virtual
async def test_steady_work_leaves_nothing_behind_meanwhile() -> None:
    """What is written is forgotten while other outcomes go on coming."""
    client, box = await filled(200), MemoryOutbox(delay=0.01)
    most = 0

    async def process(token: Token) -> None:
        nonlocal most
        await anyio.sleep(1.1 + int(token.id[1:]) / 1000)
        most = max(most, len(box.waiting))

    report = await acting(pilot(client, outbox=box), process).run(handle_signals=False, workers=20)
    assert report.done == 200
    assert 0 < most < 60
    assert not box.waiting


class Steps:
    """Work of two steps, and what came of it."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []

    async def __call__(self, token: Token) -> str:
        self.begun.append(token.id)
        await anyio.sleep(1.5)
        self.ended.append(token.id)
        return f"attempt {self.begun.count(token.id)}"


MOMENTS = [*(0.25 * step for step in range(16)), *(1.5 + 0.005 * step for step in range(44))]
"""Seconds: through the whole run, and closely after the first two tokens are worked."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_pilot_may_be_killed_at_any_moment(moment: float) -> None:
    """Whatever was kept is not worked again; the one that comes to life again after an hour changes nothing."""

    async def main() -> None:
        far = FarClient(now=unix_time)
        await far.upload([{"_id": f"t{n}"} for n in range(4)])
        box, work = MemoryOutbox(delay=0.02), Steps()
        group = virtual_loop().group("one")
        first = acting(pilot(far, "one", outbox=box), work)
        task = group.start(first.run(handle_signals=False, workers=2))
        await anyio.sleep(moment)
        group.pause()
        kept = {entry.token for entry in box.waiting}
        ended = {row.id for row in await far.rival().view("done")}
        begun = len(work.begun)
        second = acting(pilot(far, "two", outbox=box, environment=successor()), work)
        await second.run(handle_signals=False, workers=2)
        assert (await far.rival().counts())["done"] == 4
        assert not (kept | ended) & set(work.begun[begun:]), "finished, and worked again"
        assert not box.waiting
        before = [(await far.fetch(f"t{n}")).document for n in range(4)]
        await anyio.sleep(3600)
        group.resume()
        await task
        assert [(await far.fetch(f"t{n}")).document for n in range(4)] == before
        assert not box.waiting

    run_virtual(main)


class LocalClient(FaultyClient):
    """A pool that says that it is a SQLite file."""

    @property
    @override
    def address(self) -> str:
        return "sqlite:///pool.db"

    @override
    def fork(self) -> LocalClient:
        fork = LocalClient(self.faults, now=self._now)
        fork._pool = self._pool
        return fork


@virtual
async def test_a_commit_to_a_file_here_needs_no_second_write_to_the_disk() -> None:
    """Until it fails."""
    client, box = LocalClient(now=unix_time), MemoryOutbox()
    await client.upload([{"_id": f"t{n}"} for n in range(3)])
    assert (await finish(client, box, max_tokens=2, workers=1)).done == 2
    assert "put" not in box.calls
    await cut_off(client, box)
    assert [entry.ending for entry in box.waiting] == ["done"]


@virtual
async def test_in_virtual_time_a_directory_does_as_well(tmp_path: Path) -> None:
    """The clock stands still while the disk works."""
    client = await filled(3)
    async with pilot(client, outbox=tmp_path, farewell=1.0) as mine:
        for token in await mine.claim(2):
            await anyio.sleep(2)
            client.faults.away = token.id == "t1"
            mine.keeper.give_back(token, Returned("late"))
            await anyio.sleep(1)
    client.faults.away = False
    async with pilot(client, "two", outbox=tmp_path, environment=successor("two")):
        await anyio.sleep(1)
        assert (await client.counts())["done"] == 2
    assert await DiskOutbox(tmp_path, client.address).names() == []


@virtual
async def test_a_directory_of_ones_own_that_cannot_be_used_ends_the_pilot_at_the_start(tmp_path: Path) -> None:
    """Before anything is claimed."""
    client = await filled(1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        await acting(pilot(client, outbox=tmp_path / "file"), Steps()).run(handle_signals=False)
    assert (await client.counts())["todo"] == 1


class HangingClient(FaultyClient):
    """A pool that takes a save and never answers, from some moment on."""

    hangs = False

    @override
    async def save(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        if self.hangs:
            await anyio.sleep_forever()
        return await super().save(documents)


@virtual
async def test_a_result_whose_commit_hangs_is_put_away() -> None:
    """Nobody has heard that it failed: it is in no queue, but on its way, when its pilot leaves."""
    client, box = HangingClient(Faults(), now=unix_time), MemoryOutbox()
    await client.upload([{"_id": "t"}])
    async with BasicViewIterator(client, environment=virtual_environment("one"), outbox=box, farewell=1.0) as mine:
        (token,) = await mine.claim(1)
        client.hangs = True
        mine.keeper.give_back(token, Returned("worked"))
        await anyio.sleep(0.5)
        keeper = mine.keeper
    assert keeper.waiting == 1
    (entry,) = box.waiting
    assert (entry.token, entry.outcome["output"]) == ("t", "worked")


@virtual
async def test_a_held_token_that_is_no_json_any_more_keeps_no_result_from_the_outbox() -> None:
    """Another tool may write what no store of ours would take, and a beat then finds it."""
    client, box = make_pool(), MemoryOutbox()
    await client.upload([{"_id": "odd"}, {"_id": "fine"}])
    async with pilot(client, outbox=box, farewell=1.0) as mine:
        tokens = {token.id: token for token in await mine.claim(2)}
        odd = next(lease for lease in mine.keeper._leases if lease.token_id == "odd")
        odd.stored = {**odd.stored, "note": "\ud800"}
        client.faults.away = True
        mine.keeper.give_back(tokens["fine"], Returned("worked"))
    assert [entry.token for entry in box.waiting] == ["fine"]
