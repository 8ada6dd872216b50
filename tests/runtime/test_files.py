"""The files of a command: what it finds, what becomes of what it makes, and which directories stay."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from typing_extensions import override

import apicas
from apicas._runtime.commands.command import CommandRunner
from apicas._runtime.commands.files import MAX_ATTACHED, FileOptions
from apicas._runtime.commands.options import CommandOptions
from apicas._runtime.commands.workdirs import WorkDirectories
from apicas.clients.memory import MemoryClient
from apicas.exceptions import ConfigError, PoolUnavailableError
from apicas.tokens import Token, annex
from tests.runtime.processes import Fifo


async def worked(
    line: str, token: Mapping[str, Any], files: FileOptions, client: MemoryClient | None = None, **options: Any
) -> Token:
    """A token after a line for the shell has worked it."""
    client = client or MemoryClient()
    async with client:
        await client.upload([{"_id": "t", **token}])
        runner = CommandRunner(line, CommandOptions(shell=True), files)
        await apicas.run(runner, client, outbox=False, **{"max_tokens": 1, **options})
        return await client.fetch("t")


async def content(client: MemoryClient, name: str) -> bytes:
    return await client.get_attachment("t", name)


def left(base: Path) -> list[str]:
    """What is below a directory, without the place of running attempts."""
    return sorted(
        str(path.relative_to(base)) for path in base.rglob("*") if not path.relative_to(base).parts[0].startswith(".")
    )


def message(token: Token) -> str:
    return str(token.errors[-1]["message"])


async def test_each_attempt_has_an_empty_directory_of_its_own_that_is_gone_afterwards(tmp_path: Path) -> None:
    token = await worked("ls -A; pwd; touch a; mkdir -p x/y", {}, FileOptions(workdir=tmp_path))
    assert token.state is apicas.TokenState.DONE
    assert left(tmp_path) == []
    assert [*(tmp_path / f".apicas-{os.geteuid()}").iterdir()] == []


async def test_a_command_learns_where_it_comes_from_and_what_its_token_holds(tmp_path: Path) -> None:
    client = MemoryClient()
    line = (
        'test "$PWD" != "$APICAS_SUBMIT_DIR" && echo "$APICAS_SUBMIT_DIR $APICAS_TOKEN_ID $APICAS_ATTEMPT '
        '$APICAS_FIELD_input $APICAS_FIELD_seed $APICAS_FIELD_tree"; env | grep -c "^APICAS_FIELD_"'
    )
    fields = {"input": "a b", "seed": 7, "tree": {"x": [1]}, "not-a-word": 1, "nul": "\0", "long": "x" * 40_000}
    await worked(line, fields, FileOptions(workdir=tmp_path), client)
    async with client:
        assert await content(client, "stdout.txt") == f'{Path.cwd()} t 1 a b 7 {{"x":[1]}}\n3\n'.encode()


async def test_a_program_beside_the_pilot_is_found_from_a_work_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "work.sh"
    script.write_text("#!/bin/sh\npwd > where\n")
    script.chmod(0o755)
    runner = CommandRunner(["./work.sh"], files=FileOptions(workdir=tmp_path / "w", outputs=["where"]))
    async with MemoryClient() as client:
        await client.upload([{"_id": "t"}])
        await apicas.run(runner, client, outbox=False)
        assert str(tmp_path / "w") in (await content(client, "where")).decode()


async def test_attachments_lie_there_but_what_earlier_attempts_printed(tmp_path: Path) -> None:
    client = MemoryClient()
    file = {"content_type": "text/plain", "data": "YQ=="}
    files = dict.fromkeys(("in.dat", "more.cfg", "stdout.txt", "stderr.2.txt"), file)
    await worked("ls", {"_attachments": files}, FileOptions(workdir=tmp_path), client)
    async with client:
        assert await content(client, "stdout.txt") == b"in.dat\nmore.cfg\n"
        assert await content(client, "in.dat") == b"a"


async def test_inputs_can_be_chosen(tmp_path: Path) -> None:
    client = MemoryClient()
    files = {name: {"content_type": "text/plain", "data": "YQ=="} for name in ("in.dat", "more.cfg")}
    await worked("ls; cat in.dat", {"_attachments": files}, FileOptions(workdir=tmp_path, inputs=["*.dat"]), client)
    async with client:
        assert await content(client, "stdout.txt") == b"in.dat\na"


class _Mute(MemoryClient):
    """Does not give any attachment."""

    @override
    async def stream_attachment(self, document_id: str, name: str) -> AsyncIterator[bytes]:
        if name:
            raise PoolUnavailableError("the pool is away")
        yield b""


async def test_a_token_whose_attachments_cannot_be_read_waits_uncharged(tmp_path: Path) -> None:
    files = {"in.dat": {"content_type": "text/plain", "data": "YQ=="}}
    token = await worked("cat in.dat", {"_attachments": files}, FileOptions(workdir=tmp_path), _Mute())
    assert (token.state, token.scrub_count, token.releases) == (apicas.TokenState.TODO, 0, 1)
    assert left(tmp_path) == []


@pytest.mark.parametrize("named", [True, False])
async def test_what_it_makes_is_attached(tmp_path: Path, named: bool) -> None:
    """Named by the token, or for all of them."""
    client = MemoryClient()
    files = FileOptions(workdir=tmp_path) if named else FileOptions(workdir=tmp_path, outputs=["*.fits", "log"])
    token = {"outputs": ["*.fits", "log"]} if named else {}
    done = await worked("echo 1 > a.fits; echo 2 > b.fits; echo 3 > log; echo 4 > other", token, files, client)
    assert sorted(done.attachments) == ["a.fits", "b.fits", "log"]
    async with client:
        assert await content(client, "b.fits") == b"2\n"


async def test_what_it_makes_is_moved(tmp_path: Path) -> None:
    """Below a directory of the token's; what an earlier attempt has left there is replaced."""
    to = tmp_path / "results"
    (to / "t/maps").mkdir(parents=True)
    (to / "t/maps/old").touch()
    files = FileOptions(workdir=tmp_path / "w", outputs=["image", "maps", "deep/*.txt"], outputs_to=to)
    token = await worked("echo 1 > image; mkdir maps deep; echo 2 > maps/new; echo 3 > deep/x.txt", {}, files)
    assert left(to) == ["t", "t/deep", "t/deep/x.txt", "t/image", "t/maps", "t/maps/new"]
    assert token["output_files"] == [str(to / "t" / name) for name in ("image", "maps", "deep/x.txt")]
    assert token.attachments == []


