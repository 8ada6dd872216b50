"""Where a node is looked at: variables, files below a root, and two questions to the system. Tests pass their own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from apicas._documents import shown

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MAX_FILE: Final = 1 << 20
"""Bytes that are read of a file of the kernel's; they are all far smaller."""


@dataclass(frozen=True, slots=True)
class Found(Generic[T_co]):
    """A value, and where it came from, in words for `apicas doctor`."""

    value: T_co
    origin: str


def _affinity() -> Collection[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _free_bytes(directory: Path) -> int:
    return shutil.disk_usage(directory).free


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a node is known from.

    Args:
        variables: the environment.
        root: the directory that holds `proc`, `sys` and `dev`.
        affinity: answers with the CPUs that this process may run on.
        free_bytes: answers with the free bytes of the file system that a directory is on.
        warnings: gets a sentence for each odd value that was passed over.
    """

    variables: Mapping[str, str] = field(default_factory=lambda: os.environ)
    root: Path = Path("/")
    affinity: Callable[[], Collection[int]] = _affinity
    free_bytes: Callable[[Path], int] = _free_bytes
    warnings: list[str] = field(default_factory=list)

    def path(self, absolute: str) -> Path:
        """A path of the system, below the root."""
        return self.root / absolute.lstrip("/")

    def text(self, absolute: str) -> str | None:
        """What a file of the system holds, without blanks around it; None where it cannot be read."""
        try:
            with self.path(absolute).open("rb") as file:
                return file.read(MAX_FILE).decode(errors="replace").strip()
        except (OSError, ValueError):  # a NUL in its name is a ValueError
            return None

    def names(self, absolute: str) -> list[str]:
        """The names in a directory of the system, in order; none where it cannot be read."""
        try:
            return sorted(entry.name for entry in self.path(absolute).iterdir())
        except (OSError, ValueError):
            return []

    def variable(self, name: str, parse: Callable[[str], T]) -> T | None:
        """What a variable says; None where it is not set, empty, or odd: that is worth a warning.

        Args:
            name: the variable.
            parse: makes the value of it; raises ValueError with the reason.
        """
        text = self.variables.get(name, "").strip()
        return self.parsed(f"${name}", text, parse) if text else None

    def parsed(self, origin: str, text: str, parse: Callable[[str], T]) -> T | None:
        """What a text says; None, and a warning, where it is odd."""
        try:
            return parse(text)
        except (ValueError, OverflowError) as error:
            self.warn(f"{origin} is not used: {error}")
            return None

    def warn(self, sentence: str) -> None:
        """Note that something is odd, once."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)


def least(found: list[Found[Any]]) -> Found[Any] | None:
    """The one with the least value, the first of them where several have it."""
    return min(found, key=lambda one: one.value, default=None)


def listed(values: Collection[Any]) -> str:
    """Some values for a sentence."""
    return ", ".join(shown(value) for value in values)
