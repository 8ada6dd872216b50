"""The work of the poison tests: each token notes that it was begun, and one of them kills its process."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


def out_of_memory() -> None:
    """What a library does that checks no allocation: it asks for more than there is, and writes to address 0."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    malloc = ctypes.CDLL(None).malloc
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    ctypes.memset(malloc(1 << 31) or 0, 1, 1 << 20)


DEADLY: dict[str, Callable[[], Any]] = {
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "memory": out_of_memory,
}


def note(token: Any) -> None:
    with Path("begun").open("a") as file:
        file.write(f"{token['_id']}\n")


async def work(token: Any) -> str:
    """Note the token, and come to its end, or to everybody's."""
    note(token)
    await asyncio.sleep(0.05)
    if token["input"] in DEADLY:
        DEADLY[token["input"]]()
    return "worked"
