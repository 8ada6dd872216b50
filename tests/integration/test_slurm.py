"""The example job script in a real Slurm: what a pilot learns of its job, and what becomes of tokens when that ends."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import apicas
from tests.slurm import CORES, Slurm, missing

ROOT: Final = Path(__file__).parents[2]
SCRIPT: Final = ROOT / "examples" / "batch" / "slurm.sh"
A_MINUTE: Final = 60.0
"""The shortest time limit that Slurm knows."""
LOOK: Final = 30.0
"""Seconds between two looks of Slurm at time limits."""

pytestmark = [
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    # The path of a socket is short: not in pytest's directory.
    directory = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    # Jobs find `apicas` where their script looks for it.
    programs = directory / "bin"
    programs.mkdir()
    (programs / "apicas").write_text(f'#!/bin/sh\nexec {sys.executable} -m apicas "$@"\n')
    (programs / "apicas").chmod(0o755)
    here = Slurm(directory)
    here.environ |= {"PATH": f"{programs}:{here.environ['PATH']}", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    try:
        here.start()
        yield here
    finally:
        here.stop()
        shutil.rmtree(directory, ignore_errors=True)


class Pool:
    """An embedded pool in the directory of a job."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = f"sqlite:///{directory}/pool.db"

    def fill(self, *ids: str, **fields: Any) -> None:
        """Make tokens."""

        async def fill() -> None:
            async with apicas.connect(self.address) as client:
                await client.setup()
                await client.upload({"_id": name, **fields} for name in ids)

        asyncio.run(fill())

    def tokens(self, *ids: str) -> list[dict[str, Any]]:
        """Tokens as they are."""

        async def get() -> list[Any]:
            async with apicas.connect(self.address) as client:
                return await client.get(list(ids))

        return asyncio.run(get())

    def log(self, job: str) -> str:
        """What the pilot of a job has said."""
        return (self.directory / f"apicas-{job}.log").read_text()


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path)


def test_job_id_walltime_and_cores_arrive(slurm: Slurm, pool: Pool) -> None:
    """Two pilots, one after the other or beside, as an array; the work says what it was told."""
    ids = [f"t{number}" for number in range(6)]
    pool.fill(*ids)
    command = 'echo "$OMP_NUM_THREADS $SLURM_JOB_ID" > "$APICAS_TOKEN_ID"'
    job = slurm.submit(
        pool.directory,
        "--array=1-2",
        "--cpus-per-task=1",
        "--time=10",
        SCRIPT,
        "--pool",
        pool.address,
        "--shell",
        "--",
        command,
    )
    slurm.wait(job)
    tokens = pool.tokens(*ids)
    assert {token["exit_code"] for token in tokens} == {0}
    assert {token["slurm_job_id"] for token in tokens} <= {f"{job}_1", f"{job}_2"}
    assert {(pool.directory / name).read_text().split()[0] for name in ids} == {"1"}
    logs = [path.read_text() for path in pool.directory.glob("apicas-*.log")]
    assert len(logs) == 2
    for log in logs:
        found = re.search(r"the batch job ends .* in 0:0(\d):\d\d \((scontrol|\$SLURM_JOB_END_TIME)", log)
        assert found is not None, log
        assert int(found[1]) in {8, 9}
        assert "tokens share 1 core ($SLURM_CPUS_PER_TASK)" in log


def started(pool: Pool, *names: str) -> str:
    """A command that says when it begins, and goes on for an hour."""
    for name in names:
        os.mkfifo(pool.directory / name)
    return f'echo begun > {pool.directory}/"$APICAS_TOKEN_ID"; exec sleep 3600'


def until_begun(pool: Pool, *names: str) -> None:
    """Return when the commands of these tokens have begun."""
    for name in names:
        assert (pool.directory / name).read_text() == "begun\n"


def assert_released(pool: Pool, *ids: str) -> None:
    """They can be claimed again, and nothing is held against them."""
    for token in pool.tokens(*ids):
        assert (token["lock"], token["done"], token["scrub_count"]) == (0, 0, 0)
        assert "crashes" not in token.get("apicas", {})


def test_scancel_drains(slurm: Slurm, pool: Pool) -> None:
    ids = [f"t{number}" for number in range(CORES)]
    pool.fill(*ids)
    options = ("--pool", pool.address, "--grace", "0", "--shell", "--", started(pool, *ids))
    job = slurm.submit(pool.directory, f"--cpus-per-task={CORES}", "--time=10", SCRIPT, *options)
    until_begun(pool, *ids)
    slurm.call("scancel", job)
    slurm.wait(job)
    assert_released(pool, *ids)
    assert "SIGTERM: draining" in pool.log(job)
    assert f"{CORES} released" in pool.log(job)


def test_a_time_limit_releases_what_runs(slurm: Slurm, tmp_path: Path) -> None:
    """Of a pilot that drains before the end that it knows of, and of one that was told wrongly and is hit by it."""
    ways = {"knows": ("--end-margin", "50"), "believes": ("--walltime", "UNLIMITED")}
    pools, jobs = {}, {}
    for name, options in ways.items():
        (tmp_path / name).mkdir()
        pool = pools[name] = Pool(tmp_path / name)
        pool.fill("t")
        run = ("--pool", pool.address, "--grace", "0", *options, "--shell", "--", started(pool, "t"))
        jobs[name] = slurm.submit(pool.directory, "--cpus-per-task=1", "--time=1", SCRIPT, *run)
    for pool in pools.values():
        until_begun(pool, "t")
    slurm.wait(*jobs.values(), seconds=2 * A_MINUTE + LOOK)
    for pool in pools.values():
        assert_released(pool, "t")
    logs = {name: pool.log(jobs[name]) for name, pool in pools.items()}
    assert "TIME LIMIT" not in logs["knows"]
    assert "TIME LIMIT" in logs["believes"]
    assert "SIGTERM: draining" in logs["believes"]
