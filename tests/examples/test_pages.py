"""What the pages of the documentation show is done here, block by block, and comes out as it is shown."""

from __future__ import annotations

import configparser
import errno
import importlib
import json
import logging
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import apicas
import apicas.testing
from apicas.clients.memory import MemoryClient
from tests.couchdb import Server, guarded_server, start_pouchdb
from tests.examples.pages import DOCS, ROOT, Session, blocks, execute, languages, matches, pages, steps

NOT_DONE: Final = {
    "pip install": "takes packages from an index; tests/packaging installs the wheel and what it needs",
    "make demo": "as long as a demonstration takes; test_examples.py runs its program",
    "make test": "this is it",
    "apicas zipapp": "takes an installed apicas; tests/packaging makes one and runs it",
    "python3.11 apicas.pyz": "the same",
    "apicas bench": "measures for a minute; tests/cli/test_bench.py runs it for a moment",
    "python -m benchmarks targets": "measures for hours; tests/benchmarks runs its parts",
    "python -m tests.simulation --seeds": "takes minutes; tests/simulation runs some of the seeds",
    "python -m tests.simulation --mutants": "takes minutes; tests/simulation runs them",
}
"""Commands of which the pages speak, and no test here: with the reason."""
LEAVING: Final = tuple(NOT_DONE)
ELSEWHERE: Final = {"cli.md", "embedding.md", "migrating-from-picas.md"}
"""Pages with tests of their own: test_documentation.py, test_migrating_and_embedding.py."""
TESTED: Final[dict[str, dict[str, int]]] = {
    "README.md": {"console": 3, "python": 2},
    "actors.md": {"python": 2, "sh": 1},
    "batch.md": {"console": 1},
    "configuration.md": {"console": 2, "python": 1},
    "couchdb.md": {"ini": 1, "sh": 1},
    "logs.md": {"console": 1, "python": 1},
    "observability.md": {"console": 2, "python": 1},
    "outbox.md": {"python": 1},
    "packaging.md": {"console": 3},
    "pools.md": {"python": 5},
    "resources.md": {"console": 2, "python": 1},
    "shell.md": {"console": 3, "json": 1},
    "testing.md": {"console": 1, "python": 2},
    "tokens.md": {"console": 7},
    "tutorial.md": {"console": 6, "python": 2, "sh": 1},
}
"""The blocks that the tests below do."""
SURVEY: Final = "https://me@couch.example.org/survey"


def test_every_block_is_done() -> None:
    """A page or a block that is new needs a test here."""
    found = {page.relative_to(DOCS.parent).as_posix(): languages(page) for page in pages()}
    ours = {name.removeprefix("docs/"): count for name, count in found.items() if count}
    assert {name: count for name, count in ours.items() if name not in ELSEWHERE} == TESTED


def test_nothing_is_left_out_that_no_page_shows() -> None:
    shown = [step.command for page in pages() for step in steps(page)]
    assert all(any(command.startswith(left) for command in shown) for left in LEAVING)


def test_dots_stand_for_anything_and_the_rest_for_itself() -> None:
    assert matches("a ... c\n", "a b\n c\n")
    assert not matches("a ... c\n", "a b\n d\n")
    assert not matches("a\n", "a\nb\n")


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """One whose server is a file."""
    return Session(tmp_path, {SURVEY: f"sqlite:///{tmp_path}/survey.db"})


# Pages for the shell


@pytest.mark.parametrize("name", ["observability.md", "tokens.md", "tutorial.md", "packaging.md"])
def test_the_page_is_true(name: str, session: Session) -> None:
    session.read(DOCS / name, leaving=LEAVING)


async def test_the_readme(session: Session) -> None:
    session.read(ROOT / "README.md", leaving=LEAVING)
    six_steps, loop = blocks(ROOT / "README.md", "python")
    session.write("squares.py", six_steps)
    assert session.run("python squares.py").startswith("100 done")

    async def work(given: int) -> int:
        return given + 1

    async with MemoryClient() as client:
        await client.upload([{"_id": "t", "input": 1}])
        await execute(loop, {"apicas": apicas, "client": client, "work": work})
        assert (await client.fetch("t")).output == 2


async def test_pilots_in_batch_jobs(session: Session) -> None:
    """The job script runs here, with the arguments that the batch system would hand it."""
    session.program("sbatch", 'while [ "${1#--}" != "$1" ]; do shift; done\nexec sh "$@"')
    session.program("simulate", "echo simulating $1", session.directory)
    shutil.copy(ROOT / "examples" / "batch" / "slurm.sh", session.directory)
    session.write(
        "work.py", "import apicas\nclass Actor(apicas.RunActor):\n    async def process_token(self, token): ..."
    )
    session.run(f"echo one | apicas push - --pool {SURVEY}")
    session.read(DOCS / "batch.md")
    assert "done    1" in session.run(f"apicas status --pool {SURVEY}")


