"""When the batch job ends, and what said so."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import anyio
import pytest

from apicas._node.surroundings import Found, Surroundings
from apicas._node.walltime import ASK_LIMIT, Ask, find_end, of_qstat, of_scontrol, run_and_read
from apicas.exceptions import ConfigError
from apicas.testing import run_virtual

NOW = 1_700_000_000.0

SCONTROL = (
    "JobId=7 JobName=pilot UserId=me(1000) Comment=a b RunTime=00:01:00 TimeLimit=01:00:00 StartTime=1700000000 "
    "EndTime=1700003600 Deadline=N/A SuspendTime=None\n"
)
OPENPBS = """Job Id: 12.server
    Job_Name = pilot
    resources_used.walltime = 00:00:10
    Resource_List.ncpus = 4
    Resource_List.walltime = 01:30:00
    stime = Tue Nov 14 23:13:20 2023
    Variable_List = PBS_O_HOME=/home/me,PBS_O_LANG=C,
\tPBS_O_SHELL=/bin/sh
"""
TORQUE = OPENPBS.replace("stime", "start_time")


@pytest.fixture
def in_paris(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Batch systems tell local time."""
    monkeypatch.setenv("TZ", "Europe/Paris")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def answering(text: str) -> Ask:
    async def ask(command: Sequence[str], variables: Mapping[str, str]) -> str:
        return text

    return ask


async def nobody_is_asked(command: Sequence[str], variables: Mapping[str, str]) -> str:
    raise AssertionError(f"{command} was asked")


def surroundings(root: Path | None = None, **variables: str) -> Surroundings:
    return Surroundings(variables=variables, root=root or Path("/nowhere"))


# Who says it. ---------------------------------------------------------------------------------------------------------


async def test_the_user_counts_first() -> None:
    in_job = surroundings(SLURM_JOB_END_TIME="1700003600")
    assert await find_end(in_job, "1:30:00", now=NOW, ask=nobody_is_asked) == Found(NOW + 5400, "given")
    assert await find_end(in_job, 60, now=NOW, ask=nobody_is_asked) == Found(NOW + 60, "given")
    assert await find_end(in_job, "UNLIMITED", now=NOW, ask=nobody_is_asked) is None
    with pytest.raises(ConfigError, match="walltime: 'soon' is no time"):
        await find_end(in_job, "soon", now=NOW)
    for nothing in (0, "0", "0:00"):  # no limit in Slurm
        with pytest.raises(ConfigError, match="UNLIMITED stands for no end"):
            await find_end(in_job, nothing, now=NOW)


async def test_slurm_says_it_in_the_environment() -> None:
    in_job = surroundings(SLURM_JOB_ID="7", SLURM_JOB_END_TIME="1700003600")
    assert await find_end(in_job, now=NOW, ask=nobody_is_asked) == Found(1700003600.0, "$SLURM_JOB_END_TIME")


async def test_an_end_that_is_past_is_not_believed() -> None:
    """We are there still: the job was prolonged since."""
    in_job = surroundings(SLURM_JOB_ID="7", SLURM_JOB_END_TIME=str(int(NOW) - 1))
    assert await find_end(in_job, now=NOW, ask=answering(SCONTROL)) == Found(1700003600.0, "scontrol")
    assert in_job.warnings == ["$SLURM_JOB_END_TIME is in the past, and not used"]


@pytest.mark.parametrize("odd", ["soon", "0", "-5"])
async def test_an_older_slurm_is_asked_and_an_odd_variable_is_a_warning(odd: str) -> None:
    in_job = surroundings(SLURM_JOB_ID="7", SLURM_JOB_END_TIME=odd)
    assert await find_end(in_job, ask=answering(SCONTROL)) == Found(1700003600.0, "scontrol")
    assert in_job.warnings[0].startswith("$SLURM_JOB_END_TIME is not used: ")


async def test_slurm_is_asked_about_this_job_in_a_form_without_time_zones() -> None:
    asked: list[tuple[Sequence[str], Mapping[str, str]]] = []

    async def ask(command: Sequence[str], variables: Mapping[str, str]) -> str:
        asked.append((command, variables))
        return SCONTROL

    await find_end(surroundings(SLURM_JOB_ID="7"), ask=ask)
    [(command, variables)] = asked
    assert command == ["scontrol", "show", "job", "-o", "7"]
    assert variables["SLURM_TIME_FORMAT"] == "%s"


async def test_outside_a_batch_job_there_is_no_end_and_nobody_is_asked() -> None:
    assert await find_end(surroundings(), ask=nobody_is_asked) is None


