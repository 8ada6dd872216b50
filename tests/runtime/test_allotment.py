"""What commands and worker processes see of what their token was given: cores, variables, GPUs."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import apicas
from apicas._node.inventory import Allocation
from apicas._runtime.commands.command import CommandRunner
from apicas._runtime.commands.options import CommandOptions
from apicas._runtime.processes.allotment import heard_allocation, in_force, running_allocation, told_allocation
from apicas.actors import run_pilot, work_maker
from apicas.iterators import BasicViewIterator
from apicas.testing import FaultyClient
from apicas.tokens import Token
from tests.runtime import isolated_work
from tests.runtime.processes import linux_only

pytestmark = linux_only

SEEN = (
    "import json, os; print(json.dumps({'cores': sorted(os.sched_getaffinity(0)), "
    "**{name: os.environ.get(name) for name in ('OMP_NUM_THREADS', 'CUDA_VISIBLE_DEVICES', 'MKL_NUM_THREADS')}}))"
)
OURS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
LAST = tuple(OURS[-1:])


@contextmanager
def given(**fields: Any) -> Iterator[Allocation]:
    """As a worker's task that works a token."""
    allocation = Allocation(**{"amounts": (("cores", 1),), "cores": LAST, "is_pinned": True, **fields})
    mark = running_allocation.set(allocation)
    try:
        yield allocation
    finally:
        running_allocation.reset(mark)


async def seen_by_command(**options: Any) -> dict[str, Any]:
    result = await apicas.run_command([sys.executable, "-S", "-c", SEEN], check=True, **options)
    seen: dict[str, Any] = json.loads(result.stdout)
    return seen


@pytest.mark.parametrize("options", [{}, {"cwd": "/"}], ids=["spawned", "forked"])
async def test_a_command_has_its_cores_and_we_keep_ours(options: dict[str, Any]) -> None:
    with given():
        seen = await seen_by_command(**options)
    assert seen["cores"] == [*LAST]
    assert seen["OMP_NUM_THREADS"] == "1"
    assert sorted(os.sched_getaffinity(0)) == OURS


async def test_a_command_that_is_not_pinned_has_all_cores_and_is_told_how_many_to_use() -> None:
    with given(is_pinned=False, cores=(0, 1, 2)):
        seen = await seen_by_command()
    assert (seen["cores"], seen["OMP_NUM_THREADS"]) == (OURS, "3")


async def test_a_command_sees_its_gpus_or_none() -> None:
    with given(gpus=("3", "5"), gpu_variable="CUDA_VISIBLE_DEVICES"):
        assert (await seen_by_command())["CUDA_VISIBLE_DEVICES"] == "3,5"
    with given(gpu_variable="CUDA_VISIBLE_DEVICES"):
        assert (await seen_by_command())["CUDA_VISIBLE_DEVICES"] == ""


async def test_cores_that_are_no_longer_ours_are_passed_over() -> None:
    """The batch system may have taken them: better anywhere than not at all."""
    with given(cores=(8191,)):
        assert (await seen_by_command())["cores"] == OURS
    assert sorted(os.sched_getaffinity(0)) == OURS


async def test_a_variable_that_is_inherited_gives_way_and_one_of_the_users_own_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "128")
    with given():
        assert (await seen_by_command())["OMP_NUM_THREADS"] == "1"
        seen = await seen_by_command(env={**os.environ, "MKL_NUM_THREADS": "4"})
    assert (seen["OMP_NUM_THREADS"], seen["MKL_NUM_THREADS"]) == ("1", "4")


async def test_so_it_is_with_a_command_as_the_work() -> None:
    token = Token({"_id": "t", "type": "token", "lock": 1_700_000_000, "done": 0, "exit_code": ""})
    script = SEEN.replace("{", "{{").replace("}", "}}")
    runner = CommandRunner([sys.executable, "-S", "-c", script], CommandOptions(env={"MKL_NUM_THREADS": "4"}))
    with given(gpu_variable="CUDA_VISIBLE_DEVICES"):
        await runner(token)
    from base64 import b64decode

    seen = json.loads(b64decode(token["_attachments"]["stdout.txt"]["data"]))
    assert seen == {"cores": [*LAST], "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MKL_NUM_THREADS": "4"}


