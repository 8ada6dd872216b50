"""Tokens of several versions, on a simulated store of three replicas: who owns, what is healed, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from apicas._runtime.keeping import healer as healer_module
from apicas._runtime.keeping.branches import MAX_DISOWNED, Disowned
from apicas._runtime.keeping.healer import Healer, is_result
from apicas.exceptions import LeaseLostError, PoolUnavailableError, Release
from apicas.iterators import BasicViewIterator
from apicas.modifiers import BasicTokenModifier
from apicas.policies.leases import LeaseTimes
from apicas.testing import ReplicatedClient, ReplicatedStore, unix_time, virtual_environment
from apicas.tokens import TokenState, is_suspect, state_of
from tests.runtime.clusters import locked, member, plant
from tests.runtime.virtual import LEASE, virtual

TIMES = LeaseTimes(lease=LEASE)
FIRST, LAST = "0" * 16, "f" * 16
"""Digests: of a version that is not shown, and of one that is."""


async def made(store: ReplicatedStore, *ids: str) -> ReplicatedClient:
    """A client of a pool with these tokens, the same on all replicas."""
    client = ReplicatedClient(store, "observer")
    await client.open()
    await client.upload([{"_id": token_id} for token_id in ids])
    await anyio.sleep(5)
    return client


async def fetch(client: ReplicatedClient, token_id: str = "t") -> dict[str, Any]:
    (document,) = await client.get([token_id])
    assert document is not None
    return document


async def only_leaf(client: ReplicatedClient, token_id: str = "t") -> dict[str, Any]:
    await anyio.sleep(5)
    first, second, third = [
        await ReplicatedClient(client.store, "observer", home).leaves([token_id]) for home in range(3)
    ]
    assert first == second == third
    ((leaf,),) = first
    return leaf


async def watched(healer: Healer, looks: int = 5) -> list[str]:
    """The ids that some looks healed, a quarter of a lease apart."""
    healed: list[str] = []
    for look in range(looks):
        await anyio.sleep(TIMES.sweep if look else 0)
        healed += (await healer.run_once()).healed
    return healed


def a_healer(client: ReplicatedClient, name: str = "healer", **keywords: Any) -> Healer:
    return Healer(client, TIMES, virtual_environment(name), **keywords)


# What is healed, and when. --------------------------------------------------------------------------------------------


@virtual
async def test_a_token_is_healed_after_a_lease_of_silence() -> None:
    """The first by the order of healing stays, whichever is shown."""
    client = await made(ReplicatedStore(3), "t", "whole")
    base = await fetch(client)
    keep = plant(client.store, locked(base, "b"), FIRST)
    plant(client.store, base, "7" * 16)
    plant(client.store, locked(base, "a"), LAST)
    assert (await fetch(client))["hostname"] == "a-node"
    healer = a_healer(client)
    assert await watched(healer, 4) == []
    assert len((await client.leaves(["t"]))[0]) == 3
    await anyio.sleep(TIMES.sweep)
    healing = await healer.run_once()
    assert (healing.healed, healing.discarded, healing.conflicted) == (["t"], 2, 0)
    assert (await only_leaf(client))["_rev"] == keep
    assert (await healer.run_once()).conflicted == 0


@virtual
async def test_a_version_that_changes_starts_the_watch_again() -> None:
    """An owner who lives beats."""
    client = await made(ReplicatedStore(3), "t")
    base = await fetch(client)
    plant(client.store, locked(base, "a"), LAST)
    mine = locked(base, "b")
    rev = plant(client.store, mine, FIRST)
    healer, modifier = a_healer(client), BasicTokenModifier()
    for _ in range(20):
        assert (await healer.run_once()).healed == []
        await anyio.sleep(TIMES.heartbeat)
        mine = modifier.refresh({**mine, "_rev": rev}, unix_time())
        (result,) = await client.save([mine])
        assert result.written
        rev = str(result.rev)
    assert await watched(healer) == ["t"]


@virtual
async def test_the_longest_lease_is_waited_for() -> None:
    """Pilots of one pool may have different ones; a beat every quarter of an hour is a sign of life, too."""
    client = await made(ReplicatedStore(3), "t")
    base = await fetch(client)
    plant(client.store, locked(base, "a"), LAST)
    slow = locked(base, "b")
    plant(client.store, {**slow, "apicas": {**slow["apicas"], "lease": 10 * LEASE}}, FIRST)
    healer = a_healer(client)
    assert await watched(healer, 40) == []
    assert await watched(healer, 3) == ["t"]


@virtual
async def test_an_outage_starts_the_watch_again() -> None:
    """Its owner could not make himself heard either."""
    client = await made(ReplicatedStore(3), "t")
    base = await fetch(client)
    plant(client.store, locked(base, "a"), LAST)
    plant(client.store, locked(base, "b"), FIRST)
    healer = a_healer(ReplicatedClient(client.store, "healer"))
    assert await watched(healer, 4) == []
    client.store.cut.add(("healer", 0))
    with pytest.raises(PoolUnavailableError):
        await healer.run_once()
    client.store.cut.clear()
    assert await watched(healer, 4) == []
    await anyio.sleep(10 * LEASE)  # it slept, and looked no more
    assert await watched(healer, 4) == []
    await anyio.sleep(TIMES.sweep)
    assert await watched(healer, 1) == ["t"]


@virtual
async def test_healers_do_each_other_no_harm() -> None:
    """They keep the same, also where they look at the same moment."""
    client = await made(ReplicatedStore(3, seed=3), *(f"t{number:02}" for number in range(30)))
    keeps: dict[str, str] = {}
    for number in range(30):
        base = await fetch(client, f"t{number:02}")
        plant(client.store, locked(base, "a"), LAST)
        keeps[base["_id"]] = plant(client.store, locked(base, "c"), FIRST)
        plant(client.store, locked(base, "b"), "7" * 16)
    async with anyio.create_task_group() as group:
        for home in range(3):
            healer = a_healer(ReplicatedClient(client.store, f"healer{home}", home), f"healer{home}")
            group.start_soon(watched, healer, 8)
    for token_id, keep in keeps.items():
        assert (await only_leaf(client, token_id))["_rev"] == keep


@virtual
async def test_a_deletion_that_a_minority_took_is_looked_at_again() -> None:
    client = await made(ReplicatedStore(3), "t")
    base = await fetch(client)
    keep = plant(client.store, locked(base, "b"), FIRST)
    plant(client.store, locked(base, "a"), LAST)
    healer = a_healer(client)
    assert await watched(healer, 4) == []
    client.store.cut |= {(0, 1), (0, 2)}
    await anyio.sleep(TIMES.sweep)
    healing = await healer.run_once()
    assert (healing.healed, healing.conflicted) == ([], 1)
    client.store.cut.clear()
    client.store.mend()
    assert (await only_leaf(client))["_rev"] == keep
    assert (await healer.run_once()).conflicted == 0


@virtual
async def test_a_healer_that_was_stopped_deletes_nothing_by_an_old_look() -> None:
    """Others may have healed meanwhile, and kept what it would delete: what it would keep had gone back to todo."""
    client = await made(ReplicatedStore(3), "t")
    base = await fetch(client)
    plant(client.store, locked(base, "b"), FIRST)
    plant(client.store, {**locked(base, "a"), "output": 1}, LAST)

    class Stopped:
        async def keep(self, document: Mapping[str, Any]) -> None:
            await anyio.sleep(2 * LEASE)

    healer = a_healer(client, aside=Stopped())
    assert await watched(healer) == []
    assert len((await client.leaves(["t"]))[0]) == 2


@virtual
async def test_living_owners_of_many_tokens_do_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look takes as many as it can; which, is chance, but for those that are quiet."""
    monkeypatch.setattr(healer_module, "MAX_CONFLICTED", 5)
    ids = [f"t{number:02}" for number in range(30)]
    client = await made(ReplicatedStore(3, seed=9), *ids)
    alive = {}
    for token_id in ids:
        base = await fetch(client, token_id)
        plant(client.store, locked(base, "a"), LAST)
        mine = locked(base, "b")
        alive[token_id] = {**mine, "_rev": plant(client.store, mine, FIRST)}
    del alive["t28"], alive["t29"]
    healer, modifier = a_healer(client), BasicTokenModifier()
    healed: set[str] = set()
    for _ in range(30):
        healing = await healer.run_once()
        healed.update(healing.healed)
        assert healing.conflicted == 30 - len(healed)
        await anyio.sleep(TIMES.heartbeat)
        beaten = [modifier.refresh(dict(document), unix_time()) for document in alive.values()]
        results = await client.save(beaten)
        assert all(result.written for result in results)
        alive = {one["_id"]: {**one, "_rev": str(result.rev)} for one, result in zip(beaten, results, strict=True)}
    assert healed == {"t28", "t29"}


