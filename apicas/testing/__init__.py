"""For tests, yours and ours: the conformance suite that every client passes, and clocks that tests turn by hand."""

from __future__ import annotations

from apicas.testing.conformance import CLIENT_CHECKS, check_client

__all__ = ["CLIENT_CHECKS", "check_client"]
