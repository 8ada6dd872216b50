"""Known mistakes, put into the runtime one at a time: the simulation has to find each of them.

A mistake replaces a function of the runtime for as long as it is in. What it replaces must exist: a mistake that has
become impossible to make in this way has to be written anew, or go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import anyio
import msgspec

from apicas._runtime.keeping import candidates, claims, committer, healer, heartbeat, reaper
from apicas._runtime.outbox import replay
from apicas.clients.port import SaveStatus
from apicas.iterators import BasicViewIterator
from apicas.iterators import views as view_iterators
from apicas.modifiers import BasicTokenModifier, basic
from apicas.policies.fence import Standing
from apicas.policies.leases import LeaseTimes
from apicas.policies.merging import heal_order
from apicas.tokens import annex, claim_of, count

Patches = list[tuple[Any, str, Any]]


@dataclass(frozen=True)
class Mutant:
    """A mistake.

    Args:
        name: what is wrong.
        invariants: those that may notice it first.
        seed: one that is known to catch it; None while none is known.
        patches: what is replaced by what: made anew each time.
    """

    name: str
    invariants: tuple[str, ...]
    patches: Callable[[], Patches]
    seed: int | None = None

    @contextmanager
    def put_in(self) -> Iterator[None]:
        """Make the mistake."""
        with ExitStack() as stack:
            for target, name, replacement in self.patches():
                stack.enter_context(patch.object(target, name, replacement))
            yield


def _without_claimable_check() -> Patches:
    lock = BasicTokenModifier.lock

    def lock_anything(self: Any, token: Any, claim: Any) -> Any:
        token.update(lock=0, done=0)
        return lock(self, token, claim)

    return [(candidates, "may_claim", lambda _document, _now: True), (BasicTokenModifier, "lock", lock_anything)]


async def _nothing_overtaken(_client: Any, _leases: Any) -> set[Any]:
    return set()


def _without_fence() -> Patches:
    return [
        (committer, "standing", lambda _stored, _fresh, _claim: Standing.OURS),
        (committer, "overtaken", _nothing_overtaken),
    ]


def _deaf_heartbeat() -> Patches:
    async def look(self: Any, _client: Any, unclear: Any, sent: float) -> int:
        for lease, _ in unclear:
            self._leases.beaten(lease, refreshed=sent)
        return 0

    return [(heartbeat.Heartbeat, "_look", look), (heartbeat, "overtaken", _nothing_overtaken)]


def _accepted_is_claimed() -> Patches:
    async def look(self: Any, unclear: Any, claimed: Any, sent: float) -> None:
        fresh = await self._client.get([document["_id"] for _, document in unclear])
        for (claim_id, _), stored in zip(unclear, fresh, strict=True):
            if stored is not None and claim_of(stored) == claim_id:
                claimed.leases.append(self._hold(claim_id, stored, sent))

    return [(claims.Claimer, "_look", look)]


def _losers_delete() -> Patches:
    async def look(self: Any, unclear: Any, claimed: Any, sent: float) -> None:
        ids = {claim_id for claim_id, _ in unclear}
        found = await self._client.leaves([document["_id"] for _, document in unclear])
        await self._client.discard([leaf for leaves in found for leaf in leaves if claim_of(leaf) in ids])

    return [(claims.Claimer, "_look", look)]


def _reclaim_of_anything() -> Patches:
    reclaim = reaper.Reaper._reclaim

    async def without_swap(self: Any, stale: Any) -> list[str]:
        if stale:
            await anyio.sleep(self._times.sweep)  # a long sweep: with compare-and-swap it would do no harm
        fresh = await self._client.get([document["_id"] for document in stale])
        pairs = zip(stale, fresh, strict=True)
        return await reclaim(self, [{**old, "_rev": new["_rev"]} for old, new in pairs if new is not None])

    return [(reaper.Reaper, "_reclaim", without_swap)]


def _trusting_clocks() -> Patches:
    def is_stale(document: Any, watch: Any, *, store_now: float, default_lease: float, **_: Any) -> bool:
        return bool(store_now - count(document.get("lock")) > default_lease)

    return [(reaper, "is_stale", is_stale)]


def _early_reclaim() -> Patches:
    return [(reaper, "is_stale", lambda _document, watch, **_: watch.looks >= 2)]


def _unknown_is_written() -> Patches:
    async def look(self: Any, unclear: Any) -> list[Any]:
        for settlement in unclear:
            self._end([settlement])
        return []

    return [(committer.Committer, "_look", look)]


def _unknown_is_lost() -> Patches:
    async def look(self: Any, unclear: Any) -> list[Any]:
        await self._lose(list(unclear))
        return []

    return [(committer.Committer, "_look", look)]


def _endless_commit() -> Patches:
    async def look(_self: Any, unclear: Any) -> list[Any]:
        return list(unclear)

    return [(committer.Committer, "_look", look)]


def _charged_release() -> Patches:
    release = BasicTokenModifier.release

    def charge(self: Any, token: Any, now: Any = None, *, not_before: float = 0.0) -> Any:
        token["scrub_count"] = count(token.get("scrub_count")) + 1
        return release(self, token, now, not_before=not_before)

    return [(BasicTokenModifier, "release", charge)]


def _forgetful_scrub() -> Patches:
    scrub = BasicTokenModifier.scrub

    def forget(self: Any, token: Any, now: Any = None, *, not_before: float = 0.0) -> Any:
        scrub(self, token, now, not_before=not_before)
        token["apicas"] = {name: value for name, value in annex(token).items() if name != "generation"}
        return token

    return [(BasicTokenModifier, "scrub", forget)]


def _hasty_end() -> Patches:
    async def more(_self: Any) -> bool:
        return False

    return [(BasicViewIterator, "more", more)]


def _trust_in_the_feed() -> Patches:
    return [(view_iterators, "SAFETY_LOOK", 1e9)]


def _slow_heartbeat() -> Patches:
    return [(LeaseTimes, "heartbeat", property(lambda self: self.lease * 3))]


def _healer_keeps_last() -> Patches:
    return [(healer, "heal_order", lambda leaves: heal_order(leaves)[::-1])]


def _hasty_healer() -> Patches:
    return [(healer.Healer, "_is_quiet", lambda _self, _split: True)]


def _healer_deletes_all() -> Patches:
    watched = healer.Healer._watched

    def all_of_them(self: Any, token_id: str, leaves: Any, looked: float) -> Any:
        split = watched(self, token_id, leaves, looked)
        return replace(split, others=[*split.others, split.keep])

    return [(healer.Healer, "_watched", all_of_them)]


def _no_healing() -> Patches:
    async def look(_self: Any, *, now: bool) -> Any:
        return healer.Healing()

    return [(healer.Healer, "_look", look)]


def _accepted_is_committed() -> Patches:
    """Take what a minority has for an outcome that is there."""
    run_once = committer.Committer.run_once

    async def once(self: Any, batch: Any) -> Any:
        save = self._client.save

        async def hopeful(documents: Any) -> Any:
            results = await save(documents)
            return [
                msgspec.structs.replace(one, status=SaveStatus.WRITTEN) if one.status is SaveStatus.UNKNOWN else one
                for one in results
            ]

        with patch.object(self._client, "save", hopeful):
            return await run_once(self, batch)

    return [(committer.Committer, "run_once", once)]


def _replay_without_fence() -> Patches:
    return [(replay, "standing", lambda _stored, _fresh, _claim: Standing.OURS)]


def _uncounted_generations() -> Patches:
    return [(basic, "generation_of", lambda _token: 0)]


def _overwritten_edits() -> Patches:
    return [(replay, "_edited", lambda _base, _fresh: False)]


MUTANTS = [
    Mutant("outbox replayed without a fence", ("done stays", "fence"), _replay_without_fence, 18),
    Mutant("generation that nobody counts", ("one commit",), _uncounted_generations, 0),
    Mutant("outcome over a person's edit", ("nothing lost",), _overwritten_edits, 754),
    Mutant("no claimable check", ("fence", "done stays"), _without_claimable_check, 2),
    Mutant("no fence on commit", ("fence", "one commit", "done stays"), _without_fence, 19),
    Mutant("heartbeat that ignores conflicts", ("stands down", "one live owner"), _deaf_heartbeat, 24),
    Mutant("accepted taken as a claim", ("one live owner",), _accepted_is_claimed, 3),
    Mutant("losers delete their leaves", ("nothing lost",), _losers_delete, 18),
    Mutant("reclaim without compare-and-swap", ("fence", "one live owner", "done stays"), _reclaim_of_anything, 6),
    Mutant("reclaim by the clock alone", ("one live owner",), _trusting_clocks, 12),
    Mutant("reclaim after two looks", ("one live owner",), _early_reclaim, 0),
    Mutant("heartbeat slower than the lease", ("one live owner",), _slow_heartbeat, 1),
    Mutant("unclear commit taken as written", ("nothing lost",), _unknown_is_written, 19),
    Mutant("unclear commit taken as lost", ("nothing lost",), _unknown_is_lost, 92),
    Mutant("accepted taken as committed", ("nothing lost", "done stays"), _accepted_is_committed, 107),
    Mutant("commit that tries for ever", ("every run ends",), _endless_commit, 19),
    Mutant("release that is charged", ("releases are free",), _charged_release, 4),
    Mutant("scrub that forgets the generation", ("counters grow",), _forgetful_scrub, 3),
    Mutant("end at the first empty view", ("nothing lost",), _hasty_end, 0),
    Mutant("pilot that trusts its feed", ("every run ends",), _trust_in_the_feed, 3),
    Mutant("healer that keeps the last instead of the first", ("done stays",), _healer_keeps_last, 1),
    Mutant("healer that does not wait", ("one live owner",), _hasty_healer, 104),
    Mutant("healer that deletes all", ("nothing lost",), _healer_deletes_all, 0),
    Mutant("no healer", ("one version",), _no_healing, 4),
]
