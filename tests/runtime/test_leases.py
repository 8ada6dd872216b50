"""Heartbeat and reaper in virtual time: what lives is never reclaimed, what is dead comes back in the stated time."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from apicas._documents import Document
from apicas.clients.port import ViewQuery, ViewRow
from apicas.exceptions import ConfigError, LeaseLostError, PoolUnavailableError
from apicas.modifiers import BasicTokenModifier, Claim, Owner
from apicas.policies.leases import LeaseTimes
from apicas.policies.retries import MAX_VANISHED
from apicas.testing import FaultyClient, unix_time, virtual_environment
from apicas.tokens import Token, annex, claim_of, is_suspect
from tests.runtime.virtual import LEASE, make_pool, pilot, virtual

SWEEP = LeaseTimes(lease=LEASE).sweep * 1.1  # with its jitter


async def vanish(client: FaultyClient, count: int = 1, *, isolated: bool = False) -> list[Token]:
    """Claim tokens as a pilot that is gone the moment after."""
    modifier, now = BasicTokenModifier(), client.time()
    claimed = []
    for number, document in enumerate(await client.sample("todo", count, 0.0)):
        owner = Owner(pilot="dead", hostname="dead-node", process="e15e.1.1")
        claim = Claim(claim_id=f"dead{number}", owner=owner, now=now, lease=LEASE, isolated=isolated)
        claimed.append(modifier.lock(document, claim))
    assert all(result.written for result in await client.save(claimed))
    return [Token(document) for document in claimed]


@virtual
async def test_a_long_token_is_never_reclaimed_while_its_pilot_lives() -> None:
    """Ten lease lengths of work, with a rival that sweeps all the while."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with pilot(client, "one") as mine, pilot(client, "two") as rival:
        (token,) = await mine.claim(1)
        with anyio.move_on_after(10 * LEASE):
            while True:
                assert not await rival.claim(1)
                await anyio.sleep(1)
        async with token:
            token["output"] = "done"
        stored = await client.fetch("t")
        assert stored.state == "done"
        assert stored.crashes == 0
        assert stored["done"] - stored["lock"] == 10 * LEASE


@virtual
async def test_the_token_of_a_vanished_pilot_comes_back_in_time() -> None:
    """Nobody beats it: another pilot works it within twice the lease plus a sweep."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    await vanish(client)
    start, waited = unix_time(), 0.0
    async with pilot(client) as tokens:
        async for token in tokens:
            async with token:
                pass
            waited = unix_time() - start
    assert LEASE <= waited <= 2 * LEASE + SWEEP
    stored = await client.fetch("t")
    assert stored.state == "done"
    assert is_suspect(stored)
    assert stored.crashes == 0  # nobody knows whose fault it was
    assert stored.generation == 3  # claimed, reclaimed, claimed
    assert [entry["event"] for entry in annex(stored)["history"]] == ["reclaimed"]


@virtual
async def test_a_process_that_is_known_to_be_gone_is_not_waited_for() -> None:
    """A first run after a crash on one machine goes on at once."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    await vanish(client)
    start = unix_time()
    environment = virtual_environment(gone=lambda document: annex(document).get("pilot") == "dead")
    async with pilot(client, environment=environment) as tokens:
        assert [token.id async for token in tokens] == ["t"]
    assert unix_time() - start < 5


@virtual
async def test_a_foreign_lock_is_left_alone() -> None:
    """PiCaS sends no heartbeat: its lock may be 30 hours old and alive. Without a timeout it is never taken."""
    client = make_pool()
    await client.upload([{"_id": "picas", "lock": int(unix_time()) - 30 * 3600, "hostname": "wn-1"}])
    async with pilot(client) as tokens:
        with anyio.move_on_after(20 * LEASE):
            while True:
                await tokens.keeper.sweep()
                await anyio.sleep(1)
        assert [token async for token in tokens] == []  # nor does anybody linger for it
    assert (await client.fetch("picas")).state == "locked"


@virtual
async def test_a_foreign_lock_is_taken_after_its_timeout() -> None:
    """Where the user says how old a PiCaS lock may get."""
    client = make_pool()
    await client.upload(
        [{"_id": "young", "lock": int(unix_time()) - 100}, {"_id": "old", "lock": int(unix_time()) - 4000}]
    )
    async with pilot(client, foreign_lock_timeout=3600.0) as tokens:
        await tokens.keeper.sweep()
    assert (await client.counts()) == {"todo": 1, "locked": 1, "done": 0, "error": 0}
    assert (await client.fetch("old")).state == "todo"


