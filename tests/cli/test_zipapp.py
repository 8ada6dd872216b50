"""`apicas zipapp`: what it says. What it makes is tried in tests/packaging."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, distribution

import pytest

from tests.cli.program import Program
from tests.packaging.conftest import bare_python

try:
    distribution("apicas")
except PackageNotFoundError:
    pytest.skip("apicas is not installed here, with what it needs", allow_module_level=True)


def test_the_command_says_what_it_made(apicas: Program) -> None:
    told = apicas("zipapp", "--portable", "-o", "job.pyz").out
    assert told.startswith("job.pyz: ")
    assert "Python 3.11 or later" in told
    version = subprocess.run(
        [bare_python(), "-S", "-E", "job.pyz", "--version"], cwd=apicas.directory, check=True, capture_output=True
    )
    assert version.stdout.startswith(b"apicas ")


def test_a_place_that_cannot_be_written_is_told(apicas: Program) -> None:
    assert "cannot be written" in apicas("zipapp", "-o", "/dev/null/x.pyz").error
