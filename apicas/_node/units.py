"""How people and batch systems write amounts, bytes, times and lists of numbers.

What cannot be understood is a ValueError, whose message is the reason.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final, NoReturn

from apicas._documents import shown

MAX_TEXT: Final = 4096
"""Characters. The list of the CPUs of a big node is shorter; what is longer is no amount."""
MAX_SHOWN: Final = 60
"""Characters of a value in a message."""
MAX_AMOUNT: Final = 1 << 53
"""More than this of anything is a mistake, and a double no longer counts it exactly."""
LEAST_BYTES: Final = 1 << 20
"""Who asks for fewer bytes, but not none, meant megabytes, as Slurm would."""
MAX_CPU: Final = 1 << 16
"""CPU numbers are below it: the kernel's own bound is 8192."""

_BYTES = re.compile(r"(\d+(?:\.\d+)?) ?([KMGTP]?)(?:I?B)?", re.IGNORECASE | re.ASCII)
_POWER: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_SECONDS = re.compile(r"(\d+(?:\.\d+)?) ?([SMHD]?)", re.IGNORECASE | re.ASCII)
_UNIT: Final = {"": 1, "S": 1, "M": 60, "H": 3600, "D": 86400}
_DAYS = re.compile(r"(\d+)-(\d+)(?::(\d+))?(?::(\d+))?", re.ASCII)
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+)", re.ASCII)
_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)
_REPEATED = re.compile(r"(\d+)(?:\(x(\d+)\))?", re.ASCII)


def amount(value: Any) -> int:
    """A whole number of things, 0 or more: a number, or its digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        _refuse(value, "no number")
    if isinstance(value, str):
        return _checked(int(_short(value)), value) if _short(value).isdecimal() else _refuse(value, "no whole number")
    if isinstance(value, float) and not value.is_integer():  # neither is infinity, nor NaN
        _refuse(value, "no whole number")
    return _checked(int(value), value)


def bytes_of(value: Any) -> int:
    """Bytes: a number of them, or with a unit as Slurm writes it: `500M`, `4G`, `1.5T`, of 1024 each.

    A number without a unit is bytes here, and megabytes in Slurm. So one that is too small for bytes is refused.
    """
    if isinstance(value, str):
        match = _BYTES.fullmatch(_short(value)) or _refuse(value, "no size such as 500M or 4G")
        size = _checked(float(match[1]) * 1024 ** _POWER[match[2].upper()], value)
    else:
        size = amount(value)
    if 0 < size < LEAST_BYTES:
        raise ValueError(f"{shown(value)} is less than a megabyte: write a unit, as in 500M or 4G")
    return size


def seconds_of(value: Any) -> float:
    """Seconds: a number of them, `90s`, `15m`, `2h`, `1d`, or one of Slurm's forms with a colon or days.

    Those are `minutes:seconds`, `hours:minutes:seconds`, `days-hours`, `days-hours:minutes` and
    `days-hours:minutes:seconds`. Only Slurm's bare number of minutes is not taken: a bare number is seconds.

    Returns:
        The seconds; infinity for `UNLIMITED` and `INFINITE`.
    """
    if isinstance(value, str):
        return _seconds_in(_short(value))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _refuse(value, "no time")
    if not 0 <= value <= MAX_AMOUNT:  # nor NaN
        _refuse(value, "no time of 0 seconds or more")
    return float(value)


def cpu_list(text: str) -> tuple[int, ...]:
    """CPU numbers as the kernel lists them: `0-3,8`; in order, each once."""
    numbers: set[int] = set()
    for part in filter(None, _short(text).split(",")):
        match = _RANGE.fullmatch(part.strip()) or _refuse(text, "no list of CPUs such as 0-3,8")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < MAX_CPU:
            _refuse(text, "no list of CPUs such as 0-3,8")
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def counts_per_node(text: str) -> list[tuple[int, int]]:
    """Counts as Slurm writes them for the nodes of a job: `72(x2),36`; pairs of a count and how many nodes have it."""
    counts = []
    for part in _short(text).split(","):
        match = _REPEATED.fullmatch(part) or _refuse(text, "no list of counts such as 72(x2),36")
        counts.append((int(match[1]), int(match[2] or 1)))
    return counts


def _seconds_in(text: str) -> float:
    if text.upper() in {"UNLIMITED", "INFINITE"}:
        return math.inf
    if match := _SECONDS.fullmatch(text):
        seconds = float(match[1]) * _UNIT[match[2].upper()]
    elif match := _DAYS.fullmatch(text):
        seconds = _sum(match.groups(), (86400, 3600, 60, 1))
    elif match := _CLOCK.fullmatch(text):
        seconds = _sum(match.groups(), (3600, 60, 1))
    else:
        _refuse(text, "no time such as 3600, 1:30:00 or 2-12:00:00")
    if seconds > MAX_AMOUNT:
        _refuse(text, "more time than there is")
    return float(seconds)


def _sum(digits: tuple[str | None, ...], units: tuple[int, ...]) -> int:
    return sum(int(number or 0) * unit for number, unit in zip(digits, units, strict=True))


def _short(text: str) -> str:
    return text.strip() if len(text) <= MAX_TEXT else _refuse(text, "too long")


def _checked(number: float, value: Any) -> int:
    if not 0 <= number <= MAX_AMOUNT:  # nor infinity
        _refuse(value, "negative, or more than there is of anything")
    return int(number)


def _refuse(value: Any, reason: str) -> NoReturn:
    raise ValueError(f"{brief(value)} is {reason}")


def brief(value: Any) -> str:
    """A value as a message shows it: in a few words, whatever it is."""
    text = shown(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