async def test_without_an_allocation_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen = await seen_by_command()
    assert (seen["cores"], seen["OMP_NUM_THREADS"]) == (OURS, None)


def test_a_process_goes_to_a_tokens_cores_with_all_its_threads_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    allocation = Allocation((("cores", 1),), LAST, is_pinned=True)
    begin, end, seen = threading.Event(), threading.Event(), []

    def look() -> None:
        begin.wait()
        seen.append(sorted(os.sched_getaffinity(0)))
        end.set()

    thread = threading.Thread(target=look)
    thread.start()
    with in_force(allocation):
        begin.set()
        end.wait()
        thread.join()
        assert sorted(os.sched_getaffinity(0)) == seen[0] == [*LAST]
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("1", "1")
        assert running_allocation.get() is allocation
    assert sorted(os.sched_getaffinity(0)) == OURS
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_an_allocation_is_told_whole() -> None:
    allocation = Allocation((("cores", 1), ("gpus", 2)), (3,), ("0", "1"), is_pinned=True, gpu_variable="X")
    heard = heard_allocation(json.loads(json.dumps(told_allocation(allocation))))
    assert heard is not None
    for name in ("amounts", "cores", "gpus", "is_pinned", "gpu_variable"):
        assert getattr(heard, name) == getattr(allocation, name)
    assert heard_allocation(told_allocation(None)) is None


# In a pilot. ----------------------------------------------------------------------------------------------------------


async def run(client: FaultyClient, process: Any, **options: Any) -> apicas.Report:
    async with BasicViewIterator(client, linger=False) as tokens:
        return await run_pilot(tokens, work_maker(process, tokens), apicas.RunOptions(**options))


async def outputs(client: FaultyClient) -> dict[str, Any]:
    return {str(row.id): (await client.fetch(str(row.id))).output for row in await client.view("done")}


async def test_worker_processes_work_each_token_with_what_it_was_given() -> None:
    client = FaultyClient()
    await client.upload([{"_id": f"t{n}", "cores": 1 + n % 2} for n in range(6)])
    number = len(OURS)
    report = await run(
        client, isolated_work.allotted, resources={"cores": max(2, number)}, executor="process", pin=True
    )
    assert report.done == 6
    seen = await outputs(client)
    for name, found in seen.items():
        cores = 1 + int(name[1:]) % 2
        assert found["threads"] == found["at the start"] == str(cores)
        assert found["given"] == cores
        if number >= 2:
            assert len(found["affinity"]) == cores
            assert found["cores"] == found["affinity"]


async def test_a_signal_for_the_pilot_does_not_end_a_worker_process() -> None:
    """Batch systems send SIGUSR1 to all processes of a job."""
    client = FaultyClient()
    await client.upload([{"_id": "t"}])
    assert (await run(client, isolated_work.signals_itself, workers=1, executor="process")).done == 1


RECORD = """
echo "begin $APICAS_TOKEN_ID $OMP_NUM_THREADS $(grep Cpus_allowed_list /proc/self/status)" >> "$RECORD"
sleep 0.05
echo "end $APICAS_TOKEN_ID" >> "$RECORD"
"""


@pytest.mark.skipif(len(OURS) < 2, reason="needs two cores")
async def test_commands_never_have_more_cores_than_there_are(tmp_path: Path) -> None:
    """Real commands of one and two cores say when they run, where, and with how many threads."""
    from apicas._node.units import cpu_list

    record = tmp_path / "record"
    client = FaultyClient()
    await client.upload([{"_id": f"t{n}", "cores": 1 + n % 2} for n in range(16)])
    runner = CommandRunner(["/bin/sh", "-c", RECORD], CommandOptions(env={"RECORD": str(record)}))
    report = await run(client, runner, resources="cores=2", pin=True)
    assert report.done == 16
    running: dict[str, set[int]] = {}
    at_once = 0
    for line in record.read_text().splitlines():
        what, name, *rest = line.split()
        if what == "end":
            del running[name]
            continue
        cores, wanted = set(cpu_list(rest[-1])), 1 + int(name[1:]) % 2
        assert (len(cores), rest[0]) == (wanted, str(wanted))
        assert not any(cores & others for others in running.values())
        running[name] = cores
        at_once = max(at_once, len(running))
        assert sum(map(len, running.values())) <= 2
    assert (running, at_once) == ({}, 2)
