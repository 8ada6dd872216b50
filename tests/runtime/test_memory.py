"""Tokens that take too much memory are ended, and the reason is told; what the others took is told too."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import apicas
from apicas._runtime.attempts.current import memory_limit
from apicas._runtime.attempts.notes import Usage
from apicas._runtime.commands.command import CommandRunner
from apicas._runtime.holdings import Holdings
from apicas._runtime.keeping.outcomes import Returned, Verdict
from apicas._runtime.options import RunOptions
from apicas._runtime.processes import memory as supervisor_memory
from apicas._runtime.processes.memory import Kills, Sampler
from apicas._runtime.processes.supervision import Supervision, supervision
from apicas.actors import run_pilot, work_maker
from apicas.exceptions import ConfigError, TokenMemoryError
from apicas.iterators import BasicViewIterator
from apicas.tokens import Token
from tests.runtime import isolated_work
from tests.runtime.processes import Fifo, linux_only, lives

pytestmark = linux_only
EAT = "import os, signal, sys; x = bytearray(b'x') * int(sys.argv[1]); "
WAIT = "signal.pause()"


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    made = Fifo(tmp_path / "fifo")
    yield made
    made.close()


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-S", "-c", program, *map(str, arguments)]


async def worked(work: Any, **options: Any) -> Token:
    """A token after such work."""
    async with apicas.MemoryClient() as client:
        await client.upload([{"_id": "t"}])
        async with BasicViewIterator(client, retry_delay=0, linger=False) as tokens:
            await run_pilot(tokens, work_maker(work, tokens), RunOptions(workers=1, max_tokens=1, **options))
        return await client.fetch("t")


async def test_a_command_that_takes_too_much_memory_is_ended_and_the_error_says_so() -> None:
    token = await worked(CommandRunner(python(EAT + WAIT, 150_000_000)), max_token_memory=100_000_000)
    assert token.state == "error"
    assert ": used 0.1" in token.errors[0]["message"]
    assert token.errors[0]["message"].endswith(" GB, limit 0.10 GB")


async def test_the_processes_of_a_token_count_together(fifo: Fifo, tmp_path: Path) -> None:
    """In sessions of their own too. They take nothing before all have been told of."""
    os.mkfifo(tmp_path / "go")
    start = 'for n in 1 2 3; do setsid "$0" -S -c "$1" 50000000 <&3 & pids="$pids $!"; done'
    line = f"exec 3<>{tmp_path}/go; {start}; echo $pids > {fifo.path}; printf xxx >&3; wait"
    mark = memory_limit.set(120_000_000)
    try:
        with pytest.raises(TokenMemoryError, match=r"sh: used .*, limit 0\.12 GB"):
            await apicas.run_command(["sh", "-c", line, sys.executable, "import os; os.read(0, 1); " + EAT + WAIT])
    finally:
        memory_limit.reset(mark)
    numbers = [int(number) for number in (await fifo.line()).split()]
    assert len(numbers) == 3
    assert not any(map(lives, numbers))


async def test_a_worker_process_that_takes_too_much_memory_is_the_failure_of_its_token() -> None:
    token = await worked(isolated_work.eats, executor="process", max_token_memory=200_000_000)
    assert (token.state, token.crashes) == ("error", 0)
    assert "its process: used 0." in token.errors[0]["message"]
    assert "limit 0.20 GB" in token.errors[0]["message"]


FORKS = f"""
{EAT}
for _ in range(5):
    if not os.fork():
        break
with open(sys.argv[2], "w") as pipe:
    pipe.write("ready\\n")
{WAIT}
"""


async def test_what_processes_share_counts_once(fifo: Fifo) -> None:
    """Five forks of a process with 60 MB are no 360 MB."""
    mark = memory_limit.set(150_000_000)
    try:
        command = asyncio.ensure_future(apicas.run_command(python(FORKS, 60_000_000, fifo.path), grace=0))
        for _ in range(6):
            await fifo.line()
    finally:
        memory_limit.reset(mark)
    sampler = Sampler(supervision()._mark.pilot)
    (attempt,) = supervision()._known.values()
    sampler.sample([attempt])
    await asyncio.sleep(0)
    assert attempt.peak > 300_000_000
    assert not command.done()
    attempt.limit = 50_000_000
    sampler.sample([attempt])
    with pytest.raises(TokenMemoryError):
        await command


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_more_than_nothing(limit: int) -> None:
    with pytest.raises(ConfigError, match="max_token_memory"):
        RunOptions(max_token_memory=limit)


# What they took


async def test_a_command_tells_its_cpu_time_with_that_of_its_children() -> None:
    busy = python("import time\nwhile time.process_time() < 0.2: pass")
    result = await apicas.run_command(["sh", "-c", '"$@"; "$@"', "sh", *busy])
    assert result.cpu_seconds is not None
    assert result.cpu_seconds > 0.4


async def test_a_command_does_not_tell_our_memory_as_its_own() -> None:
    """A program begins with the peak of the process that has started it."""
    ours = bytearray(b"x") * 100_000_000
    peak = (await apicas.run_command(["true"])).peak_memory
    assert peak is None or peak < len(ours)
    peak = (await apicas.run_command(python(EAT, 600_000_000))).peak_memory
    assert peak is not None
    assert 600_000_000 < peak < 700_000_000


async def test_a_worker_process_tells_what_each_token_took(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts: list[Verdict] = []
    give_back = Holdings.give_back

    def note(self: Holdings, token: Token, verdict: Verdict) -> None:
        verdicts.append(verdict)
        give_back(self, token, verdict)

    monkeypatch.setattr(Holdings, "give_back", note)
    async with apicas.MemoryClient() as client:
        await client.upload({"_id": f"t{size}", "input": {"size": size}} for size in (200_000_000, 0))
        async with BasicViewIterator(client, linger=False) as tokens:
            work = work_maker(isolated_work.takes_some, tokens)
            await run_pilot(tokens, work, RunOptions(workers=1, executor="process"))
    assert all(isinstance(verdict, Returned) for verdict in verdicts)
    usages = [verdict.usage or Usage() for verdict in verdicts]
    small, large = sorted(usage.peak_memory or 0 for usage in usages)
    assert large - small > 150_000_000
    assert all(0.1 <= (usage.cpu_seconds or 0) < 60 for usage in usages)


# When the kernel kills


async def test_a_kill_is_told_as_want_of_memory_when_the_kernel_counts_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("pgpgin 7\noom_kill 3\n")
    monkeypatch.setattr(supervisor_memory, "_COUNTERS", str(counters))
    monkeypatch.setattr(Supervision, "kernel_kills", Kills())
    kill = ["sh", "-c", "kill -KILL $$"]
    assert not (await apicas.run_command(kill)).out_of_memory
    counters.write_text("pgpgin 7\noom_kill 4\n")
    result = await apicas.run_command(kill)
    assert (result.out_of_memory, result.signal) == (True, signal.SIGKILL)
    assert not (await apicas.run_command(["sh", "-c", "kill -TERM $$"])).out_of_memory
    with pytest.raises(apicas.CommandError, match=r"SIGKILL .*ran out of memory"):
        await apicas.run_command(kill, check=True)
