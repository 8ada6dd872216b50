"""The heartbeat's own thread: user code that blocks the loop starves no lease."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest

from apicas._runtime.environment import real_environment
from apicas.iterators import BasicViewIterator
from apicas.testing import Faults, FaultyClient


class HandClock:
    """A monotonic clock that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def beating_thread(seen: threading.Event, threads: list[int]) -> Faults:
    """Faults that do no harm, and note who refreshes locks."""

    def note(documents: Sequence[Mapping[str, Any]]) -> None:
        if all(document.get("lock") and not document.get("done") for document in documents):
            threads.append(threading.get_ident())
            seen.set()

    return Faults(before_save=note)


async def test_a_blocked_loop_starves_no_lease() -> None:
    """The loop is blocked until a beat has reached the store; without a thread of its own none ever would."""
    beaten, threads, clock = threading.Event(), list[int](), HandClock()
    client = FaultyClient(beating_thread(beaten, threads))
    await client.upload([{"_id": "t"}])
    environment = replace(real_environment(), monotonic=clock)
    async with BasicViewIterator(client, environment=environment, lock_timeout=10.0) as tokens:
        (token,) = await tokens.claim(1)
        before = (await client.fetch("t")).rev
        beaten.clear()
        clock.now += 5.0  # half a lease
        assert beaten.wait(timeout=30), "no beat while the loop was blocked"  # blocks the loop on purpose
        assert threads[-1] != threading.get_ident()
        async with token:
            token["output"] = "kept"
    stored = await client.fetch("t")
    assert (stored.state, stored.output) == ("done", "kept")
    assert stored.rev != before


async def test_a_commit_waits_for_the_beat_under_way() -> None:
    """Writes to one token are serialised: the outcome is written over the beat's revision, without a conflict."""
    client = FaultyClient()
    await client.upload([{"_id": "t"}])
    clock, in_beat, go_on = HandClock(), threading.Event(), threading.Event()
    main = threading.get_ident()

    def hold_the_beat(documents: Sequence[Mapping[str, Any]]) -> None:
        if threading.get_ident() != main:
            in_beat.set()
            assert go_on.wait(timeout=30)

    client.faults.before_save = hold_the_beat
    environment = replace(real_environment(), monotonic=clock)
    async with BasicViewIterator(client, environment=environment, lock_timeout=10.0) as tokens:
        (token,) = await tokens.claim(1)
        clock.now += 5.0
        assert await anyio.to_thread.run_sync(in_beat.wait, 30)
        async with anyio.create_task_group() as group:

            async def finish() -> None:
                async with token:
                    token["output"] = 1

            group.start_soon(finish)
            await anyio.lowlevel.checkpoint()
            go_on.set()
    stored = await client.fetch("t")
    assert stored.state == "done"
    assert stored["_rev"].startswith("4-")  # pushed, locked, beaten, done


async def test_a_heartbeat_that_breaks_ends_its_pilot() -> None:
    """Its locks would go stale unseen: the pilot ends with the reason, and hands back what it holds."""
    client, clock, main = FaultyClient(), HandClock(), threading.get_ident()
    await client.upload([{"_id": "t"}])

    def break_down(documents: Sequence[Mapping[str, Any]]) -> None:
        if threading.get_ident() != main:
            raise ZeroDivisionError("a bug")

    client.faults.before_save = break_down
    environment = replace(real_environment(), monotonic=clock)
    with pytest.raises(RuntimeError, match="heartbeat ended by itself") as caught:
        async with BasicViewIterator(client, environment=environment, lock_timeout=10.0) as tokens:
            await tokens.claim(1)
            clock.now += 5.0
            await anyio.sleep_forever()
    assert isinstance(caught.value.__cause__, BaseException)
    assert (await client.fetch("t")).state == "todo"


async def test_no_thread_is_left() -> None:
    """Leaving an iterator ends its heartbeat's thread."""
    before = threading.active_count()
    client = FaultyClient()
    for _ in range(3):
        async with BasicViewIterator(client):
            assert threading.active_count() > before
    assert threading.active_count() == before
