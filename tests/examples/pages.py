"""The pages of the documentation: their blocks, and a place in which what they show can be done."""

from __future__ import annotations

import ast
import inspect
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE: Final = re.compile(r"# (\w+\.py)\n")
_TIME: Final = 100.0
"""Seconds that a command may take."""


class Step(NamedTuple):
    """A command of a console block, with the lines that are shown after it."""

    command: str
    shown: str


def pages() -> list[Path]:
    """All that are there."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *sorted(DOCS.glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of a page in one language, in their order."""
    return [text for found, text in _BLOCK.findall(page.read_text()) if found == language]


def languages(page: Path) -> dict[str, int]:
    """How many blocks a page has in each language."""
    found = [language for language, _ in _BLOCK.findall(page.read_text())]
    return {language: found.count(language) for language in found}


def steps(page: Path) -> list[Step]:
    """The commands of the console blocks, in their order; comments are none of their lines."""
    found = []
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            found.append(Step(re.sub(r"\s{2,}# .*", "", command), shown))
    return found


def matches(shown: str, actual: str) -> bool:
    """Whether a command wrote what is shown; dots stand for anything."""
    pattern = ".*".join(map(re.escape, shown.split("...")))
    return re.fullmatch(pattern, actual, re.DOTALL) is not None


async def execute(block: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run a block of Python, awaits at its top level included; the names that it knows afterwards."""
    code = compile(block, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        await eval(code, names)
    else:
        exec(code, names)
    return names


class Session:
    """A user who reads a page: a new directory, no configuration, `apicas`, `python` and other programs on the PATH.

    Args:
        directory: an empty directory.
        stands_for: what is replaced in commands before they run, and back in what they print: a server of the page's by
            one that is there.
    """

    def __init__(self, directory: Path, stands_for: Mapping[str, str] | None = None) -> None:
        self.directory = directory / "work"
        self.home = directory / "home"
        self._scripts = directory / "bin"
        self._stands_for = stands_for or {}
        for path in (self.directory, self.home, self._scripts):
            path.mkdir()
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(("APICAS_", "XDG_"))}
        self.environ |= {
            "PATH": f"{self._scripts}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.home),
            "COLUMNS": "120",
        }
        self.program("apicas", f'exec {shlex.quote(sys.executable)} -m apicas "$@"')
        self.program("python", f'exec {shlex.quote(sys.executable)} "$@"')

    def program(self, name: str, script: str, directory: Path | None = None) -> None:
        """Have a program of that name, a script for the shell; on the PATH unless a directory is named."""
        path = (directory or self._scripts) / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def write(self, name: str, text: str) -> None:
        """Have a file of that name in the working directory."""
        (self.directory / name).write_text(text)

    def write_programs(self, page: Path) -> None:
        """Have the Python blocks of a page that begin with a comment of their file's name."""
        for block in blocks(page, "python"):
            if found := _FILE.match(block):
                self.write(found[1], block)

    def run(self, command: str, typed: str = "") -> str:
        """Run a command in the shell, and return what it printed; it must succeed.

        Args:
            command: a line.
            typed: what the user types, on a terminal; without it there is none.
        """
        for theirs, ours in self._stands_for.items():
            command = command.replace(theirs, ours)
        code, printed = self._on_terminal(command, typed) if typed else self._without_terminal(command)
        assert code == 0, f"{command}\n{printed}"
        for theirs, ours in self._stands_for.items():
            printed = printed.replace(ours, theirs)
        return printed

    def read(self, page: Path, typed: Mapping[str, str] | None = None, leaving: tuple[str, ...] = ()) -> None:
        """Do what the console blocks of a page do, in their order; each must print what is shown there, if any.

        Args:
            page: the page.
            typed: what is typed, by the command.
            leaving: commands that begin like one of these are left out.
        """
        self.write_programs(page)
        for command, shown in steps(page):
            if not command.startswith(leaving or ("\0",)):
                printed = self.run(command, (typed or {}).get(command, ""))
                assert not shown or matches(shown, printed), f"{command}\n{printed}\nis not\n{shown}"

    def _without_terminal(self, command: str) -> tuple[int, str]:
        done = subprocess.run(
            ["/bin/sh", "-c", f"{{ {command}\n}} 2>&1"],
            cwd=self.directory,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIME,
            check=False,
        )
        return done.returncode, done.stdout

    def _on_terminal(self, command: str, typed: str) -> tuple[int, str]:
        master, slave = pty.openpty()
        with subprocess.Popen(
            # The leader of a session that opens a terminal gets it as its own: questions go there.
            ["/bin/sh", "-c", f': < "$APICAS_TEST_TTY"; {{ {command}\n}}'],
            cwd=self.directory,
            env={**self.environ, "APICAS_TEST_TTY": os.ttyname(slave), "TERM": "dumb"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        ) as process:
            os.close(slave)
            end = time.monotonic() + _TIME
            lines, seen = typed.splitlines(keepends=True), ""
            while part := _read(master, end):
                seen += part
                if lines and seen.endswith(": "):  # a question: what was typed before it is thrown away
                    os.write(master, lines.pop(0).encode())
            process.kill() if time.monotonic() > end else process.wait()
        os.close(master)
        return process.returncode, re.sub(r"[ \r]*\n", "\n", seen)


def _read(terminal: int, end: float) -> str:
    """What is shown next; nothing when nobody has the other end any more, or it is too late."""
    if not select.select([terminal], [], [], max(end - time.monotonic(), 0))[0]:
        return ""
    try:
        return os.read(terminal, 100_000).decode()
    except OSError:
        return ""
