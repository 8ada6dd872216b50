"""PiCaS and apicas on one database, with the real `picas` 1.1.2 package from PyPI in an environment of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import apicas
from apicas.clients.couch import CouchClient
from apicas.tokens import Token
from tests.couchdb import SERVERS, Server, server

PYTHON: Final = Path(__file__).parents[2] / ".picas" / "bin" / "python"
PILOT: Final = Path(__file__).with_name("picas_pilot.py")

pytestmark = [
    pytest.mark.couchdb,
    pytest.mark.skipif(not PYTHON.exists(), reason="no PiCaS in .picas/: `make setup` installs it"),
]


class Pool:
    """A database that both use."""

    def __init__(self, server: Server, database: str) -> None:
        self.server = server
        self.database = database

    def client(self) -> CouchClient:
        return self.server.client(self.database)

    def picas(self, *command: str) -> str:
        """Run a command of the PiCaS pilot."""
        credentials = [self.server.username or "", self.server.password or ""]
        arguments = [self.server.url, self.database, *credentials, *command]
        done = subprocess.run(
            [PYTHON, "-W", "ignore", PILOT, *arguments], check=False, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(params=SERVERS)
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """A new database."""
    here = server(request.config, request.param)
    with here.database() as name:
        yield Pool(here, name)


async def shell(token: Token) -> None:
    """The same work as the PiCaS pilot's."""
    result = await apicas.run_command(["sh", "-c", token["input"]])
    token.put_attachment("stdout.txt", result.stdout)
    token["exit_code"] = result.exit_code


async def settled(client: CouchClient, expected: dict[str, int]) -> None:
    """Expect counts; on a cluster, where a view is read from one replica, after looking again for a while."""
    counts = await client.counts()
    for _ in range(200 if client.replicated else 0):
        if counts == expected:
            break
        counts = await client.counts()
    assert counts == expected


def commands(number: int) -> list[dict[str, Any]]:
    return [{"_id": f"ours-{n:04}", "input": f"echo ours {n}; exit {int(n % 3 == 2)}"} for n in range(number)]


async def test_picas_works_our_tokens(pool: Pool) -> None:
    """What apicas pushes, PiCaS claims, runs, closes and attaches logs to."""
    async with pool.client() as client:
        await client.setup()
        await client.upload(commands(9))
        pool.picas("run")
        await settled(client, {"todo": 0, "locked": 0, "done": 6, "error": 3})
        assert await client.get_attachment("ours-0004", "stdout.txt") == b"ours 4\n"
        assert (await client.fetch("ours-0005"))["exit_code"] == 1


async def test_we_work_the_tokens_of_picas(pool: Pool) -> None:
    """What PiCaS pushes, apicas claims and finishes."""
    async with pool.client() as client:
        await client.setup()
        assert pool.picas("push", "9") == "9\n"
        report = await apicas.run(shell, client, workers=4)
        assert (report.done, report.failed) == (6, 3)
        assert await client.get_attachment("picas-0004", "stdout.txt") == b"picas 4\n"


async def test_the_views_give_the_same_rows(pool: Pool) -> None:
    """PiCaS reads our Monitor views, and sees the rows that we see."""
    async with pool.client() as client:
        await client.setup()
        await client.upload(commands(12))
        await apicas.run(shell, client, workers=2, max_tokens=7)
        if client.replicated:
            pytest.skip("each reads the views from one replica: what it has by then is chance")
        theirs = json.loads(pool.picas("rows"))
        for name in ("todo", "locked", "done", "error"):
            assert theirs[name] == [[row.id, row.key, row.value] for row in await client.view(name)]
        ours = await client.view("overview_total", group=True)
        assert theirs["overview_total"] == [[None, row.key, row.value] for row in ours]
        assert sum(value for _, _, value in theirs["overview_total"]) == 12


async def test_picas_resets_and_we_work_them_again(pool: Pool) -> None:
    """Its reset script leaves our sub-object in the token; that harms nobody."""
    async with pool.client() as client:
        await client.setup()
        await client.upload(commands(3))
        await apicas.run(shell, client, workers=1)
        if client.replicated:
            pytest.skip("PiCaS reads the view from one replica: what it finds to reset is chance")
        pool.picas("reset", "error")
        token = await client.fetch("ours-0002")
        assert (token.state, token.scrub_count) == ("todo", 1)
        report = await apicas.run(shell, client, workers=1)
        assert report.failed == 1
        assert (await client.fetch("ours-0002")).generation == 2


async def test_a_reset_by_picas_under_our_hands_is_noticed(pool: Pool) -> None:
    """The token goes back to todo while we work it: our outcome is not written over that."""
    async with pool.client() as client:
        await client.setup()
        await client.upload(commands(1))
        async with apicas.BasicViewIterator(client) as tokens:
            (token,) = await tokens.claim(1)
            if client.replicated:
                pytest.skip("PiCaS reads the view from one replica: what it finds to reset is chance")
            pool.picas("reset", "locked")
            with pytest.raises(apicas.LeaseLostError):
                async with token:
                    token["output"] = "late"
        stored = await client.fetch("ours-0000")
        assert (stored.state, stored.output, stored.scrub_count) == ("todo", {}, 1)
