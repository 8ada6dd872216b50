"""Observers and event files: what is told, in which order, and that it hurts nobody."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import apicas
from apicas._documents import decode
from apicas._runtime import event_file
from apicas._runtime.event_file import EventFile
from apicas.events import (
    SCHEMA,
    Claimed,
    Done,
    Draining,
    Ended,
    Event,
    Failed,
    PilotEnded,
    PilotStarted,
    Progressed,
    Reclaimed,
    Scrubbed,
    Started,
    TokenEvent,
)

DIES = """
import asyncio, os, sys, apicas
async def work(token):
    os._exit(0)
asyncio.run(apicas.run(work, sys.argv[1], workers=1))
"""


async def work(token: apicas.Token[Any]) -> None:
    token.progress(0.5, "half")
    await asyncio.sleep(0)
    if token["input"] == 1:
        raise ValueError("one is bad")
    if token["input"] == 2:
        raise apicas.Fail("two is worse", exit_code=7)


async def observed(count: int, **options: Any) -> list[Event]:
    events: list[Event] = []
    async with apicas.MemoryClient() as client:
        await client.save([{"_id": f"t{i}", "type": "token", "lock": 0, "done": 0, "input": i} for i in range(count)])
        await apicas.run(work, client, observers=[events.append], retry_delay=0, **options)
    return events


async def test_a_run_is_told_from_its_begin_to_its_end() -> None:
    events = await observed(5, workers=2, max_scrub=1)
    first, *_, last = events
    assert isinstance(first, PilotStarted)
    assert first.workers == 2
    assert first.hostname
    assert isinstance(last, PilotEnded)
    assert last.reason == "no more tokens"
    assert last.seconds > 0
    assert len({event.pilot for event in events}) == 1
    good = [event for event in events if isinstance(event, TokenEvent) and event.token == "t0"]
    assert [type(event) for event in good] == [Claimed, Started, Progressed, Done]
    assert {event.attempt for event in good} == {1}
    bad = [event for event in events if isinstance(event, TokenEvent) and event.token == "t1"]
    assert [type(event) for event in bad if not isinstance(event, Progressed)] == [
        *(Claimed, Started, Scrubbed),
        *(Claimed, Started, Failed),
    ]
    assert [event.attempt for event in bad if isinstance(event, Started)] == [1, 2]
    assert [event.reason for event in bad if isinstance(event, Ended)] == ["ValueError: one is bad"] * 2
    (worse,) = (event for event in events if isinstance(event, Failed) and event.token == "t2")
    assert (worse.reason, worse.exit_code) == ("two is worse", 7)


async def test_no_slot_has_two_tokens_at_a_time() -> None:
    events = await observed(60, workers=4)
    turns = [event for event in events if isinstance(event, Ended)]
    assert len(turns) == 60
    assert {turn.worker for turn in turns} <= set(range(4))
    by_slot: dict[int | None, list[tuple[float, float]]] = {}
    for turn in turns:
        assert turn.began is not None
        by_slot.setdefault(turn.worker, []).append((turn.began, turn.began + turn.seconds))
    for spans in by_slot.values():
        spans.sort()
        assert all(end <= begin + 0.005 for (_, end), (begin, _) in pairwise(spans))


async def test_an_observer_that_fails_is_said_once_and_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("no")

    events: list[Event] = []
    async with apicas.MemoryClient() as client:
        await client.save([{"_id": "a", "type": "token", "lock": 0, "done": 0, "input": 5}])
        report = await apicas.run(work, client, observers=[broken, events.append])
    assert report.done == 1
    assert len(events) > 4
    assert [record.name for record in caplog.records].count("apicas.events") == 1


async def test_draining_is_told() -> None:
    events: list[Event] = []

    async def drains(token: apicas.Token[Any]) -> None:
        os.kill(os.getpid(), 10)  # SIGUSR1
        await asyncio.Event().wait()

    async with apicas.MemoryClient() as client:
        await client.save([{"_id": "a", "type": "token", "lock": 0, "done": 0}])
        await apicas.run(drains, client, observers=[events.append], grace=0)
    kinds = [event.kind for event in events]
    assert kinds.count("draining") == 1
    assert "released" in kinds
    assert kinds[-1] == "pilot_ended"
    assert any(isinstance(event, Draining) and event.reason for event in events)


async def test_what_was_reclaimed_is_told_with_its_owner(tmp_path: Path) -> None:
    pool = f"sqlite:///{tmp_path / 'pool.db'}"
    async with apicas.connect(pool) as client:
        await client.save([{"_id": "a", "type": "token", "lock": 0, "done": 0}])
    environ = {**os.environ, "PYTHONPATH": str(Path(apicas.__file__).parents[1])}
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", DIES, pool], env=environ, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    events: list[Event] = []

    async def rests(token: apicas.Token[Any]) -> None:
        return None

    await apicas.run(rests, pool, observers=[events.append], workers=1, retry_delay=0, executor="auto")
    (reclaimed,) = (event for event in events if isinstance(event, Reclaimed))
    assert reclaimed.token == "a"
    assert reclaimed.owner.startswith("pilot ")


async def test_an_event_file_has_all_of_it_line_by_line(tmp_path: Path) -> None:
    events = await observed(50, workers=4, events=f"{tmp_path}/events/")
    (path,) = (tmp_path / "events").iterdir()
    assert path.name == f"{events[0].pilot}.jsonl"
    lines = [decode(line) for line in path.read_bytes().splitlines()]
    assert [line["event"] for line in lines] == [event.kind for event in events]
    assert {line["schema"] for line in lines} == {SCHEMA}
    assert Counter(line["event"] for line in lines)["done"] == 48
    assert all({"time", "pilot"} <= line.keys() for line in lines)


async def test_several_pilots_may_append_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    await observed(3, events=path)
    await observed(3, events=path)
    pilots = Counter(decode(line)["pilot"] for line in path.read_bytes().splitlines())
    assert len(pilots) == 2


async def test_a_file_that_cannot_be_made_is_said_before_anything_is_claimed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(apicas.ConfigError, match="cannot be written"):
        await observed(1, events=tmp_path / "file" / "below")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
async def test_a_full_disk_costs_events_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    events = await observed(20, events="/dev/full")
    assert sum(isinstance(event, Done) for event in events) == 18
    said = [record.getMessage() for record in caplog.records if record.name == "apicas.events"]
    assert len(said) == 2
    assert "No space left" in said[0]
    assert "lacks" in said[1]


def test_a_disk_that_hangs_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A pipe that nobody reads takes nothing once it is full, and its writer waits."""
    monkeypatch.setattr(event_file, "LAST_TIME", 0.05)
    monkeypatch.setattr(event_file, "MAX_PENDING", 100)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, 1031, 4096)  # F_SETPIPE_SZ: small
    file = EventFile(pipe, "me")
    for number in range(100_000):
        file(Done(time=1.0, pilot="me", token=f"t{number}" * 50, attempt=1))
        if file._dropped:
            break
    assert file._dropped > 0
    with caplog.at_level(logging.WARNING):
        file.close()
    assert "lacks" in caplog.text
    os.set_blocking(reader, True)
    while os.read(reader, 65536):  # to the end: the thread goes on, and ends
        if not file._thread.is_alive():
            break
    file._thread.join(10)
    assert not file._thread.is_alive()
    os.close(reader)