def test_commands_and_their_files(session: Session) -> None:
    page = DOCS / "shell.md"
    for program in ("simulate", "fit"):
        session.program(
            program, 'echo "$*"; echo "$*" > image.fits; mkdir -p logs; echo > logs/1.txt', session.directory
        )
    session.write("inputs.txt", "7\n8\n")
    session.write("table.csv", "name,mass\nproton,938.3\n")
    session.write("a.fits", "picture\n")
    data = session.home / "data"
    shown = [command.replace("/data/survey", str(data)) for command, _ in steps(page)]
    maps, pool, files = shown[:3], shown[3:5], shown[5:]
    assert "7\n" in session.run(maps[0])
    session.run(maps[1])
    assert (session.directory / "a.fits.gz").exists()
    assert "--name proton --mass 938.3" in session.run(maps[2])
    assert ["2 done" in session.run(command) for command in pool] == [False, True]
    session.write("tokens.jsonl", json.dumps({"_id": "seven", **json.loads(blocks(page, "json")[0])}))
    session.run("apicas push tokens.jsonl")
    assert "1 done" in session.run(files[0])
    assert sorted(path.relative_to(data).as_posix() for path in data.rglob("*.*")) == [
        "seven/image.fits",
        "seven/logs/1.txt",
    ]


async def test_cores_and_the_end_of_the_job(session: Session) -> None:
    page = DOCS / "resources.md"
    session.program("simulate", "echo simulating $1", session.directory)
    session.run("echo one | apicas push -")
    run, explain = steps(page)
    assert "1 done" in session.run(run.command)
    session.write("long.jsonl", '{"_id": "token_17", "time_request": "2h"}')
    session.run("apicas push long.jsonl")
    assert matches(explain.shown, session.run(explain.command))

    async def work(token: apicas.Token) -> None:
        assert token.allocation
        assert (len(token.allocation.cores), token.allocation.of("license")) == (1, 0)

    async with MemoryClient() as pool:
        await pool.upload([{"_id": "t", "cores": 1, "memory": "1M"}])
        await execute(blocks(page, "python")[0], {"apicas": apicas, "pool": pool, "work": work})
        assert (await pool.fetch("t")).state == "done"


def test_logs_of_attempts(session: Session) -> None:
    session.write("token.jsonl", '{"_id": "token_17"}')
    session.run("apicas push token.jsonl")
    session.run(
        "apicas run --max-scrub 1 --retry-delay 0 -- sh -c 'echo attempt $APICAS_ATTEMPT; test $APICAS_ATTEMPT = 2'"
    )
    last, followed, first = steps(DOCS / "logs.md")
    assert session.run(last.command) == session.run(followed.command) == "attempt 2\n"
    assert session.run(first.command) == "attempt 1\n"


async def test_what_an_actor_logs_is_kept() -> None:
    names = await execute(blocks(DOCS / "logs.md", "python")[0], {"apicas": apicas, "logging": logging})
    names["log"].setLevel(logging.INFO)
    actor = type("Survey", (apicas.RunActor,), {"process_token": names["process_token"]})
    async with MemoryClient() as client:
        await client.upload([{"_id": "t", "field": "m31"}])
        await actor(apicas.BasicViewIterator(client)).run(handle_signals=False)
        assert b"imaging field m31" in await client.get_attachment("t", "stderr.txt")
    names["log"].handlers.clear()


def test_simulations(session: Session) -> None:
    session.directory = ROOT
    session.read(DOCS / "testing.md", leaving=LEAVING)


# Pages for Python


