"""Several measured processes that start together: the side of the one that measures."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders.environments import ROOT
from benchmarks.measuring import Sample, Spread, Trial

Report = Mapping[str, Any]
_LEAVE: Final = 10.0
"""Seconds that a process has for its end, after its report."""


def run_together(
    module: str, settings: Sequence[Mapping[str, Any]], *, python: str | Path = sys.executable
) -> tuple[float, list[Report]]:
    """Start a process per settings, let them go when all are ready, and wait for what they report.

    Args:
        module: with `work(settings, gate)`; see worker.py.
        settings: of each process; `tokens` is how many there are in the pool.
        python: to run them with.

    Returns:
        When they were let go, in seconds of the monotonic clock, which all processes of a machine share; their reports.

    Raises:
        RuntimeError: one of them failed; it said why on standard error.
    """
    command = [str(python), "-m", "benchmarks.contenders.worker", module]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes: list[subprocess.Popen[str]] = []
    try:
        for one in settings:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
            )
            processes.append(process)
            _tell(process, json.dumps(dict(one)))
        for process in processes:
            _expect(process, "ready")
        started = time.monotonic()
        for process in processes:
            _tell(process, "go")
        reports = [json.loads(_hear(process)) for process in processes]
        for process in processes:
            process.wait(_LEAVE)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return started, reports


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a measured process ended with exit code {process.wait()}")
    return line


def _expect(process: subprocess.Popen[str], word: str) -> None:
    line = _hear(process)
    if line != f"{word}\n":
        raise RuntimeError(f"a measured process said {line!r} instead of {word}")


def sample_of(
    trial: Trial, started: float, reports: Sequence[Report], *, upload_seconds: float | None, notes: list[str]
) -> Sample:
    """What the processes did, as one sample; a note says where they left tokens behind."""
    worked = _distinct(reports)
    left = [f"not worked: {trial.tokens - worked:,} of {trial.tokens:,} tokens"] if worked < trial.tokens else []
    return Sample(
        tokens=worked,
        seconds=max(report["last"] for report in reports) - started,
        upload_seconds=upload_seconds,
        executions=sum(report["executions"] for report in reports),
        lost_races=_sum(reports, "lost_races"),
        requests=_sum(reports, "requests"),
        sent=_sum(reports, "sent"),
        received=_sum(reports, "received"),
        cpu_seconds=sum(report["cpu"] for report in reports),
        memory=max(report["memory"] for report in reports),
        latency=spread([seconds for report in reports for seconds in report.get("latencies", ())]),
        notes=notes + left,
    )


def _distinct(reports: Sequence[Report]) -> int:
    """Tokens that at least one process worked."""
    worked = [zlib.decompress(base64.b64decode(report["worked"])) for report in reports]
    return sum(1 for counts in zip(*worked, strict=True) if any(counts))


def _sum(reports: Sequence[Report], name: str) -> int | None:
    found = [report[name] for report in reports if name in report]
    return sum(found) if found else None


def spread(seconds: list[float]) -> Spread | None:
    """The percentiles of some latencies; None where there are none."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    p50, p95, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.95, 0.99))
    return Spread(p50=p50, p95=p95, p99=p99)
