"""Tokens that a cluster stores in several versions, in the commands that move and release tokens."""

from __future__ import annotations

from apicas._documents import decode
from tests.cli.program import Program
from tests.cli.test_heal import DONE, couch, database, split  # noqa: F401 - fixtures
from tests.couchdb import Server

LOCKED = {"lock": 1_700_000_000, "apicas": {"claim": "c", "lock": 1_700_000_000, "generation": 1}}


def versions(couch: Server, database: str, token_id: str) -> int:  # noqa: F811
    stored = couch.request("GET", f"{database}/{token_id}?conflicts=true")
    return 1 + len(stored.get("_conflicts", []))


def test_an_archive_leaves_them_in_the_pool(apicas: Program, couch: Server, database: str) -> None:  # noqa: F811
    """Of the others nothing would be left."""
    split(couch, database, "t", DONE, {**DONE, "output": 43})
    split(couch, database, "u", DONE)
    result = apicas("archive", "done", "-o", "a.tar.gz", "--yes")
    assert result.code == 1
    assert result.out.splitlines()[0] == "wrote 1 token to a.tar.gz, and read it again: it is complete"
    assert "1 token not archived: stored in several versions" in result.error
    assert versions(couch, database, "t") == 2
    assert apicas("ls", "--json", "--columns", "id").out == '{"id":"t"}\n'


def test_a_release_leaves_them_to_the_healer(apicas: Program, couch: Server, database: str) -> None:  # noqa: F811
    """The owner may be on a version that is not shown."""
    split(couch, database, "t", LOCKED, {**LOCKED, "hostname": "other"})
    split(couch, database, "u", LOCKED)
    result = apicas("release", "--stale", "--yes")
    assert (result.code, result.out) == (1, "released 1 token\n")
    assert "t: it is stored in several versions: run `apicas heal` first" in result.err
    assert versions(couch, database, "t") == 2
    assert couch.request("GET", f"{database}/u")["lock"] == 0


def test_an_export_has_the_one_that_is_shown_and_says_so(apicas: Program, couch: Server, database: str) -> None:  # noqa: F811
    split(couch, database, "t", DONE, {**DONE, "output": 43})
    result = apicas("export")
    assert (result.code, decode(result.out)["output"] in {42, 43}) == (0, True)
    assert "_conflicts" not in result.out
    assert "1 token stored in several versions, of which one was exported" in result.err
    assert "and 1 version more, to be healed" in apicas("show", "t").out
