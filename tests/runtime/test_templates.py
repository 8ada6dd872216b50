"""Placeholders: a value arrives in a command as what it is, whatever it is."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apicas._runtime.commands.templates import fill, fill_line, parse, parse_line
from apicas.exceptions import ConfigError, InvalidTokenError
from apicas.tokens import Token


def expand(command: Sequence[str], document: Mapping[str, Any]) -> list[str]:
    """A command with a token's values in it."""
    return fill([parse(argument) for argument in command], document)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
NASTY = [
    "",
    " ",
    "a b",
    "'",
    '"',
    "$(id)",
    "`id`",
    "a\nb",
    "\\",
    "-n",
    "*",
    "{input}",
    "}}",
    "é 語",
    "#",
    "!",
    "~",
    "\x1b",
]
DOCUMENT = {
    "_id": "t1",
    "input": {"x": 1, "a b": "two", "a.b": "dots", "list": [10, {"deep": "yes"}], "0": "zero"},
    "text": "a b",
    "my field": "mine",
    "none": None,
    "yes": True,
    "half": 0.5,
    "big": 10**30,
}


def printed(command: list[str]) -> list[str]:
    """The arguments as a program gets them."""
    output = subprocess.run(["printf", r"%s\0", *command], capture_output=True, check=True).stdout
    return output.decode().split("\0")[:-1]


def shell_printed(line: str, document: dict[str, Any]) -> list[str]:
    """The words that the shell makes of a line with placeholders."""
    filled, variables = fill_line(parse_line(line), document)
    command = ["/bin/sh", "-c", f"printf '%s\\0' {filled}"]
    output = subprocess.run(command, capture_output=True, check=True, env={**os.environ, **variables}).stdout
    return output.decode().split("\0")[:-1]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("{text}", "a b"),
        ("--name={text}.txt", "--name=a b.txt"),
        ("{_id}/{text}", "t1/a b"),
        ("{input.x}", "1"),
        ("{input[x]}", "1"),
        ("{input[a b]}", "two"),
        ("{input[a.b]}", "dots"),
        ("{input.list[0]}", "10"),
        ("{input.list.1.deep}", "yes"),
        ("{input[0]}", "zero"),
        ("{[my field]}", "mine"),
        ("{input.list}", '[10,{"deep":"yes"}]'),
        ("{none}", "null"),
        ("{yes}", "true"),
        ("{half}", "0.5"),
        ("{big}", "1" + "0" * 30),
        ("{{text}}", "{text}"),
        ("{{{text}}}", "{a b}"),
        ("{{}}", "{}"),
        ("awk {{print $1}}", "awk {print $1}"),
    ],
)
def test_a_placeholder_stands_for_a_value(argument: str, expected: str) -> None:
    assert expand([argument, "next"], DOCUMENT) == [expected, "next"]
    assert expand([argument], Token(dict(DOCUMENT))) == [expected]


@pytest.mark.parametrize(
    "argument",
    [
        "{",
        "}",
        "a}b",
        "{text",
        "{}",
        "{print $1}",
        "{text!r}",
        "{half:.3f}",
        "{text }",
        "{.x}",
        "{input.}",
        "{input[]}",
        "{input[x}",
        "{input]}",
        "{text()}",
        "{{text}",
        "{a{b}}",
    ],
)
def test_what_is_no_placeholder_is_refused(argument: str) -> None:
    with pytest.raises(ConfigError, match="written twice"):
        expand([argument], DOCUMENT)


