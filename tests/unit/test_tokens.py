"""What a token is: its states, its transitions, and the mapping that a user has in hand."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas._documents import encode_document
from apicas.exceptions import InvalidTokenError, TransitionError
from apicas.tokens import (
    TRANSITIONS,
    Change,
    Token,
    TokenState,
    annex,
    claim_of,
    count,
    generation_of,
    is_foreign_lock,
    monitor_state,
    new_token,
    next_states,
    not_before,
    state_by_fields,
    state_of,
)
from tests.unit.json_values import HOSTILE, KEYS, VALUES

NOW = 1_700_000_000
PICAS_FIELDS = {
    "_id",
    "type",
    "lock",
    "done",
    "hostname",
    "scrub_count",
    "exit_code",
    "error",
    "input",
    "output",
    "uploads",
}


def token_in(state: TokenState, **fields: Any) -> dict[str, Any]:
    """A token in a state, as PiCaS has it."""
    lock, done, exit_code = {
        TokenState.TODO: (0, 0, ""),
        TokenState.LOCKED: (NOW, 0, ""),
        TokenState.DONE: (NOW, NOW + 5, 0),
        TokenState.ERROR: (99, 99, ""),
        TokenState.NO_VIEW: (None, 0, ""),
    }[state]
    return new_token({"lock": lock, "done": done, "exit_code": exit_code, **fields}, "a")


@pytest.mark.parametrize("state", TokenState)
def test_a_state_is_told_by_lock_done_and_exit_code(state: TokenState) -> None:
    assert state_of(token_in(state)) is state


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"lock": "0", "done": False}, TokenState.TODO),
        ({"lock": "", "done": []}, TokenState.TODO),
        ({"lock": None}, TokenState.NO_VIEW),
        ({"lock": -1}, TokenState.NO_VIEW),
        ({"lock": 0, "done": 5}, TokenState.NO_VIEW),
        ({"lock": f"{NOW}"}, TokenState.LOCKED),
        ({"lock": {}}, TokenState.NO_VIEW),
        ({"lock": 1, "done": 1, "exit_code": "0 and more"}, TokenState.DONE),
        ({"lock": 1, "done": 1, "exit_code": "0x"}, TokenState.ERROR),
        ({"lock": 1, "done": 1, "exit_code": {"toString": 1}}, TokenState.NO_VIEW),
        ({"type": "job"}, TokenState.NO_VIEW),
        ({"type": ["token"]}, TokenState.NO_VIEW),
    ],
)
def test_odd_fields_count_as_in_the_monitor_views(fields: dict[str, Any], state: TokenState) -> None:
    assert state_of(token_in(TokenState.TODO, **fields)) is state


def test_a_task_has_a_state_and_is_in_no_monitor_view() -> None:
    """PiCaS's Task says this type where its user says none; a view of the user's lists it."""
    task = token_in(TokenState.TODO, type="task")
    assert state_of(task) is TokenState.TODO
    assert monitor_state(task) is TokenState.NO_VIEW
    assert monitor_state(token_in(TokenState.TODO)) is TokenState.TODO


def test_a_nested_token_needs_no_type() -> None:
    assert state_by_fields({"lock": 0, "done": 0}) is TokenState.TODO
    assert state_of({"lock": 0, "done": 0}) is TokenState.NO_VIEW


@given(st.dictionaries(KEYS, VALUES))
def test_whatever_is_uploaded_gets_every_field_that_picas_reads(content: dict[str, Any]) -> None:
    """PiCaS raises KeyError on a token without scrub_count."""
    document = new_token({**content, "_rev": "1-a", "apicas": {"claim": "x"}}, "a")
    assert document.keys() >= PICAS_FIELDS
    assert "_rev" not in document
    assert "apicas" not in document


@given(st.dictionaries(KEYS, VALUES))
def test_the_content_of_an_upload_is_left_as_it_is(content: dict[str, Any]) -> None:
    kept = {key: value for key, value in content.items() if key not in {"_rev", "apicas"}}  # which only a pool makes
    document = new_token(content, "a")
    assert {key: document[key] for key in kept} == kept


@pytest.mark.parametrize("change", Change)
@pytest.mark.parametrize("state", TokenState)
def test_an_illegal_change_names_both_states(change: Change, state: TokenState) -> None:
    if state in TRANSITIONS[change]:
        assert next_states(change, state) == TRANSITIONS[change][state]
        return
    goals = {goal for goals in TRANSITIONS[change].values() for goal in goals}
    with pytest.raises(TransitionError) as caught:
        next_states(change, state)
    assert str(state) in str(caught.value)
    assert any(f"-> {goal}" in str(caught.value) for goal in goals)


def test_nothing_leads_out_of_no_view() -> None:
    """Such tokens are counted by status, and never written to."""
    assert all(TokenState.NO_VIEW not in moves for moves in TRANSITIONS.values())


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3), (3.0, 3), (0, 0), (-1, 0), (2.5, 0), (True, 0), ("x", 0), ("3", 0), (None, 0), ([], 0), (10**400, 0)],
)
def test_a_counter_is_a_counter_whatever_was_written_there(value: Any, number: int) -> None:
    assert count(value) == number


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", ["lock", "not_before", "claim", "generation", "apicas"])
def test_no_field_is_too_odd_to_be_asked_about(name: str, value: Any) -> None:
    inner = value if name == "apicas" else {"claim": "c", "lock": NOW, name: value}
    document = {"type": "token", "lock": value, "done": 0, "apicas": inner}
    assert annex(document).get("x") is None
    assert claim_of(document) is None or isinstance(claim_of(document), str)
    assert generation_of(document) >= 0
    assert isinstance(not_before(document), float)
    assert isinstance(is_foreign_lock({**document, "lock": NOW}), bool)


def test_a_lock_is_foreign_unless_we_wrote_it() -> None:
    ours = {"lock": NOW, "apicas": {"claim": "c", "lock": NOW}}
    assert not is_foreign_lock(ours)
    assert is_foreign_lock({**ours, "lock": NOW + 1})  # PiCaS locked over it, and left our claim in it
    assert is_foreign_lock({"lock": NOW})


def test_a_token_is_a_mapping_over_the_document_itself() -> None:
    document = token_in(TokenState.TODO, input=3)
    token: Token = Token(document)
    assert isinstance(token, MutableMapping)
    token["mine"] = 1
    token.input, token.output, token.exit_code = 4, {"x": 1}, 2
    assert document["mine"] == 1
    assert (document["input"], document["output"], document["exit_code"]) == (4, {"x": 1}, 2)
    assert token == document
    del token["mine"]
    assert "mine" not in document
    assert dict(token) == document
    assert len(token) == len(document)
    assert (token.id, token.rev, token.state) == ("a", None, TokenState.TODO)
    assert token.pop("absent", 7) == 7


@given(st.fixed_dictionaries({}, optional=dict.fromkeys((*PICAS_FIELDS, "apicas", "_attachments", "_rev"), VALUES)))
def test_no_property_of_a_token_raises(fields: dict[str, Any]) -> None:
    token: Token = Token({"_id": "a", **fields})
    assert isinstance(token.hostname, str)
    assert min(token.scrub_count, token.crashes, token.releases, token.generation) >= 0
    assert all(isinstance(error, dict) for error in token.errors)
    assert isinstance(token.attachments, list)
    assert isinstance(token.state, TokenState)
    assert repr(token)


def test_an_attachment_is_written_with_the_token() -> None:
    token: Token = Token(token_in(TokenState.LOCKED))
    token.put_attachment("log.txt", "é")
    token.put_attachment("plot.png", b"\x89")
    token.put_attachment("data", b"", "application/x-own")
    files = token["_attachments"]
    assert b64decode(files["log.txt"]["data"]).decode() == "é"
    assert [files[name]["content_type"] for name in token.attachments] == [
        "text/plain",
        "image/png",
        "application/x-own",
    ]
    encode_document(token.document)


def test_an_attachment_leaves_copies_of_the_document_alone() -> None:
    """The heartbeat writes the document as stored, while the user adds to the token."""
    document = token_in(TokenState.LOCKED, _attachments={"old": {"stub": True}})
    token: Token = Token(dict(document))
    token.put_attachment("new", b"")
    assert document["_attachments"] == {"old": {"stub": True}}
    assert token.attachments == ["old", "new"]


@pytest.mark.parametrize("odd", [None, [], "x", 5])
def test_odd_attachments_are_replaced(odd: Any) -> None:
    token: Token = Token(token_in(TokenState.LOCKED, _attachments=odd))
    token.put_attachment("log", b"x")
    assert token.attachments == ["log"]


def test_an_attachment_with_an_unsafe_name_is_refused() -> None:
    with pytest.raises(InvalidTokenError):
        Token(token_in(TokenState.LOCKED)).put_attachment("../log", b"")


async def test_a_token_that_nobody_claimed_cannot_be_settled() -> None:
    with pytest.raises(RuntimeError, match="not claimed"):
        async with Token(token_in(TokenState.TODO)):
            pass
