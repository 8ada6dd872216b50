"""Where tokens are worked: chosen for the run, by the actor, or for each token."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

import apicas
from apicas._runtime.choices import FieldChoice
from apicas.exceptions import ConfigError
from apicas.testing import FaultyClient
from apicas.tokens import Token
from tests.runtime import isolated_work
from tests.runtime.processes import children, linux_only, only_new_children
from tests.runtime.test_isolation import make_suspects
from tests.runtime.test_processes import run

pytestmark = linux_only
HOW = ["auto", "process", "process", "auto"]


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with only_new_children():
        yield
        assert not children()


async def pool(*how: object) -> FaultyClient:
    client = FaultyClient()
    await client.upload({"_id": f"t{number}", "how": one} for number, one in enumerate(how))
    return client


async def apart(client: FaultyClient, number: int = len(HOW)) -> list[str]:
    """What each token would have said: whether it was worked in a process of its own."""
    tokens = [await client.fetch(f"t{number}") for number in range(number)]
    assert {token.state for token in tokens} == {"done"}
    return ["auto" if token["output"] == os.getpid() else "process" for token in tokens]


def by_how(token: Token) -> Any:
    return token["how"]


@pytest.mark.parametrize(
    ("work", "options"),
    [
        (isolated_work.where, {"executor": by_how}),
        (isolated_work.where, {"executor": FieldChoice("how", "process")}),
        (isolated_work.Choosy, {"executor": None}),
    ],
    ids=["a function", "a field", "the actor's method"],
)
async def test_each_token_runs_where_it_is_said(work: Any, options: dict[str, Any]) -> None:
    client = await pool(*HOW)
    await run(client, work, workers=2, **options)
    assert await apart(client) == HOW


@pytest.mark.parametrize(
    ("executor", "all_are"), [(None, "process"), ("auto", "auto")], ids=["it says", "the run says otherwise"]
)
async def test_an_actor_says_it_for_all_of_its_tokens(executor: Any, all_are: str) -> None:
    client = await pool(*HOW)
    await run(client, isolated_work.Apart, executor=executor)
    assert await apart(client) == [all_are] * len(HOW)


async def test_what_a_token_says_wins_over_the_field_s_default() -> None:
    client = await pool("auto", None, "", "process")
    await run(client, isolated_work.where, executor=FieldChoice("how", "process"))
    assert await apart(client) == ["auto", "process", "process", "process"]


def raises(_token: Token) -> Any:
    raise ZeroDivisionError("no idea")


@pytest.mark.parametrize(
    ("choice", "said"),
    [(raises, "ZeroDivisionError: no idea"), (by_how, "executor is auto or process, not 'thread'")],
)
async def test_a_choice_that_fails_is_that_token_s_failure(choice: Any, said: str) -> None:
    client = await pool("thread")
    report = await run(client, isolated_work.where, executor=choice)
    assert report.failed == 1
    token = await client.fetch("t0")
    assert said in str(token["error"])


async def test_a_suspect_has_a_process_of_its_own_whatever_is_said() -> None:
    client = await pool("auto")
    await make_suspects(client)
    choices: list[str] = []

    def choose(token: Token) -> Any:
        choices.append(token.id)
        return "auto"

    await run(client, isolated_work.where, executor=choose)
    assert (await apart(client, 1), choices) == (["process"], ["t0"])


@pytest.mark.parametrize(
    "options",
    [partial(apicas.RunOptions, executor=cast("Any", "thread")), partial(FieldChoice, "how", "thread")],
    ids=["the run's", "a field's default"],
)
def test_what_is_no_executor_is_refused_at_once(options: Any) -> None:
    with pytest.raises(ConfigError, match="executor is auto or process, not 'thread'"):
        options()


async def test_an_actor_that_names_none_is_refused_before_anything_is_claimed() -> None:
    class Wrong(isolated_work.Apart):
        executor = "gpu"  # type: ignore[assignment]  # that is what is tried

    client = await pool("auto")
    with pytest.raises(ConfigError, match="not 'gpu'"):
        await run(client, Wrong, executor=None)
    assert (await client.counts())["todo"] == 1