@pytest.mark.parametrize(
    "path",
    [
        *("missing", "input.y", "input.x.y", "input.list[2]", "input.list[-1]", "input.list.x", "text.upper"),
        *("text[0]", "input.__class__", "__class__", "none.x", f"input.list[{'9' * 5000}]"),
    ],
)
def test_a_field_that_the_token_lacks_is_named(path: str) -> None:
    with pytest.raises(InvalidTokenError) as caught:
        expand([f"{{{path}}}"], DOCUMENT)
    assert f"the command needs {path}, which the token does not have" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("id", ": its id is {_id}"),
        ("inptu", ": did you mean {input}?"),
        ("masses", ": did you mean {input.mass}?"),
        ("input.mas", ": did you mean {input.mass}?"),
        ("input.seeds", ": did you mean {seed}?"),
        ("far", " (a brace"),
        ("input.far", " (a brace"),
    ],
)
def test_what_may_have_been_meant_is_said(path: str, hint: str) -> None:
    with pytest.raises(InvalidTokenError, match="which the token does not have") as caught:
        expand([f"{{{path}}}"], {"_id": "t", "input": {"mass": 1, "\x1b[2J": 2}, "seed": 3})
    assert f"does not have{hint}" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [("a\0b", "NUL"), ("\ud800", "Unicode"), (float("nan"), "nan"), ({"x": object()}, "not JSON")],
)
def test_a_value_that_no_argument_holds_is_refused(value: object, reason: str) -> None:
    with pytest.raises(InvalidTokenError, match=f"input cannot be put into a command: .*{reason}"):
        expand(["{input}"], {"input": value})


@given(VALUES)
def test_any_value_stays_one_argument(value: Any) -> None:
    argument, *rest = expand(["{input}"], {"input": value})
    assert not rest
    assert argument == value if isinstance(value, str) else json.loads(argument) == value


@given(TEXTS, TEXTS)
def test_any_text_of_a_command_can_be_written(before: str, after: str) -> None:
    """Doubling the braces is all that it takes."""
    doubled = [text.replace("{", "{{").replace("}", "}}") for text in (before, after)]
    assert expand([f"{doubled[0]}{{input}}{doubled[1]}"], {"input": "value"}) == [f"{before}value{after}"]


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=20))
def test_values_come_out_of_a_real_program_as_they_went_in(values: list[str]) -> None:
    command = expand([f"{{input[{position}]}}" for position in range(len(values))], {"input": values})
    assert printed(command) == values


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=20))
def test_values_come_out_of_a_real_shell_as_they_went_in(values: list[str]) -> None:
    line = " ".join(f"{{input[{position}]}}" for position in range(len(values)))
    assert shell_printed(line, {"input": values}) == values


@pytest.mark.parametrize("value", NASTY)
def test_nasty_values_are_no_code(value: str) -> None:
    assert printed(expand(["{input}", "-{input}-"], {"input": value})) == [value, f"-{value}-"]
    assert shell_printed("{input} -{input}- 'a b'", {"input": value}) == [value, f"-{value}-", "a b"]


@pytest.mark.parametrize("line", ["`echo {input}`", "$(cat <<END\n{input}\nEND\n)", "x # {input}"])
def test_values_are_no_code_in_odd_places_either(line: str, tmp_path: Any) -> None:
    """Where no quoting would help."""
    target = tmp_path / "made"
    for value in (f"$(touch {target})", f"`touch {target}`", f"'; touch {target}; '", f"\ntouch {target}\n"):
        shell_printed(line, {"input": value})
        assert not target.exists()


@pytest.mark.parametrize(
    "line", ['"{input}"', "'{input}'", "grep 'a {input}'", "\\{input}", "${input}", '"it\'s {input}"']
)
def test_quotes_around_a_placeholder_are_refused(line: str) -> None:
    """It is one word already: quotes around it would end where it begins."""
    with pytest.raises(ConfigError, match="leave out the"):
        parse_line(line)


@pytest.mark.parametrize(
    "line", ["'it' {input}", '"it\'s" {input}', "\\' {input}", "${{HOME}} {input}", "'\\' {input}"]
)
def test_quotes_elsewhere_are_the_users_own(line: str) -> None:
    assert shell_printed(line, {"input": "a  b"})[-1] == "a  b"
