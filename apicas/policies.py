"""Decisions: plain functions of values, the time and a random generator. Nothing here acts.

Every default number is explained in docs/defaults.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from apicas._javascript import to_number
from apicas.exceptions import ConfigError
from apicas.modifiers import JOB_ID_FIELDS, NOTE_FIELDS
from apicas.tokens import (
    FIRST_LOCK_TIME,
    TokenState,
    annex,
    claim_of,
    count,
    generation_of,
    is_foreign_lock,
    not_before,
    state_of,
    taken_from,
)

if TYPE_CHECKING:
    from random import Random

T = TypeVar("T")

MAX_LEASE: Final = 7 * 24 * 3600.0
"""Seconds. A longer one, written into a token by a mistake or by malice, would keep it locked for ever."""
MIN_LEASE: Final = 10.0
"""Seconds. Below it, lock timestamps of whole seconds and clock offsets of one second would decide about leases."""
BEATS_PER_LEASE: Final = 4
"""Three beats may fail before a lease is in danger."""
MAX_CLAIM: Final = 1000
"""Tokens in one claim: a bulk of 1000 documents is where CouchDB's throughput levels off."""
CLAIM_PORTION: Final = 500
"""Tokens that a pilot claims at a time. Two claims may be under way; smaller ones stay in a processor's cache."""
MAX_AHEAD: Final = 2 * CLAIM_PORTION
"""Tokens that wait, claimed: one claim's are worked while the next is under way. Each takes some 8 KB."""
MAX_WINDOW: Final = 2000
"""Rows of one look at a view."""
CLAIM_AHEAD_SECONDS: Final = 1.0
"""Work that may wait, claimed, in a pilot: it hides the round trips to the store. More would keep it from others."""
SLOW_AHEAD_SECONDS: Final = 5.0
"""The same for tokens of seconds and more, of which half a second's work is hardly one: see claim_ahead."""
MAX_SCAN_PAGES: Final = 50
"""Windows that one claim reads past tokens it may not have, before it lets go of the store for a while."""


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


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with jitter: attempt n waits up to `first * factor**n`, at most `most`, seconds."""

    first: float = 0.05
    factor: float = 2.0
    most: float = 30.0

    def delay(self, attempt: int, rng: Random) -> float:
        """Seconds to wait before attempt number `attempt`, which counts from 0."""
        ceiling = min(self.most, self.first * self.factor ** min(attempt, 60))
        return ceiling * (0.1 + 0.9 * rng.random())


def jittered(seconds: float, rng: Random) -> float:
    """Seconds, a tenth more or less, so that pilots which started together do not stay in step."""
    return seconds * (0.9 + 0.2 * rng.random())


def window_size(wanted: int, spread: int) -> int:
    """How many rows to look at for a claim of `wanted` tokens.

    Args:
        wanted: tokens.
        spread: by how many times the window exceeds the claim; pilots that choose from a wider window meet less.
    """
    return max(1, min(MAX_WINDOW, max(wanted * spread, 32 * spread if spread > 1 else wanted)))


def with_slack(wanted: int) -> int:
    """How many documents to read for a claim of `wanted` tokens: some turn out to be taken, or not yet due."""
    return wanted + wanted // 8 + 2


def choose(candidates: Sequence[T], wanted: int, rng: Random) -> list[T]:
    """Choose from the claimable tokens of a window so that pilots keep apart: a random sample, in their order."""
    if len(candidates) <= wanted:
        return list(candidates)
    return [candidates[index] for index in sorted(rng.sample(range(len(candidates)), wanted))]


@dataclass(frozen=True, slots=True)
class Spread:
    """How wide a claim's window is, learned from the races it loses.

    Widened at the first sign of contention, narrowed slowly, within bounds: TCP's rule turned around, since a wide
    window costs a little always, and a narrow one costs a lot under contention.
    """

    factor: int = 2
    least: int = 1
    most: int = 16

    def after(self, won: int, lost: int) -> Spread:
        """The spread for the next claim."""
        if lost * 10 > won + lost:
            return replace(self, factor=min(self.most, self.factor * 2))
        return replace(self, factor=max(self.least, self.factor - 1)) if not lost else self


@dataclass(frozen=True, slots=True)
class Portion:
    """How many tokens are claimed at a time, learned from what became of it.

    What others claim at the same moment is lost, and what is under way longer is met more often. So a pilot begins with
    little, claims a bit more after each claim that went well, and half as much after one that lost races. One that has
    ever lost any is not alone: it also claims half as much after a claim that took long, as claims do when all pilots
    together ask for more than the store can do.
    """

    size: int = 128
    least: int = 32
    step: int = 64
    most: int = MAX_CLAIM
    seconds: float = 0.5
    """What a claim beside others may take."""
    is_alone: bool = True
    """Whether no race has been lost yet."""

    def after(self, wanted: int, lost: int, seconds: float) -> Portion:
        """The portion after a claim of `wanted` tokens, of which `lost` races were lost."""
        is_alone = self.is_alone and not lost
        is_slow = not is_alone and seconds > self.seconds and 2 * wanted >= self.size  # else not for what was asked
        if lost * 50 > wanted or is_slow:
            return replace(self, size=max(self.least, min(self.size, wanted) // 2), is_alone=is_alone)
        grown = min(self.most, self.size + self.step) if wanted >= self.size else self.size
        return replace(self, size=grown, is_alone=is_alone)


def may_claim(document: Mapping[str, Any], now: float) -> bool:
    """Whether a fresh document may be claimed at `now` (store time): in todo, and past its `not_before`.

    PiCaS leaves this check out, and works tokens twice: the view may be older than the document.
    """
    return state_of(document) is TokenState.TODO and not_before(document) <= now


def claim_ahead(rate: float, workers: int, asked: int | None) -> int:
    """How many tokens to hold beyond those that are being worked.

    Tokens of seconds and more end one by one. Claimed one by one, each would cost the store four requests, which a
    thousand pilots are felt by (docs/scaling.md); so a few wait, for no more than some seconds.

    Args:
        rate: tokens that this pilot ends per second; 0 while it is not known.
        workers: tokens worked at once.
        asked: the user's bound; None for the default.
    """
    ahead = int(min(rate * CLAIM_AHEAD_SECONDS, MAX_AHEAD))
    if ahead < workers / 4:
        ahead = int(min(rate * SLOW_AHEAD_SECONDS, workers / 4))
    return ahead if asked is None else min(ahead, asked)


LOOKING_SHARE: Final = 0.01
"""Seconds to wait before the next look at the locks of others, for each that the last look has shown."""


def linger_pause(backoff: float, looked: int, sweep: float) -> float:
    """Seconds until one that lingers looks at the locks of others again.

    A hundred pilots that linger beside ten thousand locks would otherwise keep a server busy with nothing else.

    Args:
        backoff: seconds that it would wait beside few locks.
        looked: locks that the last look has shown.
        sweep: seconds between two sweeps: more are never waited.
    """
    return min(max(backoff, LOOKING_SHARE * looked), sweep)


def tries_again(scrub_count: int, max_scrub: int) -> bool:
    """Whether a failed token is sent back to todo: as long as that happened fewer than `max_scrub` times."""
    return scrub_count < max_scrub


MAX_CRASHES: Final = 3
"""Crashes that are forgiven. A charge is nearly a proof: the process that died had nothing else to do."""
MAX_VANISHED: Final = 10
"""Pilots that may vanish under a suspect which had a process of its own. Hardly its fault; but a token that takes down
whole nodes must come to an end."""
FREE_RELEASES: Final = 9
"""Releases after which a token is claimed again at once: a queue of short batch jobs hands back a few times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryDelays:
    """How long a token waits before it is claimed again, by what happened and how often that was.

    Each doubles with every time, with jitter, so that tokens which failed together do not come back together.

    Args:
        scrub: after a failure.
        crash: after its process died: what a node needs to get its memory back.
        release: after it was handed back unfinished more than FREE_RELEASES times. Releases have no limit, but pilots
            that cannot work a token should not pass it round all the time.
    """

    scrub: Backoff = Backoff(first=1.0, most=300.0)
    crash: Backoff = Backoff(first=5.0, most=900.0)
    release: Backoff = Backoff(first=1.0, most=60.0)

    @classmethod
    def of(cls, retry_delay: float) -> RetryDelays:
        """The delays for what the user set.

        Args:
            retry_delay: seconds after the first failure; the first crash is followed by five times as many; 0 for no
                wait after either.

        Raises:
            ConfigError: it is negative, or no number.
        """
        if not 0 <= retry_delay <= MAX_LEASE:
            raise ConfigError(f"retry_delay is {retry_delay:g} s; it is from 0 to {MAX_LEASE:g} s, a week")
        return cls(
            scrub=Backoff(first=retry_delay, most=max(retry_delay, cls().scrub.most)),
            crash=Backoff(first=5 * retry_delay, most=max(5 * retry_delay, cls().crash.most)),
        )

    def after_scrub(self, scrubs: int, rng: Random) -> float:
        """Seconds to wait after scrub number `scrubs`, which counts from 1."""
        return self.scrub.delay(scrubs - 1, rng)

    def after_crash(self, crashes: int, rng: Random) -> float:
        """Seconds to wait after crash number `crashes`, which counts from 1."""
        return self.crash.delay(crashes - 1, rng)

    def after_release(self, releases: int, rng: Random) -> float:
        """Seconds to wait after release number `releases`, which counts from 1."""
        return self.release.delay(releases - FREE_RELEASES - 1, rng) if releases > FREE_RELEASES else 0.0


