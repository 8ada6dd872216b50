"""What can be chosen about a CouchDB client."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

from typing_extensions import TypedDict

from apicas._documents import MAX_DOCUMENT_BYTES
from apicas.exceptions import ConfigError
from apicas.policies.retries import Backoff

log = logging.getLogger(__name__)


class CouchKeywords(TypedDict, total=False):
    """The fields of CouchOptions, as keywords."""

    auth: Literal["basic", "cookie"]
    ca_file: str | Path | None
    verify: bool
    timeout: float
    index_timeout: float
    heartbeat: float
    connections: int
    attempts: int
    backoff: Backoff
    max_document_bytes: int
    now: Callable[[], float]
    rng: Random


@dataclass(frozen=True, slots=True, kw_only=True)
class CouchOptions:
    """How a CouchDB client goes about it.

    Args:
        auth: `basic` sends the password with each request; `cookie` once, for a session, which is renewed when needed.
        ca_file: a PEM file with the certificates to trust instead of the system's.
        verify: check the server's certificate. Without it, anybody on the way can read the password.
        timeout: seconds until a request without an answer counts as lost.
        index_timeout: the same for a view that has to be brought up to date first, which takes long on a big pool.
        heartbeat: seconds between the signs of life in a changes feed; it counts as dead after three missed ones.
        connections: to the server at the same time, at most.
        attempts: how often a request is sent that may be sent again, before the pool counts as unavailable.
        backoff: the pause between attempts.
        max_document_bytes: the largest token, in bytes of JSON, attachments not counted.
        now: this process's clock, in unix seconds.
        rng: spreads the pauses, so that pilots do not come back in step.
    """

    auth: Literal["basic", "cookie"] = "basic"
    ca_file: str | Path | None = None
    verify: bool = True
    timeout: float = 60.0
    index_timeout: float = 300.0
    heartbeat: float = 20.0
    connections: int = 16
    attempts: int = 5
    backoff: Backoff = field(default_factory=lambda: Backoff(first=0.1, most=5.0))
    max_document_bytes: int = MAX_DOCUMENT_BYTES
    now: Callable[[], float] = time.time
    rng: Random = field(default_factory=Random, repr=False)

    def __post_init__(self) -> None:
        if not self.verify:
            log.warning(
                "verify=False: the server's certificate is not checked, anybody on the way can read the password"
            )
        if self.auth not in {"basic", "cookie"}:
            raise ConfigError(f"auth is {self.auth!r}; there are basic and cookie")
        for name in ("timeout", "index_timeout", "heartbeat", "connections", "attempts"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it is more than 0")
