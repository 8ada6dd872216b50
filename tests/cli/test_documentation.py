"""docs/cli.md shows what the program says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from apicas.cli.exits import ExitCode
from apicas.configuration import KEYS, VARIABLES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cli.md"
TEXT = PAGE.read_text()
# A block that begins with a call of --help shows what that call writes.
HELP = re.compile(r"```console\n\$ (apicas[^\n]*--help)\n(.*?)```", re.DOTALL)
COMMANDS = [
    *(
        "init",
        "push",
        "run",
        "map",
        "status",
        "ls",
        "show",
        "logs",
        "explain",
        "attachments",
        "edit",
        "reset",
        "release",
        "delete",
        "archive",
        "export",
        "import",
        "flush",
        "heal",
        "progress",
        "pilots",
        "views",
        "views list",
        "views add",
        "users",
        "users list",
        "users add",
        "users password",
        "users grant",
        "users revoke",
        "passwd",
        "config",
        "config show",
        "config set",
        "config unset",
        "config path",
        "doctor",
        "bench",
        "completion",
    ),
]


def help_of(command: str) -> str:
    """What a call of --help writes, on 100 columns."""
    _, *arguments = command.split()
    environ = {**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-m", "apicas", *arguments], capture_output=True, text=True, env=environ, check=True
    )
    return "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())


@pytest.mark.parametrize("command", ["apicas --help", *(f"apicas {name} --help" for name in COMMANDS)])
def test_the_page_shows_the_help(command: str) -> None:
    """To write it anew: APICAS_WRITE_DOCS=1 python -m pytest tests/cli/test_documentation.py."""
    shown = dict(HELP.findall(TEXT))
    actual = help_of(command)
    if os.environ.get("APICAS_WRITE_DOCS"):
        page = PAGE.read_text()
        replaced = HELP.sub(lambda match: _block(command, actual) if match[1] == command else match[0], page)
        PAGE.write_text(replaced)
    else:
        assert shown[command] == actual


def _block(command: str, text: str) -> str:
    return f"```console\n$ {command}\n{text}```"


@pytest.mark.parametrize("code", list(ExitCode))
def test_the_page_and_the_help_explain_every_exit_code(code: ExitCode) -> None:
    assert re.search(rf"^\| {code:d} \| ", TEXT, re.MULTILINE)
    assert re.search(rf"^ +{code:d} +\w", help_of("apicas --help"), re.MULTILINE)


@pytest.mark.parametrize("name", [*KEYS, *VARIABLES])
def test_the_page_explains_every_setting(name: str) -> None:
    page = PAGE.with_name("configuration.md").read_text()
    assert f"`{name}`" in page or f"`${name}`" in page