LAG_LIMIT: Final = 1.0
"""Seconds that a loop may stand still before it counts as blocked."""
CALM_LATENESS: Final = 0.2
"""Seconds that a timer may be late on a loop that is calm."""
CALM_TIME: Final = 2.0
"""Seconds of calm after which a loop that was blocked may have more work."""


@dataclass(frozen=True, slots=True)
class LoopLag:
    """Whether a pilot's loop keeps up, with hysteresis: one that was blocked is let have more only after some calm.

    A pilot that claims while its loop stands still holds tokens that nobody works, and starts them late.
    """

    blocked: bool = False
    calm_since: float | None = None
    """Monotonic seconds; None where it is not calm yet."""

    def after(self, now: float, lateness: float) -> LoopLag:
        """What is known after a timer was `lateness` seconds late, at `now` (monotonic seconds)."""
        if lateness > LAG_LIMIT:
            return LoopLag(blocked=True)
        if not self.blocked:
            return self
        if lateness > CALM_LATENESS:
            return LoopLag(blocked=True)
        since = now if self.calm_since is None else self.calm_since
        return LoopLag() if now - since >= CALM_TIME else LoopLag(blocked=True, calm_since=since)


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


class Standing(Enum):
    """What a fresh look at a token says about a lease on it."""

    OURS = "ours"
    SETTLED = "settled"
    """Our own outcome is written there: the answer to the write got lost."""
    RECLAIMED = "reclaimed"
    """It was taken from us for our silence, and nobody has claimed it since: a finished result is still welcome."""
    LOST = "lost"