async def test_typed_tokens_and_where_they_run(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    typed, choosing = blocks(DOCS / "actors.md", "python")
    async with MemoryClient() as client:
        await client.upload([{"_id": "t", "input": {"size": 3, "bands": ["b", "v"]}}])
        names = await execute(typed, {"__name__": "survey"})
        await names["Survey"](apicas.BasicViewIterator(client)).run(handle_signals=False)
        assert (await client.fetch("t")).output == 6
    session.write("choosing.py", f"import apicas\n\n{choosing}")
    monkeypatch.syspath_prepend(session.directory)
    actor = importlib.import_module("choosing").Survey
    assert issubclass(actor, apicas.RunActor)
    assert actor.executor == "process"
    chosen = [actor.choose_executor(None, apicas.Token({"_id": "t", "input": {"megapixels": n}})) for n in (99, 101)]
    assert chosen == ["auto", "process"]
    sys.modules.pop("choosing")


def test_commands_tell_their_progress(session: Session) -> None:
    session.write("command.sh", blocks(DOCS / "actors.md", "sh")[0])
    session.run("echo one | apicas push -")
    assert "1 done" in session.run("apicas run --events events.jsonl -- sh -e command.sh")
    events = [json.loads(line) for line in (session.directory / "events.jsonl").read_text().splitlines()]
    assert {(event["fraction"], event["message"]) for event in events if event["event"] == "progressed"} <= {
        (0.4, "imaging")
    }


async def test_an_outbox_that_fails_when_it_is_told_to() -> None:
    names = await execute(blocks(DOCS / "outbox.md", "python")[0], {"apicas": apicas, "errno": errno})
    assert names["box"].failure == errno.ENOSPC


@pytest.mark.parametrize("number", [0, 1])
def test_tests_of_ones_own_actors(number: int) -> None:
    names: dict[str, Any] = {}
    exec(blocks(DOCS / "testing.md", "python")[number], names)
    (test,) = [value for name, value in names.items() if name.startswith("test_")]
    test()


@pytest.fixture
def couch(request: pytest.FixtureRequest) -> Iterator[tuple[Server, str]]:
    """A server that asks who one is, and the name of a database."""
    here = guarded_server(request.config)
    with here.database() as name:
        yield here, name


@pytest.mark.couchdb
async def test_pools_on_couchdb(couch: tuple[Server, str]) -> None:
    here, name = couch
    assert here.password
    setting_up, *others = blocks(DOCS / "pools.md", "python")
    theirs = {'"https://couch.example:6984"': repr(here.url), '"survey"': repr(name)}
    for text, ours in theirs.items():
        setting_up = setting_up.replace(text, ours)
    await execute(setting_up, {"apicas": apicas, "secret": here.password})
    async with here.client(name) as client:
        assert here.request("GET", f"{name}/_security")["members"]["names"] == ["ann", "bob"]
        tokens = [{"_id": f"token-{n}", "cores": n % 2, "rank": n, "night": n, "year": 2026} for n in range(1, 8)]
        await client.upload(tokens)
        names: dict[str, Any] = {"apicas": apicas, "client": client}
        for block in others:
            await execute(block, names)
        assert sorted(str(row.id) for row in await client.view("SingleCore/todo")) == [
            f"token-{n}" for n in (1, 3, 5, 7)
        ]
        assert [(row.key, row.value) for row in names["rows"]] == [([2026], 7)]
        async with names["iterator"] as ranked:
            async for token in ranked:
                assert token.id == "token-7"
                break
        assert (await client.fetch("token-7"))["priority"] == 3


# Pages about a server


@pytest.fixture
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, str], Session]:
    """Makes a session for a page whose server is a new one, where one name is the admin."""

    def make(origin: str, admin: str) -> Session:
        here = start_pouchdb(request.addfinalizer, Server("", admin, "secret"))
        with_name = {f"https://{admin}@{origin}": here.url.replace("://", f"://{admin}@")}
        made = Session(tmp_path, {**with_name, f"https://{origin}": here.url, "/home/me": str(tmp_path / "home")})
        made.environ["PYTHON_KEYRING_BACKEND"] = "tests.examples.rings.FileKeyring"
        made.environ["APICAS_TEST_RING"] = str(tmp_path / "ring.json")
        return made

    return make


@pytest.mark.couchdb
def test_configuration(served: Callable[[str, str], Session]) -> None:
    session = served("couch.example:6984", "me")
    show, keep = steps(DOCS / "configuration.md")
    session.run("apicas config set pool https://me@couch.example:6984/survey")
    assert matches(keep.shown, session.run(keep.command, typed="secret\n"))
    session.environ["APICAS_LOCK_TIMEOUT"] = "300"
    session.write("program.py", _program(blocks(DOCS / "configuration.md", "python")[0]))
    session.run("apicas init")
    assert "todo" in session.run("python program.py")
    assert [line.split() for line in session.run(show.command).splitlines()] == [
        line.split() for line in show.shown.splitlines()
    ]


def _program(block: str) -> str:
    """A block with awaits at its top level as a program."""
    return f"import asyncio\n\nasync def main():\n{textwrap.indent(block, '    ')}\nasyncio.run(main())\n"


@pytest.mark.couchdb
def test_a_pool_on_couchdb_with_users(served: Callable[[str, str], Session]) -> None:
    session = served("couch.example.org:6984", "boss")
    lines = [line.partition("  #")[0].strip() for line in blocks(DOCS / "couchdb.md", "sh")[0].splitlines()]
    typed = {"apicas passwd": "secret\n", "apicas users add ann --member": "y\nhers\nhers\n"}
    printed = {line: session.run(line, typed.get(line, "")) for line in lines}
    assert "ann" in printed["apicas users list"]


def test_the_servers_settings_can_be_read() -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(blocks(DOCS / "couchdb.md", "ini")[0])
    assert {section: sorted(parser[section]) for section in parser.sections()} == {
        "admins": ["boss"],
        "chttpd": ["bind_address", "port", "require_valid_user"],
        "ssl": ["cert_file", "enable", "key_file"],
    }
