"""The outbox with real processes, a real disk, and a server that is away: a killed pilot's result arrives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from apicas._documents import decode
from tests.cli.program import Events, Program, Result, make_program
from tests.couchdb import SERVERS, Server, server
from tests.faults.proxy import FaultProxy

# Work counts as long at once: no test waits for a second to pass.
WORK = """
import os, resource
import apicas._runtime.keeping.safekeeping

apicas._runtime.keeping.safekeeping.LONG = 0.0


def say(word):
    with open("started", "w") as pipe:
        pipe.write(word + "\\n")


def work(token):
    with open("go") as pipe:  # first: a pipe that the test has closed by then would never open
        say("begun " + token.id)
        pipe.read()
    return {"from": "the first pilot"}


def again(token):
    say("again " + token.id)


def on_a_full_disk(token):
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    return "x" * 1000
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Program]:
    """`apicas` in tmp_path."""
    for program in make_program(tmp_path, monkeypatch, capfd.readouterr):
        program.write("work.py", WORK)
        yield program


@pytest.fixture(params=SERVERS)
def couch(request: pytest.FixtureRequest) -> Server:
    """A server."""
    return server(request.config, request.param)


@pytest.fixture
async def proxy(couch: Server) -> AsyncIterator[FaultProxy]:
    """Before that server."""
    async with FaultProxy(couch.url) as proxy:
        yield proxy


@pytest.fixture
async def pool(
    couch: Server, proxy: FaultProxy, program: Program, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """The address of a pool with one token, through the proxy."""
    if couch.username and couch.password:
        monkeypatch.setenv("APICAS_USERNAME", couch.username)
        monkeypatch.setenv("APICAS_PASSWORD", couch.password)
    with couch.database() as name:
        monkeypatch.setenv("APICAS_POOL", f"{proxy.url}/{name}")
        async with couch.client(name) as client:
            await client.setup()
            await client.upload([{"_id": "t", "input": 1}])
        yield name


async def call(program: Program, *arguments: str) -> Result:
    """Run a command to its end, while the proxy works on."""
    return await anyio.to_thread.run_sync(lambda: program.finish(program.start(*arguments)))


def files_in(directory: Path, pattern: str = "**/*") -> list[Path]:
    return [path for path in directory.glob(pattern) if path.is_file()]


async def wait_for_one_file(directory: Path) -> Path:
    """Wait until one result is kept. A disk tells nobody."""
    with anyio.fail_after(60):
        while not (found := files_in(directory, "apicas/outbox/*/*.json")):
            await anyio.sleep(0.02)
    (path,) = found
    return path


@pytest.mark.parametrize("deliverer", ["flush", "another pilot"])
async def test_the_result_of_a_pilot_that_was_killed_arrives(
    couch: Server, proxy: FaultProxy, pool: str, program: Program, state_home: Path, deliverer: str
) -> None:
    """The server goes away while it works, and it gets SIGKILL before the server is back; nothing is worked twice."""
    started, go = Events(program.directory / "started"), Events(program.directory / "go")
    pilot = program.start("run", "work:work", "--workers", "1", "--max-tokens", "1")
    try:
        assert await anyio.to_thread.run_sync(started.wait) == ["begun t"]
        await proxy.go_away()
        go.close()  # the work ends
        path = await wait_for_one_file(state_home)
    finally:
        pilot.kill()
        await anyio.to_thread.run_sync(program.finish, pilot)
    listed = decode((await call(program, "flush", "--list", "--json")).out)
    assert [(each["token"], each["ending"], each["file"]) for each in listed["waiting"]] == [("t", "done", str(path))]
    await proxy.come_back()
    if deliverer == "flush":
        result = await call(program, "flush")
        assert (result.code, result.out) == (0, "1 result written, 0 were in the pool already\n"), result.err
    else:
        result = await call(program, "run", "work:again", "--workers", "1")
        assert result.code == 0, result.err
        assert result.out.startswith("0 done")
    token = couch.request("GET", f"{pool}/t")
    assert token["output"] == {"from": "the first pilot"}
    assert (token["exit_code"], token["apicas"]["generation"]) == (0, 1)
    assert token["done"] > 1e9
    assert not path.exists()
    started.close()


async def test_a_full_disk_is_said_and_the_result_is_written(
    couch: Server, pool: str, program: Program, state_home: Path
) -> None:
    """A limit on the size of files stands for the disk. Nothing half-written stays."""
    result = await call(program, "run", "work:on_a_full_disk", "--workers", "1")
    assert result.code == 0, result.err
    (line,) = [line for line in result.err.splitlines() if "outbox" in line]
    assert "File too large" in line
    assert couch.request("GET", f"{pool}/t")["output"] == "x" * 1000
    assert files_in(state_home) == []
