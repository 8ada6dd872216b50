"""Variables of the environment: none is read that the configuration does not know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import apicas
from apicas.configuration.keys import EARLY_VARIABLES, GIVEN_VARIABLES, VARIABLES

PACKAGE: Final = Path(apicas.__file__).parent
DOCS: Final = PACKAGE.parent / "docs"
NAME: Final = re.compile(r"APICAS_[A-Z][A-Z_]*")
KNOWN: Final = {*VARIABLES, *EARLY_VARIABLES, *GIVEN_VARIABLES}
ELSEWHERE: Final = {"APICAS_COMPLETE", "APICAS_KEY"}
"""What typer reads with a line before it, for a shell; and what stands in a help for all keys."""


def named(path: Path) -> Iterator[str]:
    """The variables that a module names in its texts, also in bytes and within others."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            yield from NAME.findall(text)


def test_no_module_names_a_variable_that_the_configuration_does_not_know() -> None:
    found = {(str(path.relative_to(PACKAGE)), name) for path in PACKAGE.rglob("*.py") for name in named(path)}
    assert {(path, name) for path, name in found if name not in KNOWN | ELSEWHERE} == set()
    # The look sees what is there: one of each kind.
    assert ("_runtime/outbox/disk.py", "APICAS_OUTBOX") in found
    assert ("_zipapp/bootstrap.py", "APICAS_ZIPAPP_DIR") in found


def test_every_variable_that_can_be_set_is_documented() -> None:
    page = (DOCS / "configuration.md").read_text()
    assert {name for name in (*VARIABLES, *EARLY_VARIABLES) if f"`${name}`" not in page} == set()
