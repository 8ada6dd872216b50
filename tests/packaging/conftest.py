"""A Python without any package, as worker nodes have it, and the main job on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass
class Node:
    """A node with nothing but Python's standard library.

    Args:
        directory: the working directory.
    """

    directory: Path
    variables: dict[str, str] = field(default_factory=dict)

    def call(self, *command: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("APICAS_", "PYTHON"))}
        return subprocess.run(
            [str(word) for word in command],
            cwd=self.directory,
            env={**kept, "HOME": str(self.directory), "XDG_CACHE_HOME": "", **self.variables},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def done(self, *command: str | Path, stdin: str = "") -> str:
        """Run a command that has to end well; answers with what it printed."""
        result = self.call(*command, stdin=stdin)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def does_the_main_job(self, program: Sequence[str | Path], pool: str, variables: Mapping[str, str]) -> None:
        """Push, run a command and a function in processes, and look, on a pool."""
        self.variables |= {"APICAS_POOL": pool, **variables}
        (self.directory / "work.py").write_text("def double(token):\n    return token.input * 2\n")
        self.done(*program, "init")
        self.done(*program, "push", "--format", "jsonl", stdin='{"input": 1}\n{"input": 2.5}\n')
        assert "2 done" in self.done(*program, "run", "--workers", "2", "--", "echo", "{input}")
        self.done(*program, "reset", "done", "--yes")
        assert "2 done" in self.done(*program, "run", "work:double", "--executor", "process", "--workers", "1")
        assert '"done": 2' in self.done(*program, "status", "--json").replace('":', '": ').replace("  ", " ")


def bare_python() -> str:
    """This Python without the packages of the tests."""
    base: str = getattr(sys, "_base_executable", sys.executable)
    return base


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)
