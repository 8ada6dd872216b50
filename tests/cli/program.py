"""The program, as tests run it: in this process, or as a process of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from apicas._documents import decode
from apicas.cli import main

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on standard error; it fails where there are more."""
        (line,) = self.err.splitlines()
        return line


@dataclass(frozen=True)
class Program:
    """`apicas`, in a directory of its own.

    Args:
        directory: where it runs.
        patch: sets its standard input.
        captured: takes what it wrote.
    """

    directory: Path
    patch: pytest.MonkeyPatch
    captured: Callable[[], tuple[str, str]]
    environ: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, stdin: str | bytes = b"", seekable: bool = False) -> Result:
        """Run a command in this process."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        raw = io.BytesIO(data) if seekable else io.BufferedReader(_Pipe(data))
        self.patch.setattr(sys, "stdin", io.TextIOWrapper(raw))
        self.captured()
        code = main(arguments)
        out, err = self.captured()
        return Result(code, out, err)

    def status(self, pool: str = "sqlite:///apicas.db") -> dict[str, Any]:
        """The numbers of tokens."""
        result = self("status", "--json", "--pool", pool)
        assert result.code == 0, result.err
        counts: dict[str, Any] = decode(result.out)
        del counts["pool"]
        if not counts["no_view"]:
            del counts["no_view"]
        return counts

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file into the directory."""
        path = self.directory / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a process of its own; warnings are errors there too."""
        settings: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        }
        environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
            "TERM": "xterm",
            **self.environ,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "apicas", *arguments], cwd=self.directory, env=environ, text=True, **settings
        )

    def finish(self, process: subprocess.Popen[str]) -> Result:
        """Wait for a process to end."""
        out, err = process.communicate(timeout=60)
        return Result(process.returncode, out, err)


class _Pipe(io.RawIOBase):
    """Bytes that can be read once."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)


class Events:
    """Lines that other processes write into a named pipe: how a test knows that a token has come so far."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        # Open for writing too, so that the end of one writer is no end of the file.
        self._file = os.fdopen(os.open(path, os.O_RDWR), "r+b", buffering=0)

    def wait(self, number: int = 1) -> list[str]:
        """The next lines."""
        return [self._file.readline().decode().strip() for _ in range(number)]

    def close(self) -> None:
        self._file.close()


def make_program(
    directory: Path, patch: pytest.MonkeyPatch, captured: Callable[[], tuple[str, str]]
) -> Iterator[Program]:
    """The program in a directory, with nothing of this user's configuration."""
    for name in [name for name in os.environ if name.startswith("APICAS_")]:
        patch.delenv(name)
    patch.setenv("HOME", str(directory))
    patch.setenv("XDG_CONFIG_HOME", str(directory / "config"))
    patch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    patch.chdir(directory)
    # It would end the process that runs the tests, where a thread of theirs is still there.
    patch.setattr("apicas.cli.application._leave_stubborn_threads", lambda code: None)
    paths = list(sys.path)
    yield Program(directory, patch, captured)
    sys.path[:] = paths
    for name, module in list(sys.modules.items()):  # another test's module of the same name is another one
        if (getattr(module, "__file__", None) or "").startswith(f"{directory}{os.sep}"):
            del sys.modules[name]


def as_of_now(value: Any, then: int) -> Any:
    """A document of a test module that was made when that was imported, as if it were made now.

    Args:
        value: with times near `then`.
        then: unix seconds; a test may run many minutes after its module was imported.
    """
    if isinstance(value, dict):
        return {name: as_of_now(inner, then) for name, inner in value.items()}
    if isinstance(value, list):
        return [as_of_now(inner, then) for inner in value]
    is_time = type(value) is int and abs(value - then) < 1_000_000
    return value + int(time.time()) - then if is_time else value
