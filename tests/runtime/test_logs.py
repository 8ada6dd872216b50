"""What attempts print: live in files, within bounds, attached in the end, and kept of earlier attempts."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import signal
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import apicas
from apicas._runtime.attempts import scribe as scribes
from apicas._runtime.attempts import spool as spools
from apicas._runtime.attempts.logs import ATTEMPTS, KEPT, TAIL, AttemptLog, attempts_in, keep_attempt, log_directory
from apicas._runtime.attempts.notes import Notes
from apicas._runtime.attempts.scribe import Scribe
from apicas._runtime.attempts.spool import LAST, SEGMENT, Follower, Spool, rest_of
from apicas._runtime.commands.command import CommandRunner
from apicas._runtime.commands.options import CommandOptions
from apicas._runtime.options import RunOptions
from apicas._runtime.processes.pipes import Capture
from apicas.actors import run_pilot, work_maker
from apicas.exceptions import ConfigError
from apicas.iterators import BasicViewIterator
from apicas.modifiers import BasicTokenModifier, Owner
from apicas.testing import FaultyClient
from apicas.tokens import Token, annex
from tests.runtime import isolated_work
from tests.runtime.processes import linux_only
from tests.runtime.test_progress import until

ROOT = Path(__file__).resolve().parents[2]


async def printed(client: FaultyClient) -> dict[str, bytes]:
    """What is attached to the one token."""
    token = await client.fetch("t")
    return {name: await client.get_attachment("t", name) for name in token.attachments}


async def filled(content: Any = None) -> FaultyClient:
    client = FaultyClient()
    await client.upload([{"_id": "t", "input": content}])
    return client


async def attempt(client: FaultyClient, work: Any, logs: Path | None = None, **options: Any) -> None:
    """One attempt at the token."""
    async with BasicViewIterator(client, linger=False, max_scrub=9, retry_delay=0) as tokens:
        await run_pilot(tokens, work_maker(work, tokens), RunOptions(workers=1, max_tokens=1, logs=logs, **options))


def shell(line: str, *arguments: str) -> CommandRunner:
    return CommandRunner(["sh", "-c", line, "sh", *arguments])


# What is attached


@linux_only
async def test_a_failed_attempt_leaves_its_output_to_the_next_ones() -> None:
    client = await filled()
    await attempt(client, shell("echo first; echo why >&2; exit 1"))
    await attempt(client, shell("echo second; exit 1"))
    await attempt(client, shell("echo third"))
    assert await printed(client) == {
        "stdout.txt": b"third\n",
        "stderr.txt": b"",
        "stdout.1.txt": b"first\n",
        "stderr.1.txt": b"why\n",
        "stdout.2.txt": b"second\n",
    }


@linux_only
async def test_the_last_few_attempts_are_kept() -> None:
    client = await filled()
    for number in range(1, ATTEMPTS + 3):
        await attempt(client, shell('echo "$1"; exit 1', str(number)))
    kept = [*range(3, ATTEMPTS + 3)]
    assert attempts_in(await printed(client)) == kept
    assert (await printed(client))["stdout.3.txt"] == b"3\n"


@linux_only
async def test_work_of_ones_own_keeps_no_attempts() -> None:
    """stdout.txt is then the user's file, whatever is in it."""

    async def work(token: Token) -> None:
        token.put_attachment("stdout.txt", "mine")
        raise ValueError("no")

    client = await filled()
    await attempt(client, work)
    assert await printed(client) == {"stdout.txt": b"mine"}


def test_an_earlier_attempts_output_is_short_and_other_files_are_left_alone() -> None:
    token = Token({"_id": "t", "_attachments": {"plot.7.png": {"stub": True}, "stderr.txt": {"stub": True}}})
    token.put_attachment("stdout.txt", b"x" * 10 * KEPT)
    document = dict(token.document)
    keep_attempt(document, 2)
    assert document["_attachments"].keys() == {"plot.7.png", "stderr.txt", "stdout.txt", "stdout.2.txt"}
    assert len(b64decode(document["_attachments"]["stdout.2.txt"]["data"])) < KEPT + 100


@linux_only
async def test_what_a_worker_process_prints_goes_to_its_token(capfd: pytest.CaptureFixture[str]) -> None:
    """In whatever way, and not to the next one; nor does it take the place of what the work attaches itself."""
    client = FaultyClient()
    await client.upload([{"_id": "a", "input": {"print": "one"}}, {"_id": "b", "input": {"print": "two"}}])
    await client.upload([{"_id": "c", "input": {"print": "three", "attach": "mine"}}])
    async with BasicViewIterator(client, linger=False) as tokens:
        work = work_maker(isolated_work.prints, tokens)
        await run_pilot(tokens, work, RunOptions(workers=1, executor="process"))
    found = {name: await client.get_attachment(name, "stdout.txt") for name in "abc"}
    assert found == {"a": b"one\nchild one\n", "b": b"two\nchild two\n", "c": b"mine"}
    assert await client.get_attachment("a", "stderr.txt") == b"error one\n"
    assert capfd.readouterr().out == ""


