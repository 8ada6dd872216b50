"""Every example runs, and does what it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web

import apicas
from tests.examples.loading import load

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "examples"
PNG: Final = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def command(tmp_path: Path) -> dict[str, str]:
    """An environment in which `apicas` is a command, and the pool is a new one."""
    scripts = tmp_path / "bin"
    scripts.mkdir()
    apicas_command = scripts / "apicas"
    apicas_command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m apicas "$@"\n')
    apicas_command.chmod(0o755)
    path = f"{scripts}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "APICAS_POOL": f"sqlite:///{tmp_path}/pool.db"}


def run(*arguments: str | Path, directory: Path, environment: dict[str, str]) -> str:
    """Run a command to its end, and return what it printed."""
    done = subprocess.run(
        arguments, cwd=directory, env=environment, check=False, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_quickstart_runs_twice(tmp_path: Path, command: dict[str, str]) -> None:
    """The six steps; the second run finds nothing to do, and the same results."""
    script = EXAMPLES / "quickstart" / "quickstart.py"
    first = run(sys.executable, script, command["APICAS_POOL"], directory=tmp_path, environment=command)
    assert "5 done" in first
    assert "square-4: 4 -> 16" in first
    second = run(sys.executable, script, command["APICAS_POOL"], directory=tmp_path, environment=command)
    assert "0 done" in second
    assert "square-4: 4 -> 16" in second


async def test_commands_need_no_python(tmp_path: Path, command: dict[str, str]) -> None:
    """The shell script pushes, runs and shows; output and exit codes are in the tokens."""
    run("sh", "run.sh", directory=EXAMPLES / "commands", environment=command)
    async with apicas.connect(command["APICAS_POOL"]) as client:
        tokens = [row.document for row in await client.view("done", include_docs=True)]
        logs = [await client.get_attachment(token["_id"], "stdout.txt") for token in tokens if token]
    assert sorted(log.split(b": ")[1] for log in logs) == [b"2 words\n", b"3 words\n", b"4 words\n"]


def test_a_map_has_a_memory(tmp_path: Path, command: dict[str, str]) -> None:
    """Lines are worked in directories of their own, what they make is moved; the second run has nothing to do."""
    here = EXAMPLES / "map"
    first = run("sh", "run.sh", tmp_path / "out", directory=here, environment=command)
    assert "gamma: " in first
    assert len((tmp_path / "out/beta/beta.dat").read_text().splitlines()) == 20
    second = run("sh", "run.sh", tmp_path / "out", directory=here, environment=command)
    assert "gamma: " not in second
    assert second.splitlines()[-3:] == [f"{tmp_path}/out/{name}/{name}.dat" for name in ("alpha", "beta", "gamma")]


async def test_embedding_starts_works_and_stops_with_the_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens come in over HTTP, and are worked by the pilot in the same loop."""
    monkeypatch.setenv("APICAS_POOL", f"sqlite:///{tmp_path}/pool.db")
    runner = web.AppRunner(load(EXAMPLES / "embedding" / "service.py").make_app())
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        url = f"http://{host}:{port}/numbers"
        async with aiohttp.ClientSession() as session:
            async with session.post(url, json=[1, 2, 3]) as response:
                assert await response.json() == {"pushed": 3}
            answer: dict[str, dict[str, int]] = {"squares": {}}
            while len(answer["squares"]) < 3:
                async with session.get(url) as response:
                    answer = await response.json()
            async with session.get(f"http://{host}:{port}/health") as response:
                assert response.status == 200
                assert "3 done" in await response.text()
        assert answer["squares"] == {"1": 1, "2": 4, "3": 9}
        assert answer["counts"]["done"] == 3
    finally:
        await runner.cleanup()


