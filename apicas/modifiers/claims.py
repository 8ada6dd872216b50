"""Claims: who claims, what a claim writes into a token, and what goes with it when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

JOB_ID_FIELDS: Final = ("slurm_job_id", "dirac_job_id", "wms_job_id", "cream_job_id", "pbs_job_id")
# What a claim writes into the `apicas` sub-object, and what is cleared when it ends.
CLAIM_FIELDS: Final = ("claim", "pilot", "process", "lease", "lock", "claimed", "isolated")
# What beats write of an attempt besides, and what is cleared with its claim.
NOTE_FIELDS: Final = ("progress", "log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that claims: what its claims say of it, so that others can find out whether it still lives."""

    pilot: str
    """Random per start of a pilot: never a host name or a process id alone, which are used again."""
    hostname: str
    process: str = ""
    """What no other process of any node is called, see apicas._runtime.environment; empty where it is not known."""
    job_ids: Mapping[str, str] = field(default_factory=dict)
    """The batch job's id, by token field."""


class Claim(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One claim of one token, as its lock is written. A struct: each claim makes one, and a dataclass takes longer."""

    claim_id: str
    owner: Owner
    now: float
    """Store time, in unix seconds."""
    lease: float
    """Seconds for which the lock holds without a heartbeat."""
    isolated: bool = False
    """Whether the pilot runs suspects in processes of their own, so that they cannot take it down with them."""


def batch_job_ids(environ: Mapping[str, str]) -> dict[str, str]:
    """The id of the batch job that this process runs in, by the token field that it goes to.

    Job systems come in layers: a gLite job runs in a CREAM job that runs in PBS. The outermost is told, as in PiCaS.

    Args:
        environ: the environment of the process.
    """
    if "DIRACJOBID" in environ:
        return {"dirac_job_id": environ["DIRACJOBID"]}
    if "GLITE_WMS_JOBID" in environ:
        wms = environ["GLITE_WMS_JOBID"]
        return {"wms_job_id": wms} if wms.startswith("http") else {}
    for variable, name in (("CREAM_JOBID", "cream_job_id"), ("PBS_JOBID", "pbs_job_id")):
        if variable in environ:
            return {name: environ[variable]}
    if "SLURM_ARRAY_JOB_ID" in environ:
        return {"slurm_job_id": f"{environ['SLURM_ARRAY_JOB_ID']}_{environ.get('SLURM_ARRAY_TASK_ID', '0')}"}
    return {"slurm_job_id": environ["SLURM_JOB_ID"]} if "SLURM_JOB_ID" in environ else {}
