"""`python -m benchmarks.scaling`: a pool with more pilots than this machine can run, in virtual time.

    python -m benchmarks.scaling [--pilots 1,10,100,1000] [--token-seconds 60] [--seed N] [--json FILE] [--plot FILE]

The pilots decide with apicas.policies; the server is a model with measured costs (costs.py). docs/scaling.md says what
came out, and how far the model is off. All cases take a few minutes of one core; the same seed gives the same figures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from benchmarks.scaling.report import Report, simulate, table


def main(arguments: list[str] | None = None) -> int:
    """Run the command; answers with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pilots", type=_numbers, default=[1, 10, 100, 1000], help="numbers of pilots")
    parser.add_argument("--token-seconds", type=float, default=60.0, help="a length of tokens beside 0, 1, 60, 3600")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them: .svg or .png")
    options = parser.parse_args(arguments)
    report = Report()
    for _ in simulate(report, options.pilots, options.token_seconds, options.seed):
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(table(report))
    if options.json is not None:
        records = {"seed": options.seed, **report.records()}
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(records), indent=1) + b"\n")
    if options.plot is not None:
        from benchmarks.scaling.plot import draw  # noqa: PLC0415 - matplotlib need not be there

        draw(report.steady, options.plot)
    return 0


def _numbers(text: str) -> list[int]:
    numbers = sorted({int(part) for part in text.split(",")})
    if not numbers or numbers[0] < 1:
        raise argparse.ArgumentTypeError("numbers of pilots are at least 1")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
