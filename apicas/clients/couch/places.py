"""Places among the ids that a view lists. Plain functions of strings; nothing here asks anything.

Nobody knows how ids are spread: hexadecimal digits, numbers with or without zeros in front, dates. An id between two
others is guessed from the letters that they have; a server says what rank the guess has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from typing import Final

# CouchDB's order of ASCII, which is ICU's. Other letters come after all of these, roughly.
_SIGNS: Final = "_-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789"
_ORDER: Final = {
    letter: rank
    for rank, letter in enumerate(_SIGNS + "".join(map("".join, zip(ascii_lowercase, ascii_uppercase, strict=True))))
}
_DIGITS: Final = frozenset("0123456789")
_HEXADECIMAL: Final = frozenset("abcdef")
_LETTERS: Final = 8
"""Letters of a guess after what all keys have in common: more than a double tells apart are of no use."""


@dataclass(frozen=True, slots=True)
class Bound:
    """An id, or what might be one, and how many rows are before it."""

    key: str
    rank: int


def guess(low: Bound, high: Bound, rank: int, known: Iterable[str] = ()) -> str:
    """A key that may have about `rank` rows before it.

    Args:
        low: a key below, or the lowest.
        high: a key above, or the highest.
        rank: between theirs.
        known: more keys, for their letters.
    """
    share = (rank - low.rank) / max(1, high.rank - low.rank)
    return _between(low.key, high.key, min(1.0, max(0.0, share)), known)


def _between(low: str, high: str, share: float, known: Iterable[str]) -> str:
    start = next(
        (place for place, (one, other) in enumerate(zip(low, high, strict=False)) if one != other),
        min(len(low), len(high)),
    )
    prefix = low[:start]
    suffixes = [key[start : start + _LETTERS] for key in (low, high, *known) if key.startswith(prefix)]
    letters = sorted(_alphabet(set("".join(suffixes))), key=_rank)
    values = {letter: value for value, letter in enumerate(letters, 1)}
    base = len(letters) + 1  # 0 is the end of a key
    first, last = (_fraction(suffix, values, base) for suffix in suffixes[:2])
    return prefix + _spelled(first + (last - first) * share, letters, base)


def _alphabet(seen: set[str]) -> set[str]:
    """The letters that ids may have where these were seen: of a few digits, all."""
    if seen & _DIGITS:
        seen |= _DIGITS
        if seen & _HEXADECIMAL and seen <= _DIGITS | _HEXADECIMAL:
            seen |= _HEXADECIMAL
    return seen


def _rank(letter: str) -> int:
    return _ORDER.get(letter, len(_ORDER) + ord(letter))


def _fraction(suffix: str, values: dict[str, int], base: int) -> float:
    """A text as the digits behind a point."""
    number, unit = 0.0, 1.0
    for letter in suffix:
        unit /= base
        number += values[letter] * unit
    return number


def _spelled(fraction: float, letters: list[str], base: int) -> str:
    spelled = ""
    for _ in range(_LETTERS):
        fraction *= base
        digit = min(int(fraction), base - 1)
        if digit < 1:
            break
        spelled += letters[digit - 1]
        fraction -= digit
    return spelled
