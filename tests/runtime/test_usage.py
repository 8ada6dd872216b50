"""What an attempt took: written with its outcome, dropped by the next claim."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import apicas
from apicas._runtime.attempts.notes import Notes, Usage
from apicas._runtime.commands.command import CommandRunner
from apicas._runtime.options import RunOptions
from apicas.actors import run_pilot, work_maker
from apicas.iterators import BasicViewIterator
from apicas.modifiers import BasicTokenModifier, Claim, Owner, noted
from apicas.policies.merging import merge_late
from apicas.testing import FaultyClient
from apicas.tokens import Token, annex
from tests.runtime import isolated_work
from tests.runtime.processes import linux_only

BUSY = "import time\nwhile time.process_time() < 0.1: pass"


async def worked(work: Any, **options: Any) -> Token:
    """A token after one attempt."""
    client = FaultyClient()
    await client.upload([{"_id": "t", "input": {"size": 0}}])
    async with BasicViewIterator(client, linger=False, max_scrub=1) as tokens:
        await run_pilot(tokens, work_maker(work, tokens), RunOptions(workers=1, max_tokens=1, **options))
    return await client.fetch("t")


def usage_of(token: Token) -> dict[str, Any]:
    usage: dict[str, Any] = dict(annex(token).get("usage", {}))
    return usage


@linux_only
async def test_a_command_leaves_what_it_took() -> None:
    token = await worked(CommandRunner([sys.executable, "-c", BUSY]))
    assert token.state == "done"
    assert 0.1 <= usage_of(token)["cpu_seconds"] < 60
    assert 0.1 <= usage_of(token)["seconds"] < 60
    assert usage_of(token).keys() <= {"cpu_seconds", "seconds", "peak_memory"}


@linux_only
async def test_a_command_that_fails_leaves_it_too() -> None:
    token = await worked(CommandRunner([sys.executable, "-c", f"{BUSY}\nraise SystemExit(3)"]))
    assert (token.state, token.scrub_count) == ("todo", 1)
    assert usage_of(token)["cpu_seconds"] >= 0.1


@linux_only
async def test_the_commands_of_one_token_are_added_up() -> None:
    async def twice(token: Token) -> None:
        for _ in range(2):
            await apicas.run_command([sys.executable, "-c", BUSY])

    assert usage_of(await worked(twice))["cpu_seconds"] >= 0.2


@linux_only
async def test_a_worker_process_leaves_what_it_took() -> None:
    usage = usage_of(await worked(isolated_work.takes_some, executor="process"))
    assert usage["cpu_seconds"] >= 0.1
    assert usage["seconds"] >= 0.1
    assert usage["peak_memory"] > 1_000_000


async def test_work_on_the_loop_or_in_a_thread_has_none() -> None:
    async def on_the_loop(token: Token) -> int:
        return 1

    def in_a_thread(token: Token) -> int:
        return 1

    for work in (on_the_loop, in_a_thread):
        assert "usage" not in annex(await worked(work))


def test_a_new_claim_drops_it_and_so_does_a_reset() -> None:
    modifier = BasicTokenModifier()
    token: dict[str, Any] = {"_id": "t", "type": "token", "lock": 0, "done": 0, "apicas": {"usage": {"seconds": 1}}}
    claim = Claim(claim_id="c", owner=Owner(pilot="p", hostname="h"), now=1_700_000_000, lease=60)
    assert "usage" not in annex(modifier.lock(dict(token), claim))
    assert "usage" not in annex(modifier.reset(dict(token), 1_700_000_000))


def test_a_late_result_brings_it_along() -> None:
    base = {"_id": "t", "_rev": "1", "apicas": {"claim": "c"}}
    ours = {**base, "apicas": {"settled": "c", "usage": {"seconds": 1}}}
    theirs = {"_id": "t", "_rev": "2", "apicas": {"taken": "c", "generation": 2, "log": {"tail": "x"}}}
    assert merge_late(base, ours, theirs)["apicas"] == {"generation": 2, "settled": "c", "usage": {"seconds": 1}}


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (Usage(), Usage(), None),
        (Usage(cpu_seconds=1.0), Usage(seconds=2.0), {"cpu_seconds": 1.0, "seconds": 2.0}),
        (Usage(cpu_seconds=1.00049), Usage(cpu_seconds=2.0), {"cpu_seconds": 3.0}),
        (Usage(peak_memory=7), Usage(peak_memory=5), {"peak_memory": 7}),
    ],
)
def test_usages_are_added_up(one: Usage, other: Usage, both: Any) -> None:
    notes = Notes()
    notes.took(one)
    notes.took(other)
    assert notes.usage is not None
    assert notes.usage.entry() == both


def test_nothing_is_noted_in_a_document_without_the_sub_object() -> None:
    assert noted({"_id": "t"}, usage=None) == {"_id": "t"}
