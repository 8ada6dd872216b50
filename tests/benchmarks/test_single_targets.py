"""The benchmarks of single targets run, and tell the suite what it asks for. Their figures mean nothing here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.suite.verdicts import DIRECTORY, QUICK, parse

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["spawning", "--only", "0"], ["processes of 0 ms"]),
        (["computing", "--only", "10"], ["Python computing 10 ms a token"]),
        (["sleeping"], ["sleep(0.2)", "sleep(0.02)"]),
        (["packing"], ["20 commands of 1 and 2 cores", "100 coroutines of 1 and 2 cores"]),
        (["memory", "--only", "sqlite"], ["memory of a pilot over", "largest memory of a pilot"]),
        (["startup", "--repeats", "1"], ["apicas --help", "apicas status"]),
    ],
    ids=lambda value: value[0] if value[0].isalpha() else "",
)
def test_a_benchmark_of_a_target_measures_it(arguments: list[str], names: list[str], tmp_path: Path) -> None:
    module, *options = arguments
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", "--json", *options],
        cwd=ROOT,
        env={**os.environ, QUICK: "1", DIRECTORY: str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    verdicts = parse(done.stdout)
    assert len(verdicts) == len(names)
    for verdict, name in zip(verdicts, names, strict=True):
        assert name in verdict.name
        assert verdict.ratio is not None
        assert verdict.ratio > 0
        assert verdict.met is not None
        assert all(value >= 0 for value in verdict.figures.values())
    assert not list(tmp_path.iterdir())  # nothing is left
