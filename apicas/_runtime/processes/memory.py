"""The memory of attempts: looked at a few times a second, by one thread for all.

The resident memory of an attempt's processes is added up. What they share is counted more than once by that, so an
attempt that seems to take too much is looked at again, with each page divided among those that share it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from apicas._runtime.processes.attempt import Attempt
from apicas._runtime.processes.marks import PROCESSES, Look, Process

_KILOBYTE: Final = 1024
OOM_AGE: Final = 5.0
"""Seconds for which a kill of the kernel's for want of memory explains the death of a process."""
_COUNTERS: Final = "/proc/vmstat"


class Sampler:
    """Adds up the memory of attempts.

    Args:
        pilot: whose attempts they are.
    """

    def __init__(self, pilot: tuple[str, int, int, str]) -> None:
        self._pilot = pilot
        self._look = Look(keeps=True)

    def sample(self, attempts: Sequence[Attempt]) -> list[Process]:
        """Look once: note the peaks, and tell those whose tokens take more than their limit.

        Returns:
            All that was seen.
        """
        kills.look()
        processes = self._look.take()
        shares = self._shares(attempts, processes)
        totals: defaultdict[object, int] = defaultdict(int)
        for attempt in attempts:
            taken = sum(process.resident for process in shares[attempt.number])
            attempt.peak = max(attempt.peak, taken)
            totals[attempt.group] += taken
        for attempt in attempts:
            if attempt.limit is not None and totals[attempt.group] > attempt.limit:
                self._check(attempt, [other for other in attempts if other.group == attempt.group], shares)
        return processes

    def _shares(self, attempts: Iterable[Attempt], processes: Iterable[Process]) -> dict[int, list[Process]]:
        """The processes of each attempt."""
        sessions = {attempt.session: attempt.number for attempt in attempts if attempt.session}
        whose: dict[int, int] = {}
        for process in processes:
            number = next((mark.attempt for mark in process.marks if mark.pilot == self._pilot), None)
            number = sessions.get(process.session) if number is None else number
            if number is not None:
                whose[process.pid] = number
        shares: dict[int, list[Process]] = {attempt.number: [] for attempt in attempts}
        for process in processes:
            number = whose.get(process.pid, whose.get(process.parent))
            if number in shares:
                shares[number].append(process)
        return shares

    def _check(self, attempt: Attempt, group: Iterable[Attempt], shares: dict[int, list[Process]]) -> None:
        taken = sum(_proportional(process) for other in group for process in shares[other.number])
        if attempt.limit is not None and taken > attempt.limit and attempt.on_excess is not None:
            attempt.on_excess(taken)


def _proportional(process: Process) -> int:
    """Bytes of memory that a process takes, with what is shared divided among all who do."""
    try:
        with open(f"{PROCESSES}/{process.pid}/smaps_rollup", "rb") as file:  # noqa: PTH123 - it is no real file
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * _KILOBYTE
    except OSError:  # it has ended, or may not be looked into
        pass
    return process.resident


class Kills:
    """How often the kernel has killed a process of this node for want of memory."""

    def __init__(self) -> None:
        self._count = self._read()
        self._latest = -OOM_AGE

    def look(self) -> None:
        """Note when there are more of them."""
        count = self._read()
        if count > self._count:
            self._count = count
            self._latest = time.monotonic()

    def lately(self) -> bool:
        """Whether there was one in the last seconds."""
        self.look()
        return time.monotonic() - self._latest < OOM_AGE

    def _read(self) -> int:
        try:
            with open(_COUNTERS, "rb") as file:  # noqa: PTH123 - it is no real file
                for line in file:
                    if line.startswith(b"oom_kill "):
                        return int(line.split()[1])
        except OSError:
            pass
        return 0


kills: Final = Kills()
