"""The CouchDB adapter, the only part of apicas that speaks HTTP.

Its modules from the bottom up: what may go wrong (`failures`) and what an answer means (`answers`, `designs`: plain
functions); the store's clock; credentials, and the gate that every request passes; the transport, which repeats what
may be repeated; administration (aiocouch); the changes feed; and the client.
"""

from __future__ import annotations

from apicas.clients.couch.client import CouchClient
from apicas.clients.couch.options import CouchOptions

__all__ = ["CouchClient", "CouchOptions"]