@virtual
async def test_a_lock_by_picas_over_ours_is_foreign() -> None:
    """PiCaS locks over a held token and leaves our fields in it: nobody takes that for a stale lock of ours."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    (token,) = await vanish(client)
    await client.edit("t", lambda stored: stored.update(lock=token["lock"] + 5, hostname="wn-1"))
    async with pilot(client) as tokens:
        with anyio.move_on_after(10 * LEASE):
            while True:
                await tokens.keeper.sweep()
                await anyio.sleep(5)
    assert (await client.fetch("t")).state == "locked"


@virtual
async def test_a_lost_lease_stops_the_work_and_writes_nothing() -> None:
    """Somebody resets a held token: at the next beat its owner is told, and the outcome is not written."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    modifier = BasicTokenModifier()
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)
        lost = anyio.Event()
        assert tokens.keeper.begin(token, lost.set)
        await client.edit("t", lambda stored: modifier.reset(stored, unix_time()))
        with anyio.fail_after(LEASE / 2):
            await lost.wait()
        with pytest.raises(LeaseLostError):
            async with token:
                token["output"] = "late"
    stored = await client.fetch("t")
    assert stored.state == "todo"
    assert stored.output == {}


@virtual
async def test_a_commit_over_a_lost_lease_is_refused_without_a_beat() -> None:
    """The fence is in the commit: a newer claim is never overwritten, however quick the zombie is."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    modifier = BasicTokenModifier()
    async with pilot(client, "one") as first, pilot(client, "two") as second:
        (old,) = await first.claim(1)
        await client.edit("t", lambda stored: modifier.reset(stored, unix_time()))
        (new,) = await second.claim(1)
        with pytest.raises(LeaseLostError):
            async with old:
                old["output"] = "zombie"
        async with new:
            new["output"] = "right"
        assert first.keeper.tally.lost == 1
    assert (await client.fetch("t")).output == "right"


@virtual
async def test_an_edit_of_a_held_token_is_merged() -> None:
    """Somebody notes something in a held token: the heartbeat goes on, and the commit keeps both."""
    client = make_pool()
    await client.upload([{"_id": "t", "note": "old", "both": 0}])
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)
        await client.edit("t", lambda stored: stored.update(note="new", both=1, extra=True))
        await anyio.sleep(3 * LEASE)
        async with token:
            token["output"] = "result"
            token["both"] = 2
    stored = await client.fetch("t")
    assert (stored.state, stored.output) == ("done", "result")
    assert (stored["note"], stored["both"], stored["extra"]) == ("new", 2, True)


@virtual
async def test_a_beat_never_writes_half_changed_content() -> None:
    """The user's mapping is half changed for many beats; the store sees the lock move, and nothing else."""
    client = make_pool()
    await client.upload([{"_id": "t", "input": {"list": [1]}}])
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)
        before = await client.fetch("t")
        token["output"] = "half"
        token["input"]["list"].append(2)
        del token["uploads"]
        await anyio.sleep(2 * LEASE)
        after = await client.fetch("t")
        assert after["lock"] > before["lock"]
        changed = {key for key in after.keys() | before.keys() if after.get(key) != before.get(key)}
        assert changed == {"_rev", "lock", "apicas"}
        async with token:
            pass
    assert (await client.fetch("t"))["input"] == {"list": [1, 2]}


@virtual
async def test_short_tokens_cost_no_beat() -> None:
    """Only locks older than the interval are refreshed."""
    client = make_pool()
    await client.upload([{} for _ in range(50)])
    async with pilot(client) as tokens:
        async for token in tokens:
            await anyio.sleep(LEASE / 8)
            async with token:
                pass
    revisions = {
        row.document["_rev"].split("-")[0] for row in await client.view("done", include_docs=True) if row.document
    }
    assert revisions == {"3"}  # pushed, locked, done


