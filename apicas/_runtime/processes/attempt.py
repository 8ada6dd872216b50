"""Attempts, as the system sees them: one process that is started, with all that it starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from apicas._runtime.processes.allotment import Environment
from apicas._runtime.processes.marks import (
    VARIABLE,
)


class MemoryLimit(NamedTuple):
    """How much memory processes may take.

    Args:
        most: bytes; None for no limit.
        shared_by: the limit is that of all groups together for which this is the same; None for a group of its own.
    """

    most: int | None = None
    shared_by: object = None


@dataclass(slots=True, eq=False)
class Attempt:
    """One process that is started, with all that it starts.

    Args:
        number: no other one of this process has it.
        value: its mark, and those around it.
    """

    number: int = 0
    value: str = ""
    session: int = 0
    place: int | None = None
    limit: int | None = None
    """Bytes of memory that its token may take."""
    group: object = None
    """Attempts of the same group share the limit."""
    on_excess: Callable[[int], None] | None = None
    """Called in another thread, with the bytes that were taken."""
    peak: int = 0
    """Bytes of memory, as far as looks have shown it."""

    def marked(self, environment: Environment) -> Environment:
        """An environment with the mark, for its process.

        Args:
            environment: the whole of it; None for ours.
        """
        if not self.value:
            return environment
        if environment is None:
            # The dictionary behind it, where there is one: a copy of the mapping takes a call for each variable.
            ours: Mapping[bytes, bytes] = getattr(os.environb, "_data", os.environb)
            return {**ours, VARIABLE.encode(): self.value.encode()}
        given: Mapping[Any, Any] = environment
        if isinstance(next(iter(given), ""), bytes):
            return {**given, VARIABLE.encode(): self.value.encode()}
        return {**given, VARIABLE: self.value}