LEASE_FIELDS: Final = ("lock", "done", "hostname", *JOB_ID_FIELDS)


def standing(stored: Mapping[str, Any], fresh: Mapping[str, Any] | None, claim_id: str) -> Standing:
    """Whether a lease still holds, after a write under it met a conflict.

    It holds only if the claim id, done, hostname and job ids are as we last wrote them, the lock is one of ours, the
    token is still in the locked view, and the document differs elsewhere: somebody edited it. PiCaS locks over a held
    token and leaves our claim id in it, so the claim id alone says nothing; but only a beat of ours also writes its
    copy of the lock. That may be a later beat than the last we know of: one whose answer never came.

    Args:
        stored: the document as this pilot last wrote it.
        fresh: the document as it is now; None where it is gone.
        claim_id: this pilot's claim.
    """
    if fresh is None:
        return Standing.LOST
    if claim_of(fresh) != claim_id:
        if annex(fresh).get("settled") == claim_id:
            return Standing.SETTLED
        return Standing.RECLAIMED if _was_reclaimed(fresh, claim_id) else Standing.LOST
    same = all(fresh.get(name) == stored.get(name) for name in LEASE_FIELDS if name != "lock")
    held = state_of(fresh) is TokenState.LOCKED and not is_foreign_lock(fresh)
    return Standing.OURS if same and held else Standing.LOST


