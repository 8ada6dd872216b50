"""`python -m benchmarks.contenders NAME`: one measurement, a Trial as JSON in, a Sample as JSON out.

Exit codes: 0 with a sample; 2 for a trial that this contender can make nothing of; 3 where what it needs is not on this
machine, with one line on standard error that says what; anything else is a failure.

A peer is measured in its own environment (environments.py): the command goes on there before it reads the trial.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

import msgspec

from benchmarks.contenders.environments import Skipped, enter
from benchmarks.contenders.listing import CONTENDERS
from benchmarks.measuring import Sample, Trial

SKIPPED: Final = 3
_WRONG: Final = 2


def measure(name: str, text: bytes) -> Sample:
    """Run one measurement in this process.

    Args:
        name: of the contender.
        text: the trial, as JSON.

    Raises:
        Skipped: what the contender needs is not here.
        ValueError: it can make nothing of such a trial.
    """
    trial = msgspec.json.decode(text, type=Trial)
    contender = CONTENDERS[name]
    if trial.contender != name:
        raise ValueError(f"a trial of {trial.contender} for {name}")
    if trial.workload not in contender.workloads:
        raise ValueError(f"{name} has no workload {trial.workload}: it has {', '.join(contender.workloads)}")
    sample: Sample = importlib.import_module(f"benchmarks.contenders.{contender.module}").measure(trial)
    return sample


def main() -> int:
    """Run the command; answers with its exit code."""
    if len(sys.argv) != 2 or sys.argv[1] not in CONTENDERS:
        print(f"usage: python -m benchmarks.contenders NAME, one of {', '.join(CONTENDERS)}", file=sys.stderr)
        return _WRONG
    name = sys.argv[1]
    try:
        if CONTENDERS[name].environment == "peer":
            enter(CONTENDERS[name].module, "benchmarks.contenders", name)
        sample = measure(name, sys.stdin.buffer.read())
    except Skipped as skipped:
        print(skipped, file=sys.stderr)
        return SKIPPED
    except ValueError as error:
        print(error, file=sys.stderr)
        return _WRONG
    sys.stdout.buffer.write(msgspec.json.encode(sample) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
