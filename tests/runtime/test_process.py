"""run_command with real processes: what it returns, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import apicas
from apicas._runtime.commands import running as command_running
from apicas._runtime.processes import groups, pipes, running
from apicas.exceptions import CommandError, ConfigError, TokenTimeoutError
from tests.runtime.processes import (
    LOOPS,
    Fifo,
    children,
    linux_only,
    lives,
    on_real_loops,
    only_new_children,
    open_files,
)

pytestmark = linux_only
FOREVER = "sleep 3600"


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No test leaves a child, a zombie or an open descriptor."""
    files_before = open_files()
    with only_new_children():  # a server that other tests use may be running
        yield
        assert not children()
    assert open_files() == files_before


@pytest.fixture(params=LOOPS)
def loop_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["pidfd", "looking"])
def exit_watch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With word from the kernel when a process ends, and without, as on old kernels."""
    if request.param == "looking":
        monkeypatch.delattr(os, "pidfd_open", raising=False)


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    made = Fifo(tmp_path / "fifo")
    yield made
    made.close()


async def shell(line: str, *arguments: object, **keywords: Any) -> apicas.CommandResult:
    return await apicas.run_command(["/bin/sh", "-c", line, "sh", *map(str, arguments)], **keywords)


# What comes back


@on_real_loops
async def test_output_and_exit_code_come_back(loop_kind: str, exit_watch: None) -> None:
    result = await shell("echo out; echo err >&2; exit 3")
    assert (result.exit_code, result.signal, result.stdout, result.stderr) == (3, None, b"out\n", b"err\n")
    assert not result.ok
    assert 0 < result.seconds < 60


@on_real_loops
async def test_a_death_by_signal_is_told_as_shells_do(loop_kind: str, exit_watch: None) -> None:
    result = await shell("kill -USR1 $$")
    assert (result.exit_code, result.signal) == (128 + signal.SIGUSR1, signal.SIGUSR1)


@pytest.mark.parametrize("capture", [0, 1, 2, 99, 100, 101, 1_000_000])
@on_real_loops
async def test_head_and_tail_of_a_long_output_are_kept(loop_kind: str, capture: int) -> None:
    whole = b"".join(b"%d\n" % number for number in range(1, 20_001))
    result = await apicas.run_command(["seq", "20000"], capture=capture)
    missing = len(whole) - capture
    if missing <= 0:
        assert result.stdout == whole
    else:
        head, tail = capture // 2, capture - capture // 2
        mark = b"\n[... %d bytes are missing here ...]\n" % missing
        assert result.stdout == whole[:head] + mark + whole[len(whole) - tail :]


@on_real_loops
async def test_an_output_of_exactly_the_limit_is_whole(loop_kind: str) -> None:
    assert (await apicas.run_command(["printf", "0123456789"], capture=10)).stdout == b"0123456789"


@on_real_loops
async def test_hundreds_of_megabytes_cost_no_memory(loop_kind: str) -> None:
    result = await apicas.run_command(["head", "-c", "100000000", "/dev/zero"], capture=1000)
    assert b"[... 99999000 bytes are missing here ...]" in result.stdout
    assert len(result.stdout) < 1100


@on_real_loops
async def test_both_streams_are_read_at_once(loop_kind: str) -> None:
    """A command that fills one pipe while we wait on the other would never end."""
    result = await shell("head -c 500000 /dev/zero >&2; head -c 500000 /dev/zero")
    assert (len(result.stdout), len(result.stderr)) == (500_000, 500_000)


@on_real_loops
async def test_stdin_is_written_whatever_its_size(loop_kind: str) -> None:
    content = os.urandom(1_000_000)
    assert (await apicas.run_command(["cat"], stdin=content)).stdout == content
    assert (await apicas.run_command(["cat"], stdin=b"")).stdout == b""
    assert (await apicas.run_command(["cat"])).stdout == b""


@on_real_loops
async def test_a_command_may_leave_its_input_unread(loop_kind: str) -> None:
    assert (await apicas.run_command(["head", "-c", "3"], stdin=b"abc" * 1_000_000)).stdout == b"abc"
    assert (await apicas.run_command(["true"], stdin=b"abc" * 1_000_000)).ok


@on_real_loops
async def test_directory_and_environment_are_the_given_ones(loop_kind: str, tmp_path: Path) -> None:
    result = await apicas.run_command(["/bin/sh", "-c", "pwd; env"], cwd=tmp_path, env={"NAME": "a value"})
    lines = result.stdout.decode().splitlines()
    assert lines[0] == str(tmp_path.resolve())  # noqa: ASYNC240 - a local directory
    assert "NAME=a value" in lines
    assert not any(line.startswith("HOME=") for line in lines)


@on_real_loops
async def test_arguments_are_not_read_by_a_shell(loop_kind: str) -> None:
    result = await apicas.run_command(["printf", "%s|", "a b", "$HOME", "*", "'"])
    assert result.stdout == b"a b|$HOME|*|'|"


@on_real_loops
async def test_a_line_for_the_shell_runs_when_asked_for(loop_kind: str) -> None:
    assert (await apicas.run_command("echo a | tr a b", shell=True)).stdout == b"b\n"


# What cannot be run


@pytest.mark.parametrize(
    ("command", "keywords", "reason"),
    [
        ("ls -l", {}, "a string with shell=True"),
        (["ls"], {"shell": True}, "a string with shell=True"),
        ([], {}, "empty"),
        (["echo", 5], {}, "argument 1 of the command is no text: 5"),
        (["ls"], {"timeout": -1}, "timeout is -1"),
        (["ls"], {"grace": float("nan")}, "grace is nan"),
    ],
)
async def test_odd_commands_are_refused(command: Any, keywords: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        await apicas.run_command(command, **keywords)


@on_real_loops
async def test_a_command_that_does_not_exist_is_exit_code_127(loop_kind: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"no-such-program: not found") as caught:
        await apicas.run_command(["no-such-program"])
    assert caught.value.exit_code == 127
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o700)
    with pytest.raises(CommandError, match="interpreter") as caught:
        await apicas.run_command([script])
    assert caught.value.exit_code == 127


@on_real_loops
async def test_a_command_that_cannot_be_executed_is_exit_code_126(loop_kind: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo no first line\n")
    for mode, reason in ((0o600, "Permission denied"), (0o700, "Exec format error")):
        script.chmod(mode)
        with pytest.raises(CommandError, match=reason) as caught:
            await apicas.run_command([script])
        assert caught.value.exit_code == 126


@pytest.mark.parametrize(
    ("command", "cwd", "reason"),
    [
        (["echo", "a\0b"], None, "null byte"),
        (["echo", "a" * 10_000_000], None, "Argument list too long"),
        (["echo"], "/no/such/place", "no directory '/no/such/place'"),
    ],
)
async def test_the_reason_why_it_cannot_be_started_is_told(command: list[str], cwd: str | None, reason: str) -> None:
    with pytest.raises(CommandError, match=reason) as caught:
        await apicas.run_command(command, cwd=cwd)
    assert caught.value.exit_code == 126


async def test_check_raises_with_the_last_words() -> None:
    with pytest.raises(CommandError, match=r"^sh: exit code 9: first\nlast$") as caught:
        await apicas.run_command(["sh", "-c", "echo first >&2; echo last >&2; exit 9"], check=True)
    assert caught.value.exit_code == 9
    with pytest.raises(CommandError, match=r"^the shell command: ended by SIGKILL$") as caught:
        await apicas.run_command("kill -9 $$", shell=True, check=True)
    assert caught.value.exit_code == 137
    assert (await apicas.run_command(["true"], check=True)).ok


async def test_the_message_is_bounded_and_the_program_only() -> None:
    with pytest.raises(CommandError) as caught:
        await apicas.run_command(["sh", "-c", "seq 100000 >&2; exit 1", "secret"], check=True)
    assert len(str(caught.value)) < 2_100
    assert str(caught.value).endswith("100000")
    assert "secret" not in str(caught.value)


# How it ends


@on_real_loops
async def test_the_time_limit_ends_the_whole_group(loop_kind: str, exit_watch: None, fifo: Fifo) -> None:
    with pytest.raises(TokenTimeoutError, match=r"sh: not done within the time limit of 0\.3 s") as caught:
        await shell(f"echo so far >&2; {FOREVER} & echo $! > {fifo.path}; wait", timeout=0.3)
    assert not lives(int(await fifo.line()))
    assert any("ended by SIGTERM: so far" in note for note in caught.value.__notes__)


@on_real_loops
async def test_who_ignores_term_is_killed_after_the_grace_period(loop_kind: str, fifo: Fifo) -> None:
    with pytest.raises(TokenTimeoutError) as caught:
        await shell(f"trap '' TERM; {FOREVER} & echo $! > {fifo.path}; wait; wait", timeout=0.2, grace=0.1)
    assert not lives(int(await fifo.line()))
    assert any("SIGKILL" in note for note in caught.value.__notes__)


@on_real_loops
async def test_a_grandchild_gets_its_grace_period_though_the_leader_is_dead(loop_kind: str, fifo: Fifo) -> None:
    """A job script dies of TERM at once; what it runs may have something to save."""
    saver = f"trap 'echo saved > {fifo.path}; exit' TERM; echo ready > {fifo.path}; while :; do sleep 0.05; done"
    task = asyncio.ensure_future(shell(f"({saver}) & wait", grace=60))
    assert await fifo.line() == "ready"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await fifo.line() == "saved"


@on_real_loops
async def test_a_cancel_scope_leaves_the_grace_period_whole(loop_kind: str, fifo: Fifo) -> None:
    """A scope cancels again and again, at each await; that is no sign of hurry."""
    line = (
        f"trap 'sleep 0.1; echo saved > {fifo.path}; exit' TERM; echo ready > {fifo.path}; while :; do sleep 0.05; done"
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: shell(line, grace=60))
        assert await fifo.line() == "ready"
        tasks.cancel_scope.cancel()
    assert await fifo.line() == "saved"


@on_real_loops
async def test_a_stopped_command_still_ends_well(loop_kind: str, fifo: Fifo) -> None:
    line = f"trap 'echo bye > {fifo.path}; exit' TERM; echo $$ > {fifo.path}; while :; do sleep 0.05; done"
    task = asyncio.ensure_future(shell(line, grace=60))
    os.kill(int(await fifo.line()), signal.SIGSTOP)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await fifo.line() == "bye"


@on_real_loops
async def test_what_is_left_in_the_background_is_killed(loop_kind: str, exit_watch: None) -> None:
    result = await shell(f"{FOREVER} >/dev/null 2>&1 & echo $!")
    assert result.ok
    assert not lives(int(result.stdout))


@on_real_loops
async def test_a_grandchild_that_holds_the_pipes_holds_nobody_up(loop_kind: str, exit_watch: None) -> None:
    with anyio.fail_after(30):
        result = await shell(f"trap '' TERM; {FOREVER} & echo $!")
    assert result.ok
    assert not lives(int(result.stdout))


@on_real_loops
async def test_a_stranger_that_holds_the_pipes_holds_nobody_up(loop_kind: str, tmp_path: Path) -> None:
    """What left the group on purpose is neither waited for nor read from for ever, and is ended too."""
    with anyio.fail_after(30):
        result = await shell(
            f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec yes' & while ! test -s {tmp_path}/pid; do :; done"
        )
    assert not lives(int((tmp_path / "pid").read_text()))
    assert result.ok
    assert b"bytes are missing" in result.stdout


async def test_closing_a_pipe_reads_no_more_than_a_pipe_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.pipe()
    pipe = pipes.OutputPipe(ours, pipes.Capture(10), lambda: None)
    taken: list[int] = []

    def read_more(_descriptor: int, size: int) -> bytes:
        taken.append(size)
        return b"x" * size

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", read_more)
        pipe.close()
    os.close(theirs)
    assert sum(taken) == pipes.MAX_LEFTOVER


@on_real_loops
async def test_the_last_words_of_a_helper_are_not_lost(loop_kind: str) -> None:
    """As with `exec > >(tee log)` in a job script: the helper ends a moment after the script."""
    result = await shell("(sleep 0.05; echo late) & exit 0")
    assert result.stdout == b"late\n"


@on_real_loops
async def test_a_cancel_ends_it_at_any_moment(loop_kind: str, exit_watch: None) -> None:
    for steps in range(30):
        task = asyncio.ensure_future(shell(f"{FOREVER} & wait"))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not children()


@on_real_loops
async def test_a_cancel_scope_ends_it_at_any_moment(loop_kind: str) -> None:
    for steps in range(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(shell, f"{FOREVER} & wait")
            for _ in range(steps):
                await asyncio.sleep(0)
            tasks.cancel_scope.cancel()
        assert not children()


@pytest.mark.parametrize("more", [1, 2, 3])
@on_real_loops
async def test_more_cancels_shorten_the_grace_period(loop_kind: str, fifo: Fifo, more: int) -> None:
    """Someone who cancels again does not want to wait; what is killed is killed all the same."""
    line = f"trap 'echo term > {fifo.path}' TERM; echo $$ > {fifo.path}; while :; do sleep 0.05; done"
    task = asyncio.ensure_future(shell(line, grace=3600))
    leader = int(await fifo.line())
    task.cancel()
    assert await fifo.line() == "term"
    for _ in range(more):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not lives(leader)
    assert not children()


@on_real_loops
async def test_a_finished_command_that_is_cancelled_in_the_same_moment_leaves_nothing(loop_kind: str) -> None:
    for steps in range(0, 60, 3):
        task = asyncio.ensure_future(apicas.run_command(["true"]))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not children()


@on_real_loops
async def test_wait_for_ends_it(loop_kind: str) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(shell(f"{FOREVER} & wait"), 0.05)
    assert not children()


@on_real_loops
async def test_a_hundred_commands_at_once(loop_kind: str, exit_watch: None) -> None:
    results: dict[int, apicas.CommandResult] = {}

    async def one(number: int) -> None:
        results[number] = await shell('echo "$1"; head -c 100000 /dev/zero >&2; exit "$1"', number)

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(one, number)
    assert all(results[number].exit_code == number for number in range(100))
    assert all(int(results[number].stdout) == number for number in range(100))
    assert all(len(results[number].stderr) == 100_000 for number in range(100))


@on_real_loops
async def test_a_hundred_commands_cancelled_at_once(loop_kind: str) -> None:
    with anyio.move_on_after(0.5):
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(shell, f"{FOREVER} & wait")
    assert not children()


@on_real_loops
async def test_a_name_with_brackets_and_blanks_confuses_nobody(loop_kind: str, tmp_path: Path, fifo: Fifo) -> None:
    program = tmp_path / ") Z 1 (x"
    program.symlink_to("/bin/sh")
    line = f"trap 'echo bye > {fifo.path}; exit' TERM; echo go > {fifo.path}; while :; do sleep 0.05; done"
    task = asyncio.ensure_future(shell('"$1" -c "$2" & wait', program, line, grace=60))
    assert await fifo.line() == "go"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await fifo.line() == "bye"


# Odd surroundings


@on_real_loops
async def test_an_exit_code_that_somebody_else_took_is_no_success(loop_kind: str, exit_watch: None) -> None:
    """With SIGCHLD ignored the kernel keeps no exit codes; Python says 0 then."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        result = await shell("echo done; exit 0")
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert (result.exit_code, result.signal, result.stdout) == (255, None, b"done\n")


