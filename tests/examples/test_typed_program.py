"""A program as typed as can be: mypy checks in it what users are told of types, and it is run.

`assert_type` fails in the checker; at run time it does nothing. So this says nothing where mypy does not run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, assert_type

import msgspec

import apicas


class Picture(msgspec.Struct):
    width: int
    name: str = "unnamed"


class Sizes(apicas.RunActor):
    """Hooks with exact types: what a token's input is, and what comes out."""

    prepared = 0

    async def prepare_env(self) -> None:
        self.prepared += 1

    async def process_token(self, token: apicas.Token[Picture]) -> dict[str, int]:
        assert_type(token.input, Picture)
        assert_type(token["input"], Any)
        assert_type(token.state, apicas.TokenState)
        assert_type(token.errors, Sequence[Mapping[str, Any]])
        token.progress(0.5, token.input.name)
        if token.input.width < 0:
            raise apicas.Fail("a picture has a width", exit_code=3)
        return {"area": token.input.width**2}

    def cleanup_run(self, token: apicas.Token) -> None:
        assert_type(token.attempt, int)

    def choose_executor(self, token: apicas.Token) -> Literal["auto", "process"]:
        return "process" if token.crashes else "auto"


def double(token: apicas.Token) -> int:
    return 2 * int(token["input"])


async def test_a_typed_program_is_checked_and_runs(tmp_path: Path) -> None:
    pool = f"sqlite:///{tmp_path}/pool.db"
    async with apicas.connect(pool) as client:
        uploaded = await client.upload({"_id": f"t{width}", "input": {"width": width}} for width in (2, 3, -1))
        assert_type(uploaded.uploaded, int)
        iterator = apicas.BasicViewIterator(client, apicas.BasicTokenModifier(), view="Monitor/todo", lock_timeout=60)
        report = await Sizes(iterator).run(workers=2, max_total_time=60)
        assert_type(report, apicas.Report)
        assert (report.done, report.failed) == (2, 1)
        token = await client.fetch("t3")
        assert_type(token, apicas.Token)
        assert token.output == {"area": 9}
        rows = await client.view("error", include_docs=True)
        assert_type(rows[0].id, str | None)
        assert [row.id for row in rows] == ["t-1"]
        await client.add_view(apicas.View("Wide/todo", apicas.TokenState.TODO, apicas.field("input", "width") >= 3))
        (saved,) = await client.save([token])
        assert_type(saved.status, apicas.SaveStatus)


async def test_iterating_by_hand_is_typed_too(tmp_path: Path) -> None:
    pool = f"sqlite:///{tmp_path}/pool.db"
    async with apicas.connect(pool) as client:
        await client.upload([{"input": 1}])
        async with apicas.BasicViewIterator(client) as tokens:
            async for token in tokens:
                assert_type(token, apicas.Token)
                async with token as same:
                    same.output = double(same)
        result = await apicas.run_command(["true"], timeout=60)
        assert_type(result.exit_code, int)
        assert_type(result.peak_memory, int | None)
        assert (await client.counts())["done"] == 1
    report = await apicas.run(double, pool, workers=1, on_progress=lambda so_far: assert_type(so_far, apicas.Report))
    assert report.reason == "no more tokens"
