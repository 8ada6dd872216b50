"""What a node has for this process, and where each value came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from apicas._documents import shown
from apicas._node.cores import Cores, find_cores
from apicas._node.gpus import Gpus, find_gpus
from apicas._node.memory import find_memory
from apicas._node.names import CORES, GPUS, IN_BYTES, MEMORY, SCRATCH, is_resource_name
from apicas._node.scratch import Scratch, find_scratch
from apicas._node.surroundings import Found, Surroundings
from apicas._node.units import amount, bytes_of
from apicas.exceptions import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What there is.

    Args:
        cores: the CPUs.
        gpus: the GPUs.
        scratch: where there is room for files.
        has: how much there is of everything, by name, and what said so: whatever is given here holds.
        warnings: sentences about what was odd.
    """

    cores: Cores
    gpus: Gpus
    scratch: Scratch | None
    has: Mapping[str, Found[int]]
    warnings: tuple[str, ...] = ()


def find_node(surroundings: Surroundings | None = None, given: Mapping[str, int] | None = None) -> Node:
    """Look at this node.

    Args:
        surroundings: where to look; the real ones by default.
        given: what the user says there is: it replaces what was found, and adds what nothing tells of.
    """
    surroundings = surroundings or Surroundings()
    cores = find_cores(surroundings)
    gpus = find_gpus(surroundings)
    scratch = find_scratch(surroundings)
    memory = find_memory(surroundings, cores.count.value, len(gpus.names))
    has = {CORES: cores.count, GPUS: Found(len(gpus.names), gpus.origin)}
    if memory is not None:
        has[MEMORY] = memory
    if scratch is not None:
        has[SCRATCH] = Found(scratch.free, f"free in {scratch.directory.value}, {scratch.directory.origin}")
    for name, number in (given or {}).items():
        _warn_of_more(surroundings, name, number, has.get(name))
        has[name] = Found(number, "given")
    return Node(cores=cores, gpus=gpus, scratch=scratch, has=has, warnings=tuple(surroundings.warnings))


def parse_given(texts: Iterable[str]) -> dict[str, int]:
    """What a user says there is: `license=4`, `memory=64G`.

    Raises:
        ConfigError: a text is no name and number.
    """
    given = {}
    for text in texts:
        name, equals, number = text.partition("=")
        if not equals or not is_resource_name(name):
            raise ConfigError(f"{shown(text)} is no resource such as license=4")
        try:
            given[name] = (bytes_of if name in IN_BYTES else amount)(number)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None
    return given


def _warn_of_more(surroundings: Surroundings, name: str, number: int, found: Found[int] | None) -> None:
    if found is not None and number > found.value:
        surroundings.warn(f"{name}: {number} were given, and {found.value} found ({found.origin})")
