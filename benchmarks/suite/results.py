"""Results: every single measurement, as JSON. Secrets, names of hosts and paths are never part of one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from benchmarks.measuring import Sample, Trial, Workload
from benchmarks.suite.machine import Machine
from benchmarks.suite.verdicts import Verdict

FORMAT: Final = 1
Store: TypeAlias = Literal["file", "couch", "memory", "redis", "none"]
STORE_NAMES: Final = {"file": "SQLite", "couch": "CouchDB", "memory": "memory", "redis": "Redis", "none": "no store"}


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured: a Trial without its places, which are not the same on two machines."""

    contender: str
    store: Store
    workload: Workload = "noop"
    tokens: int = 10_000
    workers: int = 64
    pilots: int = 1
    batch: int | None = None
    seconds: float = 0.0
    size: int = 0
    wal: Literal["NORMAL", "FULL"] = "NORMAL"

    def trial(self, address: str, directory: Path) -> Trial:
        """The trial, with its places."""
        names = ("contender", "workload", "tokens", "workers", "pilots", "batch", "seconds", "size", "wal")
        fields = {name: getattr(self, name) for name in names}
        return Trial(**fields, store=address, directory=str(directory))

    def __str__(self) -> str:
        return f"{self.contender} on {STORE_NAMES[self.store]}: {self.setting}"

    @property
    def setting(self) -> str:
        """All but who is measured, and on what."""
        parts = [
            self.workload,
            f"{self.seconds:g} s" if self.seconds else "",
            f"{self.size:,} bytes" if self.size else "",
            f"{self.tokens:,} tokens",
            f"{self.pilots} x {self.workers} workers",
            "" if self.batch is None else f"batch {self.batch}",
            "" if self.wal == "NORMAL" else f"synchronous {self.wal}",
        ]
        return ", ".join(part for part in parts if part)


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a case: a sample, or why there is none."""

    case: Case
    repeat: int
    """From 0. Measurements of one repeat were made one after the other: ratios are taken between these."""
    group: str = ""
    """What was measured together: a set of targets. A case may be in several."""
    sample: Sample | None = None
    left_out: str = ""
    """Why it cannot be measured here."""
    failure: str = ""
    """What went wrong."""


class Result(msgspec.Struct, kw_only=True):
    """One sitting."""

    format: int = FORMAT
    name: str
    """What was asked for."""
    date: str
    """When it began, in UTC."""
    commit: str
    machine: Machine
    versions: dict[str, str]
    pragmas: dict[str, str] = {}
    measurements: list[Measurement] = []
    verdicts: list[Verdict] = []
    is_complete: bool = False
    """Whether it came to its end."""

    def cases(self) -> list[Case]:
        """What was measured, in the order in which it was begun."""
        return list(dict.fromkeys(one.case for one in self.measurements))

    def samples(self, case: Case) -> list[Sample | None]:
        """What came of a case, by round; None for one in which it was not measured, or failed."""
        return samples(self.measurements, case)

    def reasons(self) -> Iterator[tuple[Case, str]]:
        """What has no figures at all, and why."""
        for case in self.cases():
            if not any(self.samples(case)):
                last = [one for one in self.measurements if one.case == case][-1]
                yield case, last.left_out or last.failure


def samples(measurements: Sequence[Measurement], case: Case) -> list[Sample | None]:
    """What came of a case, by round: at the same place as what was measured beside it."""
    rounds = dict.fromkeys((one.group, one.repeat) for one in measurements)
    found = {(one.group, one.repeat): one.sample for one in measurements if one.case == case}
    return [found.get(each) for each in rounds]


def load(path: Path) -> Result:
    """Read a result.

    Raises:
        ValueError: it is none.
        OSError: it cannot be read.
    """
    result = msgspec.json.decode(path.read_bytes(), type=Result)
    if result.format != FORMAT:
        raise ValueError(f"{path.name} has format {result.format}, and this is format {FORMAT}")
    return result


def save(result: Result, path: Path) -> None:
    """Write a result, so that there is always a whole one, also when this is cut short."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    os.replace(new, path)  # noqa: PTH105 - the same
