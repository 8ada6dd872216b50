"""What the tests of actors share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from typing_extensions import override

import apicas
from apicas._documents import Document
from apicas.clients.port import SaveResult, ViewQuery, ViewRow
from apicas.testing import FaultyClient
from apicas.tokens import Token
from tests.runtime.virtual import make_pool, pilot

TOKENS = 3


async def only(client: FaultyClient) -> Token:
    """The one token of a pool."""
    (identifier,) = [row.id for state in ("todo", "locked", "done", "error") for row in await client.view(state)]
    return await client.fetch(str(identifier))


async def work(client: FaultyClient, process: Any, **options: Any) -> apicas.Report:
    """Run a function over the pool's tokens."""
    options.setdefault("handle_signals", False)
    async with pilot(client) as tokens:
        return await acting(tokens, process).run(**options)


def acting(tokens: Any, process: Any, **hooks: Any) -> apicas.RunActor:
    return type("Actor", (apicas.RunActor,), {"process_token": staticmethod(process), **hooks})(tokens)  # type: ignore[no-any-return]


def raising(error: BaseException) -> Any:
    raise error


def setting(**fields: Any) -> Any:
    async def process(token: Token) -> None:
        token.update(fields)

    return process


async def returns(token: Token) -> Any:
    return {"answer": 42}


class FarClient(FaultyClient):
    """A pool whose requests take time on the way there and on the way back: a cancel may fall before or after it."""

    async def _travel(self) -> None:
        await anyio.sleep(0.01)

    @override
    def fork(self) -> FarClient:
        fork = FarClient(self.faults, now=self._now)
        fork._pool = self._pool
        return fork

    @override
    async def get(self, ids: Sequence[str]) -> list[Document | None]:
        await self._travel()
        found = await super().get(ids)
        await self._travel()
        return found

    @override
    async def query(self, view: str, query: ViewQuery) -> list[ViewRow]:
        await self._travel()
        rows = await super().query(view, query)
        await self._travel()
        return rows

    @override
    async def sample(
        self, view: str, limit: int, place: float, *, window: int = 0, fresh: bool = False
    ) -> list[Document]:
        await self._travel()
        documents = await super().sample(view, limit, place, window=window, fresh=fresh)
        await self._travel()
        return documents

    @override
    async def save(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        await self._travel()
        results = await super().save(documents)
        await self._travel()
        return results


async def filled(tokens: int = TOKENS) -> FaultyClient:
    client = make_pool()
    await client.upload([{"_id": f"t{n}"} for n in range(tokens)])
    return client


async def retried_once(token: Token) -> str:
    """Work that asks for a second try of one token."""
    await anyio.sleep(0.03)
    if token["_id"] == "t1" and not token.scrub_count:
        raise apicas.Retry("once more")
    return "worked"


class RetryingActor(apicas.RunActor):
    """An actor of that work."""

    process_token = staticmethod(retried_once)
