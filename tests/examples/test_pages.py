"""The commands on a page of the documentation run, in the order in which they stand there, and say what is shown."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = ["tokens.md", "tutorial.md"]


def steps(page: Path) -> list[tuple[str, str]]:
    """The commands of the console blocks, each with the lines that are shown after it."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            found.append((command, shown))
    return found


def write_programs(page: Path, directory: Path) -> None:
    """Write the Python blocks that begin with a comment of their file's name."""
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page.read_text(), re.DOTALL):
        (directory / name).write_text(code)


def matches(shown: str, actual: str) -> bool:
    """Whether a command wrote what is shown; dots stand for anything."""
    pattern = ".*".join(map(re.escape, shown.split("...")))
    return re.fullmatch(pattern, actual, re.DOTALL) is not None


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_true(name: str, tmp_path: Path) -> None:
    scripts = tmp_path / "bin"
    scripts.mkdir()
    for command, words in {"apicas": "-m apicas", "python": ""}.items():
        (scripts / command).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
        (scripts / command).chmod(0o755)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("APICAS_")}
    environ |= {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    work = tmp_path / "work"
    work.mkdir()
    write_programs(ROOT / "docs" / name, work)
    for command, shown in steps(ROOT / "docs" / name):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{{ {command}; }} 2>&1"],
            cwd=work,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        assert not shown or matches(shown, done.stdout), f"{command}\n{done.stdout}\nis not\n{shown}"


def test_dots_stand_for_anything_and_the_rest_for_itself() -> None:
    assert matches("a ... c\n", "a b\n c\n")
    assert not matches("a ... c\n", "a b\n d\n")
    assert not matches("a\n", "a\nb\n")
