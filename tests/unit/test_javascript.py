"""The coercions, compared with a real JavaScript engine."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas._javascript import equals_number, greater_than, has_string, parse_int, to_number, to_string
from tests.unit.json_values import HOSTILE, NUMBERS, NUMERALS, VALUES, samples
from tests.unit.node import ask_node, needs_node

QUESTIONS = """
    const text = (value) => Number.isNaN(value) ? "NaN" : String(value);
    const unless_thrown = (ask) => { try { return ask(); } catch (error) { return "throws"; } };
    return [
        unless_thrown(() => value == 0),
        unless_thrown(() => value > 0),
        unless_thrown(() => text(parseInt(value))),
        unless_thrown(() => String(value)),
    ];
"""


def in_python(value: Any) -> list[Any]:
    """What QUESTIONS asks, asked of our functions; JavaScript throws where there is no string."""
    if not has_string(value):
        return ["throws"] * 4
    integer = parse_int(value)
    return [equals_number(value, 0), greater_than(value, 0), to_string(integer), to_string(value)]


@needs_node
def test_every_json_value_is_coerced_as_in_node() -> None:
    values = samples(st.one_of(VALUES, NUMBERS, NUMERALS, NUMBERS.map(repr)), 800)
    for value, answer in zip(values, ask_node(QUESTIONS, values), strict=True):
        assert in_python(value) == answer, repr(value)[:300]


@needs_node
def test_every_space_of_unicode_is_stripped_as_in_node() -> None:
    spaces = [chr(code) for code in range(0x10000) if chr(code).isspace() or chr(code) in "\u180e\u200b\u2060\ufeff"]
    values = [f"{space}7{space}" for space in spaces]
    answers = ask_node("return [value > 0, String(parseInt(value))];", values)
    assert [[greater_than(value, 0), to_string(parse_int(value))] for value in values] == answers


def test_null_equals_no_number() -> None:
    """In JavaScript null is 0 in a comparison by size, and equals nothing."""
    assert not equals_number(None, 0)
    assert to_number(None) == 0


@pytest.mark.parametrize(
    ("text", "number"),
    [(".5", 0.5), ("5.", 5.0), (" \n", 0.0), ("0b11", 3.0), ("-Infinity", -math.inf), ("0x" + "0" * 2000 + "f", 15.0)],
)
def test_a_numeral_is_its_number(text: str, number: float) -> None:
    assert to_number(text) == number


@pytest.mark.parametrize("text", ["1_000", "+0x10", "0x", "0b2", "infinity", "1 2", ".", "\u0661", "0x_1", "1\x1c"])
def test_what_only_python_reads_is_no_number(text: str) -> None:
    assert math.isnan(to_number(text))


@pytest.mark.parametrize(
    ("text", "number"), [("0" * 600 + "5", 5.0), ("0x" + "0" * 600 + "5", 5.0), ("9" * 5000, math.inf)]
)
def test_leading_zeros_do_not_make_an_integer_infinite(text: str, number: float) -> None:
    assert parse_int(text) == number


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_no_value_is_too_odd(value: Any) -> None:
    """Depth, length and size end in an answer, never in an exception."""
    assert isinstance(to_number(value), float)
    assert isinstance(parse_int(value), float)
    assert isinstance(has_string(value), bool)
    assert isinstance(to_string(value), str)


def test_fifty_megabytes_of_digits_are_read() -> None:
    assert parse_int("0" * 50_000_000 + "7") == 7
    assert to_number("1" * 50_000_000) == math.inf


@given(VALUES)
def test_a_list_of_one_is_its_element(value: Any) -> None:
    """As JavaScript has it; also what makes a deeply nested list the value in its middle."""
    if value is not None:
        assert to_string([[value]]) == to_string(value)