@virtual
async def test_an_outage_costs_no_lease() -> None:
    """The store is away for many leases: when it is back its owner still has the token, and nobody took it before."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with pilot(client, "one") as mine, pilot(client, "two") as rival:
        (token,) = await mine.claim(1)
        await anyio.sleep(LEASE)
        client.faults.away = True
        await anyio.sleep(20 * LEASE)
        client.faults.away = False
        with anyio.move_on_after(3 * LEASE):
            while True:
                assert not await rival.claim(1)
                await anyio.sleep(0.5)
        async with token:
            token["output"] = "kept"
    stored = await client.fetch("t")
    assert (stored.state, stored.output, stored.crashes) == ("done", "kept", 0)


@virtual
async def test_beats_whose_answer_got_lost_keep_the_lease() -> None:
    """Carried out or not: the heartbeat looks, and goes on from what is there."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)
        for _ in range(5):
            client.faults.lose_answers = 1
            await anyio.sleep(LEASE)
            client.faults.lose_requests = 1
            await anyio.sleep(LEASE)
        assert claim_of(await client.fetch("t")) == claim_of(token)
        async with token:
            token["output"] = 1
    assert (await client.fetch("t")).state == "done"


@virtual
async def test_a_pilot_lingers_until_the_others_are_seen_to_live() -> None:
    """Todo is empty, another pilot holds a token: ours waits for one sign of life, then leaves."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with pilot(client, "one") as mine:
        (token,) = await mine.claim(1)
        async with pilot(client, "two") as rival:
            start = unix_time()
            assert [token async for token in rival] == []
            waited = unix_time() - start
        assert 1 <= waited <= LEASE / 2
        async with token:
            pass


@virtual
async def test_who_lingers_beside_many_locks_notices_when_they_are_gone() -> None:
    """They are looked at seldom, but counted."""
    client = make_pool()
    await client.upload([{} for _ in range(1000)])
    async with pilot(client, "one", lock_timeout=900.0) as mine:
        tokens: list[Token] = []
        while len(tokens) < 1000:
            tokens += await mine.claim(1000)

        async def end_them() -> None:
            await anyio.sleep(2)
            for token in tokens:
                async with token:
                    pass

        async with anyio.create_task_group() as group, pilot(client, "two", lock_timeout=900.0) as rival:
            group.start_soon(end_them)
            start = unix_time()
            assert [token async for token in rival] == []
            assert unix_time() - start < 6


@virtual
async def test_what_ends_while_the_locks_are_read_is_nobody_elses() -> None:
    """The answer shows it locked; when it has come, the lease is over."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with pilot(client) as mine:
        (token,) = await mine.claim(1)
        ask, keeper = mine.client.query, mine.keeper

        async def ask_slowly(view: str, query: ViewQuery) -> list[ViewRow]:
            rows = await ask(view, query)
            async with token:
                pass
            await keeper.wait_until_written()
            return rows

        mine.client.query = ask_slowly  # type: ignore[method-assign]
        sweep = await keeper.sweep()
        mine.client.query = ask  # type: ignore[method-assign]
        assert (await client.fetch("t")).state == "done"
        assert (sweep.looked, sweep.unaccounted) == (0, set())


@virtual
async def test_linger_may_be_left_out() -> None:
    """linger=False ends as soon as the view is empty."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    await vanish(client)
    start = unix_time()
    async with pilot(client, linger=False) as tokens:
        assert [token async for token in tokens] == []
    assert unix_time() - start < 1


@virtual
async def test_too_many_crashes_end_in_error() -> None:
    """A token under which pilot after pilot vanishes does not go round for ever."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    gone = virtual_environment(gone=lambda document: annex(document).get("pilot") == "dead")
    async with pilot(client, environment=gone, max_crashes=2) as tokens:
        for _ in range(4):  # the first only makes it a suspect
            await vanish(client)
            await tokens.keeper.sweep()
    stored = await client.fetch("t")
    assert stored.state == "error"
    assert stored.crashes == 3
    assert "3 processes" in stored.errors[-1]["message"]


