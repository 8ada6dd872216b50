"""The real pilots over the model of the server, in virtual time: what the model of the pilots is compared with.

`TimedClient` is a pool in memory whose requests take the time that the model says. All else is apicas itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from random import Random
from typing import Any, Literal, TypeVar

import anyio
import anyio.lowlevel
from typing_extensions import override

import apicas
from apicas._documents import Document
from apicas._runtime.keeping.keeper import Keeper
from apicas.actors import run_options, run_pilot, work_maker
from apicas.clients.couch.landing import Update
from apicas.clients.couch.stretches import MANY_LOST, Stretches
from apicas.clients.memory import MemoryClient
from apicas.clients.port import SaveResult, SaveStatus, ViewQuery, ViewRow
from apicas.testing import run_virtual
from apicas.testing.virtual import unix_time, virtual_environment, virtual_loop
from apicas.tokens import TokenState, state_of
from benchmarks.scaling.cases import Case, Measured, measured
from benchmarks.scaling.costs import Costs, Server
from benchmarks.scaling.pilot import Duration, Tally
from benchmarks.scaling.pool import Tokens
from benchmarks.scaling.server import Cores, CouchModel
from benchmarks.scaling.walk import Answer, id_of, locked_of, request_rows, todo_of

T = TypeVar("T")


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

    Its claims walk as a CouchClient's do, by the same code; what the index of the modelled server says is in `tokens`.

    Args:
        server: the model.
        tokens: of the pool, with ids that `id_of` gives them; kept up to date here.
        view: where claims look, as in Rules.
    """

    default_lease = 900.0

    def __init__(self, server: CouchModel, tokens: Tokens, view: Literal["head", "walk"]) -> None:
        super().__init__(now=unix_time)
        self._server = server
        self._tokens = tokens
        self._view_kind = view
        self._stretches = Stretches(self._ask_todo, self._ask_locked, self._read, virtual_loop().time)
        self._locked_at: dict[str, float] = {}

    @override
    def fork(self) -> TimedClient:
        fork = TimedClient(self._server, self._tokens, self._view_kind)
        fork._pool, fork._locked_at = self._pool, self._locked_at
        return fork

    @override
    def portion(self, view: str, wanted: int) -> int:
        return self._stretches.portion(wanted) if self._view_kind == "walk" else wanted

    @override
    async def sample(
        self, view: str, limit: int, place: float, *, window: int = 0, fresh: bool = False
    ) -> list[Document]:
        if self._view_kind == "walk":
            return await self._stretches.sample(limit, place, window=window, fresh=fresh)
        rows = await self.query(view, ViewQuery(limit=max(window, limit), reduce=False))
        ids = [row.id for row in rows if row.id is not None]
        start = int(place * len(ids))
        ids = (ids[start:] + ids[:start])[:limit]
        return [document for document in await self.get(ids) if document is not None] if ids else []

    async def _ask_todo(self, parameters: Mapping[str, Any], update: Update) -> Answer:
        return await self._ask(lambda: todo_of(self._tokens, parameters), update)

    async def _ask_locked(self, parameters: Mapping[str, Any], update: Update) -> Answer:
        return await self._ask(lambda: locked_of(self._tokens, parameters), update)

    async def _ask(self, look: Callable[[], Answer], update: Update) -> Answer:
        answers: list[Answer] = []
        await _wait(request_rows(self._server, self._tokens, update, look, answers))
        return answers[-1]

    async def _read(self, ids: Sequence[str]) -> dict[str, Document]:
        documents = await self.get(ids)
        return {document["_id"]: document for document in documents if document is not None}

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
        earlier = [self._locked_at.pop(one["_id"], -inf) for one in documents if one.get("done")]

        def apply() -> None:
            results.extend(at_once(super(TimedClient, self).save(documents)))
            self._mirror([one for one, result in zip(documents, results, strict=True) if result.written])

        await _wait(lambda done: self._server.write(len(documents), apply, done, kind=kind, earlier=earlier))
        if len(documents) < MANY_LOST * sum(result.status is SaveStatus.CONFLICT for result in results):
            self._stretches.leave()
        return results

    def _mirror(self, written: Sequence[Mapping[str, Any]]) -> None:
        """Let the modelled tokens be as those that were written."""
        now = virtual_loop().time()
        for document in written:
            token, state = int(document["_id"]), state_of(document)
            if state is TokenState.TODO:
                self._tokens.release([token])
            elif state is TokenState.LOCKED:
                if self._tokens.lock([token], now):
                    self._locked_at[document["_id"]] = now
            else:
                self._tokens.finish([token])


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
    model = CouchModel(loop, costs, server)
    tally, last = Tally(), 0.0
    client = TimedClient(model, Tokens(case.tokens), case.rules.view)
    async with client:
        await _Plain(client).upload({"_id": id_of(number)} for number in range(case.tokens))

        async def pilot(number: int) -> None:
            nonlocal last
            await anyio.lowlevel.checkpoint()
            rng, cores = Random(f"{case.seed} {number}"), Cores(loop, 1)
            environment = virtual_environment(f"pilot-{number}", seed=hash((case.seed, number)))
            iterator = apicas.BasicViewIterator(
                client.fork(), linger=False, outbox=False, environment=environment, lock_timeout=case.lease
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