async def test_a_pipe_that_nobody_reads_holds_up_no_pilot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    events = await observed(5, events=pipe)
    assert isinstance(events[-1], PilotEnded)
    said = [record.getMessage() for record in caplog.records if record.name == "apicas.events"]
    assert len(said) == 2
    assert "nobody reads this pipe" in said[0]
    assert f"lacks {len(events)} events" in said[1]


def test_a_pipe_that_is_read_later_says_how_much_it_lacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    file = EventFile(pipe, "me")
    for number in range(event_file.PORTION):  # so many are not waited with
        file(Done(time=1.0, pilot="me", token=f"t{number}"))
    while not file._dropped:
        time.sleep(0)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    file(Done(time=2.0, pilot="me", token="late"))
    file.close()
    lines = [decode(line) for line in os.read(reader, 65536).splitlines()]
    os.close(reader)
    assert [line["event"] for line in lines] == ["done", "events_dropped"]
    assert lines[1]["count"] == event_file.PORTION
    assert len(caplog.records) == 1


def test_a_pipe_whose_reader_has_gone_costs_events_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    file = EventFile(pipe, "me")
    os.close(reader)
    file(Done(time=1.0, pilot="me", token="t"))
    file.close()
    assert "Broken pipe" in caplog.records[0].getMessage()
    assert "lacks 1 events" in caplog.records[1].getMessage()


def test_a_token_whose_id_is_no_unicode_has_a_line_too(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "e.jsonl", "me")
    for token in ("a", "\ud800", "b"):
        file(Done(time=1.0, pilot="me", token=token))
    file.close()
    assert [json.loads(line)["token"] for line in (tmp_path / "e.jsonl").read_bytes().splitlines()] == [
        "a",
        "\ud800",
        "b",
    ]


def test_what_was_dropped_is_counted_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_file, "MAX_PENDING", 0)
    file = EventFile(tmp_path / "e.jsonl", "me")
    file(Done(time=1.0, pilot="me", token="a"))
    file.close()
    (line,) = map(decode, (tmp_path / "e.jsonl").read_bytes().splitlines())
    assert (line["event"], line["count"]) == ("events_dropped", 1)


async def test_the_library_leaves_the_root_logger_alone() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, list(root.filters), list(logging.getLogger("apicas").handlers))
    await observed(2)
    assert before == (list(root.handlers), root.level, list(root.filters), list(logging.getLogger("apicas").handlers))
