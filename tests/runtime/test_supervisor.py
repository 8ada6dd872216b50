"""Nothing that a pilot has started outlives it, or its token: real processes, in sessions of their own."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import apicas
from apicas._runtime.commands.command import CommandRunner
from apicas._runtime.commands.options import CommandOptions
from apicas._runtime.processes.running import leave_nothing
from apicas._runtime.processes.supervision import Supervision, supervision
from apicas.exceptions import TokenTimeoutError
from tests.runtime import isolated_work
from tests.runtime.leaver import CHILDREN
from tests.runtime.processes import Fifo, linux_only, lives

pytestmark = linux_only
ROOT = Path(__file__).resolve().parents[2]
LEAVER = [sys.executable, "-S", str(Path(__file__).with_name("leaver.py"))]
PILOT = [sys.executable, str(Path(__file__).with_name("supervised_pilot.py"))]


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    made = Fifo(tmp_path / "fifo")
    yield made
    made.close()


@pytest.fixture
def pilots() -> Iterator[list[subprocess.Popen[str]]]:
    """Pilots that a test has started: none outlives it."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for pilot in started:
        pilot.kill()
        pilot.wait()
        assert pilot.stdout is not None
        pilot.stdout.close()


class Started:
    """A pilot, and what its command has left: all of it is there by now."""

    def __init__(self, process: subprocess.Popen[str], supervisor: int, left: list[int]) -> None:
        self.process = process
        self.supervisor = supervisor
        self.left = left

    @classmethod
    async def run(cls, pilots: list[subprocess.Popen[str]], fifo: Fifo, *how: str, left: int) -> Started:
        process = subprocess.Popen(  # noqa: ASYNC220 - no test waits for anything else meanwhile
            [*PILOT, str(fifo.path), *how],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        pilots.append(process)
        pid, supervisor = map(int, (await fifo.line()).split())
        assert pid == process.pid
        return cls(process, supervisor, [int(await fifo.line()) for _ in range(left)])


def wait_for_ends(processes: Iterable[int]) -> None:
    """Return when they have ended; TimeoutError after far too long."""
    for process in processes:
        try:
            descriptor = os.pidfd_open(process)
        except ProcessLookupError:
            continue
        try:
            if not select.select([descriptor], [], [], 60)[0]:
                raise TimeoutError(f"process {process} lives on")
        finally:
            os.close(descriptor)


def living(processes: Iterable[int]) -> list[int]:
    return [process for process in processes if lives(process)]


# While the pilot lives


async def test_nothing_is_left_after_the_time_limit(fifo: Fifo) -> None:
    with pytest.raises(TokenTimeoutError):
        await apicas.run_command([*LEAVER, fifo.path, "stay"], timeout=3, grace=0.1)
    left = [int(await fifo.line()) for _ in range(CHILDREN + 1)]
    assert not living(left)


async def test_nothing_is_left_when_the_token_is_cancelled(fifo: Fifo) -> None:
    command = asyncio.ensure_future(apicas.run_command([*LEAVER, fifo.path, "stay"], grace=0.1))
    left = [int(await fifo.line()) for _ in range(CHILDREN + 1)]
    command.cancel()
    with pytest.raises(asyncio.CancelledError):
        await command
    assert not living(left)


async def test_nothing_is_left_after_a_normal_end(fifo: Fifo) -> None:
    result = await apicas.run_command([*LEAVER, fifo.path, "end"])
    left = [int(await fifo.line()) for _ in range(CHILDREN)]
    assert result.ok
    wait_for_ends(left)  # nobody asks for it: the thread comes round by itself


async def test_what_runs_is_spared_when_others_leave_something(fifo: Fifo) -> None:
    running = asyncio.ensure_future(apicas.run_command([*LEAVER, fifo.path, "stay"], grace=0.1))
    spared = [int(await fifo.line()) for _ in range(CHILDREN + 1)]
    await apicas.run_command([*LEAVER, fifo.path, "end"])
    left = [int(await fifo.line()) for _ in range(CHILDREN)]
    await leave_nothing()
    assert not living(left)
    assert living(spared) == spared
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_an_environment_of_its_own_has_the_mark_too() -> None:
    for environment in ({"NAME": "a"}, {}):
        result = await apicas.run_command(["/usr/bin/env"], env=environment)
        assert sorted(line.partition("=")[0] for line in result.stdout.decode().split()) == [
            "APICAS_MARK",
            *environment,
        ]


async def test_a_command_that_cannot_be_started_is_not_waited_for() -> None:
    with pytest.raises(apicas.CommandError):
        await apicas.run_command(["/no/such/program"])
    await leave_nothing()
    assert not supervision()._known


async def test_who_asks_while_a_sweep_comes_and_goes_is_answered_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Supervision()  # without its thread: the sweeps are ours

    def held_up(function: Callable[..., Any], *arguments: Any) -> Any:
        """As a loaded machine does it: a whole sweep passes before the word of who asks is where sweeps look."""
        sweep = threading.Thread(target=watch._sweep)
        sweep.start()
        sweep.join()
        return partial(function, *arguments)

    monkeypatch.setattr("apicas._runtime.processes.supervision.partial", held_up)
    cleared = watch.cleared(watch.attempt())
    watch._sweep()
    await asyncio.wait_for(cleared, 10)


# Worker processes


async def test_nothing_is_left_by_a_worker_process_that_was_let_go(fifo: Fifo) -> None:
    report = await run_in_process({"pipe": str(fifo.path), "end": "done"})
    left = [int(await fifo.line()) for _ in range(CHILDREN)]
    assert report.done == 1
    assert not living(left)


async def test_nothing_is_left_by_a_worker_process_that_died_with_a_command_running(fifo: Fifo) -> None:
    os.mkfifo(f"{fifo.path}.go")
    run = asyncio.ensure_future(run_in_process({"pipe": str(fifo.path), "end": "crash"}))
    left = [int(await fifo.line()) for _ in range(2 * CHILDREN + 1)]
    assert living(left) == left
    await asyncio.to_thread(Path(f"{fifo.path}.go").write_text, "go on")
    assert (await run).crashed == 1
    assert not living(left)


async def run_in_process(content: dict[str, Any]) -> apicas.Report:
    async with apicas.MemoryClient() as client:
        await client.upload([{"input": content}])
        return await apicas.run(isolated_work.leaves, client, workers=1, executor="process", max_tokens=1)


# When the pilot ends


async def test_nothing_is_left_by_a_pilot_that_ends(pilots: list[Any], fifo: Fifo) -> None:
    pilot = await Started.run(pilots, fifo, "end", left=CHILDREN)
    assert (await asyncio.to_thread(pilot.process.communicate))[0] == "1 0\n"
    assert not living(pilot.left)
    wait_for_ends([pilot.supervisor])


async def test_nothing_is_left_by_a_pilot_that_drains(pilots: list[Any], fifo: Fifo) -> None:
    pilot = await Started.run(pilots, fifo, "stay", left=CHILDREN + 1)
    pilot.process.terminate()
    assert (await asyncio.to_thread(pilot.process.communicate))[0] == "0 1\n"
    assert not living(pilot.left)
    wait_for_ends([pilot.supervisor])


@pytest.mark.parametrize("besides", [(), ("fork",)])
async def test_nothing_is_left_by_a_pilot_that_is_killed(pilots: list[Any], fifo: Fifo, besides: tuple[str]) -> None:
    """Also when a process that it has forked lives on."""
    pilot = await Started.run(pilots, fifo, "stay", *besides, left=CHILDREN + 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):  # as batch systems send to all
        os.kill(pilot.supervisor, number)
    pilot.process.kill()
    wait_for_ends([*pilot.left, pilot.supervisor])
    if besides:
        os.killpg(pilot.process.pid, signal.SIGKILL)  # the forked one


async def test_nothing_is_left_by_a_worker_process_of_a_pilot_that_is_killed(pilots: list[Any], fifo: Fifo) -> None:
    pilot = await Started.run(pilots, fifo, "process", left=2 * CHILDREN + 1)
    pilot.process.kill()
    wait_for_ends([*pilot.left, pilot.supervisor])


async def test_a_pilot_that_is_stopped_is_no_dead_one(pilots: list[Any], fifo: Fifo) -> None:
    pilot = await Started.run(pilots, fifo, "stay", left=CHILDREN + 1)
    pilot.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, pilot.process.pid, os.WSTOPPED)  # noqa: ASYNC222 - it has its signal already
    supervision()._end_orphans()
    assert living(pilot.left) == pilot.left
    assert "read -r" in Path(f"/proc/{pilot.supervisor}/cmdline").read_text()  # it is a shell still  # noqa: ASYNC240
    pilot.process.send_signal(signal.SIGCONT)
    pilot.process.terminate()
    assert (await asyncio.to_thread(pilot.process.communicate))[0] == "0 1\n"


