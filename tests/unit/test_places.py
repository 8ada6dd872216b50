"""Keys between others, guessed."""

from __future__ import annotations

from bisect import bisect_left
from random import Random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas.clients.couch.places import Bound, guess

KEYS = st.text("09afz", max_size=20)


@given(KEYS, KEYS, st.integers(250, 750), st.lists(KEYS, max_size=3))
def test_a_guess_lies_between_its_bounds(one: str, other: str, rank: int, known: list[str]) -> None:
    low, high = sorted((one, other))
    guessed = guess(Bound(low, 0), Bound(high, 1000), rank, known)
    # A guess ends after so many letters, so it may be a beginning of the lower key.
    assert guessed <= high
    assert guessed >= low or low.startswith(guessed)


@given(KEYS, KEYS, st.lists(st.integers(0, 1000), min_size=2, max_size=2))
def test_a_higher_rank_has_no_lower_key(one: str, other: str, ranks: list[int]) -> None:
    low, high = (Bound(key, rank) for key, rank in zip(sorted((one, other)), (0, 1000), strict=True))
    first, second = (guess(low, high, rank) for rank in sorted(ranks))
    assert first <= second


def test_ranks_beyond_the_bounds_are_the_bounds() -> None:
    assert guess(Bound("a", 10), Bound("b", 20), 5) == "a"
    assert guess(Bound("a", 10), Bound("b", 20), 25) == "b"


def test_letters_are_in_the_order_of_the_server() -> None:
    """Which is not that of their codes: signs, digits, and each letter small and capital."""
    low, high = Bound("_", 0), Bound("Z", 1000)
    guesses = {guess(low, high, rank, known=("-", "?", "a", "B")) for rank in range(1000)}
    assert {each[0] for each in guesses} == {"_", "-", "?", "a", "B", "Z"} - {"Z"}
    assert guess(low, high, 999, known=("-", "?", "a", "B")).startswith("B")


def test_characters_that_nobody_knows_come_last() -> None:
    assert guess(Bound("a", 0), Bound("ü", 100), 99) > "a"


@pytest.mark.parametrize(("low", "high"), [("t000000", "t999999"), ("0000ffff", "ffff0000")])
def test_places_in_numbers_are_spread_from_the_first_guess_on(low: str, high: str) -> None:
    """Though two ids show but two digits."""
    guesses = {guess(Bound(low, 0), Bound(high, 1000), rank) for rank in range(1000)}
    assert len(guesses) > 900


HEXADECIMAL = sorted(f"token_{UUID(int=Random(number).getrandbits(128)).hex}" for number in range(4096))
NUMBERED = [f"token-{number:06}" for number in range(4096)]
DATED = [f"2026-11-{1 + number // 512:02}T{number % 512:03}" for number in range(4096)]


@pytest.mark.parametrize(("ids", "miss"), [(HEXADECIMAL, 1 / 16), (NUMBERED, 1 / 16), (DATED, 1 / 5)])
def test_four_guesses_come_near_any_rank(ids: list[str], miss: float) -> None:
    """When each guess is told its rank."""
    for rank in range(0, len(ids), 97):
        low, high = Bound(ids[0], 0), Bound(ids[-1], len(ids))
        known: set[str] = set()
        found = -len(ids)
        for _ in range(4):
            if abs(found - rank) <= len(ids) / 16:
                break
            guessed = guess(low, high, rank, known)
            found = bisect_left(ids, guessed)
            known.update(ids[found : found + 100])
            bound = Bound(ids[found], found)
            low, high = (bound, high) if found < rank else (low, bound)
        assert abs(found - rank) <= miss * len(ids)
