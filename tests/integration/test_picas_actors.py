"""Actors written for PiCaS, with the real `picas` package, on pilots of ours: two lines changed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from apicas.clients.couch import CouchClient
from apicas.tokens import Token, TokenState
from apicas.views import View, field
from tests.couchdb import SERVERS, Server, server

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = next((ROOT / ".picas").glob("lib/python*/site-packages"), None)
PROGRAM: Final = Path(__file__).with_name("picas_actor.py")

pytestmark = [
    pytest.mark.couchdb,
    pytest.mark.skipif(PACKAGES is None, reason="no PiCaS in .picas/: `make setup` installs it"),
]


class Pool:
    """A database, and programs that work on it."""

    def __init__(self, server: Server, database: str) -> None:
        self.server = server
        self.database = database

    def client(self) -> CouchClient:
        return self.server.client(self.database)

    def start(self, actor: str, *flags: str, **options: Any) -> subprocess.Popen[str]:
        """Start the program with an actor."""
        paths = os.pathsep.join((str(ROOT), str(PACKAGES)))
        credentials = [self.server.username or "", self.server.password or ""]
        arguments = [self.server.url, self.database, *credentials, actor, json.dumps(options), *flags]
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", PROGRAM, *arguments],
            env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, actor: str, *flags: str, **options: Any) -> str:
        """Run it to its end; answers with what it printed."""
        return ended(self.start(actor, *flags, **options))


def ended(program: subprocess.Popen[str]) -> str:
    printed, said = program.communicate(timeout=100)
    assert program.returncode == 0, said
    return printed


@pytest.fixture(params=SERVERS)
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """A new database."""
    here = server(request.config, request.param)
    with here.database() as name:
        yield Pool(here, name)


def commands(number: int) -> list[dict[str, Any]]:
    return [{"_id": f"t{n:03}", "input": f"echo {n}; exit {int(n % 3 == 2)}"} for n in range(number)]


async def stored(client: CouchClient) -> dict[str, Token]:
    rows = [row for view in ("todo", "done", "error") for row in await client.view(view, include_docs=True)]
    return {str(row.id): Token(row.document) for row in rows if row.document is not None}


async def test_the_actor_of_the_examples_runs_with_two_lines_changed(pool: Pool) -> None:
    """A subprocess, an exit code, close, an attachment; a failure is tried again as often as it was."""
    async with pool.client() as client:
        await client.setup()
        await client.upload(commands(6))
        printed = await asyncio.to_thread(pool.run, "Shell", workers=2, max_scrub=1, retry_delay=0)
        assert printed.startswith("4 done, 2 failed, 2 scrubbed")
        tokens = await stored(client)
        assert await client.get_attachment("t004", "stdout.txt") == b"4\n"
        assert (tokens["t005"]["exit_code"], tokens["t005"].scrub_count) == (1, 1)
        assert tokens["t004"].output == {}
        assert tokens["t004"].generation == 1


async def test_pilots_of_both_kinds_run_the_same_actor_on_one_pool(pool: Pool, tmp_path: Path) -> None:
    """PiCaS runs the class as it was, apicas the same class. Each token waits until both have begun one."""
    script = f"touch {tmp_path}/$PPID; until [ $(ls {tmp_path} | wc -l) -ge 2 ]; do sleep 0.01; done"
    async with pool.client() as client:
        await client.setup()
        await client.upload({"_id": f"t{n:03}", "input": script} for n in range(30))
        theirs = pool.start("Shell", "--picas")
        ours = pool.start("Shell", workers=1, claim_ahead=0, linger=False)
        printed, _ = await asyncio.gather(asyncio.to_thread(ended, ours), asyncio.to_thread(ended, theirs))
        tokens = await stored(client)
        by_us = [token for token in tokens.values() if token.generation]
        assert len(tokens) == 30
        assert all(token.state == "done" for token in tokens.values())
        assert 0 < len(by_us) < 30
        # PiCaS locks whatever it reads: what it took from our hands is not ours any more.
        counted = re.findall(r"(\d+) (?:done|lost)", printed)
        assert sum(map(int, counted)) == len(by_us)


async def test_what_an_actor_does_with_its_database_does_not_break_its_claim(pool: Pool) -> None:
    """Changes of its own token are in the outcome; all else is written at once."""
    async with pool.client() as client:
        await client.setup()
        await client.upload([{"_id": "own", "input": "", "useless": 1}])
        assert (await asyncio.to_thread(pool.run, "Database")).startswith("1 done in")
        token = await client.fetch("own")
        assert (token["progress"], token["through a copy"], token["raw"]) == ("saved", "saved", True)
        assert "useless" not in token
        assert token["written"] == [True, True]
        assert await client.get_attachment("own", "hand.txt") == b"by hand"
        assert token["read back"] == "by hand"
        assert "cannot be deleted while it is worked" in token["deleted"]
        assert token["held"] == ["own"]
        # It was claimed, and it was closed: nobody else has written it.
        assert token.rev is not None
        assert int(token.rev.partition("-")[0]) == int(token["rev"].partition("-")[0]) + 1
        assert (await client.fetch("follow-up"))["found"] is True


async def test_one_instance_per_process_with_its_hooks_and_the_old_signature(pool: Pool) -> None:
    """process_token(key, token); prepare_env and the counters are those of one instance."""
    async with pool.client() as client:
        await client.setup()
        await client.upload({"_id": f"t{n}", "input": n} for n in range(4))
        assert (await asyncio.to_thread(pool.run, "Old")).startswith("4 done in")
        outputs = sorted((token.output for token in (await stored(client)).values()), key=lambda one: len(one["calls"]))
        assert {output["key"] for output in outputs} == {"t0", "t1", "t2", "t3"}
        assert {output["type"] for output in outputs} == {"Task"}
        assert len({output["process"] for output in outputs}) == 1
        for n, output in enumerate(outputs):
            assert output["calls"] == ["prepare_env", *["prepare_run", "cleanup_run"] * n, "prepare_run"]


async def test_workers_are_processes_that_work_at_the_same_time(pool: Pool, tmp_path: Path) -> None:
    async with pool.client() as client:
        await client.setup()
        await client.upload({"_id": f"t{n}", "input": str(tmp_path)} for n in range(2))
        assert (await asyncio.to_thread(pool.run, "Meeting", workers=2)).startswith("2 done in")
        assert len({token.output for token in (await stored(client)).values()}) == 2


async def test_a_token_ends_as_the_actor_has_said_in_words_of_picas(pool: Pool) -> None:
    """Scrub, error, an exception, a close without an exit code; unlock, with iterator.stop(), which ends the pilot."""
    async with pool.client() as client:
        await client.setup()
        await client.upload({"_id": word, "input": word} for word in ("scrub", "error", "raise", "list"))
        printed = await asyncio.to_thread(pool.run, "Endings", retry_delay=0)
        assert printed.startswith("1 done, 3 failed, 2 scrubbed")
        tokens = await stored(client)
        assert (tokens["scrub"].state, tokens["scrub"].scrub_count, tokens["scrub"]["exit_code"]) == ("done", 2, 0)
        assert tokens["error"].errors[0]["message"] == "said by the actor"
        assert tokens["raise"].errors[0]["message"] == "ValueError: broken"
        assert 'raise ValueError("broken")' in tokens["raise"].errors[0]["exception"]
        assert tokens["list"].state == "error"
        await client.upload([{"_id": "unlock", "input": "unlock"}])
        assert "0 done, 1 released" in await asyncio.to_thread(pool.run, "Endings")
        token = await client.fetch("unlock")
        assert (token.state, token.scrub_count) == ("todo", 0)


async def test_a_time_limit_ends_the_work(pool: Pool) -> None:
    """PiCaS waits for what does not heed its exception; here the process is ended."""
    async with pool.client() as client:
        await client.setup()
        await client.upload([{"_id": "t", "input": "sleep"}])
        assert "0 done, 1 failed" in await asyncio.to_thread(pool.run, "Endings", max_token_time=0.5, grace=0.2)
        assert "time limit" in (await client.fetch("t")).errors[0]["message"]


async def test_a_signal_ends_the_work_and_hands_the_token_back(pool: Pool, tmp_path: Path) -> None:
    """Also work that hears nothing of it: here it waits for a second token."""
    async with pool.client() as client:
        await client.setup()
        await client.upload([{"_id": "t", "input": str(tmp_path)}])
        program = pool.start("Meeting", grace=0.2)
        while not (tmp_path / "t").exists():
            assert program.poll() is None
            await asyncio.sleep(0.01)
        program.terminate()
        assert "0 done, 1 released" in await asyncio.to_thread(ended, program)
        token = await client.fetch("t")
        assert (token.state, token.scrub_count, token.releases) == ("todo", 0, 1)


async def test_an_actor_that_cannot_be_prepared_fails_no_token(pool: Pool) -> None:
    """The tokens stay in todo, and the program says why it ends."""
    async with pool.client() as client:
        await client.setup()
        await client.upload(commands(3))
        program = pool.start("Unprepared")
        _, said = await asyncio.to_thread(program.communicate, timeout=100)
        assert program.returncode == 1
        assert "no scratch here" in said
        assert "no worker process could be prepared" in said
        assert (await client.counts())["todo"] == 3


async def test_the_actors_own_iterator_says_which_views(pool: Pool) -> None:
    """Those of a PrioritizedViewIterator, in its order, and in its design document."""
    async with pool.client() as client:
        await client.setup()
        for size in (1, 2):
            await client.add_view(View(f"Size/size{size}", TokenState.TODO, field("size") == size))
        await client.upload({"_id": f"t{n}", "input": "true", "size": n} for n in range(4))
        options: dict[str, Any] = {"views": ["size2", "size1"], "design": "Size", "claim_ahead": 0}
        assert (await asyncio.to_thread(pool.run, "Shell", max_tasks=1, **options)).startswith("1 done in")
        assert [row.id for row in await client.view("done")] == ["t2"]
        assert (await asyncio.to_thread(pool.run, "Shell", **options)).startswith("1 done in")
        assert [row.id for row in await client.view("todo")] == ["t0", "t3"]


async def test_a_stop_callback_is_asked_after_each_token_and_may_be_a_method_of_the_actor(pool: Pool) -> None:
    async with pool.client() as client:
        await client.setup()
        await client.upload({"_id": f"t{n}", "input": "true"} for n in range(9))
        assert (await asyncio.to_thread(pool.run, "Limited")).startswith("2 done")
        assert (await client.counts())["todo"] == 7


async def test_tasks_are_worked_from_a_view_by_both(pool: Pool) -> None:
    """Documents of PiCaS's Task class that name no type: neither kind of pilot finds them in Monitor."""
    async with pool.client() as client:
        await client.setup()
        for state in (TokenState.TODO, TokenState.LOCKED, TokenState.DONE):
            await client.add_view(View(f"Tasks/{state}", state, type="task"))
        view: dict[str, Any] = {"viewargs": {"view": "todo", "design_doc": "Tasks"}}
        await asyncio.to_thread(pool.run, "Shell", "--picas", tasks=5, max_tasks=2, **view)
        assert (await asyncio.to_thread(pool.run, "Shell")).startswith("0 done in")
        assert (await asyncio.to_thread(pool.run, "Shell", **view)).startswith("3 done in")
        done = await client.view("Tasks/done", include_docs=True)
        assert [row.id for row in done] == [f"task{n}" for n in range(5)]
        assert sorted(Token(row.document or {}).generation for row in done) == [0, 0, 1, 1, 1]