@linux_only
async def test_what_a_worker_process_printed_before_it_died_is_kept() -> None:
    client = await filled({"print": "last words", "die": True})
    await attempt(client, isolated_work.prints, executor="process")
    assert (await client.fetch("t")).state == "todo"
    files = await printed(client)
    assert files["stdout.txt"] == files["stdout.1.txt"] == b"last words\nchild last words\n"


# Live


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scribes, "LOOK", 0.02)
    monkeypatch.setattr(scribes, "SPOOL_AFTER", 0.0)


async def followed(
    client: FaultyClient, work: Any, condition: Callable[[Path], bool], go: Path, **options: Any
) -> Path:
    """Work the token, let it go on once the files of its output are as wanted; where they were."""
    places: list[Path] = []
    async with BasicViewIterator(client, linger=False) as tokens, asyncio.TaskGroup() as group:

        async def look() -> None:
            lease: Any = await until(lambda: next(iter(tokens.keeper._leases), None))
            path = await until(lambda: lease.notes and lease.notes.log and lease.notes.log.path)
            await until(lambda: condition(Path(path)))
            places.append(Path(path))
            assert lease.notes.log.entry()["path"] == path
            go.touch()  # noqa: ASYNC240

        group.create_task(look())
        await run_pilot(tokens, work_maker(work, tokens), RunOptions(workers=1, max_tokens=1, **options))
        await until(lambda: not places[0].exists())
    return places[0]


def everything(place: Path, stream: str = "stdout") -> bytes:
    return b"".join(Follower(place, stream).read())


@linux_only
@pytest.mark.usefixtures("_often")
async def test_output_can_be_followed_while_a_command_runs(tmp_path: Path) -> None:
    go = tmp_path / "go"
    work = shell('echo so far; printf no-newline >&2; until [ -e "$1" ]; do sleep 0.01; done; echo end', str(go))
    client = await filled()

    def complete(place: Path) -> bool:
        return everything(place) == b"so far\n" and everything(place, "stderr") == b"no-newline"

    place = await followed(client, work, complete, go)
    assert (await printed(client))["stdout.txt"] == b"so far\nend\n"
    assert not place.exists()


@linux_only
@pytest.mark.usefixtures("_often")
async def test_output_can_be_followed_while_a_worker_process_runs(tmp_path: Path) -> None:
    go = tmp_path / "go"
    client = await filled({"print": "so far", "go": str(go)})

    def complete(place: Path) -> bool:
        return everything(place) == b"so far\nchild so far\n"

    await followed(client, isolated_work.prints, complete, go, executor="process")


@linux_only
@pytest.mark.usefixtures("_often")
async def test_a_command_that_writes_without_end_fills_no_disk(tmp_path: Path) -> None:
    go = tmp_path / "go"
    sizes: list[int] = []

    def enough(place: Path) -> bool:
        files = [path.stat().st_size for path in place.iterdir() if path.exists()]
        sizes.append(sum(files))
        return max(int(path.suffix[1:]) for path in place.iterdir()) > 20 * SEGMENT

    work = CommandRunner(
        ["sh", "-c", 'until [ -e "$1" ]; do head -c 1000000 /dev/zero; done', "sh", str(go)],
        CommandOptions(capture=400_000),
    )
    client = await filled()
    await followed(client, work, enough, go)
    assert max(sizes) <= (LAST + 2) * (SEGMENT + 65_536)
    assert len((await printed(client))["stdout.txt"]) < 500_000


@linux_only
async def test_a_short_command_has_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.setattr(scribes, "Spool", lambda directory, log: made.append(directory))
    await attempt(await filled(), shell("echo short"))
    assert made == []


@linux_only
@pytest.mark.usefixtures("_often")
async def test_a_full_disk_is_said_once_and_the_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: Spool) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Spool, "write", full)
    client = FaultyClient()
    await client.upload({"_id": f"t{n}"} for n in range(3))
    async with BasicViewIterator(client, linger=False) as tokens:
        await run_pilot(tokens, work_maker(shell("echo x; sleep 0.2"), tokens), RunOptions(workers=3))
    assert [await client.get_attachment(f"t{n}", "stdout.txt") for n in range(3)] == [b"x\n"] * 3
    assert caplog.text.count("No space left on device; the work goes on") == 1


# Into a directory


