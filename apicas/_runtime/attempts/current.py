"""Which token is worked here: for whoever logs, or starts a process, and was not told."""

from __future__ import annotations

from contextvars import ContextVar

from apicas._runtime.processes.attempt import MemoryLimit
from apicas.tokens import Token

running_token: ContextVar[Token | None] = ContextVar("running_token", default=None)
"""The token that a task or a thread works on, also one that the user's code started for it."""

memory_limit: ContextVar[int | None] = ContextVar("memory_limit", default=None)
"""Bytes of memory that all processes of one token may take together."""


def memory_limit_here() -> MemoryLimit:
    """How much memory a process that is started here may take, with the other ones of its token."""
    token = running_token.get()
    return MemoryLimit(memory_limit.get(), None if token is None else token.id)
