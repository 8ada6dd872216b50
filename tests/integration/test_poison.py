"""A token that kills its pilot is found, and ends in error; those that died with it are not charged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import apicas
from apicas.tokens import Token, annex
from tests.integration import poisoned
from tests.runtime.processes import linux_only

ROOT = Path(__file__).resolve().parents[2]
TOKENS, GUILTY = 20, "t01"
REASONS = {
    "segfault": "killed by SIGSEGV",
    "exit": "exited with code 3 without an answer",
    "kill": "killed by SIGKILL (out of memory?)",
    "memory": "killed by SIG",  # which of them is the library's affair
}


def run_pilot(directory: Path, workers: int) -> subprocess.CompletedProcess[str]:
    """`apicas run`, to its end."""
    arguments = ["run", "poisoned:work", "--workers", str(workers), "--lock-timeout", "10", "--retry-delay", "0"]
    return subprocess.run(
        [sys.executable, "-m", "apicas", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(poisoned.__file__).parent}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def tokens_of(pool: str, ids: list[str]) -> dict[str, Token]:
    async with apicas.connect(pool) as client:
        return {identifier: await client.fetch(identifier) for identifier in ids}


@linux_only
@pytest.mark.parametrize(("death", "workers"), [("segfault", 8), ("exit", 3), ("kill", 3), ("memory", 3)])
async def test_a_token_that_kills_its_pilot_ends_alone_in_error(tmp_path: Path, death: str, workers: int) -> None:
    """Pilots are started again, as a batch system does, until the pool is empty. Then only processes die."""
    pool = f"sqlite:///{tmp_path}/apicas.db"
    ids = [f"t{number:02}" for number in range(TOKENS)]
    async with apicas.connect(pool) as client:
        await client.upload(
            {"_id": identifier, "input": death if identifier == GUILTY else "fine"} for identifier in ids
        )
    codes: list[int] = []
    log = ""
    while not codes or codes[-1] != 0:
        assert len(codes) < 3, log
        ended = run_pilot(tmp_path, workers)
        codes.append(ended.returncode)
        log += ended.stderr
    assert len(codes) == 2, log  # the one that it killed, and the one that found it

    tokens = await tokens_of(pool, ids)
    begun = Counter((tmp_path / "begun").read_text().split())
    guilty = tokens.pop(GUILTY)
    assert {(token.state, token.output, token.crashes) for token in tokens.values()} == {("done", "worked", 0)}
    # Once, and once more where the pilot that died had begun with it.
    first = {identifier for identifier, number in begun.items() if number == 2}
    assert all(begun[identifier] in {1, 2} for identifier in tokens)
    assert first <= {identifier for identifier, token in tokens.items() if token.generation > 1}

    assert (guilty.state, guilty.crashes, begun[GUILTY]) == ("error", 4, 5)
    assert [REASONS[death] in error["message"] for error in guilty.errors] == [True] * 4 + [False]
    assert "4 processes" in guilty.errors[-1]["message"]
    assert [entry["event"] for entry in annex(guilty)["history"]] == ["reclaimed", *["crashed"] * 4]
    assert REASONS[death] in log
