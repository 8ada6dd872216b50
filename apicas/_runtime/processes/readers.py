"""Callbacks for descriptors that become readable, as an event loop has them, and cheaper for those that come and go.

A loop makes six system calls for a descriptor that it watches for a moment, and a short command has three of them. Here
they are in one epoll of our own, with two calls each, and the loop watches that one as long as there are any.
"""

from __future__ import annotations

import asyncio
import select
import sys
import threading
from collections.abc import Callable
from typing import Final

_MOST: Final = 256
"""Descriptors of one turn; the others come in the next one."""


class Readers:
    """What one loop watches. To be used on that loop only.

    Args:
        loop: the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: Final = loop
        self._callbacks: dict[int, Callable[[], object]] = {}

    def add(self, descriptor: int, callback: Callable[[], object]) -> None:
        """Call back in each turn of the loop in which there is something to read, or the end."""
        self.loop.add_reader(descriptor, callback)

    def remove(self, descriptor: int) -> None:
        """Call back no more. The descriptor is still open."""
        self.loop.remove_reader(descriptor)


if sys.platform == "linux":

    class _EpollReaders(Readers):
        """All descriptors in one epoll, which is open as long as there are any."""

        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            super().__init__(loop)
            self._epoll: select.epoll | None = None

        def add(self, descriptor: int, callback: Callable[[], object]) -> None:
            if self._epoll is None:
                self._epoll = select.epoll()
                self.loop.add_reader(self._epoll.fileno(), self._turn)
            self._epoll.register(descriptor, select.EPOLLIN)
            self._callbacks[descriptor] = callback

        def remove(self, descriptor: int) -> None:
            if self._epoll is None or self._callbacks.pop(descriptor, None) is None:
                return
            self._epoll.unregister(descriptor)
            if not self._callbacks:
                self.loop.remove_reader(self._epoll.fileno())
                self._epoll.close()
                self._epoll = None

        def _turn(self) -> None:
            if self._epoll is None:
                return
            for descriptor, _ in self._epoll.poll(0, _MOST):
                callback = self._callbacks.get(descriptor)
                if callback is not None:  # one before it may have removed it
                    callback()

    _kind: type[Readers] = _EpollReaders
else:
    _kind = Readers


class _Here(threading.local):
    readers: Readers | None = None


_here = _Here()


def running_readers() -> Readers:
    """Those of the running loop."""
    loop = asyncio.get_running_loop()
    readers = _here.readers
    if readers is None or readers.loop is not loop:
        _here.readers = readers = _kind(loop)
    return readers
