"""The whole chain on one machine: push tokens, run a pilot, look at what came out.

python demo.py [DIRECTORY] [HOW_MANY]

It runs the commands that a user would type, and prints them. Run it again: what is done stays done.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def step(title: str, *command: str, **environment: str) -> None:
    """Run one command, and show it."""
    print(f"\n{title}\n  $ {shlex.join(command)}", flush=True)
    subprocess.run(command, cwd=HERE, env={**os.environ, **environment}, check=True)


def main() -> None:
    """Run the demo."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "demo").resolve()
    how_many = sys.argv[2] if len(sys.argv) > 2 else "60"
    directory.mkdir(parents=True, exist_ok=True)
    pool = directory / "fractals.db"
    work = {"APICAS_POOL": f"sqlite:///{pool}", "FRACTALS_DIR": str(directory / "pictures")}
    if not pool.exists():
        lines = subprocess.run(
            [sys.executable, "tokens.py", how_many], cwd=HERE, check=True, capture_output=True
        ).stdout
        inputs = directory / "tokens.jsonl"
        inputs.write_bytes(lines)
        step(
            f"1. Push {how_many} tokens into a pool: one SQLite file, no server.", "apicas", "push", str(inputs), **work
        )
    step(
        "2. Run a pilot: it claims tokens and renders a fractal for each.", "apicas", "run", "fractals:Fractals", **work
    )
    step("3. See what became of them.", "apicas", "status", **work)
    pictures = sorted((directory / "pictures").glob("*.png"))
    print(f"\n{len(pictures)} pictures in {directory / 'pictures'}")


if __name__ == "__main__":
    main()
