"""The commands that deal with tokens, on servers that speak the CouchDB protocol; and moving between kinds of pools."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

from apicas._documents import decode
from apicas.clients.base import PoolClient
from apicas.clients.connect import connect
from tests.cli.program import Program
from tests.cli.test_couchdb import pool  # noqa: F401 - a fixture

BIG = random.Random(5).randbytes(1_300_000)
NOW = 1_700_000_000
TOKENS: list[dict[str, Any]] = [
    {"_id": "a", "input": {"x": 1}},
    {"_id": "b/c d", "input": {"x": 2}, "lock": NOW, "done": NOW + 5, "exit_code": 0},
    {
        "_id": "e\u20ac",
        "lock": NOW,
        "hostname": "n1",
        "apicas": {"claim": "c", "lock": NOW, "generation": 1, "pilot": "p"},
    },
    {"_id": "f", "lock": 99, "done": 99, "exit_code": 3, "error": [{"time": NOW, "message": "why"}]},
    {"_id": "odd", "lock": None},
]


def opened(url: str) -> PoolClient:
    """A client with the credentials of the environment, as the commands have them."""
    if url.startswith("sqlite:"):
        return connect(url)
    return connect(url, username=os.environ.get("APICAS_USERNAME"), password=os.environ.get("APICAS_PASSWORD"))


def fill(url: str) -> None:
    async def put() -> None:
        async with opened(url) as client:
            await client.setup()
            for content in TOKENS:
                await client.upload([{"_id": content["_id"]}])
                (stored,) = await client.get([content["_id"]])
                assert (await client.save([{**(stored or {}), **content}]))[0].written
            for name, data in (("log.txt", b"log"), ("big.bin", BIG)):
                rev = (await client.fetch("b/c d")).rev or ""
                assert (await client.put_attachment("b/c d", rev, name, data, "x/y")).written

    asyncio.run(put())


def contents(url: str) -> dict[str, Any]:
    async def one(client: PoolClient, document: dict[str, Any]) -> Any:
        infos = await client.attachments(document["_id"])
        files = {i.name: (i.content_type, await client.get_attachment(document["_id"], i.name)) for i in infos}
        return {key: value for key, value in document.items() if key not in {"_rev", "_attachments"}}, files

    async def read() -> dict[str, Any]:
        async with opened(url) as client:
            return {found["_id"]: await one(client, found) for found in (await client.scan()).documents}

    return asyncio.run(read())


@pytest.fixture
def url(pool: str, monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: F811
    monkeypatch.setenv("APICAS_POOL", pool)
    fill(pool)
    return pool


def ids(apicas: Program, *arguments: str) -> list[str]:
    result = apicas("ls", "--json", "--columns", "id", *arguments)
    assert result.code == 0, result.err
    return [decode(line)["id"] for line in result.out.splitlines()]


def test_ls_and_show(apicas: Program, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apicas.cli.selection.PAGE", 2)
    assert ids(apicas) == ["a", "b/c d", "e\u20ac", "f", "odd"]
    assert ids(apicas, "done", "error", "a") == ["b/c d", "f", "a"]
    assert ids(apicas, "--where", "input.x>1") == ["b/c d"]
    assert ids(apicas, "--sort=-id", "-n", "2") == ["odd", "f"]
    assert apicas("ls", "-n", "1").error == "apicas: about 3 more tokens: --limit 0 shows all"
    assert "attached    big.bin  1,300,000 bytes, x/y" in apicas("show", "b/c d").out
    assert apicas("attachments", "b/c d", "log.txt").out == "log"


def test_from_here_to_a_file_and_back(apicas: Program, url: str) -> None:
    before = contents(url)
    assert apicas("export", "-o", "all.jsonl.gz").code == 0
    assert apicas("import", "all.jsonl.gz", "--as-is", "--pool", "sqlite:///copy.db").code == 0
    assert contents("sqlite:///copy.db") == before
    assert apicas("delete", "--yes", *before).out == "deleted 5 tokens\n"
    assert contents(url) == {}
    assert apicas("import", "all.jsonl.gz", "--as-is").out.startswith("imported 5 tokens")
    assert contents(url) == before
    assert apicas("import", "all.jsonl.gz", "--as-is").code == 0
    assert contents(url) == before


def test_an_archive(apicas: Program, url: str) -> None:
    before = contents(url)
    assert apicas("archive", "done", "error", "-o", "a.tar.gz", "--yes").code == 0
    assert sorted(contents(url)) == ["a", "e\u20ac", "odd"]
    assert apicas("import", "a.tar.gz").code == 0
    assert contents(url) == before


def test_edit_release_and_attach(apicas: Program, url: str) -> None:
    assert apicas("edit", "a", "e\u20ac", "--set", "input.x=7").out == "edited 2 tokens\n"
    assert apicas("release", "--stale", "--yes").out == "released 1 token\n"
    assert ids(apicas, "todo") == ["a", "e\u20ac"]
    apicas.write("f.txt", "content")
    assert apicas("attachments", "a", "--put", "f.txt").code == 0
    assert apicas("reset", "error", "b/c d", "--yes").out == "reset 2 tokens\n"
    after = contents(url)
    assert (after["a"][0]["input"], after["a"][1]["f.txt"]) == ({"x": 7}, ("text/plain", b"content"))
    assert after["b/c d"][1]["big.bin"][1] == BIG
