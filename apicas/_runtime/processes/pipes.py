"""The pipes of a command: read and written by the event loop's callbacks, with a bound on what is kept.

There is no task here. A callback cannot be cancelled halfway, so whatever ends the command, what was read is kept, and
closing is one plain call.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Final

from apicas._runtime.processes.readers import running_readers

CHUNK: Final = 65_536
"""Bytes of one read: what a pipe holds by default on Linux."""
MAX_LEFTOVER: Final = 1_048_576
"""Bytes read at most after the command's end: what the largest pipe holds. A stranger may still be writing to it."""


class Capture:
    """The head and the tail of a stream of any length. Other threads may look at it while it grows.

    Args:
        limit: bytes that are kept at most: the first half of them, and the last.
    """

    def __init__(self, limit: int) -> None:
        self._head_room = limit // 2
        self._tail_room = limit - self._head_room
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0
        self._guard = threading.Lock()
        self.size = 0
        """Bytes so far, those included that are not kept."""

    def add(self, chunk: bytes) -> None:
        """Take what came next."""
        with self._guard:
            room = self._head_room - len(self._head)
            self._head += chunk[:room]
            self._tail += chunk[room:]
            # Only now and then: moving the tail for every line that is printed would cost more than the command.
            if len(self._tail) > 2 * self._tail_room + CHUNK:
                self._trim()
            self.size += len(chunk)

    def content(self) -> bytes:
        """What is kept; where something was cut out, a line in its place says how many bytes are missing."""
        with self._guard:
            self._trim()
            if not self._dropped:
                return bytes(self._head + self._tail)
            return b"%b\n[... %d bytes are missing here ...]\n%b" % (
                bytes(self._head),
                self._dropped,
                bytes(self._tail),
            )

    def last(self, size: int) -> bytes:
        """The last so many bytes, as far as they are kept."""
        with self._guard:
            tail = bytes(self._tail[-size:])
            if len(tail) == size or self._dropped:
                return tail
            return bytes(self._head[len(tail) - size :]) + tail

    def since(self, position: int, most: int) -> tuple[int, bytes]:
        """What came after the first so many bytes, as far as it is kept: the place of the first of it, and some bytes.

        Args:
            position: in the stream.
            most: bytes wanted.
        """
        with self._guard:
            head = len(self._head)
            if position < head:
                return position, bytes(self._head[position : position + most])
            begin = max(position, head + self._dropped)
            start = begin - head - self._dropped
            return begin, bytes(self._tail[start : start + most])

    def _trim(self) -> None:
        surplus = max(len(self._tail) - self._tail_room, 0)
        del self._tail[:surplus]
        self._dropped += surplus


class OutputPipe:
    """What a command writes, read as it comes.

    Args:
        descriptor: our end of the pipe; closed by `close`.
        capture: takes what is read.
        on_end: called when nobody holds the other end any more.
    """

    def __init__(self, descriptor: int, capture: Capture, on_end: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._closed = False
        self.capture = capture
        """What takes what is read; may be another one from now on."""
        self._on_end = on_end
        self._readers = running_readers()
        os.set_blocking(descriptor, False)  # it may be read by the other side, too, and be empty once we come
        self._readers.add(descriptor, self._read)

    @property
    def closed(self) -> bool:
        """Whether there is nothing more to read."""
        return self._closed

    def close(self) -> None:
        """Take what is still in the pipe, and close it; safe to repeat."""
        self.drain()
        self._close()

    def drain(self) -> None:
        """Take what is in the pipe now."""
        leftover = 0
        while not self._closed and leftover < MAX_LEFTOVER:
            size = self._read()
            if not size:
                break
            leftover += size

    def _read(self) -> int:
        """Take one chunk; its size, 0 where there is none."""
        try:
            chunk = os.read(self._descriptor, CHUNK)
        except (BlockingIOError, InterruptedError):
            return 0
        if chunk:
            self.capture.add(chunk)
        else:
            self._close()
            self._on_end()
        return len(chunk)

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._readers.remove(self._descriptor)
            os.close(self._descriptor)


class InputPipe:
    """What a command reads, written as fast as it takes it.

    Args:
        descriptor: our end of the pipe; closed after the last byte, or by `close`.
        content: the bytes.
    """

    def __init__(self, descriptor: int, content: bytes) -> None:
        self._descriptor = descriptor
        self._closed = False
        self._rest = memoryview(content)
        self._loop = asyncio.get_running_loop()
        os.set_blocking(descriptor, False)
        self._loop.add_writer(descriptor, self._write)

    def close(self) -> None:
        """Write no more; safe to repeat."""
        if not self._closed:
            self._closed = True
            self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)

    def _write(self) -> None:
        try:
            written = os.write(self._descriptor, self._rest[:CHUNK])
        except (BlockingIOError, InterruptedError):
            return
        except BrokenPipeError:  # a command need not read all its input, as `head` does not
            self.close()
            return
        self._rest = self._rest[written:]
        if not self._rest:
            self.close()
