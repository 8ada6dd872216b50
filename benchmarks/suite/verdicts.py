"""What a measurement that is a command of its own tells the suite.

Some targets are not a rate: a latency, a start-up time, a makespan. Each such module is a command with tables for
people, and with `--json` it writes one JSON object per target to standard output, each on a line of its own, and
nothing else:

    python -m benchmarks.latency --json
    {"name": "idle start, SQLite", "figures": {"p50": 0.004, "p99": 0.02}, "target": "p99 <= 50 ms", "ratio": 0.4,
     "met": true}

(on one line). What goes wrong goes to standard error. Exit codes: 0 when it was measured, whether met or not; 3 when it
cannot be measured here, with the reason as the last line on standard error; anything else is a failure.

What the suite tells such a module stands in the environment:

- BENCH_COUCH: a server with an admin's name and password, `http://name:secret@host:port`; without it, a target on
  CouchDB is left out. Databases are the module's own, and are deleted afterwards.
- BENCH_REDIS: `redis://host:port`.
- BENCH_DIRECTORY: a directory on a real disk for files; without it, the system's for temporary files.
- BENCH_QUICK: set and not empty for a run of seconds that shows that all works, and whose figures mean nothing.

The suite runs a contender in the same way: `python -m benchmarks.contenders NAME` exits with 3, and the reason as the
last line on standard error, when its library or its server is not there, or when it cannot do the workload.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

MEASURED: Final = 0
"""The exit code of a module that has measured."""
LEFT_OUT: Final = 3
"""The exit code of a module, or a contender, that cannot be measured here; the last line on standard error says why."""
COUCH: Final = "BENCH_COUCH"
REDIS: Final = "BENCH_REDIS"
DIRECTORY: Final = "BENCH_DIRECTORY"
QUICK: Final = "BENCH_QUICK"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one target."""

    name: str
    """What was measured, and on which store: a line of the table of targets."""
    figures: dict[str, Any]
    """Whatever a reader may want to see; seconds, bytes, tokens per second, and counts."""
    target: str
    """In words, as in the table of targets."""
    ratio: float | None = None
    """What the target bounds: measured over its baseline, or over its limit where there is no baseline; as the target
    says it, so that 1.04 is within `<= 1.10 x`."""
    met: bool | None = None
    """None for what has no target."""
    note: str = ""
    """What a reader has to know."""


def parse(output: str) -> list[Verdict]:
    """The verdicts that a module wrote.

    Raises:
        msgspec.DecodeError: that is not what it wrote.
    """
    return [msgspec.json.decode(line, type=Verdict) for line in output.splitlines() if line.strip()]
