"""Conditions as people write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas.cli.conditions import condition_text, parse_condition
from apicas.exceptions import ConfigError
from apicas.views import Comparison, Condition, Either, Every, Not, field

CASES: dict[str, Condition] = {
    "cores == 1": field("cores") == 1,
    "cores==1": field("cores") == 1,
    " cores >= -4 ": field("cores") >= -4,
    "4 <= cores": field("cores") >= 4,
    "1 < cores < 8": (field("cores") > 1) & (field("cores") < 8),
    'input.survey == "deep"': field("input", "survey") == "deep",
    'input["n cores"] != 2.5': field("input", "n cores") != 2.5,
    'field("input", "n") > 1 and urgent == true': (field("input", "n") > 1) & (field("urgent") == True),  # noqa: E712
    "(a == 1) & (b == 2)": (field("a") == 1) & (field("b") == 2),
    "a == 1 or not b == False": (field("a") == 1) | ~(field("b") == False),  # noqa: E712
    '~(a in ["x", "y"])': ~field("a").one_of(["x", "y"]),
    'field("größe") == "ä"': field("größe") == "ä",
    'a not in ("x",)': ~field("a").one_of(["x"]),
}


@pytest.mark.parametrize("text", CASES)
def test_a_condition_is_what_python_would_make_of_it(text: str) -> None:
    assert parse_condition(text).to_json() == CASES[text].to_json()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cores", "`cores` is no comparison"),
        ("cores = 1", "at column"),
        ("cores ==", "at column"),
        ("cores == gpus", "`gpus` is no text, number, true or false"),
        ("1 == 1", "`1` is no field"),
        ("a is None", "a word that there is not"),
        ("a == None", "`None` is no text"),
        ("a == b''", "no text"),
        ("a in 5", "`5` is no list of values"),
        ("f(a) == 1", "no field"),
        ("a + 1 == 2", "no field"),
        ("a == 1 & b == 2", "no text"),
        ("__import__('os').system('x') == 0", "no field"),
        ("a[0] == 1", "no field"),
        ("", "at column"),
        ("x" * 20_000, "more than 10,000 characters"),
        ("not " * 2400 + "a == 1", "cannot be read"),
        ("a == 1\x00", "cannot be read"),
        ("a == 1e999", "finite"),
        ("º == 1", r'write field\("º"\)'),
        ('input.größe == "ä"', r'write field\("größe"\)'),
    ],
)
def test_what_is_none_is_one_line_that_says_where(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        parse_condition(text)
    assert "\n" not in str(caught.value)


def test_a_stored_condition_that_is_nested_too_deeply_is_said_to_be() -> None:
    stored: Any = {"path": ["a"], "operator": "==", "value": 1}
    for _ in range(5000):
        stored = {"not": stored}
    assert condition_text(stored) == "(nested too deeply to be shown)"


NAMES = st.one_of(st.sampled_from(["a", "true", "class", "n cores", "é"]), st.text(min_size=1, max_size=5)).filter(
    lambda name: not any(character == "\x00" or "\ud800" <= character <= "\udfff" for character in name)
)
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5).filter(lambda text: not any(c == "\x00" or "\ud800" <= c <= "\udfff" for c in text)),
)
COMPARISONS = st.builds(
    Comparison,
    st.lists(NAMES, min_size=1, max_size=3).map(tuple),
    st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
    VALUES,
)
CONDITIONS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.builds(lambda parts: Every(tuple(parts)), st.lists(inner, min_size=2, max_size=3)),
        st.builds(lambda parts: Either(tuple(parts)), st.lists(inner, min_size=2, max_size=3)),
        st.builds(Not, inner),
    ),
    max_leaves=6,
)


@given(CONDITIONS)
def test_every_condition_is_written_so_that_it_is_read_back(condition: Condition) -> None:
    assert parse_condition(condition_text(condition.to_json())).to_json() == condition.to_json()
