"""The diagram in the ADR is drawn from the table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from apicas.modifiers import CLAIM_FIELDS

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
