"""Shells complete the words of `apicas`, each with its own script."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.program import ROOT, Program
from tests.cli.test_commands import SLOW, modules_after

# As a shell does when the tab key is pressed behind the words; the names that it offers are printed.
_BASH = """
COMP_WORDS=({words})
COMP_CWORD={place}
_apicas_completion apicas
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
_FISH = "complete --do-complete 'apicas {line}'\n"
_ZSH = """
compdef() {{ }}
compadd() {{ shift; print -l -- "$@"; }}
_files() {{ print FILES; }}
"""
_ZSH_CALL = """
words=({words})
CURRENT={place}
_apicas_completion
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with an `apicas` on it."""
    program = tmp_path / "bin" / "apicas"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m apicas "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def offered(apicas: Program, path: str, shell: str, *words: str) -> list[str]:
    """What a shell offers for the last of these words."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    script = apicas("completion", shell).out
    quoted = " ".join(f'"{word}"' for word in ("apicas", *words))
    if shell == "bash":
        script += _BASH.format(words=quoted, place=len(words))
    elif shell == "zsh":
        script = _ZSH.format() + script + _ZSH_CALL.format(words=quoted, place=len(words) + 1)
    else:
        script += _FISH.format(line=" ".join(words))
    environ = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    command = {"bash": ["bash", "--norc", "-c"], "zsh": ["zsh", "-f", "-c"], "fish": ["fish", "--no-config", "-c"]}
    result = subprocess.run(
        [*command[shell], script], env=environ, cwd=apicas.directory, capture_output=True, text=True, check=True
    )
    return [line.split("\t")[0] for line in result.stdout.splitlines() if line]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_and_options_are_offered(apicas: Program, path: str, shell: str) -> None:
    assert offered(apicas, path, shell, "sta") == ["status"]
    assert set(offered(apicas, path, shell, "views", "")) >= {"list", "add"}
    assert offered(apicas, path, shell, "status", "--wat") == ["--watch"]
    assert offered(apicas, path, shell, "views", "add", "--dry") == ["--dry-run"]


def test_all_commands_are_offered(apicas: Program, path: str) -> None:
    from apicas.cli.commands import SUMMARIES

    assert set(offered(apicas, path, "bash", "")) == set(SUMMARIES)


def test_another_shell_is_one_line(apicas: Program) -> None:
    result = apicas("completion", "tcsh")
    assert (result.code, "bash, zsh, fish" in result.error) == (2, True)


def test_a_script_is_printed_without_what_other_commands_need(tmp_path: Path) -> None:
    unwanted = {*SLOW, "anyio", "asyncio", "sqlite3", "ssl", "tomllib", "platformdirs"}
    assert modules_after("completion", "bash", directory=tmp_path) & unwanted == set()
