"""max_token_time ends a token however it runs: a thread cannot be ended, so what it does later changes nothing."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import apicas
from apicas._runtime.commands.command import CommandRunner
from apicas.tokens import Token
from tests.runtime.leaver import CHILDREN
from tests.runtime.processes import Fifo, linux_only, lives

LEAVER = Path(__file__).with_name("leaver.py")


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    made = Fifo(tmp_path / "fifo")
    yield made
    made.close()


async def test_the_outcome_of_a_thread_that_is_late_is_ignored() -> None:
    may_end, has_ended = threading.Event(), threading.Event()

    def late(token: Token) -> str:
        token["early"] = True
        may_end.wait(60)
        token["late"] = True
        token.put_attachment("late.txt", "late")
        has_ended.set()
        return "late"

    async with apicas.MemoryClient() as client:
        await client.upload([{"_id": "t"}])
        report = await apicas.run(late, client, workers=1, max_token_time=0.05)
        failed = (await client.fetch("t")).document
        may_end.set()
        assert await asyncio.to_thread(has_ended.wait, 60)
        after = await client.fetch("t")
    assert (report.failed, report.held) == (1, 0)
    assert after.document == failed
    assert after.state == "error"
    assert after["early"] is True
    assert "late" not in after
    assert not after.attachments
    assert "not done within the time limit of 0.05 s" in after.errors[0]["message"]


async def test_a_worker_is_free_for_the_next_token_while_a_late_thread_goes_on() -> None:
    may_end = threading.Event()

    def work(token: Token) -> None:
        if token["input"] == "late":
            may_end.wait(60)

    async with apicas.MemoryClient() as client:
        await client.upload([{"input": "late"}, {"input": "quick"}])
        report = await apicas.run(work, client, workers=1, max_token_time=0.2)
    may_end.set()
    assert (report.failed, report.done) == (1, 1)


@linux_only
async def test_a_command_ends_with_all_that_it_has_left(fifo: Fifo) -> None:
    command: list[Any] = [sys.executable, "-S", str(LEAVER), str(fifo.path), "stay"]
    async with apicas.MemoryClient() as client:
        await client.upload([{"_id": "t"}])
        report = await apicas.run(CommandRunner(command), client, workers=1, max_token_time=2)
        token = await client.fetch("t")
    left = [int(await fifo.line()) for _ in range(CHILDREN + 1)]
    assert (report.failed, token.state) == (1, "error")
    assert not [process for process in left if lives(process)]
