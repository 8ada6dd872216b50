"""Typed tokens: the annotation of the work says what its input is, and what is none goes to error at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

import apicas
from apicas.clients.memory import MemoryClient
from apicas.exceptions import ConfigError
from apicas.tokens import Token
from tests.runtime import typed_work


async def worked(work: Callable[..., Any], value: Any, **options: Any) -> Token:
    """A token with this input, after a pilot that would try it three times."""
    async with MemoryClient() as client:
        await client.upload([{"_id": "t", "input": value}])
        await apicas.run(work, client, workers=1, max_scrub=3, retry_delay=0, handle_signals=False, **options)
        return await client.fetch("t")


async def test_on_the_loop() -> None:
    token = await worked(typed_work.on_the_loop, {"size": 3})
    assert token.output == {"process": os.getpid(), "main": True, "size": 3, "type": "Field"}
    assert token["input"] == {"size": 3}


async def test_in_a_thread() -> None:
    token = await worked(typed_work.in_a_thread, {"size": 3})
    assert token.output == {"process": os.getpid(), "main": False, "size": 3, "type": "Field"}


@pytest.mark.parametrize("work", [typed_work.on_the_loop, typed_work.in_a_thread])
async def test_in_a_process(work: Callable[..., Any]) -> None:
    token = await worked(work, {"size": 3, "beam": {"angle": 1}}, executor="process")
    assert token.output["process"] != os.getpid()
    assert token.output["type"] == "Field"
    wrong = await worked(work, {"size": "3"}, executor="process")
    assert (wrong.state, wrong.scrub_count) == ("error", 0)
    assert wrong.errors[0]["message"] == "input.size: Expected `int`, got `str`"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"size": "3"}, "input.size: Expected `int`, got `str`"),
        ({}, "input: Object missing required field `size`"),
        (None, "input: Expected `object`, got `null`"),
        ({"size": 1, "beam": {"angle": 0, "bands": ["a", 2]}}, "input.beam.bands[1]: Expected `str`, got `int`"),
        ({"size": 1, "sise": 2}, "input: Object contains unknown field `sise`"),
    ],
)
async def test_what_msgspec_refuses_goes_to_error_without_another_try(value: Any, message: str) -> None:
    token = await worked(typed_work.on_the_loop, value)
    assert (token.state, token.scrub_count, token.exit_code) == ("error", 0, 1)
    assert [error["message"] for error in token.errors] == [message]
    assert "exception" not in token.errors[0]
    assert token["input"] == value


async def test_what_pydantic_refuses_names_every_field() -> None:
    token = await worked(typed_work.with_pydantic, {"bands": [{"low": 1, "high": 0}, {"low": "x", "high": 1}]})
    assert token.state == "error"
    assert token.errors[0]["message"] == (
        "input.name: Field required; input.bands[0].high: Input should be greater than 0; "
        "input.bands[1].low: Input should be a valid number, unable to parse string as a number"
    )
    many = await worked(typed_work.with_pydantic, {"name": "x", "bands": [{}] * 20})
    assert many.errors[0]["message"].endswith("input.bands[4].high: Field required; and 30 more")


@pytest.mark.parametrize(
    ("work", "value", "output"),
    [
        (typed_work.with_pydantic, {"name": "a", "bands": [{"low": 1, "high": 2}]}, "a: 1 bands"),
        (typed_work.many_models, [{"low": 1, "high": 2}], [1.0]),
        (typed_work.with_a_dataclass, {"size": 4}, 4),
        (typed_work.with_a_number, 4, 5),
        (typed_work.twice, {"size": 4}, 8),
        (typed_work.Called(), {"size": 4}, 4),
        (typed_work.untyped, {"size": "as it is"}, "as it is"),
    ],
)
async def test_the_annotation_decides(work: Callable[..., Any], value: Any, output: Any) -> None:
    assert (await worked(work, value)).output == output


async def test_an_actors_other_hooks_find_the_input_checked() -> None:
    token = await worked(typed_work.Actor, {"size": 3})
    assert (token["prepared"], token["cleaned"]) == (3, True)
    wrong = await worked(typed_work.Actor, {"size": None})
    assert "prepared" not in wrong
    assert wrong["cleaned"] is True
    assert wrong.errors[0]["message"] == "input.size: Expected `int`, got `null`"


async def test_an_annotation_that_cannot_be_read_is_refused_before_anything_is_claimed() -> None:
    with pytest.raises(ConfigError, match=r"wants Token\[Decimal\].*not for type checkers only"):
        await worked(typed_work.for_type_checkers_only, {})
    with pytest.raises(ConfigError, match="no input can be made into"):
        await worked(typed_work.impossible, {})


async def test_input_that_is_replaced_is_what_it_was_replaced_by() -> None:
    async def replace(token: Token[typed_work.Field]) -> None:
        token.input = {"size": 5}
        assert token["input"] == {"size": 5}

    assert (await worked(replace, {"size": 3}))["input"] == {"size": 5}
    token: Token = Token({"_id": "t", "input": 1})
    token.input = 2
    token["input"] = 3
    assert token.input == 3
