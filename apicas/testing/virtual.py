"""Virtual time: an asyncio loop whose clock jumps to the next timer, so that an hour passes in milliseconds.

    def test_a_lease_outlives_its_work() -> None:
        async def main() -> None:
            ...
            await anyio.sleep(3600)

        run_virtual(main)

Only for code without real threads, sockets and processes: the clock would jump while these still work.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

from typing_extensions import override

from apicas._runtime.environment import Environment
from apicas.modifiers import Owner

T = TypeVar("T")

EPOCH = 1_800_000_000.0
"""The virtual unix time at which every virtual loop starts."""


class Deadlock(AssertionError):  # noqa: N818 - it names what happened
    """Nothing is ready, no timer is set: the code under test would wait for ever."""


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing: it moves the clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Deadlock("nothing is ready and no timer is set: this would wait for ever")
        self.now += max(0.0, timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, which starts at 0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    @override
    def time(self) -> float:
        return self._jumping.now

    @property
    def unix_time(self) -> float:
        """The virtual time in unix seconds."""
        return EPOCH + self._jumping.now


def unix_time() -> float:
    """The virtual unix time of the running loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop), "not in a virtual loop"
    return loop.unix_time


def run_virtual(main: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function in virtual time, and return what it returns."""

    async def call() -> T:
        return await main()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(call())


def virtual_environment(
    name: str = "pilot", *, seed: int = 0, gone: Callable[[Any], bool] = lambda _document: False, **owner: Any
) -> Environment:
    """An environment for a pilot in the running virtual loop.

    Args:
        name: the pilot's id, and the name of its node.
        seed: of its dice.
        gone: says of a document whether the process of its claim is known to be gone.
        owner: further fields of Owner.
    """
    return Environment(
        owner=Owner(pilot=name, hostname=f"{name}-node", **owner),
        monotonic=asyncio.get_running_loop().time,
        rng=Random(seed),
        owner_is_gone=gone,
        threads=False,
    )
