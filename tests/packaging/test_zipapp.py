"""The one-file program, on a Python that has no packages at all: with its compiled parts, and without."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

import apicas
from apicas._zipapp.build import build
from tests.couchdb import SERVERS, Server, server
from tests.packaging.conftest import Node, bare_python

try:
    distribution("apicas")
except PackageNotFoundError:
    pytest.skip("apicas is not installed here, with what it needs", allow_module_level=True)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("zipapp")
    files = {name: directory / f"{name}.pyz" for name in ("compiled", "portable")}
    for name, file in files.items():
        build(file, portable=name == "portable")
    return files


@pytest.fixture(params=["compiled", "portable"])
def program(request: pytest.FixtureRequest, programs: dict[str, Path]) -> list[str]:
    return [bare_python(), "-S", "-E", str(programs[request.param])]


@pytest.fixture(params=SERVERS)
def couch(request: pytest.FixtureRequest) -> Server:
    return server(request.config, request.param)


@pytest.fixture
def database(couch: Server) -> Iterator[str]:
    with couch.database() as name:
        yield name


def test_it_does_the_main_job_on_a_file(node: Node, program: list[str]) -> None:
    node.does_the_main_job(program, "sqlite:///pool.db", {})


def test_it_does_the_main_job_on_a_server(node: Node, program: list[str], couch: Server, database: str) -> None:
    variables = {"APICAS_PASSWORD": couch.password} if couch.password else {}
    address = f"{couch.url}/{database}"
    if couch.username:
        address = address.replace("://", f"://{couch.username}@", 1)
    node.does_the_main_job(program, address, variables)


@pytest.mark.parametrize("name", ["compiled", "portable"])
def test_older_packages_of_the_node_do_not_come_before_its_own(
    node: Node, programs: dict[str, Path], name: str
) -> None:
    """As in the site-packages of a Python that others work with, too."""
    for package in ("typing_extensions", "typer", "aiohttp", "anyio", "attr", "msgspec"):
        (node.directory / "old" / package).mkdir(parents=True)
        (node.directory / "old" / package / "__init__.py").touch()
    node.variables["PYTHONPATH"] = str(node.directory / "old")
    node.does_the_main_job([bare_python(), "-S", str(programs[name])], "sqlite:///pool.db", {})


def test_nothing_of_it_is_loaded_from_elsewhere(node: Node, programs: dict[str, Path]) -> None:
    """Each module is one of Python's own, or was in the archive; and the portable one has no compiled part."""
    (node.directory / "work.py").write_text(
        "import sys\n"
        "def where(token):\n"
        "    import aiohttp, msgspec\n"
        "    return sorted(str(getattr(m, '__file__', None)) for m in list(sys.modules.values()))\n"
    )
    node.variables["APICAS_POOL"] = "sqlite:///pool.db"
    program = [bare_python(), "-S", "-E", str(programs["portable"])]
    node.done(*program, "init")
    node.done(*program, "push", "--id-field", "name", "--format", "jsonl", stdin='{"name": "t"}\n')
    node.done(*program, "run", "work:where")
    lines = node.done(*program, "status", "t", "--json")
    assert '"state":"done"' in lines.replace(" ", "")
    cache = node.directory / ".cache" / "apicas"
    assert not [path for path in cache.rglob("*") if path.suffix == ".so"]
    assert [path.name for path in cache.rglob("msgspec.py")].count("msgspec.py") >= 1


def test_it_is_unpacked_once(node: Node, programs: dict[str, Path]) -> None:
    program = [bare_python(), "-S", "-E", str(programs["portable"])]
    node.done(*program, "--version")
    (place,) = (node.directory / ".cache/apicas").iterdir()
    (place / "mark").touch()
    assert node.done(*program, "--version").strip() == f"apicas {apicas.__version__}"
    assert [path.name for path in (node.directory / ".cache/apicas").iterdir()] == [place.name]
    assert (place / "mark").exists()


def test_many_may_start_at_once(node: Node, programs: dict[str, Path]) -> None:
    """As the pilots of an array do, whose home directory is one; nothing is left but the packages."""
    with ThreadPoolExecutor(4) as threads:
        starts = [
            threads.submit(node.done, bare_python(), "-S", "-E", programs["portable"], "--version") for _ in range(4)
        ]
        assert {start.result().strip() for start in starts} == {f"apicas {apicas.__version__}"}
    assert len(list((node.directory / ".cache/apicas").iterdir())) == 1


def test_a_home_that_cannot_be_written_is_no_hindrance(node: Node, programs: dict[str, Path]) -> None:
    node.variables |= {"HOME": "/dev/null", "TMPDIR": str(node.directory)}
    node.done(bare_python(), "-S", "-E", programs["portable"], "--version")
    assert list(node.directory.glob("apicas-zipapp-*/*"))


@pytest.mark.parametrize("place", ["/dev/null/x", "open"])
def test_where_it_cannot_be_unpacked_it_says_so(node: Node, programs: dict[str, Path], place: str) -> None:
    """Also where others could put programs of theirs."""
    if place == "open":
        (node.directory / "open").mkdir()
        (node.directory / "open").chmod(0o777)
    node.variables["APICAS_ZIPAPP_DIR"] = place
    result = node.call(bare_python(), "-S", "-E", programs["portable"], "--version")
    assert result.returncode == 2
    assert result.stderr.startswith("apicas: it cannot be unpacked: ")
    assert len(result.stderr.splitlines()) == 1


def test_the_same_packages_make_the_same_file(tmp_path: Path, programs: dict[str, Path]) -> None:
    build(tmp_path / "again.pyz", portable=True)
    assert (tmp_path / "again.pyz").read_bytes() == programs["portable"].read_bytes()


def test_it_can_be_run_by_name(programs: dict[str, Path]) -> None:
    """On Unix a file that is executable and says what runs it."""
    assert programs["compiled"].stat().st_mode & 0o111
    assert programs["compiled"].read_bytes().startswith(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(programs["compiled"]) as archive:
        assert archive.testzip() is None


def test_an_old_python_is_told(node: Node, programs: dict[str, Path]) -> None:
    """Nothing in the start is newer than Python 3.6; here only the number is."""
    with zipfile.ZipFile(programs["portable"]) as archive:
        start = archive.read("__main__.py").decode().replace("(3, 11)", "(9, 99)")
    (node.directory / "start.py").write_text(start)
    result = node.call(bare_python(), "start.py")
    found = ".".join(map(str, sys.version_info[:2]))
    assert (result.returncode, result.stderr) == (2, f"apicas: Python 9.99 or later is needed, and this is {found}\n")
