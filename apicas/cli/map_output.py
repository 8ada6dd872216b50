"""What the commands of `apicas map` print: as they end, or in the order of the lines."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from apicas._runtime.commands.command import CommandRunner
from apicas._runtime.commands.options import CommandResult
from apicas.cli.terminal import results, tell
from apicas.tokens import Token

CAPTURE: Final = 10_000_000
"""Bytes of each stream of a command that are kept: it is in memory, and in the pool."""


class MapOutput:
    """Writes what commands have printed, each as a whole.

    Args:
        order: the numbers of the lines in the order of the output; None for as they come.
    """

    def __init__(self, order: Sequence[int] | None) -> None:
        self._order = None if order is None else deque(order)
        self._waiting: dict[int, tuple[bytes, bytes]] = {}

    def add(self, number: int, stdout: bytes, stderr: bytes) -> None:
        """Take what the command of a line has printed: of those that have ended for good."""
        if self._order is None:
            _write(stdout, stderr)
            return
        self._waiting[number] = stdout, stderr
        while self._order and self._order[0] in self._waiting:
            _write(*self._waiting.pop(self._order.popleft()))

    def flush(self) -> None:
        """Write what waits for lines that have not come to an end."""
        for number in sorted(self._waiting):
            _write(*self._waiting.pop(number))


def _write(stdout: bytes, stderr: bytes) -> None:
    """Bytes as they are into files and pipes; text to a terminal, where a moving display may be in the way."""
    with results():
        for stream, content in ((sys.stderr, stderr), (sys.stdout, stdout)):
            if not content:
                continue
            if stream.isatty() or not hasattr(stream, "buffer"):
                stream.write(content.decode(errors="replace"))
            else:
                stream.flush()
                stream.buffer.write(content)
            stream.flush()


def shows_results(runner: CommandRunner, output: MapOutput, lines: Mapping[str, int], retries: int) -> CommandRunner:
    """A runner that passes on what its commands print.

    Args:
        runner: runs them.
        output: takes what is printed.
        lines: the numbers of the lines by token.
        retries: how often a failed one is tried again: only the last attempt is shown.
    """

    def show(token: Token, result: CommandResult) -> None:
        if result.ok or token.scrub_count >= retries:
            number = lines.get(token.id, sys.maxsize)
            if max(len(result.stdout), len(result.stderr)) > CAPTURE:  # with the words that stand for the middle
                tell(f"line {number} printed more than {CAPTURE // 1_000_000} MB: the middle is left out")
            output.add(number, result.stdout, result.stderr)

    runner.on_result = show
    return runner
