"""Clients: the handle on a pool, one per store, all the same protocol."""

from __future__ import annotations

from apicas.clients.connect import connect

__all__ = ["connect"]
