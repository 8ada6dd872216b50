"""Signals: the first drains the pilot, the second ends it at once; SIGUSR1 only ever drains.

Only in the main thread and only over default handlers: an application that handles signals itself keeps them.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

log = logging.getLogger("apicas")

AHEAD: Final = signal.SIGUSR1
"""What batch systems are asked to send ahead of the end: `sbatch --signal=USR1@120`. It may come more than once, from
the system and from `srun`, and never means that there is no more time."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, AHEAD)


class SignalLadder:
    """What signals do to a pilot.

    Args:
        drain: called at the first signal, with its name.
        cut: called at the second.
    """

    def __init__(self, drain: Callable[[str], None], cut: Callable[[], None]) -> None:
        self._drain = drain
        self._cut = cut
        self.received: list[signal.Signals] = []

    def take(self, received: signal.Signals) -> None:
        """Go one step down."""
        if received is AHEAD and self.received:
            return
        self.received.append(received)
        if len(self.received) == 1:
            again = "SIGTERM" if received is AHEAD else "once more"
            log.warning("%s: draining; %s to end at once", received.name, again)
            self._drain(received.name)
        else:
            log.warning("%s again: ending at once", received.name)
            self._cut()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals meanwhile, those that nobody else handles."""
        loop = asyncio.get_running_loop()
        taken: list[tuple[signal.Signals, Any]] = []
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if _is_default(handler):
                    loop.add_signal_handler(number, self.take, number)
                    taken.append((number, handler))
        try:
            yield
        finally:
            for number, handler in taken:
                loop.remove_signal_handler(number)
                signal.signal(number, handler)


def _is_default(handler: Any) -> bool:
    if handler in {signal.SIG_DFL, signal.default_int_handler}:
        return True
    # asyncio.run puts a handler of its own over SIGINT's default, which cancels the main task.
    function = getattr(handler, "func", handler)
    return getattr(function, "__qualname__", "") == "Runner._on_sigint"
