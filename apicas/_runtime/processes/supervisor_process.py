"""What the supervisor does once its pilot is dead: ends all that the pilot had started, and ends itself.

Until then it is a shell that waits for the end of a pipe, and has none of this in memory.
"""

from __future__ import annotations

import os
import select
import struct
import time
from typing import Final

from apicas._runtime.processes.marks import VARIABLE, Look, Process, end_all, is_dead, of_pilot, parsed

HELD_AT: Final = struct.Struct("=q")
"""How the table begins: when the sessions in it were those of the pilot, in clock ticks since the boot."""
SESSION: Final = struct.Struct("=i")
"""How it goes on, again and again; 0 for a free place."""
GRACE: Final = 5.0
"""Seconds between TERM and KILL."""
LIMIT: Final = 60.0
"""Seconds after the first KILL until those that do not die are left to the next pilot's sweep."""
PAUSE: Final = 0.2
"""Seconds between two looks at a pilot that lives, where the kernel sends no word of its end."""


def main(table: int) -> None:
    """End what a pilot left, when it is dead: the one whose mark we have.

    Args:
        table: a descriptor of the sessions that it has registered.
    """
    (mark,) = parsed(os.environ[VARIABLE])
    _wait_for_end(mark.pid, mark.start)
    sessions, held_at = _read(table)
    look, own = Look(), os.getpid()

    def find() -> list[Process]:
        return [process for process in of_pilot(look.take(), mark.pilot, sessions, held_at) if process.pid != own]

    end_all(find, grace=GRACE, limit=LIMIT)


def _wait_for_end(pid: int, start: int) -> None:
    """Return when the pilot is dead. It is, unless some code in it has closed descriptors that were not its own."""
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):
        descriptor = -1
    if descriptor >= 0 and not is_dead(pid, start):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
    while not is_dead(pid, start):
        time.sleep(PAUSE)


def _read(table: int) -> tuple[frozenset[int], int]:
    """The sessions in the table, and when they were the pilot's."""
    content = os.pread(table, os.fstat(table).st_size, 0)
    (held_at,) = HELD_AT.unpack_from(content)
    places = content[HELD_AT.size :]
    places = places[: len(places) // SESSION.size * SESSION.size]
    return frozenset(session for (session,) in SESSION.iter_unpack(places) if session > 0), held_at
