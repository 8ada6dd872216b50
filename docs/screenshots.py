# ruff: noqa: INP001, S603 - a script that starts what it names itself
"""Take the pictures of `apicas status --watch` and of a report, from real pilots: `python docs/screenshots.py`.

It writes docs/watch.svg and docs/report.png, which takes half a minute, and Chromium for the second.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

DOCS: Final = Path(__file__).parent.resolve()
APICAS: Final = (sys.executable, "-m", "apicas")
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
TOKENS: Final = 400
COLUMNS: Final = 88
LOOKING: Final = 7.0
"""Seconds after which the picture of a running pool is taken."""
WORK: Final = 'sleep 0.$((2 + $1 % 7)); test $(($1 % 40)) != 7 || { echo "no such field" >&2; exit 3; }'
"""What the token of each number does; one of 40 fails."""


def main() -> None:
    """Have two pilots work a pool, and look at it meanwhile and afterwards."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        environ = {**os.environ, "PYTHONPATH": str(DOCS.parent), "HOME": name, "APICAS_POOL": "sqlite:///survey.db"}
        (directory / "work.sh").write_text(WORK)
        inputs = "".join(f"{number}\n" for number in range(TOKENS))
        subprocess.run([*APICAS, "push", "-"], input=inputs, text=True, cwd=directory, env=environ, check=True)
        run = [*APICAS, "run", "--workers", "8", "--max-scrub", "0", "--events", "events/", "--"]
        run += ["sh", "work.sh", "{input}"]
        pilots = [subprocess.Popen(run, cwd=directory, env=environ, stderr=subprocess.DEVNULL) for _ in range(2)]
        (DOCS / "watch.svg").write_text(_drawn(_watched(directory, environ)))
        for pilot in pilots:
            pilot.wait()
        report = [*APICAS, "report", "events/", "-o", "report.html"]
        subprocess.run(report, cwd=directory, env=environ, check=True)
        _photographed(directory / "report.html")


def _watched(directory: Path, environ: dict[str, str]) -> str:
    """The last table that `apicas status --watch` draws on a terminal, with its colours."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    command = [*APICAS, "status", "--watch", "--interval", "1s"]
    terminal = {**environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    with subprocess.Popen(command, cwd=directory, env=terminal, stdout=slave, stderr=slave) as process:
        os.close(slave)
        end, seen = time.monotonic() + LOOKING, b""
        while time.monotonic() < end:
            seen += os.read(master, 100_000)
        process.kill()
    os.close(master)
    # A table is drawn over the one before, whose lines are wiped.
    return seen.decode().rpartition("\x1b[2K")[2]


def _drawn(frame: str) -> str:
    lines = frame.replace("\r", "").rstrip().splitlines()
    console = Console(file=io.StringIO(), record=True, width=COLUMNS, highlight=False, force_terminal=True)
    for line in lines:
        console.print(Text.from_ansi(line), no_wrap=True, crop=True)
    drawn = console.export_svg(title="apicas status --watch", unique_id="watch")
    # A font from elsewhere would be asked for by everybody who looks.
    return re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)


def _photographed(page: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("no Chromium on this system: report.png stays as it is")
    subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--hide-scrollbars", f"--user-data-dir={page.parent / 'profile'}", "--window-size=1000,1118"),
            *(f"--screenshot={DOCS / 'report.png'}", page.as_uri()),
        ],
        check=True,
        capture_output=True,
        timeout=100,
    )


if __name__ == "__main__":
    main()
