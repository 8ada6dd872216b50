"""A command that leaves ten processes behind, each in a session of its own: for the tests of the supervisor.

    python leaver.py PIPE (stay | end)

Each writes its process id into the named pipe, and waits for ever. Some ignore TERM, some have closed all descriptors,
some were forked twice.
"""

from __future__ import annotations

import os
import signal
import sys

CHILDREN = 10


def wait_for_ever(*, deaf: bool, closed: bool) -> None:
    if deaf:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    tell(os.getpid())
    if closed:
        os.closerange(0, 256)
    while True:
        signal.pause()


def tell(process: int) -> None:
    with open(sys.argv[1], "w") as pipe:  # noqa: PTH123 - it starts often
        pipe.write(f"{process}\n")


def leave(number: int) -> None:
    """Fork one that is in a session of its own; every second one is an orphan at once."""
    if os.fork():
        return
    os.setsid()
    if number % 2 and os.fork():
        os._exit(0)
    wait_for_ever(deaf=number % 3 == 0, closed=number % 5 < 2)


if __name__ == "__main__":
    for child in range(CHILDREN):
        leave(child)
    if sys.argv[2] == "stay":
        wait_for_ever(deaf=False, closed=False)
