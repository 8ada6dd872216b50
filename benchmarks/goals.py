"""What the benchmarks of single targets share; see benchmarks/suite/verdicts.py for what they tell the suite."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from statistics import median
from typing import Any

import msgspec

from benchmarks.suite.verdicts import DIRECTORY, MEASURED, QUICK, Verdict


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark of a target takes."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="write one JSON object per target")
    made.add_argument("--measure", metavar="JSON", help=argparse.SUPPRESS)
    return made


def show(verdicts: Sequence[Verdict], *, as_json: bool) -> int:
    """Write what came out; the exit code."""
    for verdict in verdicts:
        print(msgspec.json.encode(verdict).decode() if as_json else _line(verdict))
    return MEASURED


def _line(verdict: Verdict) -> str:
    figures = ", ".join(f"{name} {value:,.4g}" for name, value in verdict.figures.items())
    ratio = "" if verdict.ratio is None else f"{verdict.ratio:.3f}; "
    told = {True: "met", False: "NOT MET", None: verdict.note or "not judged"}[verdict.met]
    return f"{verdict.name}: {ratio}{verdict.target}: {told}\n    {figures}"


def apart(module: str, trial: dict[str, Any]) -> dict[str, float]:
    """One measurement of a module in a process of its own: what it says to `--measure`.

    Raises:
        RuntimeError: it failed; with what it wrote to standard error.
    """
    command = [sys.executable, "-m", module, "--measure", json.dumps(trial)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} {trial}: {done.stderr[-4000:]}")
    said: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return said


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory for files, on the disk that the suite has chosen."""
    return tempfile.TemporaryDirectory(dir=os.environ.get(DIRECTORY) or None)


def is_quick() -> bool:
    """Whether the figures mean nothing, and are only to show that all works."""
    return bool(os.environ.get(QUICK))


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def middle(values: Sequence[float]) -> float:
    """The median, to six digits."""
    return round(median(values), 6)
