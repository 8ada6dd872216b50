"""The names of resources: those that every node may have, and how the user's own look."""

from __future__ import annotations

import re
from typing import Final

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
