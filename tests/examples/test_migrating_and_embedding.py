"""The pages for those who come from PiCaS, and for those who embed a pilot: every block runs, no name is left out."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

import apicas
from apicas.clients.memory import MemoryClient
from apicas.embedding import EmbeddedPilot
from tests.couchdb import Server, server
from tests.examples.pages import DOCS, ROOT, blocks, execute

MIGRATING: Final = DOCS / "migrating-from-picas.md"
EMBEDDING: Final = DOCS / "embedding.md"
PACKAGES: Final = next((ROOT / ".picas").glob("lib/python*/site-packages"), None)
needs_picas = pytest.mark.skipif(PACKAGES is None, reason="no PiCaS in .picas/: `make setup` installs it")


async def in_a_shell(block: str, directory: Path, **variables: str) -> None:
    """Run a block of commands, with `apicas` on the path."""
    script = directory / "apicas"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m apicas "$@"\n')
    script.chmod(0o755)
    path = f"{directory}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **variables}
    command = ["sh", "-ec", block]
    await asyncio.to_thread(subprocess.run, command, env=environment, cwd=directory, check=True, timeout=100)


@pytest.fixture
def couch(request: pytest.FixtureRequest) -> Iterator[tuple[Server, str]]:
    """A server, and the name of a database that is there."""
    here = server(request.config, "pouchdb")
    with here.database() as name:
        yield here, name


def test_every_block_is_known() -> None:
    """A new one needs a test here."""
    assert [len(blocks(page, "python")) for page in (MIGRATING, EMBEDDING)] == [3, 4]
    assert [len(blocks(page, "sh")) for page in (MIGRATING, EMBEDDING)] == [1, 1]


@pytest.mark.couchdb
@needs_picas
async def test_the_two_lines(couch: tuple[Server, str], tmp_path: Path) -> None:
    """The program of the page, with the real PiCaS, and a picasconfig.py beside it."""
    here, name = couch
    settings = {"HOST_URL": here.url, "DATABASE": name, "USERNAME": here.username, "PASSWORD": here.password or ""}
    (tmp_path / "picasconfig.py").write_text("".join(f"PICAS_{key} = {value!r}\n" for key, value in settings.items()))
    (tmp_path / "pilot.py").write_text(blocks(MIGRATING, "python")[0])
    async with here.client(name) as client:
        await client.setup()
        await client.upload({"_id": f"t{n}", "input": f"echo {n}; exit {n // 3}"} for n in range(4))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(PACKAGES)))}
        command = [sys.executable, "-W", "ignore", "pilot.py"]
        program = await asyncio.to_thread(
            subprocess.run, command, cwd=tmp_path, env=environment, check=False, capture_output=True, timeout=100
        )
        assert program.returncode == 0, program.stderr
        assert program.stdout.startswith(b"3 done, 1 failed, 1 scrubbed in ")
        assert {state: number for state, number in (await client.counts()).items() if number} == {"done": 3, "error": 1}
        assert await client.get_attachment("t2", "stdout.txt") == b"2\n"
        assert (await client.fetch("t3")).scrub_count == 1


def test_the_two_lines_are_two() -> None:
    """All other lines are PiCaS's."""
    lines = [line for line in blocks(MIGRATING, "python")[0].splitlines() if "apicas" in line]
    assert len(lines) == 2


async def test_a_command_instead_of_an_actor(tmp_path: Path) -> None:
    pool = f"sqlite:///{tmp_path}/pool.db"
    async with apicas.connect(pool) as client:
        await client.upload([{"_id": "t", "input": "echo it works"}])
    await in_a_shell(blocks(MIGRATING, "sh")[0], tmp_path, APICAS_POOL=pool)
    async with apicas.connect(pool) as client:
        assert await client.get_attachment("t", "stdout.txt") == b"it works\n"


@pytest.mark.parametrize("is_named", [True, False])
async def test_the_actor_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_named: bool) -> None:
    """On a pool that is named, and on the one that the command line takes."""
    pool = f"sqlite:///{tmp_path}/pool.db"
    if not is_named:
        monkeypatch.setenv("APICAS_POOL", pool)
    async with apicas.connect(pool) as client:
        await client.upload([{"_id": "t", "input": "echo it works"}])
    names: dict[str, Any] = {}
    await execute(blocks(MIGRATING, "python")[1], names)
    await names["main"](*([pool] if is_named else []))
    async with apicas.connect(pool) as client:
        assert (await client.fetch("t")).state == "done"
        assert await client.get_attachment("t", "stdout.txt") == b"it works\n"


async def test_the_views_of_tasks() -> None:
    async def work(token: apicas.Token) -> None: ...

    async with MemoryClient() as client:
        await client.upload([{"_id": "t", "type": "task"}])
        names: dict[str, Any] = {"client": client, "apicas": apicas, "work": work}
        await execute(blocks(MIGRATING, "python")[2], names)
        assert names["report"].done == 1


@needs_picas
@pytest.mark.parametrize(
    "module", ["actors", "clients", "documents", "executers", "generators", "iterators", "modifiers"]
)
def test_no_name_of_picas_is_left_out(module: str) -> None:
    """Every public class, method and function of the real package is on the page."""
    assert PACKAGES is not None
    text = MIGRATING.read_text()
    tree = ast.parse((PACKAGES / "picas" / f"{module}.py").read_text())
    # Bases and helpers that nobody calls, what apicas calls the same, what any mapping has, and the methods of Job.
    inner = {"AbstractRunActor", "TokenModifier", "ViewIterator", "execute_old", "get_empty_token", "is_cancelled"}
    inner |= {"try_set", "unclose", "unlock", "add_output", "get_token", "value", "update", "uploads"}
    inner |= {"remove_attachment", "queue", "start", "finish", "archive"}
    kinds = (ast.ClassDef, ast.FunctionDef)
    names = {node.name for node in ast.walk(tree) if isinstance(node, kinds) and not node.name.startswith("_")}
    missing = [name for name in sorted(names - inner) if not re.search(rf"\b{name}\b", text)]
    assert missing == []


async def test_typed_input() -> None:
    """The actor in docs/actors.md."""
    (block,) = (block for block in blocks(DOCS / "actors.md", "python") if "Token[Field]" in block)
    names: dict[str, Any] = {}
    await execute(block, names)
    async with MemoryClient() as client:
        await client.upload(
            [{"_id": "t", "input": {"size": 3, "bands": ["x", "y"]}}, {"_id": "u", "input": {"size": "3"}}]
        )
        await apicas.run(names["Survey"], client, workers=1, max_scrub=3, handle_signals=False)
        assert (await client.fetch("t")).output == 6
        wrong = await client.fetch("u")
        assert (wrong.state, wrong.errors[0]["message"]) == ("error", "input.size: Expected `int`, got `str`")


async def test_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pilot by itself, in aiohttp, in Starlette, and one that ends its host."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"asyncio": asyncio}
    first, in_aiohttp, in_starlette, dying = blocks(EMBEDDING, "python")
    await execute(first, names)
    assert names["pilot"].report.done == 3
    await execute(in_aiohttp, names)
    runner = web.AppRunner(names["app"])
    await runner.setup()
    await in_a_shell(blocks(EMBEDDING, "sh")[0], tmp_path)
    async with apicas.connect("sqlite:///squares.db") as client:
        while (await client.counts())["done"] < 103:
            await asyncio.sleep(0.01)
    await runner.cleanup()
    await execute(in_starlette, names)
    app = names["app"]
    async with app.router.lifespan_context(app):
        pass
    await execute(dying, names)
    assert isinstance(names["pilot"], EmbeddedPilot)
