"""Where the contenders run: apicas in the Python that measures it, each peer in an environment of its own.

A peer gets the newest release of itself with whatever it asks for; two peers in one environment would hold each other's
dependencies back.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_BENCH: Final = ROOT / ".bench"
_REQUIREMENTS: Final = Path(__file__).with_name("requirements")
PICAS: Final = ROOT / ".picas" / "bin" / "python"
"""PiCaS's own environment: `make setup` makes it, for the tests too."""
HOW: Final = "`make bench-setup` installs it"
_ENTERED: Final = "APICAS_BENCH_PEER"
"""Says to the Python of a peer that it is meant to be one: else a broken one would start itself for ever."""


class Skipped(Exception):  # noqa: N818 - nothing is wrong
    """What a contender needs is not on this machine; the message says what, in one line."""


def peers() -> list[str]:
    """The names of the environments that the set-up makes."""
    return sorted(path.stem for path in _REQUIREMENTS.glob("*.txt"))


def python_of(peer: str) -> Path:
    """The Python of a peer's environment.

    Raises:
        Skipped: it has not been made.
    """
    python = _BENCH / peer / "bin" / "python"
    if not python.exists():
        raise Skipped(f"{peer} is not installed: {HOW}")
    return python


def picas_python() -> Path:
    """The Python that PiCaS is installed in.

    Raises:
        Skipped: it has not been made.
    """
    if not PICAS.exists():
        raise Skipped("PiCaS is not installed: `make setup` installs it")
    return PICAS


def redis_server() -> str:
    """The path of a redis-server.

    Raises:
        Skipped: there is none.
    """
    found = shutil.which("redis-server")
    if found is None:
        raise Skipped("no redis-server on this machine: `python -m benchmarks.contenders.setup --redis` as root")
    return found


def enter(peer: str, module: str, *arguments: str) -> None:
    """Go on in a peer's environment, with `python -m module arguments`; returns where this already is it.

    Raises:
        Skipped: the environment has not been made, or is none.
    """
    python = python_of(peer)
    if Path(sys.prefix).resolve() == python.parents[1].resolve():
        return
    if os.environ.get(_ENTERED) == peer:
        raise Skipped(f"the environment of {peer} is broken: remove .bench/{peer}, and {HOW}")
    os.environ |= {"PYTHONPATH": str(ROOT), _ENTERED: peer}
    os.execv(python, [str(python), "-m", module, *arguments])


def install(peer: str) -> None:
    """Make a peer's environment, or bring it up to what its requirements say.

    Raises:
        subprocess.CalledProcessError: pip could not install them.
    """
    directory = _BENCH / peer
    if not (directory / "bin" / "python").exists():
        venv.create(directory, with_pip=True)
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run([*pip, "--requirement", str(_REQUIREMENTS / f"{peer}.txt")], check=True)
    except subprocess.CalledProcessError:
        shutil.rmtree(directory)  # half of an environment would look like a whole one
        raise


def install_redis() -> None:
    """Install a Redis server with the system's package manager, where there is none.

    Raises:
        Skipped: it cannot be done here, or did not work.
    """
    if shutil.which("redis-server"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Skipped("redis-server can be installed by root, with apt-get: its contenders are skipped")
    done = subprocess.run(["apt-get", "install", "--yes", "redis-server"], check=False)
    if done.returncode:
        raise Skipped("apt-get could not install redis-server: its contenders are skipped")
