"""What a store is given: checked, encoded once, and refused alone and with a reason."""

from __future__ import annotations

import json
import re
import sqlite3
from base64 import b64encode
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas._documents import (
    MAX_DEPTH,
    check_attachment_name,
    check_fields,
    decode,
    encode,
    encode_document,
    shown,
)
from apicas.exceptions import InvalidTokenError
from tests.unit.json_values import HOSTILE, TEXT, VALUES, nested

DATA = b64encode(b"log").decode()


def refusal(document: Any, **options: Any) -> str:
    """The reason for which a document is refused."""
    with pytest.raises(InvalidTokenError) as caught:
        encode_document(document, **options)
    return str(caught.value)


@given(VALUES)
def test_what_is_encoded_is_read_back(value: Any) -> None:
    """Integers of any length that a store takes included; and it is what every other JSON reader sees."""
    body = encode(value)
    assert decode(body) == value
    assert json.loads(body) == value


@given(st.dictionaries(TEXT.filter(lambda key: not key.startswith("_")), VALUES, max_size=4))
def test_any_json_is_a_document_but_for_huge_integers(content: dict[str, Any]) -> None:
    document = {"_id": "a", **content}
    if max(map(len, re.findall(r"\d+", json.dumps(content))), default=0) <= 300:
        assert decode(encode_document(document)) == document


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_in_json_is_refused_with_its_place(value: float) -> None:
    assert refusal({"_id": "a", "output": {"fit": [1, None, value]}}) == f"output.fit[2] is {value}, which is no JSON"


def test_nan_hides_in_no_container() -> None:
    """The encoder also takes sets and dataclasses, and would write null for it."""

    @dataclass
    class Fit:
        error: float

    assert "output[0] is nan" in refusal({"_id": "a", "output": {float("nan")}})
    assert "output.error is nan" in refusal({"_id": "a", "output": Fit(float("nan"))})


def test_nan_is_found_at_any_depth() -> None:
    with pytest.raises(InvalidTokenError):
        encode(nested(900, [None, float("nan")]))


@pytest.mark.parametrize(
    "value",
    [object(), {(1, 2): 3}, 10**5000, "\ud800", {"\udfff": 1}, nested(100_000), lambda: 0],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_json_is_refused(value: Any) -> None:
    assert refusal({"_id": "a", "output": value})


def test_a_token_is_as_deep_as_every_store_can_read() -> None:
    """SQLite's JSON functions fail on deeper ones, and with them every query that meets the row."""
    body = encode_document({"_id": "a", "output": nested(MAX_DEPTH - 2)}).decode()
    with closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute("SELECT json_type(?, '$.output')", [body]).fetchone() == ("array",)
    assert refusal({"_id": "a", "output": nested(MAX_DEPTH)}) == f"nested more than {MAX_DEPTH} deep"
    encode_document({"_id": "a", "output": [[] for _ in range(2 * MAX_DEPTH)]})


@pytest.mark.parametrize("sign", [1, -1])
def test_an_integer_that_couchdb_cannot_read_is_refused(sign: int) -> None:
    encode_document({"_id": "a", "output": sign * (10**300 - 1)})
    assert refusal({"_id": "a", "output": {"n": sign * 10**300}}).startswith("output.n is an integer of more than")


def test_digits_in_a_text_are_no_integer() -> None:
    """As in a log that holds JSON."""
    document = {"_id": "a", "output": f'{{"n":{"1" * 400},"m":[{"1" * 400}]}}', "1" * 400: "9" * 400}
    assert decode(encode_document(document)) == document


def test_only_json_counts_towards_the_size() -> None:
    """CouchDB counts attachments apart."""
    document = {"_id": "a", "_attachments": {"log": {"data": b64encode(bytes(3000)).decode()}}}
    encode_document(document, max_bytes=200)
    assert "more than the limit of 200" in refusal({**document, "output": "x" * 200}, max_bytes=200)


def test_an_odd_stub_has_no_size() -> None:
    stubs = {"a": {"stub": True, "data": None}, "b": {"stub": True, "data": 5}, "c": {"stub": True, "data": "x" * 999}}
    assert "more than the limit" in refusal({"_id": "a", "_attachments": stubs}, max_bytes=100)


@pytest.mark.parametrize(
    "value", [v for v in HOSTILE if not isinstance(v, str)], ids=lambda value: type(value).__name__
)
@pytest.mark.parametrize("name", ["_id", "_rev", "_attachments", "_other"])
def test_an_odd_reserved_field_is_refused_briefly(name: str, value: Any) -> None:
    """Whatever it is, and however it prints."""
    if name == "_attachments" and value == {}:
        return
    with pytest.raises(InvalidTokenError) as caught:
        check_fields({"_id": "a", name: value})
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("attachment", "reason"),
    [
        (None, "is no mapping"),
        ([], "is no mapping"),
        ({}, "neither data nor a stub"),
        ({"stub": False}, "neither data nor a stub"),
        ({"stub": 1, "length": 3}, "neither data nor a stub"),
        ({"data": None}, "neither data nor a stub"),
        ({"data": b"bytes"}, "neither data nor a stub"),
        ({"data": "no base64!"}, "is no base64"),
        ({"data": "ä"}, "is no base64"),
        ({"data": DATA, "content_type": None}, "cannot stand in a header"),
        ({"data": DATA, "content_type": "text/plain\r\nSet-Cookie: x"}, "cannot stand in a header"),
        ({"stub": True, "content_type": 5}, "cannot stand in a header"),
    ],
)
def test_an_odd_attachment_is_refused(attachment: Any, reason: str) -> None:
    assert reason in refusal({"_id": "a", "_attachments": {"log": attachment}})


