"""What a figure depends on: the machine, the versions, the commit. No names of hosts, no paths."""

from __future__ import annotations

import json
import os
import platform
import re
import sqlite3
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from apicas.clients.sqlite import SQLiteClient
from benchmarks.contenders.environments import ROOT

_LIBRARIES: Final = ("aiocouch", "aiohttp", "anyio", "msgspec", "uvloop")
_ASK: Final = 10.0


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured."""

    processor: str
    cores: int
    """That this process may use."""
    memory: int
    """Bytes."""
    kernel: str
    file_system: str
    """Of the directory with the files, by its type."""
    load: float
    """Processes that wanted to run, over the minute before it began: with more than 0.2, others were at work too."""


def machine(directory: Path) -> Machine:
    """This machine.

    Args:
        directory: where files are put.
    """
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=f"{platform.system()} {re.match(r'[0-9.]*', platform.release())[0]}",  # type: ignore[index]  # matches all
        file_system=_file_system(directory),
        load=round(os.getloadavg()[0], 2),
    )


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _file_system(directory: Path) -> str:
    """The type of the mount that is the longest beginning of a path."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    path = directory.resolve()
    found = "unknown", -1
    for line in mounts:
        _, place, kind, *_ = line.split()
        if path.is_relative_to(place) and len(place) >= found[1]:
            found = kind, len(place)
    return found[0]


def versions() -> dict[str, str]:
    """Of Python, SQLite and the libraries, and of the peers that are installed."""
    found = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {**found, **dict(_peers())}


def _peers() -> Iterator[tuple[str, str]]:
    for place in sorted((ROOT / ".bench").glob("*")):
        for metadata in place.glob(f"lib/*/site-packages/{place.name}-*.dist-info"):
            yield place.name, metadata.name.removesuffix(".dist-info").rpartition("-")[2]


async def pragmas(directory: Path, wal: str) -> dict[str, str]:
    """How our SQLite files are set, as such a file says itself.

    Args:
        directory: where one is made, and left.
        wal: `synchronous`.
    """
    path = directory / "pragmas.db"
    async with SQLiteClient(path):
        # What every connection sets for itself, this one is told; the rest is in the file.
        connection = sqlite3.connect(path)
        try:
            names = ("journal_mode", "page_size", "auto_vacuum")
            said = {name: str(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in names}
        finally:
            connection.close()
    return {**said, "synchronous": wal}


def commit() -> str:
    """The commit that is checked out; with `+` where files were changed since."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def server_version(address: str) -> str:
    """What a server that speaks CouchDB's protocol says of itself.

    Raises:
        OSError: it does not answer.
    """
    parts = urlsplit(address)
    request = urllib.request.Request(f"{parts.scheme}://{parts.hostname}:{parts.port}/")
    if parts.username:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {b64encode(login.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=_ASK) as response:
        said: Mapping[str, object] = json.loads(response.read())
    names = [name for name in said if isinstance(said[name], str) and name != "uuid"]
    kind = "CouchDB" if "vendor" in said and "features" in said else (names[0] if names else "unknown")
    return f"{kind} {said.get('version', 'of unknown version')}"


def python_is() -> str:
    """The kind of Python."""
    return f"{platform.python_implementation()} {sys.version.split()[0]}"
