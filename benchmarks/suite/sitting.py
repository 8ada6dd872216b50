"""One sitting: measurements on one machine, written to a file as they come, so that Ctrl-C keeps what is done."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from apicas.exceptions import ApicasError
from benchmarks.suite.machine import commit, machine, pragmas, server_version, versions
from benchmarks.suite.plans import Sizes
from benchmarks.suite.results import Case, Measurement, Result, save
from benchmarks.suite.running import Places, Say, run_all, run_module
from benchmarks.suite.targets import Module, Set
from benchmarks.suite.verdicts import Verdict


@dataclass(slots=True)
class Sitting:
    """Measures, and writes what comes out.

    Args:
        result: what there is so far.
        path: where it is written.
        places: where it is measured.
        say: shows a line.
    """

    result: Result
    path: Path
    places: Places
    say: Say

    def measure(self, cases: Sequence[Case], repeats: int, group: str = "") -> list[Measurement]:
        """Measure cases, interleaved."""
        found = []
        for each in run_all(cases, repeats, self.places, self.say):
            one = msgspec.structs.replace(each, group=group)
            found.append(one)
            self.result.measurements.append(one)
            save(self.result, self.path)
        return found

    def judge_set(self, name: str, one: Set, sizes: Sizes) -> None:
        """Measure a set, and say whether its targets are met."""
        self._note(one.judge(self.measure(one.cases(sizes), sizes.repeats, name), sizes))

    def judge_module(self, one: Module) -> None:
        """Let a module measure for itself."""
        self._note(run_module(one.module, self.places))

    def _note(self, verdicts: Sequence[Verdict]) -> None:
        self.result.verdicts.extend(verdicts)
        save(self.result, self.path)
        for verdict in verdicts:
            self.say(in_short(verdict))

    def finish(self) -> None:
        """Note that it came to its end."""
        self.result.is_complete = True
        save(self.result, self.path)


def in_short(verdict: Verdict) -> str:
    """A verdict in one line."""
    if verdict.met is None:
        return f"  {verdict.name}: {verdict.note or 'no target'}"
    measured = "" if verdict.ratio is None else f": {verdict.ratio:.3g}"
    return f"  {verdict.name}, {verdict.target}{measured}: {'met' if verdict.met else 'NOT MET'}"


def begin(name: str, path: Path, places: Places, wal: str, say: Say) -> Sitting:
    """Begin a sitting: note where it is."""
    found = versions()
    if "couch" in places.addresses:
        try:
            kind, _, number = server_version(places.addresses["couch"]).partition(" ")
            found[kind] = number
        except (OSError, ValueError) as error:
            say(f"the server's version is not known: {error}")
    result = Result(
        name=name,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        commit=commit(),
        machine=machine(places.directory),
        versions=found,
        pragmas=_pragmas(places.directory, wal),
    )
    return Sitting(result, path, places, say)


def _pragmas(directory: Path, wal: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory(prefix="apicas-bench-", dir=directory) as own:
        try:
            return asyncio.run(pragmas(Path(own), wal))
        except (ApicasError, sqlite3.Error):  # a disk on which no pool can be: what is measured there will say so
            return {}
