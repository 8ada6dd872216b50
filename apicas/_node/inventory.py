"""What of the node is free and what is out: never more is given out than there is, and each core and GPU only once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from apicas._node.names import CORES, CUDA, GPUS, MEMORY, in_words
from apicas._node.placement import choose_cores
from apicas._node.requests import Amounts, Request

if TYPE_CHECKING:
    from apicas._node.detection import Node

THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "JULIA_NUM_THREADS",
    "GOMAXPROCS",
)
"""The variables from which libraries take how many threads to start: by default each takes all cores of the node."""


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """What a token has been given; to be given back once. Two are the same only if they are one.

    Args:
        amounts: how much of what.
        cores: the CPUs it may have to itself; they count, even where it is not pinned to them.
        gpus: the GPUs, by their names.
        is_pinned: whether the token's processes should be kept to `cores`.
        gpu_variable: the environment variable that shows `gpus` to a command; "" where the node has none.
    """

    amounts: Amounts
    cores: tuple[int, ...] = ()
    gpus: tuple[str, ...] = ()
    is_pinned: bool = False
    gpu_variable: str = ""

    def of(self, name: str) -> int:
        """How much it has of one resource."""
        return next((number for one, number in self.amounts if one == name), 0)

    @property
    def memory(self) -> int:
        """Bytes of memory; 0 where the token asked for none."""
        return self.of(MEMORY)

    def variables(self) -> dict[str, str]:
        """The environment variables that keep a command to what it was given; on a node with GPUs, also to no GPU."""
        variables = dict.fromkeys(THREAD_VARIABLES, str(max(1, len(self.cores))))
        return {**variables, self.gpu_variable: ",".join(self.gpus)} if self.gpu_variable else variables


class Inventory:
    """What a node has, and who has what of it.

    Args:
        has: how much there is, by name.
        numa: the CPUs by NUMA node: where there are fewer than cores, the others have numbers of their own.
        gpus: the names of the GPUs; likewise.
        are_ours: whether tokens may be pinned to the cores.
        gpu_variable: see Allocation.
    """

    def __init__(
        self,
        has: Mapping[str, int],
        *,
        numa: Sequence[Sequence[int]] = (),
        gpus: Sequence[str] = (),
        are_ours: bool = False,
        gpu_variable: str = CUDA,
    ) -> None:
        self._has = {name: number for name, number in has.items() if number > 0}
        self._free = dict(self._has)
        known = [core for node in numa for core in node]
        self._are_ours = are_ours and len(known) >= self._has.get(CORES, 0)
        self._numa = self._named_cores(numa, known)
        self._cores = {core for node in self._numa for core in node}
        self._gpus = _named_gpus(gpus, self._has.get(GPUS, 0))
        self._gpu_variable = gpu_variable if self._gpus else ""
        self._out: set[Allocation] = set()

    @classmethod
    def of(cls, node: Node, *, pin: bool | None = None) -> Inventory:
        """The inventory of a node.

        Args:
            node: what was found.
            pin: whether tokens are pinned to their cores; None for where no other job is to be expected on them.
        """
        return cls(
            {name: found.value for name, found in node.has.items()},
            numa=node.cores.nodes,
            gpus=node.gpus.names,
            are_ours=node.cores.are_ours if pin is None else pin,
            gpu_variable=node.gpus.variable,
        )

    @property
    def has(self) -> Mapping[str, int]:
        """How much there is."""
        return self._has

    @property
    def free(self) -> Mapping[str, int]:
        """How much nobody has."""
        return self._free

    @property
    def pins(self) -> bool:
        """Whether tokens are to be pinned to their cores."""
        return self._are_ours

    def fits(self, request: Request) -> bool:
        """Whether there is enough free."""
        free = self._free
        return all(free.get(name, 0) >= number for name, number in request.amounts)

    def never_fits(self, request: Request) -> str:
        """Why a request can never be met here, however much comes free; "" if it can."""
        return "; ".join(
            f"it asks for {in_words(name, number)}, and this node has {in_words(name, self._has.get(name, 0))}"
            for name, number in request.amounts
            if number > self._has.get(name, 0)
        )

    def take(self, request: Request) -> Allocation | None:
        """Give out what is asked; None where there is not enough free."""
        if not self.fits(request):
            return None
        cores = choose_cores(self._cores, request.of(CORES), self._numa)
        gpus = tuple(self._gpus[: request.of(GPUS)])
        self._cores.difference_update(cores)
        del self._gpus[: len(gpus)]
        for name, number in request.amounts:
            self._free[name] -= number
        allocation = Allocation(request.amounts, cores, gpus, self._are_ours and bool(cores), self._gpu_variable)
        self._out.add(allocation)
        return allocation

    def give_back(self, allocation: Allocation) -> None:
        """Take back what was given out.

        Raises:
            ValueError: it was given back already, or is another inventory's.
        """
        if allocation not in self._out:
            raise ValueError("this allocation is not out")
        self._out.remove(allocation)
        self._cores.update(allocation.cores)
        self._gpus += allocation.gpus
        for name, number in allocation.amounts:
            self._free[name] += number

    def _named_cores(self, numa: Sequence[Sequence[int]], known: Sequence[int]) -> list[list[int]]:
        """As many cores as there are, by NUMA node: the first ones, or more that have a number and no place."""
        wanted = self._has.get(CORES, 0)
        nodes = []
        for node in numa:
            nodes.append(list(node[:wanted]))
            wanted -= len(nodes[-1])
        first = max(known, default=-1) + 1
        return [*nodes, list(range(first, first + wanted))]


def _named_gpus(names: Sequence[str], wanted: int) -> list[str]:
    """As many GPUs as there are; those that nothing told of get the next numbers."""
    named = list(names[:wanted])
    free = (str(number) for number in range(wanted + len(named)) if str(number) not in named)
    return named + [name for name, _ in zip(free, range(wanted - len(named)), strict=False)]
