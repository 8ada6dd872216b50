"""What beginners write: each is told in one line what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import apicas
from apicas.exceptions import ConfigError


class Squares(apicas.RunActor):
    async def process_token(self, token: apicas.Token) -> int:
        return int(token["input"]) ** 2


async def square(token: apicas.Token) -> int:
    return int(token["input"]) ** 2


def _actor_of_a_client(client: Any) -> object:
    return Squares(client)


def _iterator_of_an_address(_client: Any) -> object:
    address: Any = "memory:"
    return apicas.BasicViewIterator(address)


def _iterator_with_a_typing_error(client: Any) -> object:
    options: Any = {"lock_timout": 60}
    return apicas.BasicViewIterator(client, **options)


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (_actor_of_a_client, ConfigError, r"Squares takes an iterator: write BasicViewIterator\(client\)"),
        (_iterator_of_an_address, ConfigError, r"an open client: async with apicas\.connect\(address\) as client"),
        (_iterator_with_a_typing_error, TypeError, r"no option lock_timout: did you mean lock_timeout\?"),
    ],
)
async def test_what_is_written_is_answered_with_what_to_write(
    write: Callable[[Any], object], error: type[Exception], message: str
) -> None:
    async with apicas.MemoryClient() as client:
        with pytest.raises(error, match=message):
            write(client)


@pytest.mark.parametrize("pool", [None, 5])
async def test_what_is_no_address_is_answered_with_those_that_there_are(pool: Any) -> None:
    with pytest.raises(ConfigError, match=r"a pool's address is a text, and no .*: write sqlite:///file.db"):
        apicas.connect(pool)
    with pytest.raises(ConfigError, match="a pool's address is a text"):
        await apicas.run(square, pool)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worker": 4}, r"run\(\) has no option worker: did you mean workers\?"),
        ({"lock_timout": 60}, "did you mean lock_timeout"),
        ({"colour": "red"}, "has no option colour: it has claim_ahead, .*, workers"),
        ({"workers": "4"}, "workers is '4'; it is a number"),
        ({"grace": -1}, "grace is -1; it is not negative"),
    ],
)
async def test_an_option_that_cannot_be_is_named(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await apicas.run(square, "memory:", **options)


async def test_a_command_has_no_such_option() -> None:
    options: Any = {"time": 5}
    with pytest.raises(TypeError, match=r"run_command\(\) has no option time: did you mean timeout\?"):
        await apicas.run_command(["true"], **options)


@pytest.mark.parametrize("tokens", [{"input": 1}, "inputs.jsonl"])
async def test_one_token_is_no_stream_of_tokens(tokens: Any) -> None:
    """Else each key, or each letter, would be one that is rejected."""
    async with apicas.MemoryClient() as client:
        with pytest.raises(TypeError, match=r"for a single one write \[token\]"):
            await client.upload(tokens)
        assert (await client.counts())["todo"] == 0


async def test_a_state_may_be_written_as_text() -> None:
    state: Any = "todo"
    view = apicas.View("Big/todo", state, apicas.field("cores") >= 4)
    assert view == apicas.View("Big/todo", apicas.TokenState.TODO, apicas.field("cores") >= 4)
    async with apicas.MemoryClient() as client:
        await client.add_view(view)
        await client.upload([{"_id": "big", "cores": 8}, {"_id": "small", "cores": 1}])
        assert [row.id for row in await client.view("Big/todo")] == ["big"]