def _was_reclaimed(fresh: Mapping[str, Any], claim_id: str) -> bool:
    return taken_from(fresh) == claim_id and state_of(fresh) in {TokenState.TODO, TokenState.ERROR}


def beat_was_applied(stored: Mapping[str, Any], fresh: Mapping[str, Any], claim_id: str, lock: int) -> bool:
    """Whether a beat whose answer got lost did reach the store: the fresh document differs by that very lock only."""
    return fresh.get("lock") == lock and standing(stored, fresh, claim_id) is Standing.OURS


def outranks(leaf: Mapping[str, Any], claimed: Mapping[str, Any]) -> bool:
    """Whether another version of a token shows that a claim on it is over: one of a higher generation."""
    return generation_of(leaf) > generation_of(claimed)


_FINAL_RANK: Final = (TokenState.ERROR, TokenState.DONE)
_STATE_RANK: Final = (TokenState.NO_VIEW, TokenState.TODO, TokenState.LOCKED, *_FINAL_RANK)


def heal_order(leaves: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The live versions of one token that a cluster stored beside each other, the one to keep first.

    One that a person has reset after its end comes before all that has not been, or earlier: they want the work done
    again, whatever another branch has. Then one that is done, then one in error: a majority may have written it, and
    what a minority wrote on the same revision in that moment, a reclaim or a reset for instance, has the higher
    generation. Then by generation, then locked before todo; then by claim and revision, so that every healer chooses
    alike.
    """
    return sorted(
        leaves,
        key=lambda leaf: (
            count(annex(leaf).get("reset")),
            _FINAL_RANK.index(state_of(leaf)) if state_of(leaf) in _FINAL_RANK else -1,
            generation_of(leaf),
            _STATE_RANK.index(state_of(leaf)),
            claim_of(leaf) or "",
            str(leaf.get("_rev")),
        ),
        reverse=True,
    )


_MISSING: Final = object()


def merge(base: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Three-way merge by top-level key: ours where both changed; attachments united; the revision is theirs.

    Args:
        base: what both started from.
        ours: the outcome of the work; its lease fields always win.
        theirs: the document as somebody edited it.
    """
    merged = dict(theirs)
    for key in {*base, *ours, *LEASE_FIELDS}:
        mine = ours.get(key, _MISSING)
        if key in LEASE_FIELDS or not _same(mine, base.get(key, _MISSING)):
            if mine is _MISSING:
                merged.pop(key, None)
            else:
                merged[key] = mine
    attachments = _merge_attachments(*(_attachments_of(document) for document in (base, ours, theirs)))
    merged.pop("_attachments", None)
    if attachments:
        merged["_attachments"] = attachments
    merged["_id"], merged["_rev"] = theirs["_id"], theirs["_rev"]
    if "apicas" in ours:
        merged["apicas"] = ours["apicas"]
    return merged


def merge_late(base: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The outcome of a token that was reclaimed meanwhile: merged, and its generation and history stay theirs."""
    merged = merge(base, ours, theirs)
    entries = {key: value for key, value in annex(theirs).items() if key not in {"taken", "not_before", *NOTE_FIELDS}}
    merged["apicas"] = {**entries, "settled": annex(ours).get("settled")}
    if "usage" in annex(ours):
        merged["apicas"]["usage"] = annex(ours)["usage"]
    return merged


def _same(one: Any, other: Any) -> bool:
    """Whether a field was left alone. To Python 1 == True == 1.0, but whoever wrote one over the other meant it."""
    return type(one) is type(other) and bool(one == other)


def _attachments_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    attachments = document.get("_attachments")
    return attachments if isinstance(attachments, Mapping) else {}


def _merge_attachments(base: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Theirs, with the files that we bring and without those that we removed.

    A stub of ours says only that we left a file alone: theirs says whether it is still there, and a stub of nothing
    would be refused.
    """
    brought = {name: file for name, file in ours.items() if not _is_stub(file)}
    removed = base.keys() - ours.keys()
    return {name: file for name, file in theirs.items() if name not in removed} | brought


def _is_stub(attachment: Any) -> bool:
    return isinstance(attachment, Mapping) and attachment.get("stub") is True
