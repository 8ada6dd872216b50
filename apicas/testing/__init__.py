"""For tests, yours and ours: the conformance suite, clients that fail on demand, virtual time, and what must hold."""

from __future__ import annotations

from apicas.testing.conformance import CLIENT_CHECKS, check_client
from apicas.testing.faults import Faults, FaultyClient
from apicas.testing.history import Execution, History
from apicas.testing.invariants import INVARIANTS, Invariants, Violation, ViolationError
from apicas.testing.outbox import MemoryOutbox
from apicas.testing.replicas import ReplicatedClient
from apicas.testing.store import Latency, Mishaps, ReplicatedStore
from apicas.testing.virtual import (
    Deadlock,
    Group,
    VirtualTimeLoop,
    run_virtual,
    unix_time,
    virtual_environment,
    virtual_loop,
)

__all__ = [
    "CLIENT_CHECKS",
    "INVARIANTS",
    "Deadlock",
    "Execution",
    "Faults",
    "FaultyClient",
    "Group",
    "History",
    "Invariants",
    "Latency",
    "MemoryOutbox",
    "Mishaps",
    "ReplicatedClient",
    "ReplicatedStore",
    "Violation",
    "ViolationError",
    "VirtualTimeLoop",
    "check_client",
    "run_virtual",
    "unix_time",
    "virtual_environment",
    "virtual_loop",
]
