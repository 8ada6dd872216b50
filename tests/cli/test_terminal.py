"""On a terminal: moving displays, questions, and a password that is not echoed."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.cli.program import ROOT, Program
from tests.cli.test_commands import fill, refusing  # noqa: F401 - a fixture

# A session of its own whose terminal is the one we made: passwords are asked for on the session's terminal.
_SCRIPT = """
import os, sys
os.close(os.open(os.ttyname(2), os.O_RDWR))
from apicas.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Terminal:
    """A process on a pseudo-terminal."""

    def __init__(self, program: Program, *arguments: str, environ: dict[str, str] | None = None) -> None:
        self._master, slave = pty.openpty()
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, *arguments],
            cwd=program.directory,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONWARNINGS": "error",
                "TERM": "xterm-256color",
                "COLUMNS": "100",
                **(environ or {}),
            },
        )
        os.close(slave)

    def read_until(self, text: str) -> None:
        """Read what is shown, up to a text."""
        while text not in self.seen:
            data = self._read()
            assert data, self.seen
            self.seen += data

    def _read(self) -> str:
        try:
            return os.read(self._master, 10_000).decode(errors="replace")
        except OSError:  # the other end is closed
            return ""

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def interrupt(self) -> int:
        """Press Ctrl-C until it is heard, and read to the end: a signal that comes just before Python waits for a key
        is seen only with the next one. Answers with the exit code."""
        self.type("\x03")
        while self.process.poll() is None:
            if not select.select([self._master], [], [], 2.0)[0]:
                self.type("\x03")
            else:
                self.seen += self._read()
        return self.finish()

    def finish(self) -> int:
        """Read to the end; answers with the exit code."""
        while data := self._read():
            self.seen += data
        return self.process.wait(30)

    def close(self) -> None:
        """Close the terminal, and end the process if it still runs."""
        os.close(self._master)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


Start = Callable[..., Terminal]


@pytest.fixture
def terminal(apicas: Program) -> Iterator[Start]:
    """Starts `apicas` on a terminal."""
    opened: list[Terminal] = []

    def start(*arguments: str, **environ: str) -> Terminal:
        opened.append(Terminal(apicas, *arguments, environ=environ))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_a_pilot_shows_a_moving_line_and_ends_with_a_plain_one(apicas: Program, terminal: Start) -> None:
    apicas.write("work.py", "async def work(token):\n    print('hello from', token['input'])\n")
    apicas("push", stdin="a\nb\n")
    screen = terminal("run", "work:work")
    assert screen.finish() == 0
    assert "\x1b[2K" in screen.seen
    assert "2 done, 0 running, 0 failed, 0 left" in screen.seen
    assert "hello from a\r\n" in screen.seen
    assert screen.seen.rstrip().endswith("no more tokens")


def test_ctrl_c_drains(apicas: Program, terminal: Start) -> None:
    apicas.write("work.py", "import anyio\nasync def work(token):\n    print('begun')\n    await anyio.sleep(3600)\n")
    apicas("push", stdin="a\n")
    screen = terminal("run", "work:work", "--grace", "0")
    screen.read_until("begun")
    screen.type("\x03")
    assert screen.finish() == 4
    assert "SIGINT: draining" in screen.seen
    assert apicas.status()["todo"] == 1


def test_a_push_shows_a_bar(apicas: Program, terminal: Start) -> None:
    apicas.write("lines.txt", "x\n" * 5000)
    screen = terminal("push", "lines.txt")
    assert screen.finish() == 0
    assert "pushing lines.txt" in screen.seen
    assert "pushed 5,000 tokens" in screen.seen


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 0), ("n", 1, 2)])
def test_delete_waits_for_an_answer(apicas: Program, terminal: Start, answer: str, code: int, left: int) -> None:
    fill(apicas, done=2)
    screen = terminal("delete", "done")
    screen.read_until("cannot be undone. [y/N]")
    screen.type(f"{answer}\n")
    assert screen.finish() == code
    assert apicas.status()["done"] == left


def test_ctrl_c_at_a_question_changes_nothing(apicas: Program, terminal: Start) -> None:
    fill(apicas, done=2)
    screen = terminal("delete", "done")
    screen.read_until("[y/N]: ")
    assert screen.interrupt() == 130
    assert "Traceback" not in screen.seen
    assert apicas.status()["done"] == 2


def test_a_missing_password_is_asked_for_and_not_shown(terminal: Start, refusing: str) -> None:  # noqa: F811
    screen = terminal("status", "--pool", refusing)
    screen.read_until("Password of me on http://127.0.0.1:")
    screen.type("0pen-sesame\n")
    assert screen.finish() == 2
    assert "Name or password is incorrect" in screen.seen
    assert "0pen-sesame" not in screen.seen


def test_status_is_coloured_on_a_terminal_only(apicas: Program, terminal: Start) -> None:
    fill(apicas, done=2)
    screen = terminal("status")
    assert screen.finish() == 0
    assert "\x1b[32m" in screen.seen
    assert "\x1b" not in apicas("status").out
