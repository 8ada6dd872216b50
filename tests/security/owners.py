"""Files of another user, whoever runs the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SOMEBODY = 54321


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file, a directory or a link belong to somebody else than us."""
    if os.geteuid() == 0:
        os.chown(path, _SOMEBODY, -1, follow_symlinks=False)
    else:  # only root can give files away, but what we are is a matter of one function
        monkeypatch.setattr(os, "geteuid", lambda: _SOMEBODY)
