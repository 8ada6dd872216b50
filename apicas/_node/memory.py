"""How many bytes of memory there are for this process: the least of what the system and the batch system say."""

from __future__ import annotations

from typing import Final

from apicas._node import cgroups
from apicas._node.cores import cpus_on_node, is_batch_job
from apicas._node.surroundings import Found, Surroundings, least
from apicas._node.units import MAX_AMOUNT, amount

MEGABYTE: Final = 1 << 20


def find_memory(surroundings: Surroundings, cores: int, gpus: int) -> Found[int] | None:
    """Look for the memory; None where nothing tells, as on systems without /proc.

    What is free at the moment counts only where neither a batch system nor a control group has set anything aside: of a
    share, others cannot take away.

    Args:
        surroundings: where to look.
        cores: those found: memory per CPU is multiplied by them where Slurm does not say how many a job has here.
        gpus: likewise.
    """
    total = _of_the_node(surroundings, "MemTotal")
    shares = [*cgroups.memory_limits(surroundings), *_of_batch_system(surroundings, cores, gpus)]
    binding = [share for share in shares if total is None or share.value < total.value]
    if binding:
        return least(binding)
    available = None if is_batch_job(surroundings) else _of_the_node(surroundings, "MemAvailable")
    return available if available is not None else total


def _of_batch_system(surroundings: Surroundings, cores: int, gpus: int) -> list[Found[int]]:
    """What Slurm says, in megabytes. 0 stands for all the memory of a node, and is no limit."""
    found = []
    on_node = cpus_on_node(surroundings)
    for name, times in (
        ("SLURM_MEM_PER_NODE", 1),
        ("SLURM_MEM_PER_CPU", cores if on_node is None else on_node.value),
        ("SLURM_MEM_PER_GPU", gpus),
    ):
        megabytes = surroundings.variable(name, _megabytes)
        if megabytes and times:
            origin = f"${name}" if times == 1 else f"${name} x {times}"
            found.append(Found(min(megabytes * MEGABYTE * times, MAX_AMOUNT), origin))
    return found


def _megabytes(text: str) -> int:
    """Megabytes; `4096M` is taken too."""
    return amount(text.removesuffix("M"))


def _of_the_node(surroundings: Surroundings, name: str) -> Found[int] | None:
    for line in (surroundings.text("/proc/meminfo") or "").splitlines():
        label, _, rest = line.partition(":")
        if label == name:
            kilobytes = surroundings.parsed(f"{name} of /proc/meminfo", rest.removesuffix("kB").strip(), amount)
            return None if kilobytes is None else Found(kilobytes * 1024, f"{name} of /proc/meminfo")
    return None
