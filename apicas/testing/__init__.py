"""For tests, yours and ours: the conformance suite of clients, a client that fails on demand, and virtual time."""

from __future__ import annotations

from apicas.testing.conformance import CLIENT_CHECKS, check_client
from apicas.testing.faults import Faults, FaultyClient
from apicas.testing.virtual import Deadlock, VirtualTimeLoop, run_virtual, unix_time, virtual_environment

__all__ = [
    "CLIENT_CHECKS",
    "Deadlock",
    "Faults",
    "FaultyClient",
    "VirtualTimeLoop",
    "check_client",
    "run_virtual",
    "unix_time",
    "virtual_environment",
]
