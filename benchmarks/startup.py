"""How long does the command line take to start, against a Python that only imports what the command needs?

    python -m benchmarks.startup

What a command needs is what the code that it runs names in its own import statements, and what those import: for
`apicas --help` typer, for `apicas status` on a SQLite file also asyncio, anyio, msgspec, platformdirs, sqlite3 and
a few modules of Python (NEEDS lists them). The baseline imports these and ends; it opens no pool and writes nothing.
apicas's own modules are not in it, nor what typer imports while it works. The command is started as the script does
that an installation makes.

Both run in turns, from byte code that a first, uncounted turn has written; a ratio is the median over pairs, of
processor time (user and system), which other work on the machine disturbs less than the clock; its is beside it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Final

import apicas
from benchmarks.goals import is_quick, middle, parser, scratch, show
from benchmarks.suite.verdicts import Verdict

LIMIT: Final = 1.3
_SCRIPT: Final = "import sys; from apicas.cli import main; sys.exit(main())"
_TYPER: Final = ("typer", "typer.core", "typer.main", "contextlib", "enum", "importlib", "re", "signal", "threading")
NEEDS: Final = {
    "--help": _TYPER,
    "status": (
        *(*_TYPER, "asyncio", "anyio", "msgspec", "platformdirs", "sqlite3", "typing_extensions", "base64", "copy"),
        *("dataclasses", "hashlib", "hmac", "json", "logging", "mimetypes", "netrc", "pathlib", "queue", "random"),
        *("reprlib", "secrets", "shlex", "unicodedata", "urllib.parse", "uuid", "weakref"),
    ),
}
"""The arguments of apicas, and the modules that this command needs."""


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> tuple[float, float]:
    """Run Python; the seconds of processor time and of the clock."""
    before, start = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environ, check=True, capture_output=True)
    seconds, after = time.perf_counter() - start, getrusage(RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds


def compare(argument: str, environ: Mapping[str, str], repeats: int) -> Verdict:
    """One command against its baseline, in turns."""
    command, baseline = ["-c", _SCRIPT, argument], ["-c", f"import {', '.join(NEEDS[argument])}"]
    run(baseline, environ), run(command, environ)
    pairs = [(run(baseline, environ), run(command, environ)) for _ in range(repeats)]
    ratio = middle([ours[0] / theirs[0] for theirs, ours in pairs])
    return Verdict(
        name=f"start of apicas {argument}",
        figures={
            "repeats": repeats,
            "CPU s": middle([ours[0] for _, ours in pairs]),
            "baseline CPU s": middle([theirs[0] for theirs, _ in pairs]),
            "clock s": middle([ours[1] for _, ours in pairs]),
            "baseline clock s": middle([theirs[1] for theirs, _ in pairs]),
            "clock ratio": middle([ours[1] / theirs[1] for theirs, ours in pairs]),
        },
        target=f"<= {LIMIT} x a Python that only imports what the command needs",
        ratio=ratio,
        met=ratio <= LIMIT,
    )


async def fill(pool: str) -> None:
    """Make a pool with a few tokens."""
    async with apicas.connect(pool) as client:
        await client.setup()
        await client.upload({"input": number} for number in range(100))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison of the command line."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=3 if is_quick() else 25)
    chosen = options.parse_args(arguments)
    with scratch() as directory:
        pool = f"sqlite:///{directory}/pool.db"
        asyncio.run(fill(pool))
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environ |= {
            "APICAS_POOL": pool,
            "PYTHONPATH": str(Path(apicas.__file__).parents[1]),
            "PYTHONPYCACHEPREFIX": f"{directory}/bytecode",
        }
        verdicts = [compare(argument, environ, chosen.repeats) for argument in NEEDS]
    return show(verdicts, as_json=chosen.json)


if __name__ == "__main__":
    sys.exit(main())
