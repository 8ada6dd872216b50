"""The public names, and the floors of the house."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import apicas
from apicas import exceptions

PURE = ("tokens", "modifiers", "views", "policies", "_documents", "_javascript", "exceptions")
ACTING = {"os", "time", "socket", "asyncio", "anyio", "secrets", "uuid", "sqlite3", "threading", "subprocess"}
HEAVY = {"aiohttp", "aiocouch", "sqlite3", "anyio", "rich"}
ROOT = Path(apicas.__file__).parent


def test_no_public_name_is_listed_twice() -> None:
    assert len(set(apicas.__all__)) == len(apicas.__all__)
    assert set(dir(apicas)) == set(apicas.__all__)


@pytest.mark.parametrize("name", apicas.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(apicas, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = apicas.no_such_name


def test_every_error_has_one_root_and_says_what_it_means() -> None:
    classes = [cls for cls in vars(exceptions).values() if isinstance(cls, type) and issubclass(cls, Exception)]
    errors = [cls for cls in classes if issubclass(cls, exceptions.ApicasError)]
    assert len(errors) > 10
    assert all(cls.__doc__ for cls in classes)
    assert not any(issubclass(cls, exceptions.ApicasError) for cls in (apicas.Retry, apicas.Fail, apicas.Release))


@pytest.mark.parametrize("module", PURE)
def test_the_core_imports_nothing_that_acts(module: str) -> None:
    """Also where import-linter does not run."""
    files = [ROOT / f"{module}.py"] if (ROOT / f"{module}.py").exists() else sorted((ROOT / module).rglob("*.py"))
    assert files
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    assert not {name.split(".")[0] for name in imported} & ACTING


def test_importing_apicas_loads_no_client() -> None:
    """So that the command line's help and small scripts start at once."""
    program = f"import sys, apicas; print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
