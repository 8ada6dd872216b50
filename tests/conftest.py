"""What holds for all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# A shell starts what it puts into the background with SIGINT ignored, and that is inherited: programs under test would
# not hear the Ctrl-C that tests send them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory for each test, and for the processes that it starts: none writes into the real one."""
    directory = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("XDG_STATE_HOME", str(directory))
    monkeypatch.delenv("APICAS_OUTBOX", raising=False)
    return directory
