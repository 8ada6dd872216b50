"""Frames: whole or not at all, however they come, and no more of them than somebody asks for."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from anyio import wait_all_tasks_blocked

from apicas._runtime.isolation.frames import AHEAD, END, FrameBuffer, FrameConnection, framed

BODIES = [b"", b"one", bytes(range(256)) * 3, b"last"]


@asynccontextmanager
async def connected(most: int = 10_000_000) -> AsyncIterator[tuple[FrameConnection, socket.socket]]:
    """A connection on the loop, and the other side of it, which waits for nothing."""
    ours, theirs = socket.socketpair()
    connection = FrameConnection(most)
    with ours, theirs:
        theirs.setblocking(False)
        await connection.open(ours)
        try:
            yield connection, theirs
        finally:
            await connection.close()


@pytest.mark.parametrize("size", [1, 7, 8, 9, 100, 10_000])
def test_frames_come_out_whole_whatever_the_pieces(size: int) -> None:
    sent = b"".join(map(framed, BODIES))
    buffer, found = FrameBuffer(), []
    for start in range(0, len(sent), size):
        buffer.add(sent[start : start + size])
        while (body := buffer.next()) is not None:
            found.append(body)
    assert found == BODIES
    assert len(buffer) == 0


def test_the_last_frame_is_an_empty_one() -> None:
    assert framed(b"") == END


def test_a_frame_that_is_too_long_is_known_by_its_header() -> None:
    buffer = FrameBuffer(most=3)
    buffer.add(framed(b"one") + framed(b"four")[:8])
    assert buffer.next() == b"one"
    with pytest.raises(ValueError, match="12 bytes"):
        buffer.next()


async def test_a_wait_that_is_cut_loses_nothing() -> None:
    frame = framed(b"answer")
    async with connected() as (connection, other):
        for piece in (frame[:3], frame[3:11]):
            other.send(piece)
            async with anyio.create_task_group() as group:
                group.start_soon(connection.receive)
                await wait_all_tasks_blocked()
                group.cancel_scope.cancel()
        other.send(frame[11:])
        assert await connection.receive() == b"answer"


async def test_what_came_before_the_end_is_heard() -> None:
    async with connected() as (connection, other):
        other.sendall(framed(b"last words") + framed(b"cut")[:9])
        other.close()
        assert await connection.receive() == b"last words"
        assert await connection.receive() is None


async def test_a_mad_answer_is_none() -> None:
    async with connected(most=3) as (connection, other):
        other.sendall(framed(b"four"))
        assert await connection.receive() is None


async def test_nobody_waits_for_one_that_is_gone() -> None:
    """Somebody else may hold the connection open, so that there is no end of it."""
    async with connected() as (connection, _), anyio.create_task_group() as group:
        group.start_soon(connection.receive)
        await wait_all_tasks_blocked()
        connection.finish()
    assert await connection.receive() is None


async def test_a_sender_does_not_wait_for_one_that_hears_nothing() -> None:
    async with connected() as (connection, _), anyio.create_task_group() as group:
        group.start_soon(connection.send, bytes(50_000_000))
        await wait_all_tasks_blocked()
        connection.finish()


async def test_what_nobody_asks_for_is_not_read_without_end() -> None:
    """And is all there once somebody does."""
    body = bytes(50_000)
    frame = memoryview(framed(body))
    sent, rest = 0, frame
    async with connected() as (connection, other):
        quiet = 0
        while quiet < 10:
            try:
                rest = rest[other.send(rest) :]
                quiet = 0
            except BlockingIOError:
                quiet += 1
                await anyio.lowlevel.checkpoint()
            if not rest:
                sent, rest = sent + 1, frame
            assert sent * len(body) < 40 * AHEAD
        for _ in range(sent):
            assert await connection.receive() == body
