"""How long a lease is, how often it is refreshed, and when one that nobody refreshes may be taken away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from apicas._javascript import to_number
from apicas.exceptions import ConfigError
from apicas.tokens import (
    FIRST_LOCK_TIME,
    annex,
    is_foreign_lock,
)

MAX_LEASE: Final = 7 * 24 * 3600.0
"""Seconds. A longer one, written into a token by a mistake or by malice, would keep it locked for ever."""
MIN_LEASE: Final = 10.0
"""Seconds. Below it, lock timestamps of whole seconds and clock offsets of one second would decide about leases."""
BEATS_PER_LEASE: Final = 4
"""Three beats may fail before a lease is in danger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """The seconds that follow from a lease.

    Args:
        lease: seconds for which a lock holds without a heartbeat.
    """

    lease: float

    def __post_init__(self) -> None:
        if not self.lease >= MIN_LEASE:
            raise ConfigError(f"lock_timeout is {self.lease:g} s; a lease is at least {MIN_LEASE:g} s")
        if self.lease > MAX_LEASE:
            raise ConfigError(f"lock_timeout is {self.lease:g} s; a lease is at most {MAX_LEASE:g} s, a week")

    @property
    def heartbeat(self) -> float:
        """The age at which a lock is refreshed."""
        return self.lease / BEATS_PER_LEASE

    @property
    def sweep(self) -> float:
        """The time between two looks for stale locks: four looks fit into a lease."""
        return self.lease / 4

    @property
    def beat_retry(self) -> float:
        """The longest pause before a failed beat is tried again."""
        return self.lease / 8


def contact_is_lost(refreshed: float, now: float, lease: float) -> bool:
    """Whether no lock of a token was written for a whole lease, so that others may soon take it.

    Args:
        refreshed: monotonic seconds: when the last write that arrived was sent.
        now: monotonic seconds.
        lease: seconds.
    """
    return now - refreshed >= lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a pilot saw of a locked token that is not its own, on its own monotonic clock."""

    revision: str
    first: float
    last: float
    looks: int = 1
    beaten: bool = False
    """Whether its revision has been seen to change: somebody is alive behind it."""
    claim: str | None = None
    """The claim that was seen, where that matters: another one says nothing about who made it."""


def look_again(watch: Watch | None, revision: str, now: float, longest_gap: float) -> Watch:
    """Note one successful look.

    Args:
        watch: what was seen before.
        revision: the revision now.
        now: monotonic seconds.
        longest_gap: seconds between looks beyond which the watch starts again: a pilot that slept, or was cut off,
            must not conclude from an old look that an owner was silent all the while.
    """
    if watch is None:
        return Watch(revision=revision, first=now, last=now)
    if watch.revision != revision:
        return Watch(revision=revision, first=now, last=now, beaten=True)
    if now - watch.last > longest_gap:
        return Watch(revision=revision, first=now, last=now, beaten=watch.beaten)
    return replace(watch, last=now, looks=watch.looks + 1)


def lease_of(document: Mapping[str, Any], default: float) -> float:
    """The lease that the claim of a document carries, in seconds."""
    lease = annex(document).get("lease")
    if not isinstance(lease, (int, float)) or not 0 < lease <= MAX_LEASE:
        return default
    return max(MIN_LEASE, to_number(lease))


def is_stale(
    document: Mapping[str, Any],
    watch: Watch,
    *,
    store_now: float,
    default_lease: float,
    owner_is_gone: bool = False,
    foreign_lock_timeout: float | None = None,
) -> bool:
    """Whether a locked token may be taken from its silent owner.

    Stale is a lock (a) whose owner is known to be gone, (b) that is older than two leases in store time and did not
    move for half a lease under our eyes, or (c) that did not move in at least four looks spread over a lease. Half a
    lease is two beats, so a lock that only seems old, because a clock jumped, is never taken from a living owner.
    A lock that apicas did not set is left alone unless the user gave it a timeout.

    Args:
        document: as read just now.
        watch: what was seen of it so far.
        store_now: unix seconds by the store's clock, which also stamped the lock.
        default_lease: seconds, for a claim that carries none.
        owner_is_gone: the claim's process ran on this node, in this boot, and does not exist any more.
        foreign_lock_timeout: seconds after which a PiCaS lock counts as stale; None for never.
    """
    lock = to_number(document.get("lock"))  # a script may have written text, which the view takes for a time as well
    age = store_now - lock if lock >= FIRST_LOCK_TIME else None
    if is_foreign_lock(document):
        return foreign_lock_timeout is not None and age is not None and age > foreign_lock_timeout
    if owner_is_gone:
        return True
    lease = lease_of(document, default_lease)
    watched = watch.last - watch.first
    if age is not None and age > 2 * lease and watched >= lease / 2:
        return True
    return watch.looks >= 4 and watched >= lease