@virtual
async def test_without_pilots_there_is_no_need_to_wait() -> None:
    client = await made(ReplicatedStore(3), "t")
    base = await fetch(client)
    plant(client.store, locked(base, "b"), FIRST)
    plant(client.store, base, LAST)
    healing = await a_healer(client).run_once(now=True)
    assert healing.healed == ["t"]
    assert (await only_leaf(client))["hostname"] == "b-node"


# Results. -------------------------------------------------------------------------------------------------------------


class Kept:
    """Remembers what is kept aside; fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.documents: list[Mapping[str, Any]] = []
        self.failures = failures

    async def keep(self, document: Mapping[str, Any]) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(28, "No space left on device")
        self.documents.append(document)


def done(document: Mapping[str, Any], output: Any) -> dict[str, Any]:
    return {**BasicTokenModifier().close({**document}, unix_time()), "output": output}


@virtual
async def test_results_on_deleted_versions_are_kept_aside() -> None:
    client = await made(ReplicatedStore(3), "t")
    base = await fetch(client)
    plant(client.store, done(locked(base, "a"), 1), LAST)
    plant(client.store, done(locked(base, "b"), 2), FIRST)
    plant(client.store, locked(base, "c"), "7" * 16)
    kept = Kept()
    assert await watched(a_healer(client, aside=kept)) == ["t"]
    (aside,) = kept.documents
    assert {aside["output"], (await only_leaf(client))["output"]} == {1, 2}


@virtual
async def test_what_cannot_be_kept_aside_is_not_deleted() -> None:
    """A full disk is no reason to lose a result: it stays in the pool until there is room."""
    client = await made(ReplicatedStore(3), "t")
    base = await fetch(client)
    plant(client.store, done(locked(base, "a"), 1), LAST)
    plant(client.store, done(locked(base, "b"), 2), FIRST)
    kept = Kept(failures=2)
    healer = a_healer(client, aside=kept)
    assert await watched(healer, 6) == []
    assert len((await client.leaves(["t"]))[0]) == 2
    await anyio.sleep(TIMES.sweep)
    assert (await healer.run_once()).healed == ["t"]
    assert len(kept.documents) == 1


def test_a_lock_is_no_result() -> None:
    base = {"type": "token", "lock": 5, "done": 0, "output": {}, "error": [], "uploads": {}}
    assert not is_result({**base, "hostname": "other"}, base)
    assert is_result({**base, "output": 1}, base)
    assert is_result({**base, "error": [{"message": "no"}]}, base)
    assert is_result({**base, "done": 6, "exit_code": 0}, base)
    assert not is_result(base, {**base, "output": 1})


def test_one_outcome_on_two_branches_is_one_result() -> None:
    """A beat that a minority took splits a token's own branch; nothing is lost with either end of it."""
    one = {
        "_id": "t",
        "_rev": "3-a",
        "type": "token",
        "lock": 5,
        "done": 6,
        "exit_code": 0,
        "output": 1,
        "mine": [1],
        "_attachments": {"log": {"stub": True, "revpos": 3, "digest": "md5-x", "length": 5}},
    }
    other = {
        **one,
        "_rev": "4-b",
        "apicas": {"generation": 1},
        "_attachments": {"log": {"stub": True, "revpos": 4, "digest": "md5-x", "length": 5}},
    }
    assert not is_result(one, other)
    assert is_result(one, {**other, "mine": [2]})
    assert is_result(one, {**other, "exit_code": 1})
    assert is_result(one, {**other, "_attachments": {"log": {"stub": True, "digest": "md5-y", "length": 5}}})
    assert is_result(one, {key: value for key, value in other.items() if key != "_attachments"})


