"""A token that is put together of pieces is the one that would have been made of a document."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas._documents import MAX_DEPTH, MAX_INTEGER_DIGITS, decode, encode_document
from apicas.clients.stencils import _MOST_SHAPES, Stencils
from apicas.exceptions import InvalidTokenError
from apicas.tokens import new_token
from tests.unit.test_fast_paths import DOCUMENTS, FIELDS, IDS, ODD

NAMES = ["input", "output", "error", "hostname", "scrub_count", "uploads", "mine", "é", "type", "lock", "apicas"]
CONTENTS: st.SearchStrategy[dict[Any, Any]] = st.one_of(
    DOCUMENTS,
    st.dictionaries(st.sampled_from(NAMES), FIELDS["input"], max_size=4),
    st.fixed_dictionaries({"_id": IDS}, optional=FIELDS),
)
LARGEST = 8_000_000


def _slowly(content: dict[Any, Any], most: int) -> tuple[str, Any] | None:
    document = new_token(content, "token_1")
    try:
        return document["_id"], decode(encode_document(document, max_bytes=most))
    except InvalidTokenError:
        return None


@given(st.lists(CONTENTS, max_size=3), st.sampled_from([150, 400, LARGEST]))
def test_what_is_filled_in_is_what_a_document_would_say(contents: list[dict[Any, Any]], most: int) -> None:
    stencils = Stencils(most)
    for content in contents * 2:  # learned, and remembered
        filled = stencils.fill(content, "token_1")
        if filled is not None:
            assert (filled[0], decode(filled[1])) == _slowly(content, most)


@pytest.mark.parametrize(
    "content", [{"input": 1}, {"_id": "a", "input": None}, {"mine": [1], "error": []}, {"_id": "t"}, {"output": "null"}]
)
def test_contents_that_need_no_closer_look_get_none(content: dict[str, Any]) -> None:
    filled = Stencils(LARGEST).fill(content, "token_1")
    assert filled is not None
    assert decode(filled[1]) == new_token(content, "token_1")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {1: 1},
        {"_odd": 1},
        {"_attachments": {}},
        {"_rev": "1-a"},
        {"lock": 0},
        {"_id": "_t"},
        {"_id": 1},
        {"input": 10**MAX_INTEGER_DIGITS},
        {"input": [[]] * MAX_DEPTH},
        {"input": "x" * 1_000},
        {"input": object()},
        {"input": float("nan")},
        {"input": "\ud800"},
    ],
)
def test_contents_that_need_a_closer_look_are_left_alone(content: dict[Any, Any]) -> None:
    stencils = Stencils(1_000)
    assert stencils.fill(content, "token_1") is None
    assert stencils.fill(content, "token_1") is None


@given(ODD)
def test_an_odd_value_does_not_spoil_the_next_content(odd: Any) -> None:
    stencils = Stencils(LARGEST)
    stencils.fill({"input": odd}, "token_1")
    assert stencils.fill({"input": 1}, "token_2") is not None


def test_people_read_the_input_before_the_output() -> None:
    for content in ({"input": 1}, {"_id": "a", "input": 1, "mine": 2}):
        filled = Stencils(LARGEST).fill(content, "token_1")
        assert filled is not None
        names = list(decode(filled[1]))
        assert names.index("input") < names.index("output") < names.index("uploads")


def test_json_that_is_given_as_such_is_put_in_as_such() -> None:
    filled = Stencils(LARGEST).fill({"input": msgspec.Raw(b"[1,\n2]")}, "token_1")
    assert filled is not None
    assert decode(filled[1])["input"] == [1, 2]


def test_no_more_shapes_are_remembered_than_memory_is_for() -> None:
    stencils = Stencils(LARGEST)
    filled = [stencils.fill({f"name{number}": 1}, "token_1") for number in range(2 * _MOST_SHAPES)]
    assert [one is not None for one in filled] == [True] * _MOST_SHAPES + [False] * _MOST_SHAPES
    assert stencils.fill({"name0": 1}, "token_1") is not None