@linux_only
async def test_output_goes_into_a_directory_where_that_is_asked(tmp_path: Path) -> None:
    client = await filled()
    logs = tmp_path / "logs"
    await attempt(client, shell("echo first; exit 1"), logs)
    await attempt(client, shell("echo second; echo why >&2"), logs)
    written = {str(path.relative_to(logs)): path.read_bytes() for path in logs.rglob("*.txt")}
    assert written == {"t/1/stdout.txt": b"first\n", "t/2/stdout.txt": b"second\n", "t/2/stderr.txt": b"why\n"}
    token = await client.fetch("t")
    assert (token.attachments, annex(token)["log"]) == ([], {"path": str(logs / "t" / "2")})


@linux_only
async def test_a_directory_that_is_full_later_stops_no_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t").touch()  # where the token's directory would be
    client = await filled()
    await attempt(client, shell("echo first"), tmp_path)
    assert (await client.fetch("t")).state == "done"
    assert caplog.text.count("the work goes on") == 1


async def test_a_directory_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    client = await filled()
    with pytest.raises(ConfigError, match="for logs cannot be made"):
        await attempt(client, shell("echo first"), tmp_path / "file")
    assert (await client.fetch("t")).generation == 0


@given(st.text(min_size=1, max_size=300))
def test_any_id_has_a_directory_of_its_own(identifier: str) -> None:
    directory = log_directory(Path("/logs"), identifier.encode("utf-8", "replace").decode(), 3)
    assert directory.parent.parent == Path("/logs")
    assert directory.parent.name not in {"", ".", ".."}
    assert len(directory.parent.name) < 200


def test_ids_that_are_alike_do_not_share_a_directory() -> None:
    names = ["a/b", "a%2Fb", ".", "..", "x" * 400, "x" * 401, "a b"]
    assert len({log_directory(Path("/logs"), name, 1) for name in names}) == len(names)


# The spool and who follows it