# Pilots. --------------------------------------------------------------------------------------------------------------


@virtual
async def test_a_claim_that_nobody_owns_comes_back_uncharged() -> None:
    """Two writers, neither of whom got a plain answer: healed, reclaimed, worked once, and nobody is suspected."""
    client = await made(ReplicatedStore(3), "t")
    base = await fetch(client)
    plant(client.store, locked(base, "a"), LAST)
    plant(client.store, locked(base, "b"), FIRST)
    start, worked = unix_time(), 0
    async with member(client.store, "one") as tokens:
        async for token in tokens:
            async with token:
                worked += 1
    assert worked == 1
    assert LEASE <= unix_time() - start < 2 * LEASE  # what was seen of it before it was healed counts
    leaf = await only_leaf(client)
    assert state_of(leaf) is TokenState.DONE
    assert not is_suspect(leaf)


@virtual
async def test_a_claim_of_ours_that_a_minority_took_is_not_ours_and_comes_back_uncharged() -> None:
    """Also where it ends up as the only version: never started, never beaten, left to go stale."""
    client = await made(ReplicatedStore(3), "t")
    start, handed_out = unix_time(), []

    async def mend() -> None:
        await anyio.sleep(5)
        client.store.cut.clear()
        client.store.mend()

    async with member(client.store, "one") as tokens, anyio.create_task_group() as group:
        client.store.cut |= {(0, 1), (0, 2)}
        group.start_soon(mend)
        async for token in tokens:
            handed_out.append((unix_time() - start, token.generation))
            async with token:
                pass
    # A lease of silence; then its second claim, since the first and its end count as well.
    ((waited, generation),) = handed_out
    assert LEASE <= waited < 2 * LEASE
    assert generation == 3
    assert not is_suspect(await only_leaf(client))


