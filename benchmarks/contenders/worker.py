"""The inside of a measured process: it gets ready, waits for the others, works, and says what it did.

`python -m benchmarks.contenders.worker MODULE`, with a line of JSON on standard input: what `MODULE.work(settings,
gate)` gets. Needs nothing but the standard library, since it runs in the peers' environments.

The module calls `gate.wait()` when it is ready, which returns when all processes are, counts every execution with
`gate.tally`, and calls `gate.acknowledged()` after tokens were committed: the last such moment is the end.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import os
import resource
import sys
import time
import zlib
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TextIO

_QUIET: Final = 2.0
"""Seconds."""


class Gate:
    """The barrier of one process, and its count.

    Args:
        tokens: in the pool; they are numbered from 0.
        lines: from and to the process that measures.
    """

    def __init__(self, tokens: int, lines: tuple[TextIO, TextIO]) -> None:
        self._received, self._sent = lines
        self._executed = bytearray(tokens)
        self._beyond = 0
        self._cpu = 0.0
        self._last = 0.0
        self.extra: dict[str, Any] = {}
        """Further figures for the report: `requests`, `sent`, `received`, `lost_races`, `latencies`."""

    def wait(self) -> None:
        """Say that this process is ready, and wait until all are."""
        self._say("ready")
        if self._received.readline() != "go\n":
            raise SystemExit("the measuring process is gone")
        self._cpu = _cpu_seconds()
        self._last = time.monotonic()

    async def opened(self) -> None:
        """Like `wait`, in a loop that has to go on meanwhile."""
        await asyncio.to_thread(self.wait)

    def tally(self, number: int) -> None:
        """Count an execution of a token."""
        if self._executed[number]:
            self._beyond += 1
        else:
            self._executed[number] = 1

    def tally_all(self, numbers: Iterable[int]) -> None:
        """Count an execution of each of these tokens."""
        for number in numbers:
            self.tally(number)

    def acknowledged(self) -> None:
        """Note that the store has just confirmed outcomes."""
        self._last = time.monotonic()

    def is_quiet(self) -> bool:
        """Whether nothing was acknowledged for a while: the queue is empty. The while is not counted."""
        return time.monotonic() - self._last > _QUIET

    def report(self) -> None:
        """Say what this process did."""
        worked = base64.b64encode(zlib.compress(bytes(self._executed))).decode()
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
        figures = {
            "last": self._last,
            "cpu": _cpu_seconds() - self._cpu,
            "memory": own,
            "worked": worked,
            "executions": sum(self._executed) + self._beyond,
            **self.extra,
        }
        self._say(json.dumps(figures))

    def _say(self, line: str) -> None:
        self._sent.write(line + "\n")
        self._sent.flush()


def _cpu_seconds() -> float:
    """Processor time of this process, all its threads, and its children that have ended."""
    return sum(os.times()[:4])


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop."""
    import uvloop  # noqa: PLC0415 - PiCaS's environment has none

    uvloop.run(main)


def main() -> None:
    """Run one process."""
    # What a peer prints must not come between our lines.
    sent = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    settings = json.loads(sys.stdin.readline())
    gate = Gate(settings["tokens"], (sys.stdin, sent))
    importlib.import_module(sys.argv[1]).work(settings, gate)
    gate.report()


if __name__ == "__main__":
    main()
