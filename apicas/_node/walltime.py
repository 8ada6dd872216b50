"""When the batch job ends: said by the user, by the environment, or by the batch system when it is asked once.

| batch system | how |
|---|---|
| Slurm | `SLURM_JOB_END_TIME`, where Slurm is new enough, else `scontrol show job` |
| PBS, OpenPBS | `qstat -f`: its start and its walltime |
| Torque | the same; else `PBS_WALLTIME`, counted from the start of the job's first process here |
| others | the user says it |
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

import anyio

from apicas._documents import shown
from apicas._node.surroundings import Found, Surroundings
from apicas._node.units import amount, seconds_of
from apicas.exceptions import ConfigError

ASK_LIMIT: Final = 10.0
"""Seconds that a batch system may take for its answer: a busy one takes some, and nothing is claimed before it."""
FIRST_TIME: Final = 1_000_000_000
"""Unix seconds. What is below is no time of a job."""
MAX_ANCESTORS: Final = 64

Ask = Callable[[Sequence[str], Mapping[str, str]], Awaitable[str]]
"""Runs a command with some more variables and answers with its stdout; raises OSError or CalledProcessError."""

_FIELD: Final = r"(?:^|\s){}=(\S+)"
_DATE: Final = "%a %b %d %H:%M:%S %Y"


async def run_and_read(command: Sequence[str], variables: Mapping[str, str]) -> str:
    """Run a command of the batch system's."""
    result = await anyio.run_process(command, env={**os.environ, **variables})
    return result.stdout.decode(errors="replace")


async def find_end(
    surroundings: Surroundings, flag: str | float | None = None, *, now: float | None = None, ask: Ask = run_and_read
) -> Found[float] | None:
    """Find out when the batch job ends.

    Args:
        surroundings: where to look; odd answers become warnings there.
        flag: what the user says: a time from now on, as in `seconds_of`.
        now: unix seconds; the clock's by default.
        ask: asks the batch system.

    Returns:
        The end in unix seconds, and what said so; None where there is none, or nobody knows.

    Raises:
        ConfigError: the flag is no time.
    """
    now = time.time() if now is None else now
    if flag is not None:
        return of_flag(flag, now)
    variables = surroundings.variables
    end = surroundings.variable("SLURM_JOB_END_TIME", _unix_seconds)
    if end is not None and end > now:
        return Found(end, "$SLURM_JOB_END_TIME")
    if end is not None:  # we are there still: the job was prolonged, or the variable is another job's
        surroundings.warn("$SLURM_JOB_END_TIME is in the past, and not used")
    job = variables.get("SLURM_JOB_ID") or variables.get("SLURM_JOBID")
    if job:
        return await _asked(surroundings, ["scontrol", "show", "job", "-o", job], of_scontrol, ask)
    if variables.get("PBS_JOBID"):
        found = await _asked(surroundings, ["qstat", "-f", variables["PBS_JOBID"]], of_qstat, ask)
        return found if found is not None else _of_torque(surroundings)
    return None


def of_scontrol(text: str) -> float | None:
    """The end of a job in the answer of `scontrol show job`; None if it has no limit.

    Raises:
        ValueError: there is none in it.
    """
    field = re.search(_FIELD.format("EndTime"), text)
    if field is None:
        raise ValueError("it tells no EndTime")
    if field[1] in {"Unknown", "None", "N/A"}:
        return None
    return _unix_seconds(field[1]) if field[1].isdecimal() else datetime.fromisoformat(field[1]).timestamp()


def of_qstat(text: str) -> float | None:
    """The end of a job in the answer of `qstat -f`; None if it has no limit.

    OpenPBS tells the start as `stime`, Torque as `start_time`, both in local time and the C locale's words. Long lines
    go on in the next, after a tab; these are short.

    Raises:
        ValueError: it tells no start.
    """
    fields = dict(_equation(line) for line in text.splitlines() if " = " in line)
    start = fields.get("stime") or fields.get("start_time")
    walltime = fields.get("Resource_List.walltime")
    if walltime is None:
        return None
    if start is None:
        raise ValueError("it tells no start")
    end = datetime.strptime(start, _DATE).timestamp() + seconds_of(walltime)  # noqa: DTZ007 - it is local time
    return None if math.isinf(end) else end


def of_flag(flag: str | float, now: float) -> Found[float] | None:
    """The end that a user gives; None for no end.

    Raises:
        ConfigError: the flag is no time.
    """
    try:
        seconds = seconds_of(flag)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"walltime: {error}") from None
    if not seconds:  # in Slurm it stands for no limit
        raise ConfigError("walltime: 0 leaves no time for anything; UNLIMITED stands for no end")
    return None if math.isinf(seconds) else Found(now + seconds, "given")


async def _asked(
    surroundings: Surroundings, command: Sequence[str], parse: Callable[[str], float | None], ask: Ask
) -> Found[float] | None:
    """What the batch system answers; None, and a warning, where it does not."""
    answer: str | None = None
    # The form in which Slurm tells times is the user's to choose; this one has no time zone to be wrong about.
    variables = {"SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}
    try:
        with anyio.move_on_after(ASK_LIMIT):
            answer = await ask(command, variables)
    except (OSError, subprocess.CalledProcessError) as error:
        surroundings.warn(f"the end of the batch job is not known: {command[0]}: {error}")
        return None
    if answer is None:
        surroundings.warn(f"the end of the batch job is not known: {command[0]} took more than {ASK_LIMIT:g} s")
        return None
    end = surroundings.parsed(f"the answer of {command[0]}", answer, parse)
    return None if end is None else Found(end, command[0])


def _of_torque(surroundings: Surroundings) -> Found[float] | None:
    walltime = surroundings.variable("PBS_WALLTIME", seconds_of)
    start = _job_start(surroundings)
    if walltime is None or start is None or math.isinf(walltime):
        return None
    return Found(start + walltime, "$PBS_WALLTIME from the start of the job's first process")


def _job_start(surroundings: Surroundings) -> float | None:
    """Unix seconds at which the oldest of our own ancestors began that has our job's number in its environment."""
    job, started, number = surroundings.variables["PBS_JOBID"], None, "self"
    for _ in range(MAX_ANCESTORS):
        stat = (surroundings.text(f"/proc/{number}/stat") or "").rpartition(")")[2].split()
        environment = (surroundings.text(f"/proc/{number}/environ") or "").split("\0")
        if len(stat) < 20 or (number != "self" and f"PBS_JOBID={job}" not in environment):
            break
        started, number = stat[19], stat[1]
    boot = re.search(r"^btime (\d+)$", surroundings.text("/proc/stat") or "", re.MULTILINE)
    if started is None or boot is None:
        return None
    with contextlib.suppress(ValueError):
        return int(boot[1]) + int(started) / _ticks()
    return None


def _ticks() -> int:
    return os.sysconf("SC_CLK_TCK")


def _unix_seconds(text: str) -> float:
    seconds = amount(text)
    if seconds < FIRST_TIME:
        raise ValueError(f"{shown(text)} is no time of a job")
    return float(seconds)


def _equation(line: str) -> tuple[str, str]:
    name, _, value = line.partition(" = ")
    return name.strip(), value.strip()