@virtual
async def test_an_owner_whose_version_is_not_shown_keeps_its_token() -> None:
    """Beats and the commit go to its own branch; nobody heals, reclaims or claims it while it lives."""
    client = await made(ReplicatedStore(3), "t")
    base = await fetch(client)
    async with member(client.store, "one") as mine, member(client.store, "two", 1) as rival:
        (token,) = await mine.claim(1)
        # The rival's lock is longer-lived in the tree: it is shown until the end.
        rev, shown = base["_rev"], locked(base, "loser")
        for number in range(40):
            rev = plant(client.store, {**shown, "_rev": rev}, f"{number:016x}")
        with anyio.move_on_after(5 * LEASE):
            while True:
                assert (await fetch(client))["hostname"] == "loser-node"
                assert not await rival.claim(1)
                await anyio.sleep(1)
        assert len((await client.leaves(["t"]))[0]) == 2
        async with token:
            token["output"] = "mine"
        await anyio.sleep(2 * LEASE)
    leaf = await only_leaf(client)
    assert leaf["output"] == "mine"


@virtual
async def test_an_edit_of_a_version_that_is_not_shown_is_merged() -> None:
    """After a conflict the owner looks for its own version, not at the shown one, which is a loser's."""
    client = await made(ReplicatedStore(3), "t")
    base = await fetch(client)
    async with member(client.store, "one") as mine:
        (token,) = await mine.claim(1)
        await anyio.sleep(1)
        rev, shown = base["_rev"], locked(base, "loser")
        for number in range(5):
            rev = plant(client.store, {**shown, "_rev": rev}, f"{number:016x}")
        own = next(leaf for leaf in (await client.leaves(["t"]))[0] if leaf["hostname"] != "loser-node")
        plant(client.store, {**own, "comment": "edited"}, FIRST)
        async with token:
            token["output"] = "mine"
    loser, own = (await client.leaves(["t"]))[0]
    assert (own["output"], own["comment"]) == ("mine", "edited")
    assert loser["hostname"] == "loser-node"


