"""Process groups: to signal one, and to know for certain that it is gone.

Rules:
- A group's id names it as long as one member exists, a zombie included. After that it may name somebody else's. So the
  leader is left a zombie until the group has had its KILL: no signal ever goes to a stranger.
- A zombie is no living member: an orphan's zombie stays for as long as its new parent pleases.
- KILL reaches all members in one step of the kernel; none can fork its way past it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

SCAN_AGE: Final = 0.02
"""Seconds that a look at all processes is good for: one look serves every command that waits at that moment."""
_PROCESSES: Final = "/proc"
_STAT_BYTES: Final = 2_048
"""More than a process's stat file has: fifty numbers and a short name."""
_DEAD: Final = frozenset({b"Z", b"X", b"x"})


def signal_group(group: int, number: int) -> bool:
    """Send a signal to all members; False where there is nobody whom it could be sent to."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def is_gone(group: int, since: float) -> bool:
    """Whether a group whose leader has been reaped has no living member left.

    Args:
        group: its id.
        since: when it had its KILL, in monotonic seconds.
    """
    if _has_nobody(group):
        return True
    _reap_adopted(group)
    # What cannot be signalled runs as somebody else, and lives.
    return _has_nobody(group) or (signal_group(group, 0) and not living.has(group, since))


def _has_nobody(group: int) -> bool:
    """Whether there is no such group any more, not even with zombies."""
    try:
        os.killpg(group, 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False


def _reap_adopted(group: int) -> None:
    """Reap orphans of the group that became ours: they do in a container whose first process we are."""
    with suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG) != (0, 0):
            pass


class LivingGroups:
    """The groups that have living members, as one look at /proc shows them."""

    def __init__(self) -> None:
        self._look: tuple[float, frozenset[int]] = (-1.0, frozenset())

    def has(self, group: int, since: float) -> bool:
        """Whether the group has a living member.

        Args:
            group: its id.
            since: monotonic seconds; an older look does not count. A group that was there then, and had no living
                member in a later look, never gets one again.
        """
        taken, groups = self._look
        now = time.monotonic()
        if taken < since or taken < now - SCAN_AGE:
            groups = frozenset(_living_groups())
            self._look = (now, groups)
        # Where there is no /proc, zombies cannot be told apart: every group that exists counts as living.
        return group in groups or not groups


living: Final = LivingGroups()


def _living_groups() -> Iterator[int]:
    # Plain os calls: a node has thousands of processes, and this runs on the event loop.
    with suppress(FileNotFoundError):
        for process in os.listdir(_PROCESSES):  # noqa: PTH208 - the line above says why
            if process.isdigit():
                with suppress(OSError):  # it ended meanwhile
                    state, group = _state_and_group(process)
                    if state not in _DEAD:
                        yield group


def _state_and_group(process: str) -> tuple[bytes, int]:
    descriptor = os.open(f"{_PROCESSES}/{process}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        stat = os.read(descriptor, _STAT_BYTES)
    finally:
        os.close(descriptor)
    # The second field is the program's name in brackets, and may hold blanks and brackets of its own.
    state, _parent, group = stat.rpartition(b")")[2].split(maxsplit=3)[:3]
    return state, int(group)
