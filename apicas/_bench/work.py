"""What tokens are in a measurement, and the work on them: importable, as processes that work need it."""

from __future__ import annotations

import os
import random
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import anyio

from apicas._bench.records import Trial
from apicas._runtime.commands.command import CommandRunner
from apicas.tokens import Token

BLOCK: Final = 65_536
"""Bytes of random data that files and documents are cut from: such as nobody can compress much."""
_SEED: Final = 1


class Executions:
    """How often this process has worked a token."""

    number = 0


def tokens_of(trial: Trial) -> Iterator[dict[str, Any]]:
    """The tokens of a trial, as a stream."""
    make = _INPUTS.get(trial.workload, _number)
    return ({"input": make(trial, number)} for number in range(trial.tokens))


def work_of(trial: Trial) -> Callable[..., Any]:
    """What is done to each token."""
    match trial.workload:
        case "noop":
            return noop
        case "sleep":
            return partial(sleep, trial.seconds)
        case "process":
            return CountedCommand(["sleep", f"{trial.seconds:g}"] if trial.seconds else ["true"])
        case "cpu":
            return burn
        case "large":
            return digest
        case "attachment":
            return partial(attach, trial.size)


async def noop(token: Token) -> None:
    """Do nothing."""
    del token
    Executions.number += 1


async def sleep(seconds: float, token: Token) -> None:
    """Wait."""
    del token
    Executions.number += 1
    await anyio.sleep(seconds)


class CountedCommand(CommandRunner):
    """A command, as with `apicas run -- COMMAND`."""

    async def __call__(self, token: Token) -> None:
        """Run it."""
        Executions.number += 1
        await super().__call__(token)


def burn(token: Token) -> int:
    """Take processor time, as many seconds as the input says; in a process of its own, which counts for itself."""
    end = time.process_time() + float(token["input"])
    total = 0
    while True:
        total += sum(range(1000))
        if time.process_time() >= end:
            return total


async def digest(token: Token) -> int:
    """Read a large document."""
    Executions.number += 1
    return zlib.crc32(token["input"].encode())


async def attach(size: int, token: Token) -> None:
    """Attach a file."""
    Executions.number += 1
    token.put_attachment("result.bin", _data(size, os.getpid() + Executions.number), "application/octet-stream")


def _number(trial: Trial, number: int) -> Any:
    del trial
    return number


def _seconds(trial: Trial, number: int) -> Any:
    del number
    return trial.seconds


def _text(trial: Trial, number: int) -> Any:
    return _data(trial.size // 2 + 1, number).hex()[: trial.size]


_INPUTS: Final = {"cpu": _seconds, "large": _text}
_BLOCK: Final = random.Random(_SEED).randbytes(BLOCK)


def _data(size: int, number: int) -> bytes:
    """Bytes that differ from number to number, at the cost of a copy."""
    start = number * 97 % BLOCK
    turned = _BLOCK[start:] + _BLOCK[:start]
    return (turned * (size // BLOCK + 1))[:size]