@virtual
async def test_a_beat_after_an_edit_of_a_version_that_is_not_shown_keeps_the_lease() -> None:
    client = await made(ReplicatedStore(3), "t")
    base = await fetch(client)
    async with member(client.store, "one") as mine:
        (token,) = await mine.claim(1)
        await anyio.sleep(1)
        rev, shown = base["_rev"], locked(base, "loser")
        for number in range(20):
            rev = plant(client.store, {**shown, "_rev": rev}, f"{number:016x}")
        own = next(leaf for leaf in (await client.leaves(["t"]))[0] if leaf["hostname"] != "loser-node")
        plant(client.store, {**own, "comment": "edited"}, FIRST)
        lost = anyio.Event()
        assert mine.keeper.begin(token, lost.set)
        await anyio.sleep(LEASE)
        assert not lost.is_set()
        async with token:
            token["output"] = "mine"
    own = next(leaf for leaf in (await client.leaves(["t"]))[0] if leaf["hostname"] != "loser-node")
    assert (own["output"], own["comment"]) == ("mine", "edited")


@virtual
async def test_a_higher_generation_on_another_branch_means_lost() -> None:
    """A write to our own branch would succeed, for ever: so it is not made."""
    client = await made(ReplicatedStore(3), "t")
    base = await fetch(client)
    async with member(client.store, "one") as mine:
        (token,) = await mine.claim(1)
        await anyio.sleep(1)
        later = BasicTokenModifier().reset(dict(base), unix_time())
        later = BasicTokenModifier().reset(later, unix_time())
        plant(client.store, locked(later, "next"), LAST)
        with pytest.raises(LeaseLostError):
            async with token:
                token["output"] = "late"
        assert all(leaf["output"] != "late" for leaf in (await client.leaves(["t"]))[0])


@virtual
async def test_a_late_beat_looks_at_all_versions_first() -> None:
    """A pilot that was cut off for more than half a lease stops work that another branch has overtaken."""
    client = await made(ReplicatedStore(3), "t")
    base = await fetch(client)
    async with member(client.store, "one") as mine:
        (token,) = await mine.claim(1)
        lost = anyio.Event()
        assert mine.keeper.begin(token, lost.set)
        client.store.cut.add(("one", 0))
        await anyio.sleep(LEASE * 3 / 4)
        later = BasicTokenModifier().reset(dict(base), unix_time())
        later = BasicTokenModifier().reset(later, unix_time())
        plant(client.store, locked(later, "next"), LAST)
        before = {leaf["_rev"] for leaf in (await client.leaves(["t"]))[0]}
        client.store.cut.clear()
        with anyio.fail_after(TIMES.heartbeat):
            await lost.wait()
        assert {leaf["_rev"] for leaf in (await client.leaves(["t"]))[0]} == before


@virtual
async def test_a_commit_waits_until_the_versions_can_be_read() -> None:
    """And a beat does not."""
    client = await made(ReplicatedStore(3), "t")
    async with member(client.store, "one") as mine:
        (token,) = await mine.claim(1)
        client.store.cut.add(("one", 0))

        async def mend() -> None:
            await anyio.sleep(LEASE / 2)
            client.store.cut.clear()

        async with anyio.create_task_group() as group:
            group.start_soon(mend)
            async with token:
                token["output"] = "in time"
    assert (await only_leaf(client))["output"] == "in time"


