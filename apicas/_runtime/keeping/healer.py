"""The healer: of a token that a cluster stores in several live versions (leaves), keeps one and deletes the others.

It runs in every pilot; there is no leader. Rules:

- Only when the set of leaves has not changed for a lease length under our eyes. An owner who lives changes his leaf
  with every beat; so what is deleted was silent for as long as a lock must be before it is reclaimed.
- The first by heal_order is kept, never deleted. All healers choose alike, so two at once do no harm.
- A result on a leaf that is deleted is kept aside before.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import anyio

from apicas._documents import Document
from apicas._runtime.environment import Environment
from apicas._runtime.keeping.branches import Disowned
from apicas.clients.port import Client
from apicas.exceptions import ConfigError, PoolError
from apicas.policies.fence import LEASE_FIELDS
from apicas.policies.leases import LeaseTimes, Watch, lease_of, look_again
from apicas.policies.merging import heal_order
from apicas.policies.retries import jittered
from apicas.tokens import TokenState, state_of

log = logging.getLogger("apicas.healer")

MAX_CONFLICTED: Final = 1000
"""Tokens looked at in one go: those that have been quiet so far, and of the others a choice by chance."""
_LOOKS: Final = 4


class Aside(Protocol):
    """Where results are kept that the pool does not keep."""

    async def keep(self, document: Mapping[str, Any]) -> None:
        """Keep a document aside, safe on disk when this returns. The same one may come twice.

        Raises:
            OSError, ConfigError: it could not be kept.
        """
        ...


@dataclass(slots=True)
class Healing:
    """What one look found."""

    conflicted: int = 0
    """Tokens that have several leaves, those not healed by this look."""
    healed: list[str] = field(default_factory=list)
    """The ids of tokens that have one leaf again."""
    discarded: int = 0
    """Leaves that were deleted."""
    kept_aside: int = 0
    """Results among them."""

    def add(self, later: Healing) -> None:
        """Add what a later look found."""
        self.conflicted = later.conflicted
        self.healed += later.healed
        self.discarded += later.discarded
        self.kept_aside += later.kept_aside


@dataclass(frozen=True, slots=True)
class _Split:
    """A token with several leaves, as it was read."""

    keep: Mapping[str, Any]
    others: Sequence[Mapping[str, Any]]
    watch: Watch


class Healer:
    """Heals tokens.

    Args:
        client: the pool.
        times: the lease and what follows from it.
        environment: clocks and dice.
        disowned: takes the claims on leaves beside each other: at most one of them has an owner, perhaps none.
        aside: keeps results on leaves that are deleted; None where that is nobody's business.
    """

    def __init__(
        self,
        client: Client,
        times: LeaseTimes,
        environment: Environment,
        disowned: Disowned | None = None,
        aside: Aside | None = None,
    ) -> None:
        self._client = client
        self._times = times
        self._environment = environment
        self.aside = aside
        self.disowned = Disowned() if disowned is None else disowned
        self._watches: dict[str, Watch] = {}
        self._survivors: dict[str, Watch] = {}
        self._one_at_a_time = anyio.Lock()
        self._away = False
        self._noticed = anyio.Event()

    def notice(self) -> None:
        """Say that there is a token with several leaves: begin to heal where that was not to be expected."""
        self._noticed.set()

    def watch_of(self, token_id: str) -> Watch | None:
        """What was seen of the leaf that is left of a token that was healed: how long it has been silent."""
        return self._survivors.pop(token_id, None)

    async def run_once(self, *, now: bool = False) -> Healing:
        """Look at every token that has several leaves, and heal those that have been quiet for a lease length.

        Args:
            now: heal all, at once. Only safe where no pilot runs: one that lives may lose its claim.
        """
        async with self._one_at_a_time:
            try:
                return await self._look(now=now)
            except PoolError:
                # After an outage nothing was silent: its owner could not make itself heard.
                self._watches.clear()
                self._survivors.clear()
                raise

    async def _look(self, *, now: bool) -> Healing:
        found_now = await self._client.conflicted()
        ids = self._chosen(found_now)
        leaves = await self._client.leaves(ids) if ids else []
        looked = self._environment.monotonic()
        split = {
            token_id: self._watched(token_id, found, looked)
            for token_id, found in zip(ids, leaves, strict=True)
            if len(found) > 1
        }
        self._watches = {token_id: one.watch for token_id, one in split.items()}
        # After a longer gap the reaper's watch starts again. Most survivors end, and nobody asks for them.
        longest = 2 * self._times.sweep
        self._survivors = {one: watch for one, watch in self._survivors.items() if looked - watch.last <= longest}
        healing = Healing(conflicted=len(split) + len(found_now) - len(ids))
        ready = [one for one in split.values() if now or self._is_quiet(one)]
        if ready:
            await self._heal(ready, looked, healing)
        return healing

    def _chosen(self, ids: Sequence[str]) -> Sequence[str]:
        """As many as are looked at in one go. Were it always the first, live owners of these could hold up the rest."""
        if len(ids) <= MAX_CONFLICTED:
            return ids
        quiet = [token_id for token_id in ids if self._seems_quiet(token_id)]
        others = sorted(set(ids).difference(quiet))
        wanted = max(0, MAX_CONFLICTED - len(quiet))
        return [*quiet[:MAX_CONFLICTED], *self._environment.rng.sample(others, min(wanted, len(others)))]

    def _seems_quiet(self, token_id: str) -> bool:
        """Whether the last look at a token, if there was one, has not found it changed."""
        watch = self._watches.get(token_id)
        return watch is not None and (watch.looks > 1 or not watch.beaten)

    def _watched(self, token_id: str, leaves: Sequence[Document], looked: float) -> _Split:
        keep, *others = heal_order(leaves)
        for leaf in leaves:
            if state_of(leaf) is TokenState.LOCKED:
                self.disowned.add(leaf)
        revisions = " ".join(sorted(leaf["_rev"] for leaf in leaves))
        watch = look_again(self._watches.get(token_id), revisions, looked, 2 * self._times.sweep)
        return _Split(keep, others, watch)

    def _is_quiet(self, split: _Split) -> bool:
        """Whether no leaf has changed for a lease length: of the longest lease that any of them carries."""
        leases = [lease_of(leaf, self._times.lease) for leaf in (split.keep, *split.others)]
        return split.watch.looks >= _LOOKS and split.watch.last - split.watch.first >= max(*leases, self._times.lease)

    async def _heal(self, ready: Sequence[_Split], looked: float, healing: Healing) -> None:
        ready = [one for one in ready if await self._keep_results(one, healing)]
        if self._environment.monotonic() - looked > self._times.sweep:
            return  # held up, or stopped: others may have healed meanwhile, and kept what we would delete
        leaves = [leaf for one in ready for leaf in one.others]
        results = iter(await self._client.discard(leaves))
        for one in ready:
            written = [next(results).written for _ in one.others]
            healing.discarded += sum(written)
            if all(written):  # else the next look shows what is left
                token_id = one.keep["_id"]
                healing.healed.append(token_id)
                healing.conflicted -= 1
                self._watches.pop(token_id, None)
                self._survivors[token_id] = Watch(
                    revision=one.keep["_rev"], first=one.watch.first, last=one.watch.last, looks=one.watch.looks
                )
                log.info("token %s had %d versions, and has one again", token_id, len(written) + 1)

    async def _keep_results(self, split: _Split, healing: Healing) -> bool:
        """Keep aside what work came out with on the leaves that go; False where that fails."""
        for leaf in split.others:
            if self.aside is None or not is_result(leaf, split.keep):
                continue
            try:
                await self.aside.keep(leaf)
            except (OSError, ConfigError) as error:
                log.error("token %s is not healed: a result cannot be kept aside: %s", leaf["_id"], error)  # noqa: TRY400
                return False
            healing.kept_aside += 1
            log.warning("token %s was worked on two branches: the other result is kept aside", leaf["_id"])
        return True

    async def run(self) -> None:
        """Heal for ever, at intervals; the first look comes at once.

        In a store with one copy of each document only the replication of databases makes several leaves. There it waits
        until somebody has seen one.
        """
        if not self._client.replicated:
            await self._noticed.wait()
        while True:
            try:
                await self.run_once()
            except PoolError as error:
                if not self._away:
                    log.warning("healing: %s", error)
                self._away = True
            else:
                self._away = False
            await anyio.sleep(jittered(self._times.sweep, self._environment.rng))


def is_result(leaf: Mapping[str, Any], keep: Mapping[str, Any]) -> bool:
    """Whether a leaf says something about work that the one that is kept does not: an end, an output, an error.

    A beat that a minority took may split a token's own branch, and its outcome is then on both: that is one result.
    """
    state = state_of(leaf)
    if state in {TokenState.DONE, TokenState.ERROR}:
        return state is not state_of(keep) or _content(leaf) != _content(keep)
    return any(leaf.get(name) and leaf.get(name) != keep.get(name) for name in ("output", "error", "uploads"))


_OF_LEASES: Final = frozenset({"_rev", "_conflicts", "apicas", "done", *LEASE_FIELDS})


def _content(leaf: Mapping[str, Any]) -> dict[str, Any]:
    """A token without what leases write into it; of attachments their digests."""
    content = {name: value for name, value in leaf.items() if name not in _OF_LEASES}
    attachments = content.pop("_attachments", None)
    if isinstance(attachments, Mapping):
        content["_attachments"] = {name: (stub.get("digest"), stub.get("length")) for name, stub in attachments.items()}
    return content
