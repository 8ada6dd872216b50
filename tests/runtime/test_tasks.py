"""Tokens of type task, as PiCaS's Task makes them: worked from a view of the user's, under the same lease."""

from __future__ import annotations

from pathlib import Path

import pytest

import apicas
from apicas.clients.memory import MemoryClient
from apicas.exceptions import ConfigError
from apicas.modifiers import BasicTokenModifier, Claim, Owner
from apicas.tokens import Token, TokenState
from apicas.views import View
from tests.runtime.virtual import LEASE, make_pool, pilot, virtual

TODO = View("Tasks/todo", TokenState.TODO, type="task")
LOCKED = View("Tasks/locked", TokenState.LOCKED, type="task")
CONTENT = [{"_id": "task", "type": "task"}, {"_id": "token"}]


async def work(token: Token) -> str:
    return "worked"


async def test_a_view_of_tasks_is_worked_beside_monitors() -> None:
    async with MemoryClient() as client:
        await client.add_view(TODO)
        await client.upload(CONTENT)
        assert [row.id for row in await client.view("Monitor/todo")] == ["token"]
        assert (await client.counts())["todo"] == 1
        report = await apicas.run(work, client, view="Tasks/todo", workers=1, handle_signals=False)
        assert report.done == 1
        task = await client.fetch("task")
        assert (task.state, task["type"], task.output, task.generation) == ("done", "task", "worked", 1)
        assert (await client.fetch("token")).state == "todo"


@virtual
async def test_a_task_of_a_vanished_pilot_is_reclaimed_where_a_view_lists_what_is_locked() -> None:
    """The pilot on Tasks/todo looks into Tasks/locked, too."""
    client = make_pool()
    await client.add_view(TODO)
    await client.add_view(LOCKED)
    await client.upload(CONTENT)
    (document,) = await client.sample("Tasks/todo", 1, 0.0)
    owner = Owner(pilot="dead", hostname="dead-node", process="e15e.1.1")
    claim = Claim(claim_id="dead", owner=owner, now=client.time(), lease=LEASE)
    (written,) = await client.save([BasicTokenModifier().lock(document, claim)])
    assert written.written
    worked = []
    async with pilot(client, view="Tasks/todo") as tokens:
        async for token in tokens:
            async with token:
                worked.append(token.id)
    assert worked == ["task"]
    stored = await client.fetch("task")
    assert (stored.state, stored.generation) == ("done", 3)  # claimed, reclaimed, claimed


@virtual
async def test_a_view_without_a_sister_for_what_is_locked_is_no_trouble() -> None:
    client = make_pool()
    await client.add_view(TODO)
    await client.upload(CONTENT)
    async with pilot(client, view="Tasks/todo") as tokens:
        assert [token.id for token in await tokens.claim(2)] == ["task"]
        for _ in range(3):
            await tokens.keeper.sweep()


async def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the views of Monitor are fixed"):
        View("todo", TokenState.TODO, type="task")
    with pytest.raises(ConfigError, match="of type token or task, not 'job'"):
        View("Jobs/todo", TokenState.TODO, type="job")
    async with apicas.SQLiteClient(tmp_path / "pool.db") as client:
        with pytest.raises(ConfigError, match="only a pool on CouchDB"):
            await client.add_view(TODO)
