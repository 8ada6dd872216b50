"""The diagram in the ADR is drawn from the table."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import apicas
from apicas.modifiers import CLAIM_FIELDS
from apicas.tokens import TRANSITIONS

ROOT = Path(__file__).parents[2]
ADR = (ROOT / "docs/design/0001-tokens.md").read_text()


def test_the_adr_has_the_diagram_that_the_script_prints() -> None:
    script = [sys.executable, str(ROOT / "docs/state_diagram.py")]
    printed = subprocess.run(
        script, capture_output=True, text=True, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    drawn = re.search(r"```mermaid\n(.*?)```", ADR, re.DOTALL)
    assert drawn is not None
    assert drawn.group(1) == printed.stdout


def test_the_adr_names_every_field_of_a_claim() -> None:
    assert all(f"`{name}`" in ADR for name in CLAIM_FIELDS)


def test_the_picture_shows_what_the_table_says() -> None:
    """Each arrow once, with its label; the file is what the script writes."""
    script = "import state_picture, sys; sys.stdout.write(state_picture.picture())"
    printed = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, check=True, cwd=ROOT / "docs", env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (ROOT / "docs/states.svg").read_text() == printed.stdout
    moves = {(state, goal) for moves in TRANSITIONS.values() for state, goals in moves.items() for goal in goals}
    assert printed.stdout.count('<path class="arrow"') == 1 + len({move for move in moves if move[0] is not move[1]})
    leading = {change.name.lower() for change, moves in TRANSITIONS.items() if any((s,) != g for s, g in moves.items())}
    assert {name for name in leading if name not in printed.stdout} == set()


def test_the_reference_names_all_that_is_public() -> None:
    reference = (ROOT / "docs/reference.md").read_text()
    named = set(re.findall(r"^\.\. auto\w+:: (\w+)$", reference, re.MULTILINE))
    assert named == {name for name in apicas.__all__ if not name.startswith("__")}


@pytest.mark.parametrize("name", ["embedding", "events", "metrics", "picas", "testing"])
def test_the_reference_names_all_of_a_public_module(name: str) -> None:
    module = importlib.import_module(f"apicas.{name}")
    reference = (ROOT / "docs/reference.md").read_text()
    named = set(re.findall(rf"^\.\. auto\w+:: apicas\.{name}\.(\w+)$", reference, re.MULTILINE))
    own = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", None) == module.__name__ and callable(value)
    }
    assert named == set(getattr(module, "__all__", own))
