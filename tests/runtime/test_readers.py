"""Descriptors are watched in an epoll of our own, or by the loop where there is none: both say the same."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from apicas._runtime.processes import readers
from apicas._runtime.processes.readers import Readers, running_readers

KINDS = pytest.mark.parametrize("kind", list(dict.fromkeys([readers._kind, Readers])))
Pipe = tuple[int, int]


@pytest.fixture
def pipes() -> Iterator[list[Pipe]]:
    made = [os.pipe() for _ in range(3)]
    yield made
    for descriptor in (one for pair in made for one in pair):
        os.close(descriptor)


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))  # noqa: PTH112, PTH208


@KINDS
async def test_each_is_told_of_its_own(kind: type[Readers], pipes: list[Pipe]) -> None:
    watched, told = kind(asyncio.get_running_loop()), asyncio.Queue[int]()

    def read(number: int) -> None:
        os.read(pipes[number][0], 1)
        told.put_nowait(number)

    for number, (ours, _) in enumerate(pipes):
        watched.add(ours, lambda number=number: read(number))  # type: ignore[misc]  # a default keeps the number
    os.write(pipes[1][1], b"x")
    assert await told.get() == 1
    os.write(pipes[2][1], b"x")
    os.write(pipes[0][1], b"x")
    assert {await told.get(), await told.get()} == {0, 2}
    for ours, _ in pipes:
        watched.remove(ours)


@KINDS
async def test_who_was_removed_is_not_told(kind: type[Readers], pipes: list[Pipe]) -> None:
    """Also not when both became readable at the same moment."""
    watched, told = kind(asyncio.get_running_loop()), list[int]()

    def read(number: int, other: int) -> None:
        told.append(number)
        watched.remove(pipes[number][0])
        watched.remove(pipes[other][0])

    watched.add(pipes[0][0], lambda: read(0, 1))
    watched.add(pipes[1][0], lambda: read(1, 0))
    for _, theirs in pipes[:2]:
        os.write(theirs, b"x")
    while not told:
        await asyncio.sleep(0)
    await turns()
    assert len(told) == 1


@KINDS
async def test_the_last_one_leaves_nothing_open(kind: type[Readers], pipes: list[Pipe]) -> None:
    watched, before = kind(asyncio.get_running_loop()), open_descriptors()
    for _ in range(2):
        for ours, _theirs in pipes:
            watched.add(ours, lambda: None)
        for ours, _theirs in pipes:
            watched.remove(ours)
            watched.remove(ours)  # once more does no harm
    assert open_descriptors() == before


def test_a_loop_has_its_own() -> None:
    async def mine() -> Readers:
        assert running_readers() is running_readers()
        return running_readers()

    first, second = asyncio.run(mine()), asyncio.run(mine())
    assert first is not second
    assert first.loop.is_closed()
