"""What a worker process prints: that of a token goes to the token, the rest where the pilot prints."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from typing_extensions import override

from apicas._runtime.attempts.logs import AttemptLog
from apicas._runtime.processes.children import close
from apicas._runtime.processes.pipes import Capture, OutputPipe
from apicas.tokens import Token


class Passage(Capture):
    """Passes on what comes.

    Args:
        descriptor: where to.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(0)
        self._descriptor = descriptor

    @override
    def add(self, chunk: bytes) -> None:
        """Pass it on, as far as it is taken."""
        with suppress(OSError):  # closed, or a disk that is full: what stands outside of tokens is not kept
            os.write(self._descriptor, chunk)


class WorkerOutput:
    """The output of one process, which works one token after the other. To be made and used on the loop."""

    def __init__(self) -> None:
        self._token: Token | None = None
        self._log: AttemptLog | None = None
        self._passages = (Passage(1), Passage(2))
        ends = [os.pipe(), os.pipe()]
        self._theirs = [writer for _, writer in ends]
        self._pipes = [
            OutputPipe(reader, passage, _ignore) for (reader, _), passage in zip(ends, self._passages, strict=True)
        ]

    @contextmanager
    def write_ends(self) -> Iterator[tuple[int, int]]:
        """What becomes standard output and error of the process that is started inside."""
        try:
            yield self._theirs[0], self._theirs[1]
        finally:
            close(*self._theirs)

    def begin(self, token: Token) -> None:
        """Keep what comes from now on for a token."""
        self._drain()
        self._token, self._log = token, AttemptLog()
        if token.lease is not None:
            token.lease.note().log = self._log
        self._pipes[0].capture, self._pipes[1].capture = self._log.stdout, self._log.stderr

    def end(self) -> None:
        """Put what has come into the token. Safe to repeat."""
        token, log = self._token, self._log
        if token is None or log is None:
            return
        self._drain()
        self._token = self._log = None
        self._pipes[0].capture, self._pipes[1].capture = self._passages
        if token.lease is None or token.lease.attaches:
            log.attach(token)

    def close(self) -> None:
        """Take what is left, and close the pipes. Safe to repeat."""
        self.end()
        for pipe in self._pipes:
            pipe.close()

    def _drain(self) -> None:
        for pipe in self._pipes:
            pipe.drain()


def _ignore() -> None:
    pass
