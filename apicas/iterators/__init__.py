"""Iterators: claim tokens, one at a time with `async for`, or many with `claim(n)`.

An iterator is an async context manager: inside it, what it hands out is kept fresh by a heartbeat, and stale locks of
others are reclaimed. Contention never ends it. It ends when a fresh view is empty, nothing waits for its time, and
every token that another pilot holds has been seen to be kept alive, was finished, or was reclaimed (lingering).

    async with BasicViewIterator(client, BasicTokenModifier()) as tokens:
        async for token in tokens:
            async with token:
                token["output"] = await work(token["input"])
"""

from __future__ import annotations

from apicas.iterators.endless import EndlessViewIterator
from apicas.iterators.iterator import IteratorKeywords, ViewIterator
from apicas.iterators.views import BasicViewIterator, PrioritizedViewIterator

__all__ = [
    "BasicViewIterator",
    "EndlessViewIterator",
    "IteratorKeywords",
    "PrioritizedViewIterator",
    "ViewIterator",
]
