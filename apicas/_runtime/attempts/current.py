"""Which token is worked here: for whoever logs, or starts a process, and was not told."""

from __future__ import annotations

from contextvars import ContextVar

from apicas.tokens import Token

running_token: ContextVar[Token | None] = ContextVar("running_token", default=None)
"""The token that a task or a thread works on, also one that the user's code started for it."""
