"""Where there is room for a token's files on this node, and how much."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from apicas._documents import shown
from apicas._node.surroundings import Found, Surroundings

_NAMES: Final = (
    "SLURM_TMPDIR",  # of a job, where a site's prologue makes one
    "PBS_JOBFS",
    "_CONDOR_SCRATCH_DIR",
    "TMPDIR",  # PBS and LSF make one for a job, too
    "TMP",
    "TEMP",
)
LAST_RESORT: Final = "/tmp"  # noqa: S108 - a place to look at; what is made there gets a name of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """A directory for files that need not outlive the job.

    Args:
        directory: where, and what said so.
        free: the bytes that were free when it was looked at.
    """

    directory: Found[Path]
    free: int


def find_scratch(surroundings: Surroundings) -> Scratch | None:
    """Look for the scratch directory: the first that exists and can be written to; None where there is none."""
    candidates = [
        (f"${name}", Path(surroundings.variables[name])) for name in _NAMES if surroundings.variables.get(name)
    ]
    for origin, directory in [*candidates, (LAST_RESORT, surroundings.path(LAST_RESORT))]:
        try:
            if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
                surroundings.warn(f"{origin} is not used: {shown(str(directory))} is no directory to write to")
                continue
            return Scratch(directory=Found(directory, origin), free=surroundings.free_bytes(directory))
        except (OSError, ValueError) as error:
            surroundings.warn(f"{origin} is not used: {error}")
    return None
