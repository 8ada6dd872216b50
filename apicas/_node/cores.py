"""How many cores there are for this process, and which: the least of what the system and the batch system say.

A core is what the kernel schedules on, as in Slurm's CPUs: with two threads per core there are two for each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from apicas._node import cgroups
from apicas._node.surroundings import Found, Surroundings, least
from apicas._node.units import amount, counts_per_node, cpu_list

_COUNTED: Final = (
    "SLURM_CPUS_PER_TASK",
    "SLURM_CPUS_ON_NODE",
    "PBS_NUM_PPN",  # Torque
    "NCPUS",  # PBS: of the job's first chunk
    "LSB_DJOB_NUMPROC",  # LSF: of all hosts; more than this node's never binds
    "NSLOTS",  # Grid Engine, likewise
)
_BATCH: Final = ("SLURM_JOB_ID", "SLURM_JOBID", "PBS_JOBID", "LSB_JOBID", "SGE_TASK_ID")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """The cores of a node that are for this process.

    Args:
        count: how many may be in use at once, and what said so.
        numbers: the CPUs that the process may run on: more than `count` where a quota binds.
        nodes: the CPUs of each NUMA node, in its order; one with all of them where the system does not tell.
        are_ours: whether no other job is to be expected on these very CPUs: then commands can be pinned. A quota
            gives a share of CPUs that others use too, and so does a whole node without a batch system.
    """

    count: Found[int]
    numbers: tuple[int, ...]
    nodes: tuple[tuple[int, ...], ...]
    are_ours: bool


def find_cores(surroundings: Surroundings) -> Cores:
    """Look for the cores."""
    numbers = tuple(sorted(surroundings.affinity()))
    affinity = Found(max(1, len(numbers)), "CPU affinity")
    batch = _of_batch_system(surroundings)
    quotas = [Found(max(1, math.floor(one.value)), one.origin) for one in cgroups.cpu_limits(surroundings)]
    count = least([affinity, *batch, *quotas]) or affinity
    online = surroundings.text("/sys/devices/system/cpu/online")
    all_online = surroundings.parsed("/sys/devices/system/cpu/online", online, cpu_list) if online else None
    is_part = all_online is not None and len(numbers) < len(all_online)
    are_ours = count.value == affinity.value and (is_part or any(one.value == affinity.value for one in batch))
    return Cores(count=count, numbers=numbers, nodes=_numa_nodes(surroundings, numbers), are_ours=are_ours)


def is_batch_job(surroundings: Surroundings) -> bool:
    """Whether a batch system says that this is a job of its."""
    return any(surroundings.variables.get(name) for name in _BATCH)


def cpus_on_node(surroundings: Surroundings) -> Found[int] | None:
    """The CPUs that Slurm gave the job on this node: what its memory per CPU is to be multiplied by."""
    on_node = surroundings.variable("SLURM_CPUS_ON_NODE", _one_or_more)
    if on_node is not None:
        return Found(on_node, "$SLURM_CPUS_ON_NODE")
    per_node = surroundings.variable("SLURM_JOB_CPUS_PER_NODE", partial(_of_this_node, _node_number(surroundings)))
    return None if per_node is None else Found(per_node, "$SLURM_JOB_CPUS_PER_NODE")


def _of_batch_system(surroundings: Surroundings) -> list[Found[int]]:
    found = []
    names = _COUNTED if is_batch_job(surroundings) else ()  # NCPUS and NSLOTS are set by others, too
    for name in names:
        number = surroundings.variable(name, _one_or_more)
        if number is not None:
            found.append(Found(number, f"${name}"))
    per_node = cpus_on_node(surroundings) if names else None
    return [*found, per_node] if per_node is not None else found


def _one_or_more(text: str) -> int:
    number = amount(text)
    if number < 1:
        raise ValueError(f"{number} is no number of cores")
    return number


def _node_number(surroundings: Surroundings) -> int:
    return surroundings.variable("SLURM_NODEID", amount) or 0


def _of_this_node(number: int, text: str) -> int:
    """The count of one node of a job, by its number; the least of all where the list has no such number."""
    counts = counts_per_node(text)
    for count, repeated in counts:
        if number < repeated:
            return _one_or_more(str(count))
        number -= repeated
    return _one_or_more(str(min(count for count, _ in counts)))


def _numa_nodes(surroundings: Surroundings, numbers: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The CPUs by NUMA node. One that no node lists forms a last group with others like it."""
    directory = "/sys/devices/system/node"
    nodes = []
    left = set(numbers)
    for name in sorted(filter(_is_node, surroundings.names(directory)), key=lambda name: int(name[4:])):
        path = f"{directory}/{name}/cpulist"
        here = surroundings.parsed(path, surroundings.text(path) or "", cpu_list) or ()
        nodes.append(tuple(cpu for cpu in here if cpu in left))
        left.difference_update(here)
    return _present([*nodes, tuple(sorted(left))])


def _is_node(name: str) -> bool:
    return name.startswith("node") and name[4:].isdecimal()


def _present(groups: Iterable[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    return tuple(group for group in groups if group)