@pytest.mark.parametrize(("name", "place"), [("m31", "m31"), ("../../x", "..%2F..%2Fx"), ("..", "...")])
async def test_what_it_makes_is_moved_to_a_directory_named_by_its_fields(tmp_path: Path, name: str, place: str) -> None:
    """Each of them is one name."""
    files = FileOptions(workdir=tmp_path / "w", outputs=["image"], outputs_to=tmp_path / "results/{input}/x-{seed}")
    token = await worked("echo 1 > image", {"input": name, "seed": 7}, files)
    (moved,) = token["output_files"]
    assert Path(moved).read_bytes() == b"1\n"  # noqa: ASYNC240 - a test may wait for a file
    assert Path(moved).relative_to(tmp_path / "results").parts[0].startswith(place)
    assert Path(moved).parts[-2:] == ("x-7", "image")


async def test_what_cannot_be_renamed_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Onto another file system, for instance: under another name first, so that nobody sees a half."""
    original = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.name in {"image", "maps"}:
            raise OSError(18, "Invalid cross-device link")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    files = FileOptions(workdir=tmp_path / "w", outputs=["image", "maps"], outputs_to=tmp_path / "results")
    token = await worked("echo 1 > image; mkdir maps; echo 2 > maps/new", {}, files)
    assert token.state is apicas.TokenState.DONE
    assert left(tmp_path / "results") == ["t", "t/image", "t/maps", "t/maps/new"]


async def test_a_failed_attempt_leaves_nothing_of_what_it_made(tmp_path: Path) -> None:
    files = FileOptions(workdir=tmp_path / "w", outputs=["image"], outputs_to=tmp_path / "results")
    token = await worked("echo 1 > image; exit 3", {}, files)
    assert (token.state, token.exit_code) == (apicas.TokenState.ERROR, 3)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("line", "outputs", "reason"),
    [
        ("true", ["image"], "its output 'image' is not there"),
        ("mkdir maps", ["maps"], "is no file, and cannot be attached"),
        ("mkdir a b; touch a/x b/x", ["*/x"], "two of its outputs are called 'x'"),
        ("ln -s /etc/passwd mine", ["mine"], "a link out of the work directory"),
        (f"truncate -s {MAX_ATTACHED + 1} big", ["big"], "at the most can be attached"),
        ("touch _x", ["_x"], "underscore"),
    ],
)
async def test_outputs_that_cannot_be_stored_fail_the_token(
    tmp_path: Path, line: str, outputs: Sequence[str], reason: str
) -> None:
    token = await worked(line, {}, FileOptions(workdir=tmp_path, outputs=outputs))
    assert token.state is apicas.TokenState.ERROR
    assert reason in message(token)
    assert token.exit_code != 0


@pytest.mark.parametrize("named", ["/etc/passwd", "../x", "a/../../x", "", "..", 7, ["x", 7], {"x": 1}, "a\0b"])
async def test_a_token_cannot_name_what_is_outside(tmp_path: Path, named: Any) -> None:
    """Anybody may have written it; its command is not even started."""
    token = await worked("echo ran", {"outputs": named}, FileOptions(workdir=tmp_path))
    assert token.state is apicas.TokenState.ERROR
    assert "output" in message(token)
    assert token.attachments == []


@pytest.mark.parametrize(
    ("keep", "line", "kept"),
    [
        ("never", "touch x; exit 1", False),
        ("failed", "touch x", False),
        ("failed", "touch x; exit 1", True),
        ("always", "touch x", True),
    ],
)
async def test_a_directory_is_kept_if_asked(tmp_path: Path, keep: Any, line: str, kept: bool) -> None:
    """And the token says where it is."""
    token = await worked(line, {}, FileOptions(workdir=tmp_path, keep=keep))
    assert left(tmp_path) == (["t", "t/1", "t/1/x"] if kept else [])
    assert annex(token.document).get("workdir") == (str(tmp_path / "t/1") if kept else None)


async def test_a_directory_is_kept_after_a_time_limit(tmp_path: Path) -> None:
    """That is a failure; the end of the pilot is none."""
    token = await worked(
        "touch x; sleep 3600", {}, FileOptions(workdir=tmp_path, keep="failed"), max_token_time=0.2, max_scrub=0
    )
    assert token.state is apicas.TokenState.ERROR
    assert left(tmp_path) == ["t", "t/1", "t/1/x"]


async def test_a_directory_is_not_kept_where_the_pilot_ends(tmp_path: Path) -> None:
    fifo = Fifo(tmp_path / "fifo")
    client = MemoryClient()
    async with anyio.create_task_group() as tasks:
        files = FileOptions(workdir=tmp_path / "w", keep="failed")
        tasks.start_soon(worked, f"touch x; echo > {fifo.path}; sleep 3600", {}, files, client)
        await fifo.line()
        tasks.cancel_scope.cancel()
    fifo.close()
    async with client:
        assert (await client.fetch("t")).state is apicas.TokenState.TODO
    assert left(tmp_path / "w") == []


async def test_directories_that_a_command_has_closed_are_removed_all_the_same(tmp_path: Path) -> None:
    token = await worked("mkdir -p a/b; touch a/b/c; chmod 0 a/b; chmod 500 a", {}, FileOptions(workdir=tmp_path))
    assert token.state is apicas.TokenState.DONE
    assert [*(tmp_path / f".apicas-{os.geteuid()}").iterdir()] == []


def test_the_next_pilot_removes_what_one_left_that_was_killed(tmp_path: Path) -> None:
    """And nothing of one that lives, or of another node."""
    script = (
        "import asyncio, os, signal, sys\n"
        "from apicas._runtime.commands.workdirs import WorkDirectories\n"
        "print(asyncio.run(WorkDirectories(sys.argv[1]).make()), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, check=False)
    abandoned = Path(killed.stdout.decode().strip())
    assert abandoned.is_dir()
    elsewhere = abandoned.parent.parent / "0123456789abcdef.1.1.00"
    elsewhere.mkdir()

    async def go_on() -> Path:
        living, next_one = WorkDirectories(tmp_path), WorkDirectories(tmp_path)
        kept = await living.make()
        await next_one.make()
        await next_one.swept()
        await next_one.close()
        return kept

    kept = asyncio.run(go_on())
    assert not abandoned.parent.exists()
    assert kept.is_dir()
    assert elsewhere.is_dir()


def test_directories_are_for_nobody_else(tmp_path: Path) -> None:
    runner = WorkDirectories(tmp_path)._make()
    assert stat.S_IMODE(runner.stat().st_mode) == stat.S_IMODE(runner.parent.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "options", [{"keep": "sometimes"}, {"workdir": "/dev/null/x"}, {"outputs": ["../x"]}, {"outputs": ["/x"]}]
)
def test_what_cannot_be_is_said_at_once(options: Any) -> None:
    with pytest.raises(ConfigError):
        CommandRunner(["true"], files=FileOptions(**options))


def test_one_command_has_one_directory() -> None:
    with pytest.raises(ConfigError, match="has no other one"):
        CommandRunner(["true"], CommandOptions(cwd="/"), FileOptions())


async def test_attachments_can_be_read_by_the_work_itself() -> None:
    """Those of the pool, and those that it has just put there."""
    async with MemoryClient() as client:
        file = {"content_type": "text/plain", "data": "YQ=="}
        await client.upload([{"_id": "t", "_attachments": {"in.dat": file}}])

        async def work(token: Token) -> list[str]:
            token.put_attachment("new", b"b")
            with pytest.raises(apicas.TokenNotFoundError):
                await token.get_attachment("other")
            return [(await token.get_attachment(name)).decode() for name in ("in.dat", "new")]

        await apicas.run(work, client, outbox=False)
        assert (await client.fetch("t")).output == ["a", "b"]
        with pytest.raises(RuntimeError, match="no pilot"):
            await (await client.fetch("t")).get_attachment("in.dat")
