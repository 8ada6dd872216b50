"""The virtual loop: stopped groups, and threads, during which time stands still."""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading

import anyio
import pytest
from anyio import to_thread

from apicas.testing import Deadlock, run_virtual
from apicas.testing import virtual as module
from apicas.testing.virtual import current_group, virtual_loop


async def ticking(ticks: list[float]) -> None:
    while True:
        await anyio.sleep(1)
        ticks.append(asyncio.get_running_loop().time())


def test_a_stopped_group_does_nothing_until_it_wakes() -> None:
    """Its timers come due meanwhile, and are late; others go on."""

    async def main() -> None:
        mine: list[float] = []
        others: list[float] = []
        group = virtual_loop().group("one")
        tasks = [group.start(ticking(mine)), asyncio.create_task(ticking(others))]
        await anyio.sleep(2.5)
        group.pause()
        await anyio.sleep(5)
        assert (len(mine), len(others)) == (2, 7)
        group.resume()
        await anyio.sleep(1.1)
        assert mine == [1.0, 2.0, 7.5, 8.5]
        for task in tasks:
            task.cancel()

    run_virtual(main)


def test_what_a_group_starts_belongs_to_it() -> None:
    """Tasks, timers and callbacks, also of task groups; and an answer from outside waits until it wakes."""

    async def main() -> None:
        loop = virtual_loop()
        group = loop.group("one")
        answer: asyncio.Future[str] = loop.create_future()
        heard: list[tuple[str, float]] = []

        async def listen() -> None:
            assert current_group() is group
            heard.append((await answer, loop.time()))

        async def live() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listen)

        task = group.start(live())
        await anyio.sleep(1)
        group.pause()
        answer.set_result("yes")
        await anyio.sleep(1)
        assert not heard
        assert current_group() is None
        group.resume()
        await task
        assert heard == [("yes", 2.0)]

    run_virtual(main)


def test_a_cancelled_callback_of_a_stopped_group_does_not_run() -> None:
    async def main() -> None:
        loop = virtual_loop()
        group = loop.group("one")
        ran: list[str] = []
        handles: list[asyncio.Handle] = []
        group.call(lambda: handles.extend([loop.call_later(1, ran.append, "a"), loop.call_later(1, ran.append, "b")]))
        await anyio.sleep(0.5)
        group.pause()
        await anyio.sleep(1)
        handles[0].cancel()
        group.resume()
        await anyio.sleep(1)
        assert ran == ["b"]

    run_virtual(main)


@pytest.mark.parametrize("pool", ["anyio", "asyncio"])
def test_time_stands_still_while_a_thread_works(pool: str) -> None:
    """A timer of an hour is not due before the thread has come to its end, however long that takes."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        go = threading.Event()
        seen: list[float] = []

        async def work() -> None:
            if pool == "anyio":
                await to_thread.run_sync(go.wait)
            else:
                await asyncio.to_thread(go.wait)
            seen.append(loop.time())

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            group.start_soon(anyio.sleep, 3600)
            # A real timer, of another thread: nothing in virtual time can let the work go on.
            waker = threading.Timer(0.05, go.set)
            waker.start()
        waker.join()
        assert seen == [0.0]
        assert loop.time() == 3600

    run_virtual(main)


def test_time_stands_still_for_a_thread_that_comes_where_an_older_one_has_ended() -> None:
    """As many threads as when the loop was made are not the same ones."""
    end = threading.Event()
    older = threading.Thread(target=end.wait)
    older.start()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        end.set()
        older.join()
        answer: asyncio.Future[float] = loop.create_future()

        def work() -> None:
            threading.Event().wait(0.05)  # real time: the loop must not take it for an idle hour
            loop.call_soon_threadsafe(lambda: answer.set_result(loop.time()))

        threading.Thread(target=work).start()
        with anyio.fail_after(3600):
            assert await answer == 0.0

    run_virtual(main)


def test_a_thread_that_never_ends_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="stubborn")

    async def main() -> None:
        thread.start()
        await anyio.sleep(1)

    try:
        with pytest.raises(Deadlock, match="stubborn"):
            run_virtual(main)
    finally:
        end.set()
        thread.join()


def test_waiting_for_nothing_is_a_deadlock() -> None:
    async def main() -> None:
        await anyio.Event().wait()

    with pytest.raises(Deadlock):
        run_virtual(main)


def test_what_a_thread_has_told_is_heard_also_when_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells, and ends, after the loop has looked for news and before it looks who works."""
    told, teller = socket.socketpair()
    selector = module._JumpingSelector()
    selector.register(told, selectors.EVENT_READ)

    def look() -> list[threading.Thread]:
        teller.send(b"x")
        return []

    monkeypatch.setattr(selector, "_has_threads", lambda: True)
    monkeypatch.setattr(selector, "_working", look)
    with told, teller, selector:
        assert [key.fileobj for key, _ in selector.select(3600.0)] == [told]
        assert selector.now == 0
