"""What is measured, and what comes out."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Workload: TypeAlias = Literal["noop", "sleep", "process", "cpu", "large", "attachment"]
"""What a token is: nothing to do, a pause, a command, arithmetic in a process, a big document, a file attached."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement that is asked for."""

    contender: str
    workload: Workload = "noop"
    tokens: int = 10_000
    workers: int = 64
    """Of each pilot."""
    pilots: int = 1
    """Processes that work at the same time, on one pool."""
    batch: int | None = None
    """Documents per request, for a raw loop; tokens claimed ahead, for a pilot. None for the contender's own choice."""
    seconds: float = 0.0
    """How long a token sleeps, or its command does."""
    size: int = 0
    """Bytes of input per token, or of the file it attaches."""
    store: str = ""
    """The server, with an admin's name and password: `http://name:secret@host:port`, or `redis://host:port`. Empty for
    a contender that keeps its own file."""
    directory: str = ""
    """A directory of this measurement's own, on a real disk."""
    wal: Literal["NORMAL", "FULL"] = "NORMAL"
    """SQLite's `synchronous`."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies in seconds."""

    p50: float
    p95: float
    p99: float


class Sample(msgspec.Struct, kw_only=True):
    """What one measurement came to. What a contender cannot know is None."""

    tokens: int
    """Tokens that were worked and committed."""
    seconds: float
    """From the moment when all pilots were ready to the last commit."""
    upload_seconds: float | None = None
    """To put all tokens into the store, before."""
    executions: int | None = None
    """How often a token was worked: more than `tokens` where some were worked twice."""
    lost_races: int | None = None
    """Claims that another pilot won."""
    requests: int | None = None
    """Requests to the server, or transactions of a file, between the same two moments."""
    sent: int | None = None
    """Bytes of request bodies."""
    received: int | None = None
    """Bytes of answer bodies."""
    cpu_seconds: float | None = None
    """Processor time of the pilots, all threads and children."""
    memory: int | None = None
    """Bytes: the largest resident set of one pilot."""
    latency: Spread | None = None
    """From the claim of a token to its confirmed outcome."""
    notes: list[str] = []
    """What a reader of the figures has to know."""

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds if self.seconds else 0.0
