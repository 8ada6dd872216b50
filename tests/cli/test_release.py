"""Taking tokens from pilots that are gone: whose, and what one sees that lives after all."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import anyio
import pytest

from apicas._runtime.environment import process_name
from apicas.cli.changing import Tally, change_all
from apicas.cli.releasing import Whose, deed_of
from apicas.cli.selection import Selection
from apicas.clients.sqlite import SQLiteClient
from apicas.exceptions import LeaseLostError
from apicas.testing import FaultyClient
from apicas.tokens import annex, is_suspect
from tests.cli.program import Program
from tests.cli.test_ls import listed
from tests.cli.test_tokens import store
from tests.runtime.virtual import LEASE, make_pool, pilot, virtual

NOW = int(time.time())


def held(name: str, age: float, *, host: str = "node7", pilot: str = "p1", **fields: Any) -> dict[str, Any]:
    """A token that a pilot claimed, and beat last so many seconds ago."""
    lock = int(time.time()) - int(age)
    entries = {"claim": f"c-{name}", "pilot": pilot, "lock": lock, "generation": 1, "lease": 60.0}
    process = fields.pop("process", "")
    return {"_id": name, "lock": lock, "hostname": host, **fields, "apicas": {**entries, "process": process}}


@pytest.fixture
def filled(apicas: Program) -> Program:
    """Tokens of several pilots, of a PiCaS pilot, and one that nobody holds."""
    store(
        apicas,
        held("fresh", 5, slurm_job_id="47"),
        held("silent", 1000, host="node8", pilot="p2"),
        held("dead", 5, host="here", pilot="p3", process=_name_of_a_dead_process()),
        {"_id": "picas", "lock": NOW - 90_000, "hostname": "node7"},
        {"_id": "free"},
    )
    return apicas


def _name_of_a_dead_process() -> str:
    """What a process of this boot was called that is gone: no process has this one's id and another start."""
    boot, pid, _ = process_name(os.getpid()).split(".")
    return f"{boot}.{pid}.1"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--stale"], {"silent", "dead"}),
        (["--host", "node7"], {"fresh"}),
        (["--host", "node7", "--foreign"], {"fresh", "picas"}),
        (["--pilot", "p2"], {"silent"}),
        (["--where", "slurm_job_id=47"], {"fresh"}),
        (["--where", "age>1h", "--foreign"], {"picas"}),
        (["picas", "fresh", "free"], {"picas", "fresh"}),
        (["--stale", "--host", "node8"], {"silent"}),
        (["--stale", "fresh", "silent"], {"silent"}),
    ],
)
def test_whose_tokens_are_taken(filled: Program, options: list[str], expected: set[str]) -> None:
    dry = filled("release", *options, "--dry-run")
    number = f"{len(expected)} token{'s' if len(expected) > 1 else ''}"
    assert dry.out == f"would release {number} of sqlite:///apicas.db\n"
    assert filled.status()["locked"] == 4
    assert filled("release", *options, "--yes").out == f"released {number}\n"
    assert set(listed(filled, "todo")) == {"free", *expected}


def test_a_release_is_not_charged_and_not_settled(filled: Program) -> None:
    filled("release", "silent", "--yes")

    async def read() -> Any:
        async with SQLiteClient(filled.directory / "apicas.db") as client:
            return await client.fetch("silent")

    token = asyncio.run(read())
    assert (token.state, token.scrub_count, token.crashes, token.releases) == ("todo", 0, 0, 0)
    assert not is_suspect(token)
    assert annex(token)["taken"] == "c-silent"
    assert "settled" not in annex(token)


def test_it_asks_and_says_who_seems_to_live(filled: Program) -> None:
    result = filled("release", "--host", "node7")
    assert result.code == 2
    assert "1 token of these had a heartbeat within the lease" in result.err
    assert "Their pilots must be gone. There is no terminal to ask on: add --yes" in result.err
    assert filled("release").code == 2
    assert filled("release", "--stale", "--host", "elsewhere").out.startswith("nothing to release")


def test_a_token_that_nobody_holds_is_said(filled: Program) -> None:
    filled("push", stdin='{"_id": "free"}\n')
    result = filled("release", "free")
    assert (result.code, result.out.startswith("nothing to release")) == (0, True)
    assert result.error == "apicas: free: in todo, and held by nobody"


def test_a_token_that_does_not_exist_is_said(filled: Program) -> None:
    result = filled("release", "silent", "none", "--yes")
    assert (result.code, result.out) == (1, "released 1 token\n")
    assert result.error == "apicas: there is no token 'none'"


def test_an_owner_that_beats_in_that_moment_keeps_its_token(filled: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """No second try: who writes between look and release is the owner, and lives."""
    original = SQLiteClient.save
    beaten: list[str] = []

    async def save(self: SQLiteClient, documents: Any) -> Any:
        if not beaten:
            beaten.append("fresh")
            async with self.fork() as other:
                (document,) = await other.get(["fresh"])
                assert document is not None
                entries = {**document["apicas"], "lock": NOW}
                assert (await original(other, [{**document, "lock": NOW, "apicas": entries}]))[0].written
        return await original(self, documents)

    monkeypatch.setattr(SQLiteClient, "save", save)
    result = filled("release", "fresh", "silent", "--yes")
    assert (result.code, result.out) == (1, "released 1 token\n")
    assert "1 token not released: changed by somebody else meanwhile" in result.err
    assert set(listed(filled, "locked")) == {"fresh", "dead", "picas"}


# What an owner sees that lives. ---------------------------------------------------------------------------------------


async def take(client: FaultyClient) -> Tally:
    """Release what is locked."""
    rival = client.rival()
    whose = Whose(pilot=None).judge(rival)
    return await change_all(rival, Selection(views=["locked"], where=[whose]), deed_of(rival))


@virtual
async def test_a_result_that_comes_before_another_claim_counts() -> None:
    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)
        async with token:
            assert (await take(client)).changed == 1
            token["output"] = "mine"
    stored = await client.fetch("t")
    assert (stored.state, stored.output, stored.scrub_count, stored.crashes) == ("done", "mine", 0, 0)


@virtual
async def test_a_result_that_comes_after_another_claim_does_not() -> None:
    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with pilot(client, "one") as mine, pilot(client, "two") as rival:
        (token,) = await mine.claim(1)
        await take(client)
        (again,) = await rival.claim(1)
        with pytest.raises(LeaseLostError):
            async with token:
                token["output"] = "late"
        async with again:
            again["output"] = "rival's"
    assert (await client.fetch("t")).output == "rival's"


@virtual
async def test_the_next_heartbeat_of_a_living_owner_ends_its_work() -> None:
    client = make_pool()
    await client.upload([{"_id": "t"}])
    lost = anyio.Event()
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)
        assert token.lease.home.watch(token.lease, lost.set)
        await take(client)
        with anyio.fail_after(LEASE / 2):
            await lost.wait()
        assert (await client.fetch("t")).state == "todo"