@virtual
async def test_tokens_of_several_versions_are_work_to_come() -> None:
    """A view full of them neither ends a pilot nor has it ask all the time, also if it does not linger."""
    ids = [f"t{number:02}" for number in range(40)]
    client = await made(ReplicatedStore(3, seed=5), *ids)
    for token_id in ids:
        base = await fetch(client, token_id)
        plant(client.store, base, FIRST)
        plant(client.store, {**base, "n": 1}, LAST)
    worked: list[str] = []
    samples, start = 0, unix_time()

    class Counting(ReplicatedClient):
        async def sample(self, *arguments: Any, **keywords: Any) -> Any:
            nonlocal samples
            samples += 1
            return await super().sample(*arguments, **keywords)

    tokens = member(client.store, "one", linger=False)
    tokens.client = Counting(client.store, "one")
    async with tokens:
        async for token in tokens:
            async with token:
                worked.append(token.id)
    assert sorted(worked) == ids
    assert unix_time() - start >= LEASE
    # Ten seconds apart at the longest, for a lease and a look; then one for each claim of one.
    assert samples <= LEASE * 1.5 / 5 + len(ids) + 5


@virtual
async def test_a_shown_lock_is_not_reclaimed_before_healing() -> None:
    """Even if its process is known to be gone: the owner may be on a version that is not shown."""
    client = await made(ReplicatedStore(3), "t")
    base = await fetch(client)
    environment = virtual_environment("two", gone=lambda document: document.get("hostname") == "loser-node")
    async with member(client.store, "one") as mine, member(client.store, "two", 1) as rival:
        rival.keeper._reaper._environment = environment
        (token,) = await mine.claim(1)
        await anyio.sleep(1)
        rev, shown = base["_rev"], locked(base, "loser")
        for number in range(30):
            rev = plant(client.store, {**shown, "_rev": rev}, f"{number:016x}")
        with anyio.move_on_after(3 * LEASE):
            while True:
                sweep = await rival.keeper.sweep()
                assert sweep.reclaimed == 0
                await anyio.sleep(1)
        async with token:
            pass


@pytest.mark.parametrize("state", [TokenState.TODO, TokenState.LOCKED])
def test_a_pilot_heals_what_it_meets_in_a_store_with_one_copy(state: TokenState) -> None:
    """There only the replication of databases makes several versions; nobody looks for them before one was seen."""

    @virtual
    async def run() -> None:
        client = await made(ReplicatedStore(3), "t")
        base = await fetch(client)
        looks = 0

        class Single(ReplicatedClient):
            async def conflicted(self, limit: int | None = None) -> list[str]:
                nonlocal looks
                looks += 1
                return await super().conflicted(limit)

        one = Single(client.store, "one")
        one.replicated = False
        tokens = BasicViewIterator(one, environment=virtual_environment("one"))
        async with tokens:
            (token,) = await tokens.claim(1)
            await anyio.sleep(3 * LEASE)
            assert looks == 0
            async with token:
                raise Release
        base = await fetch(client)
        for digest in (FIRST, LAST):
            plant(client.store, base if state is TokenState.TODO else locked(base, digest[:1]), digest)
        worked = 0
        tokens = BasicViewIterator(one, environment=virtual_environment("two"))
        async with tokens:
            async for token in tokens:
                async with token:
                    worked += 1
        assert worked == 1
        assert looks > 4
        assert state_of(await only_leaf(client)) is TokenState.DONE

    run()


def test_only_so_many_claims_without_an_owner_are_remembered() -> None:
    disowned = Disowned()
    for number in range(MAX_DISOWNED + 10):
        disowned.add({"apicas": {"claim": str(number)}})
    disowned.add({"apicas": {}})
    assert {"apicas": {"claim": "9"}} not in disowned
    assert {"apicas": {"claim": "10"}} in disowned
    assert {"apicas": {}} not in disowned


@virtual
async def test_what_was_healed_is_not_remembered_for_ever() -> None:
    """A survivor that has ended is in no sweep: nobody asks for it, and a pilot may heal many in its life."""
    client = await made(ReplicatedStore(3), "t")
    base = await fetch(client)
    plant(client.store, locked(base, "a"), FIRST)
    keep = plant(client.store, locked(base, "b"), LAST)
    healer = a_healer(client)
    assert await watched(healer) == ["t"]
    await watched(healer, 4)
    assert (await only_leaf(client))["_rev"] == keep
    assert healer.watch_of("t") is None
