"""Runs cases, each in a process of its own, interleaved: all cases once, then all of them again.

On a machine whose speed changes from minute to minute, what is compared has to be measured side by side.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.contenders.environments import ROOT
from benchmarks.measuring import Sample
from benchmarks.suite.results import Case, Measurement, Store
from benchmarks.suite.verdicts import COUCH, DIRECTORY, LEFT_OUT, QUICK, REDIS, Verdict, parse

FAREWELL: Final = 30.0
"""Seconds in which a measurement that is cut short has to delete what it made."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where it is measured.

    Args:
        directory: on a real disk; each measurement gets a new one in it.
        addresses: of servers, with secrets; a store that needs none has none.
        limit: seconds that one measurement may take.
        quick: whether the modules that measure for themselves only show that all works.
    """

    directory: Path
    addresses: Mapping[Store, str] = field(default_factory=dict)
    limit: float = 600.0
    quick: bool = False

    def why_not(self, store: Store) -> str:
        """Why a store cannot be measured on; empty where it can."""
        if store == "couch" and "couch" not in self.addresses:
            return f"no CouchDB was named: --couch URL, or ${COUCH}"
        return ""

    def address(self, store: Store) -> str:
        """What a trial gets to know."""
        return "memory:" if store == "memory" else self.addresses.get(store, "")

    def environment(self) -> dict[str, str]:
        """What a module that measures for itself gets to know."""
        names: tuple[tuple[str, Store], ...] = ((COUCH, "couch"), (REDIS, "redis"))
        told = {name: self.addresses[store] for name, store in names if store in self.addresses}
        quick = {QUICK: "1"} if self.quick else {}
        return {**os.environ, **told, **quick, DIRECTORY: str(self.directory)}


def run_all(cases: Sequence[Case], repeats: int, places: Places, say: Say) -> Iterator[Measurement]:
    """Run cases, each as many times as is asked for; what is left out is tried once.

    Raises:
        KeyboardInterrupt: after what runs has deleted what it made.
    """
    dropped: set[Case] = set()
    number, total, began = 0, len(cases) * repeats, time.monotonic()
    for repeat in range(repeats):
        for case in cases:
            number += 1
            if case in dropped:
                continue
            one = run_one(case, repeat, places)
            if one.left_out:
                dropped.add(case)
            yield one
            # By now it is kept: what is said to be done is not lost to Ctrl-C.
            say(f"[{number}/{total}, {time.monotonic() - began:.0f} s] {case}: {outcome(one)}")


def outcome(one: Measurement) -> str:
    """What came of a measurement, in a few words."""
    if one.sample is None:
        return f"left out: {one.left_out}" if one.left_out else f"FAILED: {one.failure}"
    sample = one.sample
    twice = (sample.executions or sample.tokens) - sample.tokens
    return f"{sample.rate:,.0f} tokens/s" + (f", {twice} WORKED TWICE" if twice > 0 else "")


def run_one(case: Case, repeat: int, places: Places) -> Measurement:
    """Run one case once."""
    if reason := places.why_not(case.store):
        return Measurement(case=case, repeat=repeat, left_out=reason)
    with _new_directory(places.directory) as directory:
        trial = case.trial(places.address(case.store), Path(directory))
        command = ["-m", "benchmarks.contenders", case.contender]
        code, output, errors = _run(command, msgspec.json.encode(trial), os.environ, places.limit)
    if code == LEFT_OUT:
        return Measurement(case=case, repeat=repeat, left_out=_last_line(errors, places))
    try:
        sample = None if code else msgspec.json.decode(output, type=Sample)
    except msgspec.DecodeError:
        sample = None
    if sample is None:
        reason = f"exit code {code}: {_last_line(errors, places)}"
        return Measurement(case=case, repeat=repeat, failure=reason)
    return Measurement(case=case, repeat=repeat, sample=sample)


def run_module(module: str, places: Places) -> list[Verdict]:
    """Run a module that measures for itself; see verdicts.py. Where it has nothing to say, a note tells why."""
    if not (ROOT / f"{module.replace('.', '/')}.py").exists():
        return [_none(module, "there is no such module")]
    code, output, errors = _run(["-m", module, "--json"], b"", places.environment(), places.limit)
    if code == LEFT_OUT:
        return [_none(module, f"left out: {_last_line(errors, places)}")]
    try:
        verdicts = parse(output.decode())
    except (msgspec.DecodeError, UnicodeDecodeError):
        verdicts = []
    if code or not verdicts:
        return [_none(module, f"FAILED: exit code {code}: {_last_line(errors, places)}")]
    return verdicts


def _none(module: str, note: str) -> Verdict:
    return Verdict(name=module.rpartition(".")[2], figures={}, target="", note=note)


def _run(
    command: Sequence[str], given: bytes, environment: Mapping[str, str], limit: float
) -> tuple[int, bytes, bytes]:
    """Run a module of ours; answers with its exit code and what it wrote."""
    process: subprocess.Popen[bytes] | None = None
    try:
        with _uninterrupted():
            process = _start(command, environment)
        output, errors = process.communicate(given, timeout=limit)
    except subprocess.TimeoutExpired:
        assert process is not None
        _, errors = _end(process)
        return 1, b"", errors + f"\nit took longer than {limit:g} s".encode()
    except BaseException:
        if process is not None:
            _end(process)
        raise
    return process.returncode, output, errors


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        # Ctrl-C is for us; what runs is told by us, once.
        start_new_session=True,
    )


def _new_directory(parent: Path) -> tempfile.TemporaryDirectory[str]:
    with _uninterrupted():
        return tempfile.TemporaryDirectory(prefix="apicas-bench-", dir=parent)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C come after what is inside: else a directory or a process that was just made would be left behind."""
    received: list[int] = []
    numbers = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, lambda got, _: received.append(got)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt


def _end(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """End what runs, after it has deleted what it made."""
    process.send_signal(signal.SIGINT)
    try:
        return process.communicate(timeout=FAREWELL)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()


def _last_line(text: bytes, places: Places) -> str:
    """The last line of what was written to standard error, without what must not be in a result."""
    lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
    line = lines[-1].strip() if lines else "it said nothing"
    for address in places.addresses.values():
        line = line.replace(address, "the server")
    return line.replace(str(places.directory), "DIRECTORY").replace(str(ROOT), "ROOT")[:500]
