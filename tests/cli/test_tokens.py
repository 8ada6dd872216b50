"""What the program shows of single tokens, and what a command tells it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from apicas._documents import decode
from apicas.clients.sqlite import SQLiteClient
from tests.cli.program import Program
from tests.cli.test_commands import modules_after

NOW = 1_700_000_000
HELD = {
    "lock": NOW + 60,
    "hostname": "node7",
    "apicas": {
        "claim": "c",
        "lock": NOW + 60,
        "claimed": NOW,
        "generation": 3,
        "progress": {"fraction": 0.4, "message": "imaging", "time": NOW + 60},
    },
}
TOOK = {"generation": 1, "usage": {"cpu_seconds": 12.3, "seconds": 4.5, "peak_memory": 120_000_000}}


def store(apicas: Program, *documents: dict[str, Any]) -> None:
    """Put documents into the pool as they are."""

    async def put() -> None:
        async with SQLiteClient(apicas.directory / "apicas.db") as client:
            await client.setup()
            for document in documents:
                await client.upload([{"_id": document["_id"]}])
                (stored,) = await client.get([document["_id"]])
                assert stored is not None
                assert (await client.save([{**stored, **document}]))[0].written

    asyncio.run(put())


def test_status_shows_a_token_that_is_worked(apicas: Program) -> None:
    store(apicas, {"_id": "t1", **HELD}, {"_id": "t2"})
    result = apicas("status", "t1")
    assert result.out.splitlines() == [
        "t1: locked, attempt 2, on node7, since 2023-11-14T22:13:20Z, last beat 2023-11-14T22:14:20Z",
        "  progress  40% imaging",
    ]
    assert apicas("status", "--running").out == result.out
    shown = decode(apicas("status", "t1", "--json").out)
    assert (shown["progress"]["fraction"], shown["beat"] - shown["since"]) == (0.4, 60)


def test_status_shows_what_an_attempt_took_and_what_went_wrong(apicas: Program) -> None:
    error = [{"time": NOW, "message": "first"}, {"time": NOW, "message": "bad\x1b[2J"}]
    ended = {"lock": 99, "done": 99, "exit_code": 3, "error": error, "scrub_count": 2, "apicas": TOOK}
    store(apicas, {"_id": "t1", **ended})
    assert apicas("status", "t1").out.splitlines() == [
        "t1: error, exit code 3, attempt 1, 2 x scrubbed",
        "  took      12.3 s of CPU time, 4.5 s, 120 MB of memory",
        "  error     bad\\x1b[2J",
    ]


def test_a_lock_of_somebody_else_has_no_progress(apicas: Program) -> None:
    """PiCaS locks over a held token, and leaves our fields in it."""
    store(apicas, {"_id": "t1", **HELD, "lock": NOW + 99})
    assert "progress" not in apicas("status", "t1").out


ODD = {"progress": "x", "usage": [], "claimed": {}}


@pytest.mark.parametrize("odd", [{"apicas": 7}, {"apicas": ODD}, {"lock": "x"}])
def test_odd_fields_do_not_matter(apicas: Program, odd: dict[str, Any]) -> None:
    store(apicas, {"_id": "t1", "hostname": None, "error": "x", **odd})
    assert apicas("status", "t1").code == 0


def test_a_token_that_is_not_there_is_said(apicas: Program) -> None:
    store(apicas, {"_id": "t2"})
    result = apicas("status", "t1")
    assert (result.code, result.error) == (1, "apicas: there is no token 't1'")
    assert "no token is being worked" in apicas("status", "--running").error


def test_progress_appends_a_line(apicas: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "progress"
    monkeypatch.setenv("APICAS_PROGRESS", str(path))
    assert apicas("progress", "0.25").code == 0
    assert apicas("progress", "40%", "imaging", "field\n12").code == 0
    assert path.read_text() == "0.25 \n0.4 imaging field\\n12\n"


@pytest.mark.parametrize("fraction", ["2", "nan", "half", "140%"])
def test_progress_that_is_none_is_refused(apicas: Program, fraction: str) -> None:
    result = apicas("progress", fraction)
    assert (result.code, fraction in result.error) == (2, True)


def test_progress_outside_of_a_pilot_is_nothing(apicas: Program) -> None:
    assert apicas("progress", "0.5", "trying it out").code == 0


def test_progress_that_cannot_be_told_says_so(apicas: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("APICAS_PROGRESS", str(tmp_path / "gone" / "file"))
    assert "No such file" in apicas("progress", "0.5").error


def test_progress_waits_for_no_library_that_it_does_not_need(tmp_path: Path) -> None:
    slow = {"aiohttp", "aiocouch", "rich", "pydantic", "asyncio", "anyio", "sqlite3", "ssl", "platformdirs"}
    assert modules_after("progress", "0.5", "a", "message", directory=tmp_path) & slow == set()