@virtual
async def test_a_suspect_with_a_process_of_its_own_outlives_many_pilots_though_not_any_number() -> None:
    """Pilots are killed for other reasons, too; but a token that takes down whole nodes comes to an end."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    gone = virtual_environment(gone=lambda document: annex(document).get("pilot") == "dead")
    async with pilot(client, environment=gone, max_crashes=0) as tokens:
        for _ in range(1 + MAX_VANISHED):
            await vanish(client, isolated=True)
            await tokens.keeper.sweep()
        stored = await client.fetch("t")
        assert (stored.state, stored.crashes) == ("todo", 0)
        await vanish(client, isolated=True)
        await tokens.keeper.sweep()
    stored = await client.fetch("t")
    assert (stored.state, stored.crashes) == ("error", 0)
    assert f"{MAX_VANISHED + 1} pilots vanished" in stored.errors[-1]["message"]


@virtual
async def test_leaving_hands_back_what_is_held() -> None:
    """Unstarted and half-done tokens go back to todo, uncharged."""
    client = make_pool()
    await client.upload([{} for _ in range(10)])
    async with pilot(client) as tokens:
        assert len(await tokens.claim(10)) == 10
    assert (await client.counts())["todo"] == 10
    for row in await client.view("todo", include_docs=True):
        assert row.document is not None
        token = Token(row.document)
        assert (token.releases, token.scrub_count, token.crashes) == (1, 0, 0)
        assert claim_of(token) is None


@virtual
async def test_leaving_an_absent_store_takes_a_bounded_time() -> None:
    """Nothing can be handed back: the locks go stale, and the pilot still ends."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with pilot(client, farewell=10.0) as tokens:
        await tokens.claim(1)
        client.faults.away = True
        start = unix_time()
    assert unix_time() - start <= 10 + LEASE / 8


def test_a_lease_has_a_least_length() -> None:
    """Lock timestamps have whole seconds: a lease below 10 s is refused."""
    with pytest.raises(ConfigError, match="at least 10 s"):
        LeaseTimes(lease=9.9)


@virtual
async def test_a_lock_that_is_long_stale_is_not_watched_for_a_whole_lease() -> None:
    """A pilot that died last night: a quarter of a lease under our eyes is enough."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    await vanish(client)
    await anyio.sleep(100 * LEASE)
    start = unix_time()
    async with pilot(client) as tokens:
        assert [token.id async for token in tokens] == ["t"]
    assert LEASE / 4 <= unix_time() - start <= LEASE / 4 + 2 * SWEEP


@virtual
async def test_a_failed_look_starts_the_watch_again() -> None:
    """Looks before an outage, however short, prove nothing about an owner that was cut off as well."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    await vanish(client)
    async with pilot(client) as tokens:
        for _ in range(3):
            await tokens.keeper.sweep()
            await anyio.sleep(LEASE / 4)
        client.faults.away = True
        with pytest.raises(PoolUnavailableError):
            await tokens.keeper.sweep()
        client.faults.away = False
        await anyio.sleep(LEASE / 4)
        outage_ended = unix_time()
        with anyio.fail_after(10 * LEASE):
            while (await client.fetch("t")).state == "locked":
                await anyio.sleep(1)
        assert unix_time() - outage_ended >= LEASE * 0.75


@virtual
async def test_an_outcome_does_not_wait_for_a_look_without_an_answer() -> None:
    """A beat met a conflict, and the look at it hangs: the beat is given up, and the outcome is written."""

    class Hanging(FaultyClient):
        def fork(self) -> FaultyClient:
            fork = Hanging(self.faults, now=self._now)
            fork._pool = self._pool
            return fork

        async def get(self, ids: Sequence[str]) -> list[Document | None]:
            if looking:
                looking.clear()
                await anyio.sleep(100 * LEASE)
            return await super().get(ids)

    looking: list[str] = []
    client = make_pool()
    await client.upload([{"_id": "t0"}])
    hanging = Hanging(client.faults, now=unix_time)
    hanging._pool = client._pool
    async with pilot(hanging, lock_timeout=LEASE) as tokens:
        (token,) = await tokens.claim(1)
        looking.append("the next look")
        client.faults.lose_requests = 1
        while looking:
            await anyio.sleep(0.1)
        with anyio.fail_after(LEASE):
            async with token:
                token["output"] = "kept"
    assert (await client.fetch("t0")).state == "done"


@virtual
async def test_what_one_pilot_held_is_reclaimed_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """It may have been thousands."""
    client = make_pool()
    await client.upload([{"_id": name} for name in "abc"])
    await vanish(client, 3)
    async with pilot(client) as tokens:
        async for token in tokens:
            async with token:
                pass
    (line,) = [line for line in caplog.messages if "reclaimed token" in line]
    assert "and 2 more from pilot dead on dead-node, last seen alive" in line
