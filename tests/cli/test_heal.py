"""`apicas heal`, on servers that speak the CouchDB protocol, with conflicts made past the check of revisions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from apicas.cli import heal
from tests.cli.program import Program
from tests.couchdb import SERVERS, Server, server


@pytest.fixture(params=SERVERS)
def couch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Server:
    couch = server(request.config, request.param)
    if couch.username and couch.password:
        monkeypatch.setenv("APICAS_USERNAME", couch.username)
        monkeypatch.setenv("APICAS_PASSWORD", couch.password)
    return couch


@pytest.fixture
def database(couch: Server, apicas: Program, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with couch.database() as name:
        monkeypatch.setenv("APICAS_POOL", f"{couch.url}/{name}")
        assert apicas("init").code == 0
        yield name


def split(couch: Server, database: str, token_id: str, *contents: dict[str, Any]) -> None:
    """Store a token in a version for each content, as a cluster may."""
    base = {"_id": token_id, "type": "token", "lock": 0, "done": 0, "scrub_count": 0, "exit_code": "", "error": []}
    leaves = [{**base, **content, "_rev": f"1-{place:032x}"} for place, content in enumerate(contents)]
    couch.request("POST", f"{database}/_bulk_docs", {"new_edits": False, "docs": leaves})


DONE = {"lock": 1_700_000_000, "done": 1_700_000_100, "exit_code": 0, "output": 42}


def test_heal_keeps_what_is_furthest(
    apicas: Program, couch: Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heal, "_PAUSE", 0.01)
    split(couch, database, "t", DONE, {"lock": 1_700_000_000})
    split(couch, database, "u", {}, {"lock": 1_700_000_000, "apicas": {"generation": 3}})
    dry = apicas("heal", "--dry-run")
    assert dry.code == 0
    assert "t: would keep done (generation 0, 1 writes), delete locked (generation 0, 1 writes)\n" in dry.out
    assert "u: would keep locked (generation 3, 1 writes), delete todo (generation 0, 1 writes)\n" in dry.out
    refused = apicas("heal", "--now")
    assert refused.code == 2
    assert "There is no terminal to ask on: add --yes" in refused.error
    assert len(couch.request("GET", f"{database}/t?conflicts=true")["_conflicts"]) == 1
    healed = apicas("heal", "--now", "--yes")
    assert (healed.code, healed.out) == (0, "healed 2 tokens, 2 versions deleted\n"), healed.err
    for token_id, kept in (("t", 0), ("u", 1)):
        stored = couch.request("GET", f"{database}/{token_id}?conflicts=true")
        assert stored["_rev"] == f"1-{kept:032x}"
        assert "_conflicts" not in stored
    assert "nothing to heal in" in apicas("heal", "--now").out


def test_a_result_on_a_deleted_version_is_kept_aside(
    apicas: Program, couch: Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heal, "_PAUSE", 0.01)
    split(couch, database, "t", {**DONE, "output": "one"}, {**DONE, "output": "two"})
    healed = apicas("heal", "--now", "--yes", "--outbox", "box")
    assert healed.code == 0
    assert "1 result on deleted versions kept aside: see `apicas flush --list`" in healed.err
    kept = couch.request("GET", f"{database}/t")["output"]
    (file,) = (apicas.directory / "box").glob("*/lost/*.json")
    lost = json.loads(file.read_text())
    assert {kept, lost["outcome"]["output"]} == {"one", "two"}
    listed = apicas("flush", "--list", "--outbox", "box").out
    assert "another version of the token was kept" in listed


def test_what_cannot_be_kept_aside_stays_in_the_pool(
    apicas: Program, couch: Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heal, "_PAUSE", 0.01)
    split(couch, database, "t", {**DONE, "output": "one"}, {**DONE, "output": "two"})
    (apicas.directory / "box").write_text("in the way")
    healed = apicas("heal", "--now", "--yes", "--outbox", "box")
    assert healed.code != 0
    assert len(couch.request("GET", f"{database}/t?conflicts=true")["_conflicts"]) == 1


def test_a_pool_with_one_copy_of_each_token_needs_no_healing(apicas: Program) -> None:
    apicas("push", "--typed", stdin="1\n")
    assert apicas("heal", "--now").out == "nothing to heal in sqlite:///apicas.db\n"
