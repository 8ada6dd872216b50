"""Several processes on one SQLite file."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from apicas.clients.sqlite import SQLiteClient
from apicas.clients.sqlite.attachments import CHUNK, STAGED_LIFE

ROOT = Path(__file__).resolve().parents[2]

PRELUDE = """
import asyncio, os, sys, time
from apicas.clients.sqlite import SQLiteClient
path = sys.argv[1]
def tell(*words):
    print(*words, flush=True)
"""


def start(script: str, path: Path) -> subprocess.Popen[str]:
    """A Python process with a script that finds the pool's path, and `tell`."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PRELUDE + script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    found = process.stdout.readline().strip()
    if not found:
        raise AssertionError(process.communicate()[1])
    return found


def finish(process: subprocess.Popen[str], words: str = "") -> list[str]:
    out, err = process.communicate(words, timeout=60)
    assert process.returncode == 0, err
    assert not err
    return out.splitlines()


CLAIM = """
async def main():
    async with SQLiteClient(path) as client:
        tell("ready")
        sys.stdin.readline()
        place = os.getpid() % 97 / 97
        while documents := await client.sample("todo", 20, place):
            place = (place + 0.37) % 1
            results = await client.save([{**d, "lock": 1700000000, "winner": os.getpid()} for d in documents])
            won = [{**d, "_rev": r.rev, "winner": os.getpid()} for d, r in zip(documents, results) if r.written]
            for document in won:
                tell(document["_id"])
            done = [{**d, "lock": 1700000000, "done": 1700000001, "exit_code": 0} for d in won]
            assert all(r.written for r in await client.save(done))
asyncio.run(main())
"""


def test_four_processes_win_each_token_once(tmp_path: Path) -> None:
    """They hammer one file, claims overlap, and nobody hears that the database is locked."""
    path = tmp_path / "pool.db"
    ids = [f"t{index:04}" for index in range(1200)]

    async def prepare() -> None:
        async with SQLiteClient(path) as client:
            await client.upload({"_id": identifier} for identifier in ids)

    asyncio.run(prepare())
    processes = [start(CLAIM, path) for _ in range(4)]
    for process in processes:
        assert line(process) == "ready"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    won = [finish(process) for process in processes]
    assert sorted(identifier for some in won for identifier in some) == ids

    async def check() -> None:
        async with SQLiteClient(path) as client:
            assert (await client.counts())["done"] == len(ids)
            documents = await client.get(ids)
            winners = {document["_id"]: document["winner"] for document in documents if document}
            for process, some in zip(processes, won, strict=True):
                assert all(winners[identifier] == process.pid for identifier in some)

    asyncio.run(check())


OPEN = """
async def main():
    async with SQLiteClient(path) as client:
        await client.upload([{"_id": str(os.getpid())}])
sys.stdin.readline()
asyncio.run(main())
"""


def test_processes_may_make_the_pool_at_the_same_time(tmp_path: Path) -> None:
    processes = [start(OPEN, tmp_path / "pool.db") for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        finish(process)

    async def check() -> None:
        async with SQLiteClient(tmp_path / "pool.db") as client:
            assert await client.total() == 4

    asyncio.run(check())


WRITE = """
async def main():
    async with SQLiteClient(path) as client:
        for batch in range(100000):
            await client.upload({"_id": f"{batch:06}-{index:02}", "input": "x" * 500} for index in range(50))
            tell(batch)
asyncio.run(main())
"""


def test_a_killed_writer_loses_nothing_committed(tmp_path: Path) -> None:
    """What it told to be written is there, and the batch that it was at is there whole, or not at all."""
    path = tmp_path / "pool.db"
    process = start(WRITE, path)
    for _ in range(20):
        line(process)
    process.send_signal(signal.SIGKILL)
    told = 20 + len(process.communicate()[0].splitlines())

    async def check() -> None:
        async with SQLiteClient(path) as client:
            stored = (await client.counts())["todo"]
            assert stored in {told * 50, (told + 1) * 50}
            assert len(await client.view("todo", include_docs=True)) == stored

    asyncio.run(check())


UPLOAD = """
from apicas.clients.sqlite.attachments import CHUNK
async def stream():
    yield b"x" * (2 * CHUNK + 5)
    tell("half")
    sys.stdin.readline()
async def main():
    async with SQLiteClient(path) as client:
        await client.upload([{"_id": "t"}])
        token = await client.fetch("t")
        await client.put_attachment("t", token.rev, "log", stream())
asyncio.run(main())
"""


def test_what_a_crash_staged_is_cleared_away_when_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / "pool.db"
    process = start(UPLOAD, path)
    line(process)
    process.kill()
    process.communicate()

    async def staged(later: float) -> int:
        start_time = SQLiteClient(path).time()
        async with SQLiteClient(path, now=lambda: start_time + later) as client:
            assert await client.attachments("t") == []
            assert client._thread is not None
            ((size,),) = await client._thread.read(
                lambda connection: connection.execute("SELECT coalesce(sum(length(data)), 0) FROM chunks").fetchall()
            )
            return int(size)

    assert asyncio.run(staged(0)) == 2 * CHUNK
    assert asyncio.run(staged(STAGED_LIFE + 60)) == 0


ALONE = """
import logging
logging.getLogger("apicas").addHandler(logging.NullHandler())
from apicas.exceptions import PoolInUseError
async def main():
    try:
        async with SQLiteClient(path, file_system=lambda _: "lustre") as client:
            tell("total", await client.total())
    except PoolInUseError as error:
        tell(error)
asyncio.run(main())
"""


def test_on_a_network_file_system_a_second_process_is_refused(tmp_path: Path) -> None:
    """In one sentence that names the way out; when the first is through, the next may."""
    path = tmp_path / "pool.db"

    async def hold() -> list[str]:
        async with SQLiteClient(path, file_system=lambda _: "lustre") as client:
            await client.upload([{}])
            return await asyncio.to_thread(lambda: finish(start(ALONE, path)))

    assert asyncio.run(hold()) == [
        f"another process uses {path}, and on lustre only one can: put the pool into a local directory, or on CouchDB"
    ]
    assert finish(start(ALONE, path)) == ["total 1"]


FORK = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside threads: that is the case here
from apicas.exceptions import PoolError
async def use(client):
    for attempt in (client.total, SQLiteClient(path).open, client.fork().open):
        try:
            await attempt()
        except PoolError as error:
            tell("fork" in str(error))
        await client.aclose()
async def main():
    async with SQLiteClient(path) as client:
        await client.upload([{}])
        child = os.fork()
        if not child:
            asyncio.set_event_loop(None)
            asyncio.events._set_running_loop(None)
            asyncio.run(use(client))
            os._exit(0)
        os.waitpid(child, 0)
        tell(await client.total())
asyncio.run(main())
"""


def test_a_forked_process_is_kept_from_the_connection(tmp_path: Path) -> None:
    assert finish(start(FORK, tmp_path / "pool.db")) == ["True", "True", "True", "1"]
