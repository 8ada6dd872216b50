"""What the tokens of the benchmark do. A module of its own, so that a process that runs one token can import it."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import cache

import apicas
from apicas.tokens import Token, annex
from benchmarks.chaos.lines import Lines, settings

_PIECE = 1 << 24
"""Bytes that a token which eats memory takes at a time: more would hold the GIL for long on a busy machine."""


@cache
def lines() -> Lines:
    """The lines of this pilot; a process that it starts for a token writes into the same file."""
    chosen = settings()
    return Lines(chosen["name"], chosen["ledger"])


class Work(apicas.RunActor):
    """Sleeps, or eats memory, or dies, as the token's input says; the result is the id of the execution."""

    async def process_token(self, token: Token) -> str:
        execution = lines().begin(token.id, token.generation, annex(token.document).get("pilot"))
        try:
            await _work(token.input)
            if token.input.get("die"):  # as when the kernel is out of memory and chooses this process
                lines().cut(execution, ProcessLookupError())
                os.kill(os.getpid(), signal.SIGKILL)
        except BaseException as error:
            lines().cut(execution, error)
            raise
        lines().end(execution)
        return execution


async def _work(order: dict[str, float]) -> None:
    if seconds := order.get("seconds"):
        await asyncio.sleep(seconds)
    if order.get("hog"):
        eaten = []
        while True:
            eaten.append(bytearray(_PIECE))
            await asyncio.sleep(0)
