"""What stands in for msgspec where no compiled part runs: the same as the real one, for what apicas uses of it."""

from __future__ import annotations

import enum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas._zipapp import msgspec as portable
from tests.packaging.structs import structs
from tests.unit.json_values import VALUES

BOTH: tuple[Any, ...] = (msgspec, portable)


class Colour(enum.StrEnum):
    RED = "red"


@given(VALUES)
def test_json_is_the_same(value: Any) -> None:
    written = portable.json.encode(value)
    assert msgspec.json.decode(written) == value
    assert portable.json.decode(msgspec.json.encode(value)) == value
    assert portable.json.Decoder().decode(written.decode()) == value
    assert portable.to_builtins(value) == msgspec.to_builtins(value)


@given(st.lists(VALUES, max_size=5))
def test_lines_are_the_same(values: list[Any]) -> None:
    lines = portable.json.Encoder().encode_lines(values).splitlines()
    assert [msgspec.json.decode(line) for line in lines] == values


@pytest.mark.parametrize(
    "value",
    [{1, 2}, (1, 2), b"bytes", Colour.RED, {"a": Colour.RED}, float("nan"), [float("inf"), {float("-inf")}], {1: 2}],
)
def test_values_that_json_does_not_have_become_the_same(value: Any) -> None:
    assert portable.json.encode(value) == msgspec.json.encode(value)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1,]", b"NaN", b"1e999", b"nul", b'"\xff"', b"[1] 2", b"{'a': 1}", b"01"]
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    for module in BOTH:
        with pytest.raises((module.DecodeError, UnicodeDecodeError)):
            module.json.decode(text)


def test_what_cannot_be_written_is_refused() -> None:
    for module in BOTH:
        with pytest.raises(TypeError):
            module.json.encode(object())
        with pytest.raises(UnicodeEncodeError):
            module.json.encode("\ud800")
        encoder = module.json.Encoder(enc_hook=lambda _value: "hooked")
        assert encoder.encode([object()]) == b'["hooked"]'


@pytest.mark.parametrize("module", [msgspec, portable], ids=["msgspec", "portable"])
def test_structs_are_the_same(module: Any) -> None:
    point, named, opened, same = structs(module)
    one = point(1)
    assert (one.x, one.y, one.tags) == (1, 0.0, [])
    assert one.tags is not point(1).tags
    assert one == point(1, 0.0) != point(2)
    with pytest.raises(AttributeError):
        one.x = 2
    module.structs.force_setattr(one, "x", 3)
    assert one.x == 3
    assert module.structs.replace(one, y=2.5) == point(3, 2.5)
    assert hash(named(1, tags=())) == hash(named(1, tags=()))
    assert module.structs.asdict(point(1)) == {"x": 1, "y": 0.0, "tags": []}
    assert module.json.encode(named(1, id="a")) == b'{"x":1,"y":0.0,"tags":[],"_id":"a"}'
    changed = opened(point=one)
    changed.maybe = "x"
    assert changed == opened(point=one, maybe="x")
    with pytest.raises(TypeError):
        opened(one)
    with pytest.raises(TypeError):
        point()
    assert same(1) != same(1)
    match one:
        case point(x, y):
            assert (x, y) == (3, 0.0)


@pytest.mark.parametrize("module", [msgspec, portable], ids=["msgspec", "portable"])
def test_structs_are_read_the_same(module: Any) -> None:
    point, named, opened, _ = structs(module)
    assert module.json.decode(b'{"x":1,"y":2,"other":[]}', type=point) == point(1, 2.0)
    assert module.json.Decoder(named).decode(b'{"x":1,"_id":"a"}') == named(1, id="a")
    assert named(1).extra is module.UNSET
    text = b'{"point":{"x":1},"points":[{"x":2}],"maybe":null}'
    assert module.convert(module.json.decode(text), opened) == opened(point=point(1), points=[point(2)])


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b'{"x":"1"}', b'{"x":true}', b'{"x":1,"tags":[1]}', b'{"x":1,"tags":{}}', b'{"x":1.5}']
)
def test_what_is_of_another_type_is_refused(text: bytes) -> None:
    for module in BOTH:
        with pytest.raises(module.ValidationError):
            module.json.decode(text, type=structs(module)[0])


def test_values_are_converted_the_same() -> None:
    cases: list[tuple[Any, Any]] = [
        (1, int | None), (None, int | None), ("red", Colour), ([1, 2], tuple[int, ...]), ({"a": 1}, dict[str, int]),
        (1, float),
    ]  # fmt: skip
    for value, wanted in cases:
        assert portable.convert(value, wanted) == msgspec.convert(value, wanted)
    for value, wanted in [("x", int | None), ("blue", Colour), ({"a": "x"}, dict[str, int]), (None, int)]:
        for module in BOTH:
            with pytest.raises(module.ValidationError):
                module.convert(value, wanted)


def test_what_refers_to_itself_has_no_end() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for module in BOTH:
        with pytest.raises(RecursionError):
            module.to_builtins(endless)