async def test_what_nobody_could_end_is_ended_by_the_next_pilot(pilots: list[Any], fifo: Fifo) -> None:
    """As when everything in the batch job was killed but what had left its sessions."""
    killed = await Started.run(pilots, fifo, "stay", left=CHILDREN + 1)
    other = await Started.run(pilots, fifo, "stay", left=CHILDREN + 1)
    os.kill(killed.supervisor, signal.SIGSTOP)  # else the pilot would start another one
    killed.process.kill()
    os.kill(killed.supervisor, signal.SIGKILL)
    await asyncio.to_thread(wait_for_ends, [killed.process.pid, killed.supervisor])
    assert living(killed.left) == killed.left
    await asyncio.to_thread(supervision()._end_orphans)
    assert not living(killed.left)
    assert living(other.left) == other.left


# When the supervisor is killed


async def test_a_supervisor_that_is_killed_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replaced = threading.Event()
    start = Supervision._start_supervisor

    def start_and_tell(self: Supervision) -> None:
        start(self)
        replaced.set()

    first = supervision().supervisor_pid
    assert first is not None
    monkeypatch.setattr(Supervision, "_start_supervisor", start_and_tell)
    os.kill(first, signal.SIGKILL)
    assert (await apicas.run_command(["true"])).ok
    assert await asyncio.to_thread(replaced.wait, 60)
    assert supervision().supervisor_pid not in {None, first}
    assert not lives(first)
    assert caplog.text.count("was ended from outside: another one is started") == 1


async def test_a_token_is_done_though_its_supervisor_is_killed(fifo: Fifo) -> None:
    async with apicas.MemoryClient() as client:
        await client.upload([{"_id": "t"}])
        line = f"echo > {fifo.path}; read line < {fifo.path}.back"
        work = CommandRunner(line, CommandOptions(shell=True))
        os.mkfifo(f"{fifo.path}.back")
        run = asyncio.ensure_future(apicas.run(work, client, workers=1))
        await fifo.line()
        supervisor = supervision().supervisor_pid
        assert supervisor is not None
        os.kill(supervisor, signal.SIGKILL)
        await asyncio.to_thread(Path(f"{fifo.path}.back").write_text, "go on\n")
        assert (await run).done == 1
