"""The names of resources: those that every node may have, and how the user's own look."""

from __future__ import annotations

import re
from typing import Final

from apicas._documents import shown

CORES: Final = "cores"
MEMORY: Final = "memory"
GPUS: Final = "gpus"
SCRATCH: Final = "scratch"
IN_BYTES: Final = frozenset({MEMORY, SCRATCH})
"""Those that are counted in bytes, and written with a unit."""
CUDA: Final = "CUDA_VISIBLE_DEVICES"
"""The environment variable that shows GPUs to a program, unless the node has others than Nvidia's."""

_NAME = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)


def is_resource_name(name: object) -> bool:
    """Whether something can be the name of a resource."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def in_words(name: str, number: int) -> str:
    """An amount in words: `3 cores`, `1.5 GiB of memory`, `2 of 'license'`."""
    if name in IN_BYTES:
        size = f"{number / 2**30:.4g} GiB" if number >= 1 << 30 else f"{number / 2**20:.4g} MiB"
        return f"{size} of {name}"
    singular = {CORES: "core", GPUS: "GPU"}.get(name)
    if singular is None:
        return f"{number} of {shown(name)}"
    return f"{number} {singular}{'' if number == 1 else 's'}"
