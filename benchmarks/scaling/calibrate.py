"""Measure what a CouchDB asks for each kind of request: where the costs of the model come from.

    python -m benchmarks.scaling.calibrate http://name:secret@host:5984 [--server-pid N] [--seconds 3]

Makes a database of its own on the server, and deletes it. With the pid of a server on this machine it also counts CPU
seconds, of the server and of its JavaScript processes: these hold where the clock does not, on a machine with company.
Each line is a kind of request, the number of its documents, the connections, milliseconds by the clock and of CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import aiohttp
import msgspec

from apicas import CouchClient
from apicas.tokens import new_token
from benchmarks.contenders.raw_couch import headers_for

TOKENS: Final = 20_000
_TICKS: Final = os.sysconf("SC_CLK_TCK")
Call = Callable[[int], Awaitable[object]]


def cpu_seconds(root: int | None) -> float:
    """What a process and its descendants have used; 0 where nobody is asked."""
    if root is None:
        return 0.0
    parents: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = (int(fields[1]), int(fields[11]) + int(fields[12]))
    family = {root}
    while grown := {pid for pid, (parent, _) in parents.items() if parent in family} - family:
        family |= grown
    return sum(parents[pid][1] for pid in family if pid in parents) / _TICKS


class Calibration:
    """Requests of one kind after the other, over one database.

    Args:
        session: to the server.
        database: its name.
        pid: of the server; None where it is not here.
        seconds: for each measurement.
    """

    def __init__(self, session: aiohttp.ClientSession, database: str, pid: int | None, seconds: float) -> None:
        self._session = session
        self._database = database
        self._pid = pid
        self._seconds = seconds
        self._revs: dict[str, str] = {}
        self._ids: list[str] = []

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request; answers with its JSON."""
        data = None if body is None else msgspec.json.encode(body)
        async with self._session.request(method, f"/{self._database}/{path}", data=data) as response:
            text = await response.read()
        if response.status >= 400:
            raise RuntimeError(f"{path} answers {response.status}: {text[:200]!r}")
        return msgspec.json.decode(text)

    async def learn(self) -> None:
        """Read which documents there are."""
        rows = (await self.ask("GET", "_design/Monitor/_view/todo?reduce=false&include_docs=true"))["rows"]
        self._revs = {row["id"]: row["doc"]["_rev"] for row in rows}
        self._ids = list(self._revs)

    def _some(self, number: int, turn: int) -> list[str]:
        start = turn * number % (len(self._ids) - number)
        return self._ids[start : start + number]

    async def view(self, number: int, turn: int, update: str = "false") -> None:
        """Rows of todo."""
        key = self._some(1, turn * 37)[0]
        await self.ask(
            "GET", f'_design/Monitor/_view/todo?reduce=false&limit={number}&update={update}&startkey="{key}"'
        )

    async def bodies(self, number: int, turn: int) -> None:
        """Documents by id."""
        await self.ask("POST", "_bulk_get", {"docs": [{"id": one} for one in self._some(number, turn)]})

    async def write(self, number: int, turn: int) -> None:
        """Documents written over."""
        documents = []
        for one in self._some(number, turn):
            lock = {"lock": 0, "turn": turn, "apicas": {"claim": token_hex(8), "lease": 900, "lock": 0}}
            documents.append({**new_token({"input": turn}, one), "_rev": self._revs[one], **lock})
        rows = await self.ask("POST", "_bulk_docs", {"docs": documents})
        self._revs |= {row["id"]: row["rev"] for row in rows if "rev" in row}

    async def write_and_look(self, number: int, turn: int) -> None:
        """Documents written over, and then a fresh view: what is more than the write is the index."""
        await self.write(number, turn)
        await self.view(1, turn, "true")

    async def measure(self, name: str, number: int, connections: int, call: Call) -> None:
        """Repeat a request over some connections for a while, and print what one of them cost."""
        turns = iter(range(10**9))
        until = time.monotonic() + self._seconds
        calls = 0

        async def loop() -> None:
            nonlocal calls
            while time.monotonic() < until:
                await call(next(turns))
                calls += 1

        began, used = time.monotonic(), cpu_seconds(self._pid)
        await asyncio.gather(*(loop() for _ in range(connections)))
        took, used = time.monotonic() - began, cpu_seconds(self._pid) - used
        clock, cpu = 1e3 * took * connections / calls, 1e3 * used / calls
        print(
            f"{name:14s} {number:5d} x {connections:2d}: {clock:8.2f} ms, {cpu:8.3f} ms of CPU, {calls / took:7.0f}/s"
        )


async def calibrate(url: str, username: str, password: str, pid: int | None, seconds: float) -> None:
    """Measure all kinds."""
    database = f"apicas-calibration-{token_hex(6)}"
    headers = headers_for({"username": username, "password": password})
    async with CouchClient(url, database, username or None, password or None) as client:
        await client.setup()
        await client.upload({"input": number} for number in range(TOKENS))
        try:
            async with aiohttp.ClientSession(url, headers=headers) as session:
                await _measure_all(Calibration(session, database, pid, seconds))
        finally:
            await client.delete_database()


async def _measure_all(it: Calibration) -> None:
    await it.learn()
    for connections in (1, 8):
        for number in (1, 100, 1000):
            await it.measure("rows", number, connections, lambda turn, n=number: it.view(n, turn))  # type: ignore[misc]
        await it.measure("rows, fresh", 1, connections, lambda turn: it.view(1, turn, "true"))
        for number in (1, 10, 100, 1000):
            await it.measure("bodies", number, connections, lambda turn, n=number: it.bodies(n, turn))  # type: ignore[misc]
        for number in (1, 10, 100, 1000):
            await it.measure("write", number, connections, lambda turn, n=number: it.write(n, turn))  # type: ignore[misc]
    for number in (1, 10, 100, 1000):
        await it.view(1, 0, "true")
        await it.measure("write, fresh", number, 1, lambda turn, n=number: it.write_and_look(n, turn))  # type: ignore[misc]


def main() -> None:
    """Run from the command line; the password comes from $APICAS_PASSWORD where the URL has none."""
    from yarl import URL  # noqa: PLC0415 - only here

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="of the server")
    parser.add_argument("--server-pid", type=int)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    store = URL(options.store)
    password = store.password or os.environ.get("APICAS_PASSWORD", "")
    server = str(store.with_user(None)).rstrip("/")
    asyncio.run(calibrate(server, store.user or "", password, options.server_pid, options.seconds))


if __name__ == "__main__":
    main()