async def test_embedding_in_an_asgi_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Starlette service: its lifespan runs the pilot, its routes push and look."""
    monkeypatch.setenv("APICAS_POOL", f"sqlite:///{tmp_path}/pool.db")
    app = load(EXAMPLES / "embedding" / "asgi_service.py").make_app()

    async def request(method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "root_path": ""}
        await app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])

    async with app.router.lifespan_context(app):
        assert await request("POST", "/numbers", b"[1, 2, 3]") == (202, b'{"pushed":3}')
        while json.loads((await request("GET", "/numbers"))[1])["counts"]["done"] < 3:
            pass
        status, text = await request("GET", "/health")
        assert (status, text[:6]) == (200, b"3 done")


async def test_the_demo_leaves_pictures(tmp_path: Path, command: dict[str, str]) -> None:
    """Push, run and status; a picture per token, and log and thumbnail attached. Again: nothing is lost."""
    pytest.importorskip("numpy")
    pytest.importorskip("PIL")
    demo = EXAMPLES / "fractals" / "demo.py"
    printed = run(sys.executable, demo, tmp_path / "demo", "6", directory=tmp_path, environment=command)
    assert "6 pictures" in printed
    pictures = sorted((tmp_path / "demo" / "pictures").glob("*.png"))
    assert len(pictures) == 6
    assert all(picture.read_bytes().startswith(PNG) for picture in pictures)
    async with apicas.connect(f"sqlite:///{tmp_path}/demo/fractals.db") as client:
        assert (await client.counts())["done"] == 6
        assert (await client.get_attachment("julia-000", "thumbnail.png")).startswith(PNG)
        assert b"points are inside" in await client.get_attachment("julia-000", "render.log")
    assert "6 pictures" in run(sys.executable, demo, tmp_path / "demo", "6", directory=tmp_path, environment=command)


async def test_fractals_as_commands(tmp_path: Path, command: dict[str, str]) -> None:
    """The same work without an actor; a bad token ends in error with the command's message, the others are done."""
    pytest.importorskip("numpy")
    pytest.importorskip("PIL")
    good = {"_id": "good", "input": {"kind": "julia", "size": [40, 30], "iterations": 20}}
    bad = {"_id": "bad", "input": {"kind": "circle"}}
    (tmp_path / "tokens.jsonl").write_text("\n".join(json.dumps(token) for token in (good, bad)))
    here = EXAMPLES / "fractals"
    run("apicas", "push", tmp_path / "tokens.jsonl", directory=here, environment=command)
    template = [sys.executable, "render.py", "{input}", f"{tmp_path}/{{_id}}.png"]
    run("apicas", "run", "--workers", "2", "--", *template, directory=here, environment=command)
    assert (tmp_path / "good.png").read_bytes().startswith(PNG)
    async with apicas.connect(command["APICAS_POOL"]) as client:
        token = await client.fetch("bad")
        assert token.state == "error"
        assert token["exit_code"] == 1
        assert "'circle' is no fractal" in token.errors[0]["message"]
        assert b"Traceback" in await client.get_attachment("bad", "stderr.txt")


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def test_the_readme_program_runs(tmp_path: Path, command: dict[str, str]) -> None:
    """The first Python block of the README, as it stands there."""
    program = code_blocks(ROOT / "README.md", "python")[0]
    printed = run(sys.executable, "-c", program, directory=tmp_path, environment=command)
    assert "100 done" in printed


def test_the_readme_commands_run(tmp_path: Path, command: dict[str, str]) -> None:
    """The console block for five minutes, but for the installation."""
    block = next(block for block in code_blocks(ROOT / "README.md", "console") if "apicas push" in block)
    lines = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ") and "pip" not in line]
    printed = run("sh", "-ec", "\n".join(lines), directory=tmp_path, environment=command)
    assert re.search(r"done\W+3\b", printed)


@pytest.mark.parametrize(
    ("script", "arguments", "environ"),
    [("slurm.sh", ["work.py:work"], {}), ("pbs.sh", [], {"WORK": "work.py:work"})],
)
async def test_job_scripts_become_a_pilot(
    tmp_path: Path, command: dict[str, str], script: str, arguments: list[str], environ: dict[str, str]
) -> None:
    """Without a batch system, which tests/integration/test_slurm.py has: the script is a pilot on what there is."""
    (tmp_path / "work.py").write_text("def work(token):\n    return token.allocation.of('cores')\n")
    (tmp_path / "lines.txt").write_text("a\nb\n")
    run("apicas", "push", "lines.txt", directory=tmp_path, environment=command)
    script_file = EXAMPLES / "batch" / script
    run("bash", script_file, *arguments, directory=tmp_path, environment={**command, **environ})
    async with apicas.connect(command["APICAS_POOL"]) as client:
        tokens = [row.document for row in await client.view("done", include_docs=True)]
    assert [token and token["output"] for token in tokens] == [1, 1]


@pytest.mark.parametrize("script", sorted((EXAMPLES / "batch").glob("*.sh")), ids=lambda path: str(path.name))
def test_job_scripts_are_shell(script: Path, tmp_path: Path, command: dict[str, str]) -> None:
    assert os.access(script, os.X_OK)
    run("bash", "-n", script, directory=tmp_path, environment=command)