@given(st.lists(st.tuples(st.binary(max_size=50), st.booleans(), st.booleans()), max_size=30))
def test_a_follower_sees_what_was_printed_or_how_much_is_missing(steps: list[tuple[bytes, bool, bool]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(spools, "SEGMENT", 16)
        log = AttemptLog(40)
        spool, follower = Spool(Path(directory) / "t", log), Follower(Path(directory) / "t", "stdout")
        stream = seen = b""
        for chunk, written, read in steps:
            log.stdout.add(chunk)
            stream += chunk
            if written:
                spool.write()
            if read:
                seen += b"".join(follower.read())
        if b"missing" not in seen:
            assert stream.startswith(seen)
            assert len(seen) == follower.position
        rest = rest_of(log.stdout.content(), follower.position)
        if b"missing" not in seen + rest:
            assert seen + rest == stream
        assert stream.endswith(rest[-5:])


def test_what_prints_faster_than_one_can_write_keeps_the_scribe_from_nothing(tmp_path: Path) -> None:
    class Endless(Capture):
        def since(self, position: int, most: int) -> tuple[int, bytes]:
            self.add(b"x" * 100_000)
            return super().since(position, most)

    log = AttemptLog(200_000)
    log.stdout = Endless(200_000)
    log.stdout.add(b"x" * 100_000)
    Spool(tmp_path, log).write()
    assert log.stdout.size < 1_000_000


@given(st.binary(max_size=400), st.integers(2, 100))
def test_a_capture_gives_what_it_keeps_piece_by_piece(stream: bytes, limit: int) -> None:
    capture = Capture(limit)
    capture.add(stream)
    place, found = 0, b""
    while place < capture.size:
        place, portion = capture.since(place, 7)
        assert stream[place : place + len(portion)] == portion
        assert portion
        place += len(portion)
        found += portion
    assert capture.last(limit // 2) == stream[-(limit // 2) :]


def test_the_last_lines_are_short_whole_and_drive_no_terminal() -> None:
    log = AttemptLog()
    assert log.entry() is None
    log.stdout.add(b"first\n" + b"x" * TAIL + b"\nlast\n")
    log.stderr.add(b"\x1b[2J\xff")
    entry = log.entry()
    assert entry == {"stdout": "last\n", "stderr": "\\x1b[2J\ufffd"}
    log.stderr.add(b"\x1b" * 10**6)
    assert len(str(log.entry())) < 5 * TAIL


def test_beats_carry_them() -> None:
    notes = Notes()
    notes.log = AttemptLog()
    assert notes.entries({}, 7) == {"log": None}
    notes.log.stdout.add(b"here\n")
    notes.progress = {"fraction": 0.5, "message": ""}
    assert notes.entries({}, 7) == {
        "log": {"stdout": "here\n"},
        "progress": {"fraction": 0.5, "message": "", "time": 7},
    }


def test_a_reclaim_keeps_the_trace_and_the_next_claim_drops_it() -> None:
    modifier = BasicTokenModifier()
    modifier.bind(Owner(pilot="two", hostname="second"), lambda: 1_700_000_100.0)
    token: dict[str, Any] = {"_id": "t", "type": "token", "lock": 1_700_000_000, "done": 0, "hostname": "first"}
    token["apicas"] = {"claim": "c", "generation": 1, "log": {"path": "/x"}, "progress": {"fraction": 0.5}}
    reclaimed = modifier.reclaim(dict(token), 1_700_000_100)
    assert annex(reclaimed)["log"] == {"path": "/x", "host": "first"}
    assert "progress" not in annex(reclaimed)
    assert "log" not in annex(modifier.reset(dict(reclaimed)))
    assert "log" not in annex(modifier.release(dict(token)))


PILOT = """
import sys, apicas
from apicas._runtime.attempts import scribe
from apicas._runtime.commands.command import CommandRunner
import asyncio
scribe.LOOK, scribe.SPOOL_AFTER = 0.02, 0.0
work = CommandRunner(["sh", "-c", "echo before; sleep 3600"])
asyncio.run(apicas.run(work, "sqlite:///pool.db", workers=1, lock_timeout=10))
"""


@linux_only
async def test_the_output_of_a_killed_pilot_stays_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last beat says where; the next pilot's sweep leaves it until it is old."""
    from apicas._runtime.attempts.places import KEEP_LOGS, everybodys_place, sweep_places

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    async with apicas.connect("sqlite:///pool.db") as client:
        await client.upload([{"_id": "t"}])
        (tmp_path / "pilot.py").write_text(PILOT)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pilot = await asyncio.create_subprocess_exec(sys.executable, "pilot.py", env=environment)

        async def trace() -> Any:
            return annex(await client.fetch("t")).get("log")

        async with asyncio.timeout(30):
            while not (log := await trace()) or "path" not in log:
                await asyncio.sleep(0.05)
        pilot.send_signal(signal.SIGKILL)
        await pilot.wait()
    assert log["stdout"] == "before\n"
    (place,) = everybodys_place().iterdir()
    assert Path(log["path"]).is_relative_to(place)
    sweep_places()
    assert everything(Path(log["path"])) == b"before\n"
    old = place.stat().st_mtime - KEEP_LOGS - 1
    os.utime(place, (old, old))
    sweep_places()
    assert not place.exists()


def test_logs_of_a_scribe_without_a_place_go_into_the_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(owner: Owner) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scribes, "make_place", full)
    scribe = Scribe(Owner(pilot="p", hostname="h"))
    scribe.logs = tmp_path
    assert scribe.keeps_logs
    scribe._open()
    assert not scribe.keeps_logs


# Log records


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    own = logging.getLogger("tests.survey")
    own.setLevel(logging.INFO)
    yield own
    own.handlers.clear()


async def test_records_go_into_the_log_of_their_token(logger: logging.Logger) -> None:
    """From tasks and threads too, and each into its own; what is logged outside goes nowhere."""
    handler = apicas.TokenLogHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)

    async def work(token: Token) -> None:
        logger.info("begin %s", token.id)
        await asyncio.create_task(asyncio.to_thread(logger.info, "thread of %s", token.id))
        logger.debug("not asked for")

    logger.info("outside")
    client = FaultyClient()
    await client.upload({"_id": f"t{n}"} for n in range(3))
    async with BasicViewIterator(client, linger=False) as tokens:
        await run_pilot(tokens, work_maker(work, tokens), RunOptions(workers=3))
    for name in ("t0", "t1", "t2"):
        assert await client.get_attachment(name, "stderr.txt") == f"begin {name}\nthread of {name}\n".encode()


async def test_records_of_a_failed_attempt_are_kept_and_a_command_goes_on_with_them(logger: logging.Logger) -> None:
    handler = apicas.TokenLogHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)

    async def fails(token: Token) -> None:
        logger.warning("no luck")
        raise ValueError

    async def calls(token: Token) -> None:
        logger.warning("now the command")
        token.lease.record("\udc80\n")
        await shell("echo its error >&2; echo its output")(token)

    client = await filled()
    await attempt(client, fails)
    await attempt(client, calls)
    assert await printed(client) == {
        "stderr.1.txt": b"no luck\n",
        "stderr.txt": b"now the command\n\\udc80\nits error\n",
        "stdout.txt": b"its output\n",
    }


@linux_only
async def test_records_in_a_worker_process_go_into_the_log_too() -> None:
    client = await filled()
    await attempt(client, isolated_work.logs, executor="process")
    assert (await printed(client))["stderr.txt"] == b"from the worker\n"


async def test_a_filter_says_whose_a_record_is(logger: logging.Logger) -> None:
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(logging.Formatter("[%(token)s/%(attempt)d] %(message)s"))
    handler.addFilter(apicas.TokenLogFilter())
    logger.addHandler(handler)

    async def work(token: Token) -> None:
        logger.info("inside")

    logger.info("outside")
    await attempt(await filled(), work)
    assert lines.getvalue() == "[/0] outside\n[t/1] inside\n"
