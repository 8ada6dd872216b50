"""For tests, yours and ours: the conformance suite that every client passes, and virtual time."""

from __future__ import annotations

from apicas.testing.conformance import CLIENT_CHECKS, check_client
from apicas.testing.virtual import Deadlock, VirtualTimeLoop, run_virtual, unix_time, virtual_environment

__all__ = [
    "CLIENT_CHECKS",
    "Deadlock",
    "VirtualTimeLoop",
    "check_client",
    "run_virtual",
    "unix_time",
    "virtual_environment",
]