@pytest.mark.usefixtures("in_paris")
async def test_pbs_is_asked_for_start_and_walltime() -> None:
    in_job = surroundings(PBS_JOBID="12.server")
    assert await find_end(in_job, ask=answering(OPENPBS)) == Found(NOW + 5400, "qstat")


# Answers. -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_paris")
def test_slurm_tells_unix_seconds_or_local_time() -> None:
    assert of_scontrol(SCONTROL) == 1700003600.0
    assert of_scontrol(SCONTROL.replace("EndTime=1700003600", "EndTime=2023-11-15T00:13:20")) == 1700003600.0
    assert of_scontrol(SCONTROL.replace("EndTime=1700003600", "EndTime=Unknown")) is None


@pytest.mark.usefixtures("in_paris")
def test_openpbs_and_torque_tell_local_time() -> None:
    assert of_qstat(OPENPBS) == of_qstat(TORQUE) == NOW + 5400
    assert of_qstat(OPENPBS.replace("Resource_List.walltime", "Resource_List.mem")) is None


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (of_scontrol, ""),
        (of_scontrol, "EndTime=yesterday"),
        (of_scontrol, "SuspendEndTime=1700003600"),
        (of_qstat, OPENPBS.replace("stime", "qtime")),
        (of_qstat, OPENPBS.replace("Tue Nov 14", "Di. 14. Nov")),
        (of_qstat, OPENPBS.replace("01:30:00", "long")),
    ],
)
def test_what_cannot_be_understood_is_a_value_error(parse: Callable[[str], float | None], text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


@pytest.mark.parametrize(
    ("error", "warning"),
    [
        (FileNotFoundError("no such file"), "scontrol: no such file"),
        (subprocess.CalledProcessError(1, "scontrol"), "scontrol: Command 'scontrol' returned non-zero"),
    ],
)
async def test_a_batch_system_that_does_not_answer_is_a_warning(error: Exception, warning: str) -> None:
    async def ask(command: Sequence[str], variables: Mapping[str, str]) -> str:
        raise error

    in_job = surroundings(SLURM_JOB_ID="7")
    assert await find_end(in_job, ask=ask) is None
    assert f"the end of the batch job is not known: {warning}" in in_job.warnings[0]


def test_a_batch_system_that_takes_too_long_is_not_waited_for() -> None:
    async def ask(command: Sequence[str], variables: Mapping[str, str]) -> str:
        await anyio.sleep_forever()
        return ""

    async def main() -> None:
        in_job = surroundings(SLURM_JOB_ID="7")
        began = anyio.current_time()
        assert await find_end(in_job, ask=ask) is None
        assert anyio.current_time() - began == pytest.approx(ASK_LIMIT)
        assert "took more than 10 s" in in_job.warnings[0]

    run_virtual(main)


async def test_a_real_command_is_run_with_its_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$SLURM_TIME_FORMAT" = %s ] && echo "JobId=$4 EndTime=170000360$4"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert await find_end(surroundings(SLURM_JOB_ID="7"), ask=run_and_read) == Found(1700003607.0, "scontrol")


# Torque, when its server does not answer. -----------------------------------------------------------------------------


def process(root: Path, number: str, parent: int, started: int, environment: str) -> None:
    directory = root / "proc" / number
    directory.mkdir(parents=True)
    fields = ["S", str(parent), *["0"] * 17, str(started), "0", "0"]
    (directory / "stat").write_text(f"{number} (a (b) c) {' '.join(fields)}\n")
    (directory / "environ").write_text(environment)


async def test_torques_walltime_counts_from_the_start_of_the_jobs_first_process(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    in_job = "HOME=/\0PBS_JOBID=12.server\0"
    process(tmp_path, "self", 30, 900 * ticks, "")
    process(tmp_path, "30", 20, 500 * ticks, in_job)
    process(tmp_path, "20", 10, 400 * ticks, in_job)
    process(tmp_path, "10", 1, 100 * ticks, "HOME=/\0PBS_JOBID=11.server\0")
    (tmp_path / "proc" / "stat").write_text("cpu 1 2 3\nbtime 1700000000\n")

    async def no_answer(command: Sequence[str], variables: Mapping[str, str]) -> str:
        raise FileNotFoundError("no qstat")

    here = surroundings(tmp_path, PBS_JOBID="12.server", PBS_WALLTIME="3600")
    found = await find_end(here, ask=no_answer)
    assert found == Found(NOW + 400 + 3600, "$PBS_WALLTIME from the start of the job's first process")
    without = surroundings(tmp_path / "none", PBS_JOBID="12.server", PBS_WALLTIME="3600")
    assert await find_end(without, ask=no_answer) is None
