"""How much is claimed at a time, from how wide a window, and how far ahead of the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from apicas.tokens import (
    TokenState,
    not_before,
    state_of,
)

if TYPE_CHECKING:
    from random import Random

T = TypeVar("T")
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