@on_real_loops
async def test_without_proc_the_group_still_ends(loop_kind: str, monkeypatch: pytest.MonkeyPatch, fifo: Fifo) -> None:
    monkeypatch.setattr(groups, "_PROCESSES", "/no/such/place")
    monkeypatch.setattr(groups, "living", groups.LivingGroups())
    with pytest.raises(TokenTimeoutError):
        await shell(f"{FOREVER} & echo $! > {fifo.path}; wait", timeout=0.1, grace=0.1)
    assert not lives(int(await fifo.line()))


@on_real_loops
async def test_what_cannot_be_killed_is_given_up_and_reaped_later(
    loop_kind: str, monkeypatch: pytest.MonkeyPatch, fifo: Fifo, caplog: pytest.LogCaptureFixture
) -> None:
    """As a process that hangs on a dead file server."""
    monkeypatch.setattr(running, "KILL_TIME", 0.01)
    monkeypatch.setattr(groups, "signal_group", lambda group, number: False)
    with pytest.raises(TokenTimeoutError):
        await shell(f"echo $$ > {fifo.path}; exec {FOREVER}", timeout=0.1, grace=0.01)
    monkeypatch.undo()
    leader = int(await fifo.line())
    assert f"process {leader} was killed and does not end" in caplog.text
    os.kill(leader, signal.SIGKILL)
    os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - it has just been killed
    await apicas.run_command(["true"])


@on_real_loops
async def test_a_failure_between_start_and_wait_leaves_nothing(loop_kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError("no more watches")

    monkeypatch.setattr(command_running, "OutputPipe", fail)
    with pytest.raises(OSError, match="no more watches"):
        await apicas.run_command(["sleep", "3600"], stdin=b"x")


def test_an_interrupt_leaves_nothing(tmp_path: Path, fifo: Fifo) -> None:
    """Control-C in a script that runs a command, pressed twice."""
    program = f"""
import asyncio, os, signal, apicas

async def interrupt():
    with open("{fifo.path}") as started:
        started.readline()
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.01)

async def main():
    line = "trap '' TERM; sleep 3600 & echo $! > {tmp_path}/pid; echo > {fifo.path}; wait; wait"
    command = asyncio.ensure_future(apicas.run_command(line, shell=True, grace=3600))
    await asyncio.sleep(0)
    interrupting = asyncio.ensure_future(interrupt())
    await command

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert not lives(int((tmp_path / "pid").read_text()))