@pytest.mark.parametrize(
    "attachments", [None, {}, {"log": {"data": DATA}}, {"log": {"stub": True}}, {"a b.txt": {"data": ""}}]
)
def test_good_attachments_pass(attachments: Any) -> None:
    document = {"_id": "a", "_attachments": attachments}
    assert decode(encode_document(document)) == document


@pytest.mark.parametrize(
    "name", ["", "_log", "../log", "a/b", "a\\b", "..", ".", "a\x00", "a\n", "x" * 256, "ä" * 128, None, 5]
)
def test_a_name_that_is_no_safe_file_is_refused(name: Any) -> None:
    with pytest.raises(InvalidTokenError):
        check_attachment_name(name)


@pytest.mark.parametrize("identifier", [None, "", "_design/x", "_x", 5, "a\x00b", "x" * 4097, ["a"]])
def test_what_is_no_id_is_refused(identifier: Any) -> None:
    assert refusal({"_id": identifier})


@pytest.mark.parametrize("identifier", ["a", "a/b", "é 😀", "a?b#c%", "-", "A" * 4096])
def test_an_id_may_be_any_other_text(identifier: str) -> None:
    assert decode(encode_document({"_id": identifier}))["_id"] == identifier


@pytest.mark.parametrize("revision", ["", "1", "0-a", "1-", "1-x y", "-1-a", 1, True, "1-a\n", "1" * 30 + "-a"])
def test_what_is_no_revision_is_refused(revision: Any) -> None:
    assert "is no revision" in refusal({"_id": "a", "_rev": revision})


@pytest.mark.parametrize(
    "body",
    ["", "{", "NaN", "-Infinity", "[1,]", b"\xff", b"\xff\xfe[\x001\x00]\x00", "[" * 100_000, "[" * 600 + "}" * 600],
    ids=lambda body: shown(body)[:12],
)
def test_what_cannot_be_read_is_an_invalid_token(body: str | bytes) -> None:
    with pytest.raises(InvalidTokenError):
        decode(body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("1e999", "beyond the range of a double"),
        ("-1e999", "beyond the range of a double"),
        ("1" * 10_000, "an integer of 10,000 digits"),
        ('"\\ud800"', "lone surrogate"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ("[" * 3000 + '"\\ud800"' + "]" * 3000, "nested too deeply"),
    ],
    ids=lambda text: text[:12],
)
def test_what_others_stored_is_read_and_not_written_back(body: str, reason: str) -> None:
    """One such document in an answer must not hide the others in it, nor lose what could not be read of it."""
    found = decode(f'[{{"_id":"a","bad":{body}}},{{"_id":"b","good":["[]", {{"}}": 1}}]}}]'.encode())
    assert (found[0]["_id"], found[1]) == ("a", {"_id": "b", "good": ["[]", {"}": 1}]})
    with pytest.raises(InvalidTokenError, match=reason):
        encode_document(found[0])
    assert len(shown(found[0])) < 400
    after_a_surrogate = decode(f'["\\ud800",{body}]')
    assert after_a_surrogate[0] == "\ud800"


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_anything_can_be_shown(value: Any) -> None:
    assert len(shown(value)) < 200
