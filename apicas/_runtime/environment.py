"""The one place that makes the real things: who we are, what time it is, and the dice."""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any, Final

import anyio

from apicas.modifiers import Owner, batch_job_ids
from apicas.tokens import annex

_IDS_AT_ONCE: Final = 256
_PROCESS: Final = re.compile(r"(?P<boot>[0-9a-f]+)\.(?P<pid>[1-9][0-9]{0,18})\.(?P<start>[0-9]{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What a pilot takes from its surroundings; tests pass their own."""

    owner: Owner
    monotonic: Callable[[], float] = time.monotonic
    """Seconds, never set back."""
    rng: Random = field(default_factory=Random)
    new_id: Callable[[], str] = field(default_factory=lambda: _ids().__next__)
    """Makes the id of a claim; a simulation makes the same ones every time."""
    owner_is_gone: Callable[[Mapping[str, Any]], bool]
    """Whether the claim in a document is of a process that is known not to exist any more."""
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    """Sleeps for so many seconds of `monotonic`, in the heartbeat and what watches beside it."""
    threads: bool = True
    """Whether the heartbeat gets a thread of its own, and suspects a process; virtual time has neither."""


def _ids() -> Iterator[str]:
    """Random ids of 16 hexadecimal digits, for ever. The system is asked for many at a time: each call takes long."""
    while True:
        pid, digits = os.getpid(), secrets.token_hex(8 * _IDS_AT_ONCE)
        for start in range(0, len(digits), 16):
            if os.getpid() != pid:  # a forked process must not give out the same ones
                break
            yield digits[start : start + 16]


def real_environment() -> Environment:
    """The environment of this process, as one pilot sees it: each call makes another pilot."""
    owner = Owner(
        pilot=secrets.token_hex(8),
        hostname=socket.gethostname(),
        process=process_name(os.getpid()),
        job_ids=batch_job_ids(os.environ),
    )
    return Environment(owner=owner, owner_is_gone=lambda document: process_is_gone(document, boot_id()))


def process_name(pid: int) -> str:
    """`boot.pid.start`, what no other process is called: host names and process ids alone are used again.

    One text, since every claim carries it, and a store pays for each field.
    """
    start = process_start(pid)
    return f"{boot_id()}.{pid}.{'' if start is None else start}"


@cache
def boot_id() -> str:
    """What process ids are unique in: this boot of this node, and the container's own process ids; "" if unknown.

    A digest of both, since only whether two are the same matters.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return blake2b(f"{boot}/{Path('/proc/self/ns/pid').readlink()}".encode(), digest_size=8).hexdigest()
    except OSError:
        return ""


def process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot; None if it does not exist, or does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in brackets, and may hold blanks and brackets of its own.
    return int(stat.rpartition(")")[2].split()[19])


def process_is_gone(document: Mapping[str, Any], here: str) -> bool:
    """Whether a document's claim is of a process of this boot that does not exist any more.

    Args:
        document: a locked token.
        here: this process's boot_id().
    """
    claim = annex(document)
    named = _PROCESS.fullmatch(str(claim.get("process")))
    if not here or named is None or named["boot"] != here:
        return False
    pid = int(named["pid"])
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it exists, and belongs to somebody else
        return False
    started = process_start(pid)
    return started is not None and bool(named["start"]) and started != int(named["start"])
