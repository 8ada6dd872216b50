"""A claimed token shares its document with the lease until its work reaches for something in it that can be changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from apicas.modifiers import BasicTokenModifier
from apicas.tokens import Token

CLAIM = {"claim": "c", "lock": 1_700_000_000, "generation": 3, "history": [{"event": "scrubbed"}]}
STORED: dict[str, Any] = {
    "_id": "t",
    "_rev": "1-a",
    "type": "token",
    "lock": 1_700_000_000,
    "done": 0,
    "exit_code": "",
    "hostname": "",
    "error": [{"message": "before"}],
    "input": {"n": [1, {"deep": 2}]},
    "output": {},
    "apicas": CLAIM,
    "_attachments": {"a.txt": {"stub": True, "length": 1}},
}


def shared() -> tuple[dict[str, Any], Token]:
    """What the lease has, and a token over it."""
    stored = copy.deepcopy(STORED)
    return stored, Token(stored, shared=True)


def _spoil(value: Any) -> None:
    """Change whatever can be changed in a value."""
    if isinstance(value, dict):
        for inner in list(value.values()):
            _spoil(inner)
        value["spoilt"] = True
    elif isinstance(value, list):
        for inner in value:
            _spoil(inner)
        value.append("spoilt")


def _spoil_all(values: Any) -> None:
    for value in list(values):
        _spoil(value)


def _attach(token: Token) -> None:
    token.put_attachment("b.txt", b"x")
    _spoil(token["_attachments"])


READS: dict[str, Callable[[Token], object]] = {
    "key": lambda token: _spoil(token["input"]),
    "get": lambda token: _spoil(token.get("input")),
    "values": lambda token: _spoil_all(token.values()),
    "items": lambda token: _spoil_all(value for _, value in token.items()),
    "keys": lambda token: _spoil_all(token[key] for key in token),
    "dict": lambda token: _spoil(dict(token)),
    "unpacked": lambda token: _spoil({**token}),
    "pop": lambda token: _spoil(token.pop("input")),
    "popitem": lambda token: _spoil(token.popitem()[1]),
    "setdefault": lambda token: _spoil(token.setdefault("input", {})),
    "input": lambda token: _spoil(token.input),
    "output": lambda token: _spoil(token.output),
    "errors": lambda token: _spoil_all(token.errors),
    "document": lambda token: _spoil(token.document),
    "copy": lambda token: _spoil(copy.copy(token)["input"]),
    "modifier": lambda token: BasicTokenModifier().set_error(token, "wrong", None, 1.0),
    "attachment": _attach,
    "set": lambda token: token.update(input={}, new=1),
    "delete": lambda token: token.clear(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_no_change_reaches_what_the_lease_has_and_none_is_lost(read: Callable[[Token], object]) -> None:
    stored, token = shared()
    read(token)
    assert stored == STORED
    assert token.document is not stored
    assert token.document != STORED


def test_a_look_makes_no_copy() -> None:
    stored, token = shared()
    assert (token["lock"], token.get("hostname"), token.id, token.rev) == (STORED["lock"], "", "t", "1-a")
    assert (len(token), "input" in token, list(token)) == (len(STORED), True, [*STORED])
    assert (token.state, token.generation) == ("locked", 3)
    assert token.attachments == ["a.txt"]
    assert token.peek() is stored


def test_what_was_read_before_a_change_is_of_the_same_copy() -> None:
    _, token = shared()
    inner = token["input"]["n"]
    token["done"] = 1
    inner.append(3)
    assert token.document["input"]["n"][-1] == 3


class Turning(dict[str, Any]):
    """A document in which another thread gets its turn whenever a value is read."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        self.meanwhile()
        return value


def test_a_thread_that_reads_while_another_makes_the_copy_gets_a_value_of_the_copy() -> None:
    document = Turning(copy.deepcopy(STORED))
    token = Token(document, shared=True)
    document.meanwhile = lambda: token.document
    _spoil(token["input"])
    assert document == STORED
    assert token.document["input"]["spoilt"]
