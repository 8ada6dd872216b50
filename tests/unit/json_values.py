"""Strategies for JSON values: tame ones, and what a hostile or careless script may have written into a token."""

from __future__ import annotations

from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

T = TypeVar("T")

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
# What JavaScript reads as a number, or nearly so.
NUMERALS = st.sampled_from(
    [
        *[
            "",
            " ",
            "0",
            "-0",
            "+0",
            "00",
            "1",
            " 1\n",
            "\u00a01",
            "\ufeff1",
            "\x1c1",
            "1\x85",
            "1_000",
            "1,0",
            "\u0661",
        ],
        *["5.", ".5", ".", "-.5e-3", "1e3", "1e", "e1", "1e999", "-1e999", "1e-999", "0.1e1", "1.5.2", "--1", "+-1"],
        *["0x", "0x10", "+0x10", "-0x1", "0X1f", "0x1g", "0o17", "0O8", "0b101", "0b2", "0x_1", "0x 1", "0b 1"],
        *["Infinity", "-Infinity", "+Infinity", "infinity", "inf", "NaN", "nan", "null", "true", "false", "done"],
        *["0" * 500 + "5", "0x" + "0" * 500 + "1", "0b" + "1" * 1200, "9" * 400, "0." + "0" * 400 + "1", "1" * 5000],
        *["0abc", "0.9", "1.9", "12px", "  -7 apples", "+5", "0e5", "9007199254740993", "0x20000000000001"],
    ]
)
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.integers(-(10**25), 10**25),
    st.sampled_from([10**21, 10**21 - 1, 2**53 + 1, 10**309, -(10**400), 1e21, 1e-7, 1.5e300, 5e-324, -0.0]),
    st.floats(allow_nan=False, allow_infinity=False),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, NUMERALS, TEXT)
KEYS = st.one_of(TEXT, st.sampled_from(["__proto__", "constructor", "toString", "valueOf", "length", "join", ""]))
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)


def nested(depth: int, leaf: Any = 0) -> Any:
    """A list in a list in a list."""
    value = leaf
    for _ in range(depth):
        value = [value]
    return value


# Nothing that is read from a store may make these raise, in whatever field it stands.
HOSTILE: list[Any] = [
    nested(30_000),
    nested(30_000, {"toString": 1}),
    [nested(20_000), nested(20_000)],
    {"toString": 0, "valueOf": 0},
    {"__proto__": {"lock": 0}},
    "0" * 2_000_000,
    "1" * 2_000_000,
    "0b" + "1" * 1_000_000,
    10**400,
    -(10**5000),
    1e308,
    "\x00\x1b[31m\u202e\ud800",
    [None] * 50_000,
    True,
    {},
    [],
    "",
]


def samples(strategy: st.SearchStrategy[T], number: int) -> list[T]:
    """Many values at once, for a judge that costs a process to ask. The seed is in the report of a failure."""
    found: list[T] = []

    @settings(max_examples=number, phases=[Phase.generate], deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def collect(value: T) -> None:
        found.append(value)

    collect()
    return found
