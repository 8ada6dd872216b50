"""The work of `apicas bench`: measurements beside the user's pool, and what is shown of them."""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec

from apicas._bench.figures import duration, latency, median_of, number, per_token, twice
from apicas._bench.measure import measure
from apicas._bench.pools import Place, beside
from apicas._bench.records import Sample, Trial, Workload
from apicas._bench.statistics import summarize
from apicas._runtime.dedicated import loop_factory
from apicas.actors import usable_cores
from apicas.cli.terminal import agree, plural, say, say_json, tell
from apicas.configuration import Configuration

_TOKENS: Final[dict[Workload, int]] = {"noop": 5_000, "large": 500, "attachment": 500, "process": 500}
"""How many make a measurement of some seconds."""
_ROUNDS: Final = 20
"""Tokens that each worker gets, where tokens take time."""
_HEAD: Final = (
    *("workload", "tokens", "tokens/s", "from", "to", "of ideal", "upload/s", "p50", "p95", "p99"),
    *("requests", "CPU", "memory"),
)
_LEGEND: Final = """\
tokens/s: the median, and the slowest and the fastest of all repeats. of ideal: as if all workers worked all the time.
p50, p95, p99: from the claim of a token to its confirmed outcome. requests: per token, to the server or of the file.
CPU: seconds of the pilots for 1,000 tokens, without the server's. memory: the largest that one pilot had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured; see the options of the command."""

    workloads: Sequence[Workload]
    tokens: int | None
    workers: int
    pilots: int
    seconds: float
    size: int
    repeats: int

    def trials(self) -> list[Trial]:
        """One for each workload."""
        return [self._trial(workload) for workload in dict.fromkeys(self.workloads)]

    def _trial(self, workload: Workload) -> Trial:
        # More processes at once than cores would only wait for one another.
        workers = min(self.workers, usable_cores()) if workload == "cpu" else self.workers
        enough = _TOKENS.get(workload, _ROUNDS * workers * self.pilots)
        return Trial(
            contender="apicas",
            workload=workload,
            tokens=self.tokens or enough,
            workers=workers,
            pilots=self.pilots,
            seconds=self.seconds if workload in {"sleep", "process", "cpu"} else 0.0,
            size=self.size if workload in {"large", "attachment"} else 0,
        )


def run(configuration: Configuration, plan: Plan, *, yes: bool, as_json: bool) -> None:
    """Measure, and show what came out.

    Raises:
        ConfigError: it cannot be measured there.
        AccessDeniedError: no database may be made.
        asyncio.CancelledError: SIGTERM came, and all is deleted.
    """
    place, trials = beside(configuration.pool, _options(configuration)), plan.trials()
    where = "on the server of" if configuration.is_remote else "beside"
    what = f"{plural(plan.repeats * len(trials), 'measurement')} {where} {configuration.pool}"
    agree(f"Make {what}, each in a new database that is deleted afterwards?", yes=yes)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        found = runner.run(_measure_all(trials, place, plan.repeats))
    if as_json:
        _write_json(configuration.pool, found)
    else:
        _write_table(found)


def _options(configuration: Configuration) -> dict[str, Any]:
    """What a client of the same server takes."""
    names = ("username", "password", "auth", "ca_file") if configuration.is_remote else ()
    options = {name: getattr(configuration, name) for name in names}
    return {name: value for name, value in options.items() if value is not None}


async def _measure_all(trials: Sequence[Trial], place: Place, repeats: int) -> dict[Trial, list[Sample]]:
    """Measure all, and then all of it again: what changes on the machine meanwhile changes all alike."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    found: dict[Trial, list[Sample]] = {trial: [] for trial in trials}
    for repeat in range(repeats):
        for trial in trials:
            sample = await measure(trial, place)
            found[trial].append(sample)
            tell(f"{trial.workload}, {repeat + 1} of {repeats}: {sample.rate:,.0f} tokens/s")
    return found


def _write_json(pool: str, found: dict[Trial, list[Sample]]) -> None:
    places = {"contender", "store", "directory"}
    measurements = [
        {
            **{name: value for name, value in msgspec.to_builtins(trial).items() if name not in places},
            "rate": median_of(samples, lambda sample: sample.rate),
            "samples": msgspec.to_builtins(samples),
        }
        for trial, samples in found.items()
    ]
    say_json(msgspec.json.encode({"pool": pool, "measurements": measurements}))


def _write_table(found: dict[Trial, list[Sample]]) -> None:
    rows = [list(_HEAD), *(_row(trial, samples) for trial, samples in found.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        say("  ".join([row[0].ljust(len(first)), *others]))
    say("")
    for line in _LEGEND.splitlines():
        say(line)
    for trial, samples in found.items():
        _tell_surprises(trial, samples)


def _row(trial: Trial, samples: Sequence[Sample]) -> list[str]:
    rate = summarize([sample.rate for sample in samples])
    latencies = [median_of(samples, partial(latency, name=name)) for name in ("p50", "p95", "p99")]
    return [
        trial.workload,
        f"{trial.tokens:,}",
        *(f"{value:,.0f}" for value in ((rate.median, rate.low, rate.high) if rate else (0, 0, 0))),
        number(_of_ideal(trial, rate.median if rate else 0), "{:.0f} %", 100),
        number(
            median_of(samples, lambda one: one.tokens / one.upload_seconds if one.upload_seconds else None), "{:,.0f}"
        ),
        *map(duration, latencies),
        number(median_of(samples, lambda one: per_token(one, "requests")), "{:.3g}"),
        number(median_of(samples, lambda one: per_token(one, "cpu_seconds")), "{:.2g} s", 1000),
        number(median_of(samples, lambda one: one.memory), "{:.0f} MB", 1e-6),
    ]


def _of_ideal(trial: Trial, rate: float) -> float | None:
    """The share of the rate at which all workers would always work, where a token takes a known time."""
    if trial.workload not in {"sleep", "process"} or not trial.seconds:
        return None
    rounds = math.ceil(trial.tokens / (trial.workers * trial.pilots))
    return rate * rounds * trial.seconds / trial.tokens


def _tell_surprises(trial: Trial, samples: Sequence[Sample]) -> None:
    if again := twice(samples):
        tell(f"{trial.workload}: {plural(again, 'execution')} more than tokens")
    for note in dict.fromkeys(note for sample in samples for note in sample.notes):
        tell(f"{trial.workload}: {note}")
