"""One pilot, as a process: `python -m benchmarks.chaos.pilot`, with its settings in the environment."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
from pathlib import Path
from typing import Any, Final

import apicas
from benchmarks.chaos.lines import settings
from benchmarks.chaos.work import Work, lines

DRAINED: Final = 3
"""The exit code of a pilot that a signal ended."""


class _Reclaims(logging.Handler):
    """Notes the reclaims of this pilot, which it logs."""

    def emit(self, record: logging.LogRecord) -> None:
        for token in getattr(record, "reclaimed", ()):
            lines().reclaimed(str(token), str(getattr(record, "owner", "")))


async def _main(chosen: dict[str, Any]) -> int:
    async with apicas.connect(chosen["pool"]) as client:
        iterator = apicas.BasicViewIterator(client, **chosen["keeping"])
        async with iterator:
            iterator.keeper.watch_endings(lambda ending: lines().ending(ending.value))
            report = await Work(iterator).run(handle_signals=True, **chosen["running"])
    print(report, report.reason, file=sys.stderr)
    return DRAINED if report.signals else 0


def main() -> int:
    """Run one pilot to its end."""
    chosen = settings()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("apicas").addHandler(_Reclaims())
    if chosen["memory"]:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        size = pages * resource.getpagesize() + chosen["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    return asyncio.run(_main(chosen))


if __name__ == "__main__":
    sys.exit(main())
