"""Progress: from wherever the work is to the token, by the heartbeat and by nothing else."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from typing_extensions import override

import apicas
from apicas._runtime.attempts import scribe as scribes
from apicas._runtime.attempts.logs import AttemptLog
from apicas._runtime.attempts.places import everybodys_place, make_place, sweep_places
from apicas._runtime.attempts.progress import MOST, read_file, read_line
from apicas._runtime.attempts.scribe import Scribe
from apicas._runtime.attempts.spool import Spool
from apicas._runtime.commands.command import CommandRunner
from apicas._runtime.environment import process_name
from apicas._runtime.isolation.remote import RemoteLease
from apicas._runtime.keeping.leases import Lease
from apicas._runtime.options import RunOptions
from apicas.actors import run_pilot, work_maker
from apicas.clients.port import SaveResult
from apicas.iterators import BasicViewIterator
from apicas.modifiers import Owner
from apicas.testing import FaultyClient
from apicas.tokens import MAX_MESSAGE, Token, annex, progress_of
from tests.runtime import isolated_work
from tests.runtime.processes import linux_only
from tests.runtime.virtual import LEASE, make_pool, pilot, virtual


def told(token: Token) -> Any:
    return annex(token).get("progress")


def lease_of(name: str) -> Lease:
    return Lease(name, "c", {"_id": name}, {"_id": name}, 0.0, 0.0)


class Recording(FaultyClient):
    """Keeps what was written."""

    written: list[Mapping[str, Any]]

    @override
    async def save(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        self.written += documents
        return await super().save(documents)

    @override
    def fork(self) -> FaultyClient:
        fork = Recording(self.faults, now=self._now)
        fork._pool = self._pool
        fork.written = self.written
        return fork


def recording() -> Recording:
    client = Recording()
    client.written = []
    return client


# What is told


@pytest.mark.parametrize("fraction", [0, 1, 0.5, True, -1e-9, 1 + 1e-9])
def test_a_fraction_is_from_0_to_1(fraction: Any) -> None:
    if fraction is True:
        with pytest.raises(ValueError, match="from 0 to 1"):
            progress_of(fraction)
    else:
        assert 0 <= progress_of(fraction)["fraction"] <= 1


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan, math.inf, -math.inf])
def test_anything_else_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        Token({"_id": "t"}).progress(fraction)


def test_a_message_is_short_and_drives_no_terminal() -> None:
    assert progress_of(0, "a\x1b[2J\n\udc80b")["message"] == "a\\x1b[2J\\n\\udc80b"
    assert len(progress_of(0, "\x1b" * 10**6)["message"]) == MAX_MESSAGE
    assert progress_of(0, "x" * MAX_MESSAGE)["message"] == "x" * MAX_MESSAGE


def test_a_token_of_nobodys_forgets_it() -> None:
    token = Token({"_id": "t"})
    token.progress(0.5, "half")
    assert token.document == {"_id": "t"}


# Carried by the heartbeat


@virtual
async def test_the_next_beat_carries_it_and_nothing_else_does() -> None:
    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)
        before = (await client.fetch("t")).rev
        for step in range(1000):
            token.progress(step / 1000, f"step {step}")
        await anyio.lowlevel.checkpoint()
        assert (await client.fetch("t")).rev == before
        await anyio.sleep(LEASE / 3)
        stored = await client.fetch("t")
        assert told(stored) == {"fraction": 0.999, "message": "step 999", "time": stored["lock"]}
        first = stored["lock"]
        await anyio.sleep(LEASE / 3)
        stored = await client.fetch("t")
        assert stored["lock"] > first == told(stored)["time"]  # since when it has been there
        async with token:
            token["output"] = 1
    stored = await client.fetch("t")
    assert (stored.state, stored.output, told(stored)) == ("done", 1, None)


@virtual
async def test_it_goes_with_the_claim_however_that_ends() -> None:
    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)
        token.progress(0.5)
        await anyio.sleep(LEASE / 3)
        assert told(await client.fetch("t"))
    stored = await client.fetch("t")  # released at the end of the pilot
    assert (stored.state, told(stored)) == ("todo", None)


@virtual
async def test_an_edit_of_somebody_else_is_kept_beside_it() -> None:
    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)
        await client.edit("t", lambda stored: stored.update(note="theirs"))
        token.progress(0.5)
        await anyio.sleep(LEASE / 2)
        stored = await client.fetch("t")
        assert (stored["note"], told(stored)["fraction"]) == ("theirs", 0.5)


# From processes


def reached(lease: Any) -> Any:
    return None if lease.notes is None else lease.notes.progress


async def until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(30):
        while not (found := condition()):
            await asyncio.sleep(0.01)
    return found


async def run_watched(work: Any, watch: Callable[[Any], Any], content: Any = None, **options: Any) -> Token:
    """Work one token, and meanwhile wait until its lease satisfies a condition; the token afterwards."""
    client = FaultyClient()
    await client.upload([{"_id": "t", "input": content}])
    async with BasicViewIterator(client, linger=False) as tokens, asyncio.TaskGroup() as group:

        async def look() -> None:
            lease: Any = await until(lambda: next(iter(tokens.keeper._leases), None))
            await until(lambda: watch(lease))

        group.create_task(look())
        options = {"workers": 1, "max_tokens": 1, **options}
        await run_pilot(tokens, work_maker(work, tokens), RunOptions(**options))
    return await client.fetch("t")


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scribes, "LOOK", 0.02)


@linux_only
@pytest.mark.parametrize("how", ["blocking", "plain"])
async def test_a_worker_process_tells_its_pilot(how: str, tmp_path: Path) -> None:
    """Also where the work blocks the loop there. It goes on until the pilot has heard it."""
    work = {"blocking": isolated_work.tells_and_blocks, "plain": isolated_work.tells_from_a_thread}[how]
    path = tmp_path / "go"

    def watch(lease: Any) -> bool:
        if reached(lease) != {"fraction": 0.75, "message": "there"}:
            return False
        path.touch()
        return True

    token = await run_watched(work, watch, {"go": str(path)}, executor="process")
    assert token.state == "done"


@linux_only
@pytest.mark.usefixtures("_often")
async def test_a_shell_script_tells_it_by_appending_a_line(tmp_path: Path) -> None:
    go = tmp_path / "go"

    def watch(lease: Any) -> bool:
        if reached(lease) != {"fraction": 0.4, "message": "imaging field"}:
            return False
        go.touch()
        return True

    line = 'echo "0.1" >> "$APICAS_PROGRESS"; echo "0.4 imaging field" >> "$APICAS_PROGRESS"; '
    runner = CommandRunner(["sh", "-c", line + 'until [ -e "$1" ]; do sleep 0.01; done', "sh", str(go)])
    token = await run_watched(runner, watch)
    assert token.state == "done"
    assert not list(everybodys_place().glob(f"{process_name(os.getpid())}.*"))


@linux_only
@pytest.mark.usefixtures("_often")
async def test_the_program_tells_it_too(tmp_path: Path) -> None:
    go = tmp_path / "go"

    def watch(lease: Any) -> bool:
        if reached(lease) != {"fraction": 0.4, "message": "imaging field 12"}:
            return False
        go.touch()
        return True

    line = '"$2" -m apicas progress 40% imaging field 12 && until [ -e "$1" ]; do sleep 0.01; done'
    token = await run_watched(CommandRunner(["sh", "-c", line, "sh", str(go), sys.executable]), watch)
    assert token.state == "done"


@linux_only
async def test_a_command_of_an_actor_finds_the_path_and_its_own_variables() -> None:
    seen: list[bytes] = []

    async def work(token: Token) -> None:
        for env in (None, {"PATH": os.environ["PATH"], "MINE": "1"}):
            result = await apicas.run_command(["sh", "-c", 'echo "$APICAS_PROGRESS $MINE"'], env=env)
            seen.append(result.stdout)

    await run_watched(work, lambda lease: True)
    paths = [line.split() for line in seen]
    assert paths[0][0] == paths[1][0]
    assert paths[1][1] == b"1"


async def test_a_command_that_is_for_no_token_finds_none() -> None:
    assert (await apicas.run_command(["sh", "-c", 'echo "[$APICAS_PROGRESS]"'])).stdout == b"[]\n"


# The file


@pytest.mark.parametrize(
    ("line", "fraction", "message"),
    [("0.4 imaging", 0.4, "imaging"), ("1", 1, ""), ("40% a b", 0.4, "a b"), (" 0.5   x ", 0.5, "  x")],
)
def test_a_line_is_a_fraction_and_a_message(line: str, fraction: float, message: str) -> None:
    assert read_line(line) == {"fraction": fraction, "message": message}


@pytest.mark.parametrize("line", ["", "imaging", "40", "nan x", "-1%", "1e999"])
def test_a_line_without_a_fraction_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"from 0 to 1|float"):
        read_line(line)


def test_the_last_line_counts_whatever_stands_before_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xff\x00" * MOST + b"\n0.5 half\n\n")
    assert read_file(str(path)) == "0.5 half"
    assert path.stat().st_size == 0
    assert read_file(str(path)) is None


def test_no_link_is_followed_and_no_pipe_waited_for(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("0.5 secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo"):
        with pytest.raises(OSError, match=r".+"):
            read_file(str(tmp_path / name))


# The scribe


@pytest.fixture
def scribe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    return Scribe(Owner(pilot="p1", hostname="h", process=process_name(os.getpid())))


def test_nonsense_is_said_once_and_what_follows_is_heard(scribe: Scribe, caplog: pytest.LogCaptureFixture) -> None:
    lease = lease_of("t1")
    path = Path(scribe.progress_path(lease) or "")
    for number in range(3):
        path.write_text(f"what {'x' * number}\x1b\n")
        scribe.look()
    assert len(caplog.messages) == 1
    assert "token t1" in caplog.text
    assert "\x1b" not in caplog.text
    path.write_text("0.5 at last\n")
    scribe.look()
    assert reached(lease)["message"] == "at last"


def test_what_an_attempt_has_left_is_removed(scribe: Scribe) -> None:
    lease = lease_of("t1")
    path = Path(scribe.progress_path(lease) or "")
    path.write_text("0.5\n")
    scribe.forget(lease)
    scribe.look()
    assert not path.exists()
    assert reached(lease) is None
    assert path.parent.exists()


def test_output_is_kept_of_an_attempt_that_ends_while_the_scribe_looks(
    scribe: Scribe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held_up(*arguments: Any) -> Spool:
        """As a loaded machine does it: a whole look passes before the output is where looks find it."""
        scribe.look()
        return Spool(*arguments)

    monkeypatch.setattr(scribes, "Spool", held_up)
    scribe.logs = tmp_path / "logs"
    lease = lease_of("t1")
    assert scribe.progress_path(lease)
    log = lease.note().log = AttemptLog(1000)
    log.stdout.add(b"at last")
    scribe.forget(lease)
    scribe.look()
    assert [path.read_bytes() for path in scribe.logs.rglob("stdout.txt")] == [b"at last"]


def test_without_room_for_a_file_commands_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, scribe: Scribe
) -> None:
    def full(owner: Owner) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scribes, "make_place", full)
    assert [scribe.progress_path(lease_of("t")) for _ in range(3)] == [None] * 3
    assert len(caplog.messages) == 1


def test_the_next_pilot_removes_what_a_dead_one_has_left(scribe: Scribe) -> None:
    own = make_place(Owner(pilot="p1", hostname="h", process=process_name(os.getpid())))
    boot = process_name(os.getpid()).partition(".")[0]
    dead = make_place(Owner(pilot="p2", hostname="h", process=f"{boot}.{2**22 + 1}.7"))
    logs = make_place(Owner(pilot="p3", hostname="h", process=f"{boot}.{2**22 + 1}.7"))
    (logs / "logs" / "t").mkdir(parents=True)
    elsewhere = make_place(Owner(pilot="p4", hostname="h", process="e15e.1.1"))
    sweep_places()
    assert [place.exists() for place in (own, dead, logs, elsewhere)] == [True, False, True, True]
    for place in (own, logs, elsewhere):
        os.utime(place, (0, 0))
    sweep_places()
    assert [place.exists() for place in (own, logs, elsewhere)] == [True, False, False]


def test_a_directory_of_somebody_elses_is_not_used(scribe: Scribe) -> None:
    everybodys_place().mkdir(mode=0o777)
    everybodys_place().chmod(0o777)
    place = make_place(Owner(pilot="p1", hostname="h", process="x"))
    assert place.parent != everybodys_place()
    assert place.stat().st_mode & 0o077 == 0


# The far side


async def test_a_remote_lease_says_the_first_and_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apicas._runtime.isolation.remote.PAUSE", 0.01)
    said: list[Any] = []
    lease = RemoteLease(said.append, asyncio.get_running_loop(), None)
    for step in range(100):
        lease.reached({"fraction": step / 100, "message": ""})
    assert len(said) < 50
    await until(lambda: said[-1]["reached"]["fraction"] == 0.99)
    lease.end()
    lease.reached({"fraction": 1.0, "message": ""})
    assert said[-1]["reached"]["fraction"] == 0.99
