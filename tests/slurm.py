"""A Slurm of one node on loopback, for tests: the real munged, slurmctld and slurmd, in a directory of their own."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.ports import free_port

PROGRAMS: Final = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "sinfo")
CORES: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Those of the node."""
PATIENCE: Final = 60.0
"""Real seconds for a daemon to answer, and for a job to end once it has been told to."""
_PAUSE: Final = 0.1
_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_CONFIGURATION: Final = """
ClusterName=apicas
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=30
MinJobAge=300
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 Port={node} CPUs={cores} State=UNKNOWN
PartitionName=main Nodes=node Default=YES MaxTime=60 State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here; None if there can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    return f"no {', '.join(absent)} (Debian: slurm-wlm and munge)" if absent else None


class Slurm:
    """The daemons, and the commands of a user.

    Args:
        directory: for everything of them; its path is to be short, since there is a socket in it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.environ = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(directory / "slurm.conf")}

    def start(self) -> None:
        """Start the daemons, and return when the node takes jobs."""
        here = self.directory
        for name in ("state", "spool"):
            (here / name).mkdir()
        key = here / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        (here / "slurm.conf").write_text(
            _CONFIGURATION.format(
                host=socket.gethostname().split(".")[0],
                user=getpass.getuser(),
                directory=here,
                controller=free_port(),
                node=free_port(),
                cores=CORES,
            )
        )
        files = [f"--{name}-file={here}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        # Its directory may be one that others could write in, as /tmp: that is what --force passes over.
        self._daemon("munged", "--foreground", "--force", f"--socket={here}/munge.socket", *files)
        _wait((here / "munge.socket").exists, "munged")
        self._daemon("slurmctld", "-D")
        self._daemon("slurmd", "-D", "-N", "node")
        _wait(self._is_idle, "the node", self.logs)

    def stop(self) -> None:
        """End the daemons, and all jobs before."""
        subprocess.run(["scancel", "--full", "--signal=KILL", "--me"], check=False, env=self.environ)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(PATIENCE)

    def call(self, *command: str) -> str:
        """What a command prints."""
        done = subprocess.run(command, check=False, env=self.environ, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, directory: Path, *arguments: str | Path) -> str:
        """Submit a job; its number."""
        return self.call("sbatch", "--parsable", f"--chdir={directory}", *map(str, arguments)).strip()

    def wait(self, *jobs: str, seconds: float = PATIENCE) -> None:
        """Return when these jobs are over."""
        _wait(lambda: not any(self._goes_on(job) for job in jobs), f"jobs {jobs}", self.logs, seconds)

    def logs(self) -> str:
        """What the daemons have to say."""
        return "\n".join(file.read_text() for file in sorted(self.directory.glob("*.log")))

    def _goes_on(self, job: str) -> bool:
        states = self.call("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}").split()
        return any(state in {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED"} for state in states)

    def _is_idle(self) -> bool:
        done = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], check=False, env=self.environ, capture_output=True, text=True
        )
        return done.stdout.strip() == "idle"

    def _daemon(self, name: str, *arguments: str) -> None:
        output = (self.directory / f"{name}.out.log").open("wb")
        with output:
            self._daemons.append(
                subprocess.Popen(
                    [name, *arguments], env=self.environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
            )


def _wait(
    condition: Callable[[], bool], what: str, more: Callable[[], str] = lambda: "", seconds: float = PATIENCE
) -> None:
    """Wait for something that sends no word."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s\n{more()}"
        time.sleep(_PAUSE)
