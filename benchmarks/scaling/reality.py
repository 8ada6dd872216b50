"""The real pilots over the model of the server, in virtual time: what the model of the pilots is compared with.

`TimedClient` is a pool in memory whose requests take the time that the model says. All else is apicas itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final, Literal, TypeVar

import anyio
import anyio.lowlevel
from typing_extensions import override

import apicas
from apicas._documents import Document
from apicas._runtime.keeper import Keeper
from apicas.actors import run_options, run_pilot, work_maker
from apicas.clients.memory import MemoryClient
from apicas.clients.port import SaveResult, ViewQuery, ViewRow
from apicas.testing import run_virtual
from apicas.testing.virtual import unix_time, virtual_environment, virtual_loop
from benchmarks.scaling.cases import Case, Measured, measured
from benchmarks.scaling.costs import Costs, Server
from benchmarks.scaling.pilot import Duration, Tally
from benchmarks.scaling.server import Cores, CouchModel

T = TypeVar("T")
_SPREAD: Final = 2654435761
"""Times a number it spreads over 32 bits."""


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine that waits for nothing returns."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a pool in memory made somebody wait")


async def _wait(ask: Callable[[Callable[..., object]], object]) -> None:
    answered = asyncio.Event()
    ask(answered.set)
    await answered.wait()


class TimedClient(MemoryClient):
    """A pool in memory, behind the model of a server.

    Args:
        server: the model.
        view: where claims look, as in Rules.
    """

    default_lease = 900.0

    def __init__(self, server: CouchModel, view: Literal["head", "spread"]) -> None:
        super().__init__(now=unix_time)
        self._server = server
        self._view_kind = view

    @override
    def fork(self) -> TimedClient:
        fork = TimedClient(self._server, self._view_kind)
        fork._pool = self._pool
        return fork

    @override
    async def sample(self, view: str, limit: int, place: float, *, window: int = 0, **options: Any) -> list[Document]:
        ids: list[str] = []

        def list_them() -> int:
            head = self._view_kind == "head"
            ids.extend(self._rows(view, max(window, limit)) if head else self._stretch(view, limit, place))
            return len(ids)

        await _wait(lambda done: self._server.rows(list_them, done))
        if self._view_kind == "head":
            start = int(place * len(ids))
            ids = (ids[start:] + ids[:start])[:limit]
        return [document for document in await self.get(ids) if document is not None] if ids else []

    def _rows(self, view: str, limit: int, start_key: str = "") -> list[str]:
        query = ViewQuery(limit=limit, reduce=False, start_key=start_key)
        return [row.id for row in at_once(super().query(view, query)) if row.id is not None]

    def _stretch(self, view: str, limit: int, place: float) -> list[str]:
        """Ids from a place on, and on from the beginning; they are spread over the keys as hashes are."""
        ids = self._rows(view, limit, f"{int(place * 2**32):08x}")
        more = self._rows(view, limit - len(ids)) if len(ids) < limit else []
        return list(dict.fromkeys(ids + more))

    @override
    async def get(self, ids: Sequence[str]) -> list[Document | None]:
        await _wait(lambda done: self._server.bodies(len(ids), done))
        return await super().get(ids)

    @override
    async def query(self, view: str, query: ViewQuery) -> list[ViewRow]:
        rows: list[ViewRow] = []

        def list_them() -> int:
            rows.extend(at_once(super(TimedClient, self).query(view, query)))
            return len(rows)

        await _wait(lambda done: self._server.rows(list_them, done))
        if query.include_docs and rows:
            await _wait(lambda done: self._server.bodies(len(rows), done))
        return rows

    @override
    async def save(self, documents: Sequence[Mapping[str, Any]]) -> list[SaveResult]:
        results: list[SaveResult] = []
        kind = "commit" if documents and documents[0].get("done") else "write"

        def apply() -> None:
            results.extend(at_once(super(TimedClient, self).save(documents)))

        await _wait(lambda done: self._server.write(len(documents), apply, done, kind=kind))
        return results


@dataclass(slots=True)
class _Watch:
    """Counts what the claims of a keeper won and lost."""

    tally: Tally

    def over(self, keeper: Keeper) -> None:
        run_once = keeper.claimer.run_once

        async def watched(*arguments: Any, **options: Any) -> Any:
            began = virtual_loop().time()
            claimed = await run_once(*arguments, **options)
            self.tally.won += len(claimed.leases)
            self.tally.lost += claimed.lost
            if claimed.leases:
                self.tally.latencies.append(virtual_loop().time() - began)
            return claimed

        keeper.claimer.run_once = watched  # type: ignore[method-assign]  # whoever made it knows nothing of us


def measure_real(case: Case, costs: Costs, server: Server, duration: Duration) -> Measured:
    """Run a case with apicas's own pilots until its tokens are done."""
    result: list[Measured] = []

    async def main() -> None:
        result.append(await _measure(case, costs, server, duration))

    run_virtual(main)
    return result[0]


async def _measure(case: Case, costs: Costs, server: Server, duration: Duration) -> Measured:
    loop = virtual_loop()
    model = CouchModel(loop, costs, server, own_views=case.rules.view == "spread")
    tally, last = Tally(), 0.0
    client = TimedClient(model, case.rules.view)
    async with client:
        await _Plain(client).upload({"_id": f"{number * _SPREAD % 2**32:08x}"} for number in range(case.tokens))

        async def pilot(number: int) -> None:
            nonlocal last
            await anyio.lowlevel.checkpoint()
            rng, cores = Random(f"{case.seed} {number}"), Cores(loop, 1)
            environment = virtual_environment(f"pilot-{number}", seed=hash((case.seed, number)))
            iterator = apicas.BasicViewIterator(
                client, linger=False, outbox=False, environment=environment, lock_timeout=case.lease
            )

            async def work(_token: apicas.Token) -> None:
                seconds = duration(rng)
                if seconds:
                    await anyio.sleep(seconds)
                else:
                    await _wait(lambda done: cores.run(costs.pilot_token, done))

            async with iterator:
                _Watch(tally).over(iterator.keeper)
                options = run_options({"workers": case.workers})
                report = await run_pilot(iterator, work_maker(work, iterator), options)
                tally.ended += report.done
                last = max(last, loop.time())

        async with anyio.create_task_group() as group:
            for number in range(case.pilots):
                group.start_soon(pilot, number)
    return replace(measured(case, model, tally, last), whole=True)


class _Plain(MemoryClient):
    """The same pool, whose requests take no time."""

    def __init__(self, client: TimedClient) -> None:
        super().__init__(now=unix_time, _pool=client._pool)  # noqa: SLF001 - as a fork has it
