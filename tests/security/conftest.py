"""What the tests of security share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from apicas.cli.logs import LineHandler
from tests.cli.program import Program, make_program


@pytest.fixture
def apicas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Program]:
    """`apicas` in tmp_path, which is also the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    root, own = logging.getLogger(), logging.getLogger("apicas")
    levels = root.level, own.level
    yield from make_program(tmp_path, monkeypatch, capfd.readouterr)
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, LineHandler)]
    root.setLevel(levels[0])
    own.setLevel(levels[1])
