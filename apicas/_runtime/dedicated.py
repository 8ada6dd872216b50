"""What a process that is nothing but a pilot does to be fast. Whoever embeds a pilot decides about such things."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Final

_THRESHOLDS: Final = (20_000, 20, 50)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Makes the loop of uvloop, which is faster, where it is installed; else None, for Python's own."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - need not be there
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = new_event_loop
    return factory


def collect_garbage_seldom() -> None:
    """Look for reference cycles less often.

    Thousands of documents come and go without any cycle, and each search goes through all that are there: a tenth of
    the time of a token without work. What has been imported by now is not looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
