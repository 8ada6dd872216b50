"""What is asked first because it is quick gives the answer of the slow way, whatever is in a document."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas._documents import encode, encode_document, encode_documents, rules
from apicas.clients.bulks import EncodedDocument
from apicas.clients.sqlite import drafts
from apicas.exceptions import InvalidTokenError
from tests.unit.json_values import SCALARS, VALUES

MOST_DIGITS = rules.MAX_INTEGER_DIGITS


class Number(IntEnum):
    """Numbers of a class of their own."""

    ZERO = 0
    ONE = 1


class Name(StrEnum):
    """Text of a class of its own."""

    TOKEN = "token"
    ID = "token_1"
    LOCK = "lock"
    REVISION = "1-a"


NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, True, False, 0.0, 99.0, 1_700_000_000, 10**30, Number.ZERO, Number.ONE, "0", None]),
    SCALARS,
)
ODD = st.sampled_from([float("nan"), float("inf"), 10**MOST_DIGITS, 10**MOST_DIGITS - 1, "\ud800", object(), b"x"])
IDS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["t" * 256, "t" * 257, "t" * 4096, "t" * 4097, "_t", "t\n", "t\x00", "é", Name.ID, 1, None, ""]),
)
REVISIONS = st.one_of(
    st.none(), st.sampled_from(["1-a", "10-0f", "0-a", "1-", "1-a\n", "1-" + "a" * 65, Name.REVISION, 1]), SCALARS
)
FIELDS = {
    "lock": NUMBERS,
    "done": NUMBERS,
    "exit_code": st.one_of(NUMBERS, st.sampled_from(["", "0", "1", Name.TOKEN])),
    "type": st.one_of(st.sampled_from(["token", "other", Name.TOKEN, None]), SCALARS),
    "input": st.one_of(VALUES, ODD),
    "error": st.one_of(VALUES, ODD),
    "apicas": VALUES,
    "mine": st.one_of(VALUES, ODD),
    "_odd": VALUES,
    1: VALUES,
}
DOCUMENTS: st.SearchStrategy[dict[Any, Any]] = st.fixed_dictionaries(
    {"_id": IDS, "type": st.just("token"), "lock": NUMBERS, "done": NUMBERS, "exit_code": FIELDS["exit_code"]},
    optional={name: value for name, value in FIELDS.items() if name not in {"lock", "done", "exit_code", "type"}}
    | {"_rev": REVISIONS},
)


def _answer(document: dict[Any, Any]) -> bytes | None:
    try:
        return encode_document(document)
    except InvalidTokenError:
        return None


@given(DOCUMENTS)
def test_a_document_is_taken_or_refused_as_by_a_close_look(document: dict[Any, Any]) -> None:
    quick = _answer(document)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "_has_plain_fields", lambda _: False)
        patch.setattr(rules, "_has_long_digits", lambda _: True)
        assert _answer(document) == quick


@given(st.lists(DOCUMENTS, max_size=4), st.sampled_from([60, 200, 8_000_000]))
def test_documents_together_are_taken_or_refused_as_each_alone(documents: list[dict[Any, Any]], most: int) -> None:
    together = encode_documents(documents, max_bytes=most)
    assert [_told(one) for one in together] == [_told(_alone(document, most)) for document in documents]


def test_one_odd_document_does_not_spoil_the_others() -> None:
    good = {"_id": "a", "_rev": "1-a", "input": {"lines": "one\ntwo"}}
    odd: list[dict[Any, Any]] = [
        {**good, "_id": "b\nc"},
        {**good, "_rev": "1-a\n2-b"},
        {**good, "_rev": 1},
        {**good, "input": float("nan")},
        {**good, "input": 10**MOST_DIGITS},
        {**good, "input": msgspec.Raw(b"[1,\n2]")},
        {**good, "input": object()},
        {**good, "_mine": 1},
        {**good, 1: 1},
        {**good, "input": [[]] * 999},
        {"input": 1},
    ]
    for one in odd:
        answers = encode_documents([good, one, {**good, "input": None}, good])
        assert [_told(answer) for answer in answers] == [
            _told(_alone(document)) for document in (good, one, {**good, "input": None}, good)
        ]


def _alone(document: dict[Any, Any], most: int = 8_000_000) -> bytes | InvalidTokenError:
    try:
        return encode_document(document, max_bytes=most)
    except InvalidTokenError as error:
        return error


def _told(answer: bytes | InvalidTokenError) -> bytes | str:
    return answer if isinstance(answer, bytes) else str(answer)


@given(DOCUMENTS)
def test_a_document_is_stored_as_what_its_json_says(document: dict[Any, Any]) -> None:
    body = _answer(document)
    if body is not None:
        draft = drafts.draft(EncodedDocument(document, body), "unique", 7)
        assert draft == drafts._draft_of_body(body, "unique", 7)


@given(st.integers(0, 700), st.integers(MOST_DIGITS - 3, MOST_DIGITS + 3), st.text("ab 1", max_size=400))
def test_a_number_that_is_too_long_is_found_wherever_it_stands(before: int, digits: int, after: str) -> None:
    body = encode({"a": "x" * before, "n": 10 ** (digits - 1), "z": after})
    assert rules._has_long_digits(body) is bool(rules._LONG_DIGITS.search(body))


@given(st.integers(MOST_DIGITS - 2, MOST_DIGITS + 2), st.integers(0, 700))
def test_a_number_that_is_too_long_is_refused(digits: int, before: int) -> None:
    document = {"_id": "t", "input": "x" * before, "output": 10**digits - 1}
    assert (_answer(document) is None) is (digits > MOST_DIGITS)
