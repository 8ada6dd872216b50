"""The wheel and the sdist: what is in them, and that they work where nothing else is installed."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import apicas
from tests.packaging.conftest import Node

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist, and the wheel that is made out of it."""
    pytest.importorskip("build", reason="no build here: `make setup` installs it")
    directory = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, ROOT],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = directory.glob("*.tar.gz"), directory.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


def test_the_sdist_has_all_that_the_tests_need(distributions: dict[str, Path]) -> None:
    with tarfile.open(distributions["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "apicas/py.typed", "tests/packaging/structs.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "demo"))]


def test_the_wheel_has_the_package_alone(distributions: dict[str, Path]) -> None:
    with zipfile.ZipFile(distributions["wheel"]) as archive:
        names = set(archive.namelist())
    information = f"apicas-{apicas.__version__}.dist-info/"
    assert {name.split("/")[0] for name in names} == {"apicas", information.rstrip("/")}
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "apicas").rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("apicas/")} == {
        name for name in package if "__pycache__" not in name
    }


def test_it_works_in_an_empty_environment(node: Node, distributions: dict[str, Path]) -> None:
    """Every module can be imported, but what is for tests, and the main job is done."""
    node.done(sys.executable, "-m", "venv", "env")
    python, wheel = node.directory / "env/bin/python", distributions["wheel"]
    installed = node.call(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    if installed.returncode:
        pytest.skip(f"pip cannot install it here: {installed.stderr.strip().splitlines()[-1]}")
    code = (
        "import importlib, pkgutil, apicas\n"
        "for module in pkgutil.walk_packages(apicas.__path__, 'apicas.'):\n"
        "    if not module.name.startswith(('apicas.testing', 'apicas.__main__')):\n"
        "        importlib.import_module(module.name)\n"
    )
    node.done(python, "-W", "error", "-c", code)
    assert node.done("env/bin/apicas", "--version").strip() == f"apicas {apicas.__version__}"
    node.does_the_main_job(["env/bin/apicas"], "sqlite:///pool.db", {})
