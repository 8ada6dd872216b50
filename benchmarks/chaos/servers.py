"""Servers that the benchmark may kill: one of its own, or somebody's, if we are told how to start it again."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Final, Protocol, Self

from benchmarks.chaos.couch import Address
from benchmarks.ports import free_port

POUCHDB: Final = Path(__file__).parents[2] / ".pouchdb" / "node_modules" / ".bin" / "pouchdb-server"
"""Where `make setup` puts it."""
_START: Final = 60.0
"""Seconds within which a server has to answer."""


class Server(Protocol):
    """A server that can be killed."""

    async def start(self) -> None:
        """Start it, with the data that it had, and wait until it answers."""
        ...

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        ...


async def until_it_answers(address: Address) -> None:
    """Wait for a server.

    Raises:
        TimeoutError: it does not answer.
    """
    async with asyncio.timeout(_START):
        while not await asyncio.to_thread(address.answers):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)


class PouchDB:
    """A pouchdb-server on loopback with its data on disk; an async context manager.

    Args:
        directory: for its data.
    """

    def __init__(self, directory: Path) -> None:
        self.address = Address("127.0.0.1", free_port())
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """See Server."""
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
        data = self._directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        config = self._directory / "config.json"
        if not config.exists():
            config.write_text(json.dumps({}))
        places = ["--dir", str(data), "--config", str(config)]
        self._process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            [POUCHDB, "--host", "127.0.0.1", "--port", str(self.address.port), *places, "--no-stdout-logs"],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await until_it_answers(self.address)

    def signal(self, number: signal.Signals) -> None:
        """See Server."""
        if self._process is not None:
            self._process.send_signal(number)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)


class External:
    """Somebody's server, which may be killed since we know how it is started.

    Args:
        address: of the server.
        processes: process ids, or paths of files with one, which are read again after each start.
        command: starts it again and returns when it runs, or stays in the foreground.
    """

    def __init__(self, address: Address, processes: list[str], command: str) -> None:
        self.address = address
        self._processes = processes
        self._command = shlex.split(command)

    def _pids(self) -> list[int]:
        return [int(text) if text.isdigit() else int(Path(text).read_text()) for text in self._processes]

    def signal(self, number: signal.Signals) -> None:
        """See Server."""
        for pid in self._pids():
            os.kill(pid, number)

    async def start(self) -> None:
        """See Server."""
        while any(_runs(pid) for pid in self._pids()):  # noqa: ASYNC110 - not our child: nobody tells
            await asyncio.sleep(0.05)
        subprocess.Popen(  # noqa: ASYNC220 - returns at once
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # Other nodes of a cluster answer all the while.
        while not all(_runs(pid) for pid in self._pids()):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
        await until_it_answers(self.address)


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
