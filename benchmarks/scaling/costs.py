"""What a CouchDB asks for each kind of request, and where each number comes from.

All are seconds of one core of the machine of the measurements (2 cores, CouchDB 3.5, single node, q=2), unless they
say otherwise. A core of a new server does two to three times as much: `--speed` divides them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds of a core per request, and per document or row of it."""

    round_trip: float = 0.0005
    """Of the network and the client's library, nobody's core. Assumed: machines of one data centre."""
    request: float = 0.0007
    """HTTP, login, finding the shards. 2,790 GETs of one document a second over 16 connections on two cores."""
    row: float = 0.000007
    """A row of a view. 1.4 ms for 100, less the request."""
    body: float = 0.000031
    """A document of `_bulk_get`. 3.8 ms for 100, less the request."""
    write: float = 0.00002
    """A document of `_bulk_docs`, before it comes to its shard: JSON, checks, the answer."""
    append: float = 0.00005
    """A document of `_bulk_docs` in its shard's writer, which is one process. With `write` and `sync`: 14,700
    documents a second in bulks of 100, 21,000 in bulks of 1,000; measured were 12,100 to 14,100, and 21,900."""
    sync: float = 0.0016
    """A commit of one shard by the clock: what waits meanwhile goes into the next. 436 PUTs a second, one by one."""
    sync_core: float = 0.0004
    """The same, of a core. 1,411 PUTs a second over 16 connections."""
    index: float = 0.0001
    """A changed document in the index of Monitor. 15,000 a second for the whole of a pool, in two shards at once, would
    be 0.13 ms; with 0.1 the raw loops of batches of 100 and 500 come out as measured: 2,700 (2,300 to 3,100) and 4,700
    (5,200) tokens a second."""
    index_run: float = 0.003
    """Each time that a shard's index is brought up to date. CPU of a fresh view after bulks of 1 to 1,000, less those
    of the bulk and of the view, at no documents: 15 ms for two shards on a machine that was 2.2 times as slow."""
    feed: float = 0.00002
    """A change that one open feed of arrivals leaves out: it reads the document and compares it. CPU of bulks of 64
    with 40 feeds open, less without."""
    feed_wake: float = 0.0002
    """Each time that a feed is woken for changes, however many. CPU of single writes with 40 feeds open, as before."""
    pilot_token: float = 0.00007
    """A no-op token in its pilot, on a core of the pilot's own: claim, work and commit. CPU of the pilot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What a CouchDB runs on.

    Args:
        cores: of each node.
        nodes: with a copy of every shard on each, which is what three nodes have (n=3); more are not modelled.
        q: shards of the database.
        speed: of a core, in cores of the measurements.
        connections: that the server takes at once; beyond it they wait. CouchDB 3.5 has this limit; older ones 2,048.
    """

    cores: int = 16
    nodes: int = 1
    q: int = 2
    speed: float = 1.0
    connections: int = 65_536
