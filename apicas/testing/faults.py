"""A client that fails when it is told to, over a pool in memory."""

from __future__ import annotations

import time as system_time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

from apicas._documents import Document
from apicas.clients.memory import MemoryClient
from apicas.clients.port import Arrival, SaveResult, SaveStatus, TokenPage, ViewQuery, ViewRow
from apicas.exceptions import PoolUnavailableError


@dataclass(slots=True)
class Faults:
    """What goes wrong; shared by a client and its forks, and changed while they run.

    Args:
        away: every request fails, as if the server were gone.
        lose_answers: so many of the next saves are carried out, but their answer gets lost.
        lose_requests: so many of the next saves are not carried out, and no answer comes.
        deaf: no arrival is told of, though the feed seems to be there.
        reject: documents that the store does not take, by a predicate.
        before_save: called with the documents of each save before it is carried out: a rival's chance.
    """

    away: bool = False
    lose_answers: int = 0
    lose_requests: int = 0
    deaf: bool = False
    reject: Callable[[Mapping[str, Any]], bool] = field(default=lambda _document: False)
    before_save: Callable[[Sequence[Mapping[str, Any]]], None] = field(default=lambda _documents: None)


class FaultyClient(MemoryClient):
    """A pool in memory that fails on demand.

    Args:
        faults: what goes wrong.
        now: the clock, in unix seconds.
    """

    def __init__(self, faults: Faults | None = None, *, now: Callable[[], float] = system_time.time) -> None:
        super().__init__(now=now)
        self.faults = faults or Faults()
        self.requests: list[str] = []
        """What was asked, in order: the names of the port's methods."""

    @override
    def fork(self) -> FaultyClient:
        fork = FaultyClient(self.faults, now=self._now)
        fork._pool = self._pool
        return fork

    def rival(self) -> MemoryClient:
        """A client of the same pool that never fails."""
        return super().fork()

    def _ask(self, request: str) -> None:
        self.requests.append(request)
        if self.faults.away:
            raise PoolUnavailableError(f"{self.address} does not answer")

    @override
    async def get(self, ids: Sequence[str]) -> list[Document | None]:
        self._ask("get")
        return await super().get(ids)

    @override
    async def query(self, view: str, query: ViewQuery) -> list[ViewRow]:
        self._ask("query")
        return await super().query(view, query)

    @override
    async def scan(self, after: str | None = None, limit: int = 500) -> TokenPage:
        self._ask("scan")
        return await super().scan(after, limit)

    @override
    async def sample(
        self, view: str, limit: int, place: float, *, window: int = 0, fresh: bool = False
    ) -> list[Document]:
        self._ask("sample")
        return await super().sample(view, limit, place, window=window, fresh=fresh)

    @override
    async def save(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        self._ask("save")
        self.faults.before_save(documents)
        if self.faults.lose_requests:
            self.faults.lose_requests -= 1
            return [SaveResult(SaveStatus.UNKNOWN)] * len(documents)
        taken = [document for document in documents if not self.faults.reject(document)]
        written = iter(await super().save(taken))
        refused = SaveResult(SaveStatus.REJECTED, reason="told to")
        results = [refused if self.faults.reject(document) else next(written) for document in documents]
        if self.faults.lose_answers:
            self.faults.lose_answers -= 1
            return [SaveResult(SaveStatus.UNKNOWN)] * len(documents)
        return results

    @override
    async def arrivals(self, views: Sequence[str]) -> AsyncIterator[Arrival]:
        self._ask("arrivals")
        first = True
        async with aclosing(super().arrivals(views)) as feed:  # type: ignore[type-var]  # it is a generator
            async for arrival in feed:
                if self.faults.away:
                    raise PoolUnavailableError(f"{self.address} does not answer")
                if first or not self.faults.deaf or arrival is Arrival.NONE:
                    yield arrival
                first = False
