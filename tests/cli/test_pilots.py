"""`apicas pilots`: who holds what."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import apicas as library
from apicas._documents import Document, decode
from apicas._runtime.environment import process_name, real_environment
from apicas.cli.holders import Sign, holders
from apicas.modifiers import BasicTokenModifier, Claim, Owner
from tests.cli.program import Events, Program
from tests.cli.test_commands import fill
from tests.cli.test_flush import leave

NOW = 1_700_000_000.0


def claimed(token_id: str, *, pilot: str = "p", now: float = NOW, host: str = "n1", **fields: Any) -> Document:
    """A token that a pilot holds since `now`."""
    document = {"_id": token_id, "type": "token", "lock": 0, "done": 0, "exit_code": "", "error": [], "scrub_count": 0}
    owner = Owner(pilot=pilot, hostname=host, process="e15e.1.1", job_ids=fields)
    return BasicTokenModifier().lock(document, Claim(claim_id=token_id, owner=owner, now=now, lease=60.0))


def found(*documents: Document, now: float = NOW, gone: bool = False) -> list[Any]:
    return holders(documents, now=now, default_lease=60.0, owner_is_gone=lambda document: gone)


def test_tokens_are_put_together_by_pilot_and_host() -> None:
    first, second, third = found(
        claimed("a", now=NOW - 100, slurm_job_id="17_3"),
        claimed("b", now=NOW - 10, slurm_job_id="17_3"),
        claimed("c", pilot="q", now=NOW - 20),
        {**claimed("d"), "apicas": {}, "hostname": "old"},
        {"_id": "e", "type": "token", "lock": 0, "done": 0},
    )
    assert (first.pilot, first.hostname, first.sign) == (None, "old", Sign.FOREIGN)
    assert (second.pilot, second.jobs, second.since, second.beat) == ("p", {"slurm": "17_3"}, NOW - 100, NOW - 10)
    assert (second.sign, second.silent, second.stuck(NOW)) == (Sign.ALIVE, ["a"], ["a"])
    assert [document["_id"] for document in third.tokens] == ["c"]


def test_a_pilot_is_silent_when_none_of_its_tokens_was_refreshed_within_its_lease() -> None:
    (holder,) = found(claimed("a"), claimed("b"), now=NOW + 61)
    assert (holder.sign, holder.silent) == (Sign.SILENT, ["a", "b"])
    (holder,) = found(claimed("a"), claimed("b"), now=NOW + 60)
    assert (holder.sign, holder.silent) == (Sign.ALIVE, [])


def test_a_process_that_has_ended_is_gone() -> None:
    (holder,) = found(claimed("a"), gone=True)
    assert (holder.sign, holder.stuck(NOW)) == (Sign.GONE, ["a"])


def test_a_lock_of_another_tool_is_stuck_after_two_days() -> None:
    locks = {"new": NOW - 3600, "old": NOW - 200_000, "mark": 99}
    (holder,) = found(*({"_id": name, "type": "token", "lock": lock, "done": 0} for name, lock in locks.items()))
    assert (holder.sign, holder.stuck(NOW)) == (Sign.FOREIGN, ["old", "mark"])


def test_odd_locks_and_names_hurt_nobody() -> None:
    odd = [
        {**claimed("a"), "hostname": 5, "slurm_job_id": ["x"]},
        {"_id": "b", "type": "token", "lock": "1e400", "done": 0},
        {"_id": "c", "type": "token", "lock": True, "done": 0, "hostname": "h" * 1000},
    ]
    assert sum(len(holder.tokens) for holder in found(*odd)) == 3


def test_a_running_pilot_is_shown_with_what_it_holds(apicas: Program, started: Events) -> None:
    apicas.write(
        "work.py",
        "import anyio, pathlib\nasync def work(token):\n    pathlib.Path('started').open('w').write('x\\n')\n"
        "    await anyio.sleep(3600)\n",
    )
    apicas("push", stdin="a\nb\n")
    process = apicas.start("run", "work:work", "--workers", "2", "--grace", "0")
    try:
        started.wait(2)
        lines = apicas("pilots", "--tokens").out.splitlines()
        (one,) = map(decode, apicas("pilots", "--json").out.splitlines())
        assert lines[0].startswith(f"pilot {one['pilot']} on {one['hostname']}, 2 tokens, the oldest since ")
        assert lines[0].endswith("ago")
        assert [line.split()[0] for line in lines[1:]] == one["tokens"]
        assert (one["sign"], one["silent"]) == ("alive", [])
        process.kill()
        process.wait()
        (one,) = map(decode, apicas("pilots", "--json").out.splitlines())
        assert one["sign"] == "gone"
        assert apicas("pilots").out.splitlines()[0].endswith(", gone")
    finally:
        process.kill()
        process.communicate()


def test_silent_pilots_and_other_tools_are_told_apart(apicas: Program) -> None:
    leave(1)
    fill(apicas, locks=[time.time() - 60])
    lines = apicas("pilots").out.splitlines()
    assert lines[0].startswith("another tool on a node that is not named, 1 token, since ")
    assert lines[1].startswith("pilot gone on node, 1 token, since ")
    assert lines[1].endswith(", silent")


def test_nobody_is_told(apicas: Program) -> None:
    fill(apicas, todo=1)
    result = apicas("pilots")
    assert (result.code, result.out, result.error) == (0, "", "apicas: no token is held")


def test_what_a_lock_says_drives_no_terminal(apicas: Program) -> None:
    async def upload() -> None:
        async with library.connect("sqlite:///apicas.db") as client:
            await client.upload([claimed("a\x1b[2J", host="n\x1b]0;x\x07", slurm_job_id="\x9b5")])

    asyncio.run(upload())
    result = apicas("pilots", "--tokens")
    assert "\x1b" not in result.out
    assert "\x9b" not in result.out


def test_the_process_of_this_test_is_not_gone(apicas: Program) -> None:
    owner = real_environment().owner
    assert owner.process == process_name(__import__("os").getpid())

    async def upload() -> None:
        async with library.connect("sqlite:///apicas.db") as client:
            await client.upload([{"_id": "a"}])
            claim = Claim(claim_id="c", owner=owner, now=time.time(), lease=60.0)
            await client.edit("a", lambda token: BasicTokenModifier().lock(token, claim) and None)

    asyncio.run(upload())
    (one,) = map(decode, apicas("pilots", "--json").out.splitlines())
    assert one["sign"] == "alive"
