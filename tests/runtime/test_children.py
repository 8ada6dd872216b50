"""Child processes get the same whichever way they are started: by posix_spawn, or by subprocess."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import apicas
from apicas._runtime.commands.command import CommandRunner
from apicas._runtime.processes import children
from apicas._runtime.processes.children import Child, Start, start_child
from apicas.exceptions import CommandError
from apicas.tokens import Token
from tests.runtime.processes import linux_only, open_files

pytestmark = linux_only


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = open_files()
    yield
    assert open_files() == before


@pytest.fixture(params=["spawn", "subprocess"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How children are started; the other way fails."""

    def fail(*_arguments: Any, **_keywords: Any) -> None:
        raise AssertionError("it was started the other way")

    if request.param == "spawn":
        monkeypatch.setattr(subprocess, "Popen", fail)
    else:
        monkeypatch.setattr(os, "posix_spawnp", fail)
        monkeypatch.setattr(children, "_HAS_SPAWN", False)
    return str(request.param)


async def output(*arguments: str, **keywords: Any) -> str:
    result = await apicas.run_command(arguments, **keywords)
    assert result.ok, result
    return result.stdout.decode()


async def test_it_leads_a_session(way: str) -> None:
    # The fields of a stat file after the name in brackets: state, parent, group, session.
    pid, stat = (await output("sh", "-c", "echo $$; cat /proc/$$/stat")).split(maxsplit=1)
    assert stat.rpartition(")")[2].split()[2:4] == [pid, pid]


async def test_it_gets_the_standard_streams_and_nothing_else(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "LOOK_AGE", 0.0)
    ours, theirs = os.pipe()
    os.set_inheritable(theirs, True)
    try:
        listed = await output("ls", "-l", "/proc/self/fd")
    finally:
        os.close(ours)
        os.close(theirs)
    names = [line.split()[8] for line in listed.splitlines()[1:]]
    assert names == ["0", "1", "2", "3"], listed  # 3 is the directory that ls reads
    assert "0 -> /dev/null" in listed


async def test_signals_that_python_ignores_are_not_ignored(way: str) -> None:
    result = await apicas.run_command(["sh", "-c", "kill -PIPE $$; echo survived"])
    assert (result.signal, result.stdout) == (signal.SIGPIPE, b"")


async def test_input_comes_by_a_pipe_of_its_own(way: str) -> None:
    assert await output("cat", stdin=b"abc") == "abc"


@pytest.mark.parametrize("name", ["/no/such/program", "no-such-program"])
async def test_what_does_not_exist_is_told_and_leaves_nothing(way: str, name: str) -> None:
    with pytest.raises(CommandError) as caught:
        await apicas.run_command([name], stdin=b"x")
    assert caught.value.exit_code == 127


async def test_an_environment_that_is_none_is_refused(way: str) -> None:
    with pytest.raises(CommandError, match="cannot be started"):
        await apicas.run_command(["true"], env={"A=B": "c", "PATH": os.environ["PATH"]})


async def test_a_program_is_looked_for_in_the_path_that_it_gets(tmp_path: Path) -> None:
    program = tmp_path / "say"
    program.write_text("#!/bin/sh\necho here\n")
    program.chmod(0o700)
    assert await output("say", env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}) == "here\n"
    with pytest.raises(CommandError, match="not found"):
        await apicas.run_command(["say"])


async def test_streams_of_ours_that_are_closed_do_not_mix_up_its_own() -> None:
    """The descriptors of its pipes are then numbers that it needs for something else."""
    program = """
import os
from apicas._runtime.processes.children import Start, start_child
keep = os.dup(1)
for descriptor in (0, 1, 2):
    os.close(descriptor)
child = start_child(Start(["sh", "-c", "cat; echo out; echo err >&2"], takes_input=True))
os.write(child.stdin, b"in\\n")
os.close(child.stdin)
os.waitpid(child.pid, 0)
os.write(keep, os.read(child.stdout, 100) + os.read(child.stderr, 100))
"""
    assert await output(sys.executable, "-c", program, env=dict(os.environ)) == "in\nout\nerr\n"


async def test_a_command_gets_the_environment_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CommandRunner(["sh", "-c", "echo $CHANGING"])
    said = []
    for value in ("before", "after"):
        monkeypatch.setenv("CHANGING", value)
        token: Token[Any] = Token({"_id": "t1", "type": "token"})
        await runner(token)
        said.append(token.document["_attachments"]["stdout.txt"]["data"])
    assert len(set(said)) == 2


def test_a_child_is_a_zombie_until_it_is_reaped() -> None:
    child = start_child(Start(["sh", "-c", "exit 3"]))
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert child.look() == (True, 3)
    assert not child.reaped
    assert child.reap()
    assert child.look() == (True, 3)
    children.close(child.stdout, child.stderr)


def test_a_child_that_somebody_else_has_reaped_has_no_exit_code() -> None:
    child = start_child(Start(["true"]))
    os.waitpid(child.pid, 0)
    assert child.look() == (True, None)
    assert child.reap()
    children.close(child.stdout, child.stderr)


async def test_reaping_one_that_runs_is_no_wait() -> None:
    child = start_child(Start(["sleep", "3600"]))
    assert not child.reap()
    os.killpg(child.pid, signal.SIGKILL)
    await asyncio.to_thread(os.waitid, os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert child.look() == (True, -signal.SIGKILL)
    assert child.reap()
    assert isinstance(child, Child)
    children.close(child.stdout, child.stderr)
