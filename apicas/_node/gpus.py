"""Which GPUs there are for this process, by the names under which they are handed on to its commands.

Numbers in CUDA_VISIBLE_DEVICES count what the process can see, those in SLURM_JOB_GPUS what the node has. A program
takes the former, so they come first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from apicas._documents import shown
from apicas._node.names import CUDA
from apicas._node.surroundings import Surroundings
from apicas._node.units import cpu_list

_VISIBLE: Final = (CUDA, "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_OF_SLURM: Final = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
_NONE: Final = frozenset({"", "-1", "nodevfiles", "none", "void"})
_NAME = re.compile(r"\d{1,4}|(?:GPU|MIG)-[\w/-]+", re.ASCII)
_DEVICE = re.compile(r"nvidia\d{1,4}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """The GPUs of a node that are for this process.

    Args:
        names: as they go into `variable`: numbers, or the ids that begin with GPU or MIG.
        variable: the environment variable that shows some of them to a command.
        origin: what said so.
    """

    names: tuple[str, ...]
    variable: str = CUDA
    origin: str


def find_gpus(surroundings: Surroundings) -> Gpus:
    """Look for the GPUs: the first source that says anything is believed, "none" included."""
    for name in _VISIBLE:
        text = surroundings.variables.get(name)
        if text is not None:
            return Gpus(names=_visible(surroundings, name, text), variable=name, origin=f"${name}")
    for name in _OF_SLURM:
        numbers = surroundings.variable(name, cpu_list)
        if numbers is not None:
            return Gpus(names=tuple(map(str, numbers)), origin=f"${name}")
    return _of_the_system(surroundings)


def _visible(surroundings: Surroundings, name: str, text: str) -> tuple[str, ...]:
    """The devices in a list. As CUDA does it, what follows one that does not exist is not visible either."""
    if text.strip().lower() in _NONE:
        return ()
    names: list[str] = []
    for part in text.split(","):
        one = part.strip()
        if not _NAME.fullmatch(one):
            if one != "-1":
                surroundings.warn(f"${name}: {shown(one)} is no GPU, and what follows it is not visible")
            break
        if one in names:
            surroundings.warn(f"${name}: {shown(one)} is there more than once")
        else:
            names.append(one)
    return tuple(names)


def _of_the_system(surroundings: Surroundings) -> Gpus:
    """Count what the driver shows. A container may show some of the devices only: then they are counted from 0."""
    sources: tuple[tuple[str, Callable[[str], object]], ...] = (
        ("/dev", _DEVICE.fullmatch),
        ("/proc/driver/nvidia/gpus", bool),
    )
    counts = [(sum(1 for one in surroundings.names(path) if is_gpu(one)), path) for path, is_gpu in sources]
    count, path = min((one for one in counts if one[0]), default=(0, ""))
    return Gpus(names=tuple(map(str, range(count))), origin=path or "no driver")
