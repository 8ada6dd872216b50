"""What a process that is nothing but a pilot does to be fast. Whoever embeds a pilot decides about such things."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from typing import Final

_THRESHOLDS: Final = (20_000, 20, 50)
_SWITCH_INTERVAL: Final = 0.000_5
"""Seconds. Python's own is 5 ms."""


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Makes the loop of uvloop, which is faster, where it is installed; else None, for Python's own."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - need not be there
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = new_event_loop
    return factory


def tune() -> None:
    """Set what holds for the whole process: look for reference cycles less often, and change threads sooner.

    Thousands of documents come and go without any cycle, and each search goes through all that are there: a tenth of
    the time of a token without work. What has been imported by now is not looked at again.

    The thread of SQLite asks for Python's lock a few times per bulk, and a busy loop keeps it for 5 ms each time, in
    which all others wait for the bulk.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_INTERVAL)
