"""How a command is run, and how it ended."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypedDict

from apicas.exceptions import ConfigError

Command: TypeAlias = "Sequence[str | os.PathLike[str]] | str"
"""A program and its arguments; a string is a line for the shell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """How a command ended.

    Args:
        exit_code: its own; 128 + n where signal n ended it, as in a shell; 255 where it cannot be known.
        signal: the number of the signal that ended it, else None.
        stdout: what it wrote, head and tail, with a line in between that says how many bytes are missing.
        stderr: the same for its errors.
        seconds: from the start to its end.
        cpu_seconds: user and system time on all cores, with that of its children which it has waited for; None where it
            cannot be known.
        peak_memory: bytes, as far as is known: the most that one of its processes took where that is more than this
            process has, or all together, where they ran long enough to be looked at; None where nothing is known.
        out_of_memory: whether it was killed, and the kernel has just killed somebody for want of memory.
    """

    exit_code: int
    signal: int | None
    stdout: bytes
    stderr: bytes
    seconds: float
    cpu_seconds: float | None = None
    peak_memory: int | None = None
    out_of_memory: bool = False

    @property
    def ok(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0


class CommandKeywords(TypedDict, total=False):
    """The keywords of run_command; see CommandOptions."""

    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str] | None
    shell: bool
    timeout: float | None
    grace: float
    capture: int
    stdin: bytes | None
    check: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOptions:
    """How a command is run.

    Args:
        cwd: its directory; None for ours.
        env: its whole environment; None for ours.
        shell: whether the command is a line for `/bin/sh`.
        timeout: seconds until it is ended; None for no limit.
        grace: seconds between TERM and KILL.
        capture: bytes that are kept of each of stdout and stderr.
        stdin: what it can read; None for nothing.
        check: whether an exit code other than 0 raises.
    """

    cwd: str | os.PathLike[str] | None = None
    env: Mapping[str, str] | None = None
    shell: bool = False
    timeout: float | None = None
    grace: float = 5.0
    capture: int = 1_000_000
    stdin: bytes | None = None
    check: bool = False

    def __post_init__(self) -> None:
        for name in ("timeout", "grace", "capture"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"{name} is {value}: it cannot be less than 0")
