"""An outbox in memory: it outlives a simulated crash of its pilot, and fails when it is told to."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import anyio

from apicas._runtime.outbox.entries import Entry, decode_entry


class MemoryOutbox:
    """Keeps the outcomes of one pool's tokens, for any number of pilots in virtual time.

    Pass it to them as `outbox=`. What was put stays although its pilot crashes: it is as a directory on a disk.

    Args:
        delay: seconds that each call takes.
    """

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.failure: int | None = None
        """While set, every call fails with this errno: `errno.ENOSPC` for a full disk."""
        self.calls: list[str] = []
        """What was asked, in order."""
        self._waiting: dict[str, bytes] = {}
        self._lost: dict[str, bytes] = {}

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return "memory"

    @property
    def waiting(self) -> list[Entry]:
        """What waits to be written to the pool."""
        return [decode_entry(body) for body in self._waiting.values()]

    @property
    def aside(self) -> list[Entry]:
        """What will not be written to the pool."""
        return [decode_entry(body) for body in self._lost.values()]

    async def check(self) -> None:
        """See apicas._runtime.outbox.disk.Outbox."""
        await self._ask("check")

    async def put(self, entries: Sequence[Entry]) -> None:
        """See apicas._runtime.outbox.disk.Outbox."""
        await self._ask("put")
        self._waiting.update({entry.name: entry.encode() for entry in entries})

    async def remove(self, names: Sequence[str]) -> None:
        """See apicas._runtime.outbox.disk.Outbox."""
        await self._ask("remove")
        for name in names:
            self._waiting.pop(name, None)

    async def set_aside(self, entries: Sequence[Entry]) -> list[str]:
        """See apicas._runtime.outbox.disk.Outbox."""
        await self._ask("set_aside")
        for entry in entries:
            self._lost[entry.aside_name] = entry.encode()
            self._waiting.pop(entry.name, None)
        return [f"memory/lost/{entry.aside_name}" for entry in entries]

    async def names(self, not_of: str | None = None) -> list[str]:
        """See apicas._runtime.outbox.disk.Outbox."""
        await self._ask("names")
        return sorted(name for name, body in self._waiting.items() if decode_entry(body).pilot != not_of)

    async def read(self, names: Sequence[str]) -> list[Entry]:
        """See apicas._runtime.outbox.disk.Outbox."""
        await self._ask("read")
        return [decode_entry(self._waiting[name]) for name in names if name in self._waiting]

    async def lost(self) -> list[tuple[str, Entry]]:
        """See apicas._runtime.outbox.disk.Outbox."""
        await self._ask("lost")
        return [(f"memory/lost/{name}", decode_entry(body)) for name, body in self._lost.items()]

    async def discard_lost(self) -> int:
        """See apicas._runtime.outbox.disk.Outbox."""
        await self._ask("discard_lost")
        number = len(self._lost)
        self._lost.clear()
        return number

    async def _ask(self, call: str) -> None:
        self.calls.append(call)
        if self.delay:
            await anyio.sleep(self.delay)
        if self.failure is not None:
            raise OSError(self.failure, os.strerror(self.failure), errno.errorcode[self.failure])
