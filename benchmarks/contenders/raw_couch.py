"""The least that a correct pilot asks of a CouchDB: rows of a view, bodies, locks in bulk, outcomes in bulk.

No runtime around it: nothing beats, nothing is retried, reclaimed or checked. A batch is claimed, each of its tokens
handed through a coroutine that does nothing, and committed. The view is fresh at each claim, so a loop sees none of its
own tokens twice. Processes that share a pool begin at a random key, and drop what another was quicker to lock. Two
loops of one process drop a few as well: a CouchDB that is being written to may answer, also with `update=true`, from
just before the last write that it confirmed.

`raw_couch` is one loop, `raw_couch_two` two of them in one process: while one claims, the other commits.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Mapping
from secrets import token_hex
from typing import Any, Final, TypeAlias

import aiohttp
import msgspec

from benchmarks.contenders.couch_pool import couch_pool
from benchmarks.contenders.processes import run_together, sample_of
from benchmarks.contenders.worker import Gate, run
from benchmarks.measuring import Sample, Trial

Document: TypeAlias = dict[str, Any]

BATCH: Final = 1000
"""Its best, of 50 to 2,000."""
_SMALLER: Final = 500
"""The best of two loops."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def measure(trial: Trial) -> Sample:
    """Measure one loop, or two."""
    loops = 2 if trial.contender == "raw_couch_two" else 1
    batch = trial.batch or (BATCH if loops == 1 else _SMALLER)
    with couch_pool(trial) as pool:
        ours = {"tokens": trial.tokens, "batch": batch, "loops": loops, "alone": trial.pilots == 1}
        started, reports = run_together(__spec__.name, [{**pool.settings(), **ours}] * trial.pilots)
    notes = [f"batches of {batch}; no heartbeat, no retry, no recovery"]
    return sample_of(trial, started, reports, upload_seconds=pool.upload_seconds, notes=notes)


def headers_for(settings: Mapping[str, Any]) -> dict[str, str]:
    """The headers of each request: JSON, not compressed, and who we are."""
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
    if settings["username"]:
        credentials = b64encode(f"{settings['username']}:{settings['password']}".encode()).decode()
        headers["Authorization"] = f"Basic {credentials}"
    return headers


class _Loop:
    """Claims and commits over one session.

    Args:
        session: to the server.
        settings: of the worker.
        gate: counts.
    """

    def __init__(self, session: aiohttp.ClientSession, settings: dict[str, Any], gate: Gate) -> None:
        self._session = session
        self._path = f"/{settings['database']}"
        self._batch = settings["batch"]
        self._alone = settings["alone"]
        self._gate = gate
        self._claims = asyncio.Lock()
        gate.extra.update(requests=0, sent=0, received=0, lost_races=0, latencies=[])

    async def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        async with self._session.request(method, f"{self._path}/{path}", data=body) as response:
            text = await response.read()
        extra = self._gate.extra
        extra["requests"] += 1
        extra["sent"] += len(body or b"")
        extra["received"] += len(text)
        if response.status >= 400:
            raise RuntimeError(f"{path.partition('?')[0]} answers {response.status}: {text[:200]!r}")
        return _decode(text)

    async def _rows(self) -> list[str]:
        """Ids of tokens in todo: from a random place on where there are other processes, else from the beginning."""
        path = f"_design/Monitor/_view/todo?reduce=false&limit={self._batch}"
        if not self._alone:
            answer = await self._ask("GET", f'{path}&startkey="token_{token_hex(4)}"')
            if answer["rows"]:
                return [row["id"] for row in answer["rows"]]
        answer = await self._ask("GET", path)
        return [row["id"] for row in answer["rows"]]

    async def _claim(self) -> tuple[bool, list[Document]]:
        """Lock a batch; answers whether there was anything in todo, and with what was won."""
        ids = await self._rows()
        if not ids:
            return False, []
        answer = await self._ask("POST", "_bulk_get", _encode({"docs": [{"id": one} for one in ids]}))
        now = int(time.time())
        locked = []
        for result in answer["results"]:
            document = result["docs"][0]["ok"]
            if document["lock"] == 0 and document["done"] == 0:
                document |= {"lock": now, "hostname": "raw", "exit_code": ""}
                document["apicas"] = {"claim": f"{now}-{document['_id']}", "generation": 1, "lock": now}
                locked.append(document)
        self._gate.extra["lost_races"] += len(ids) - len(locked)
        return True, await self._write(locked)

    async def _write(self, documents: list[Document]) -> list[Document]:
        """Write a batch; answers with what was written, with the new revisions."""
        rows = await self._ask("POST", "_bulk_docs", _encode({"docs": documents}))
        written = []
        for document, row in zip(documents, rows, strict=True):
            if row.get("ok") and not row.get("accepted"):
                document["_rev"] = row["rev"]
                written.append(document)
        self._gate.extra["lost_races"] += len(documents) - len(written)
        return written

    async def drain(self) -> None:
        """Work batch after batch until the pool is empty."""
        gate = self._gate
        while True:
            async with self._claims:  # two loops of one process do not race each other
                more, batch = await self._claim()
            if not more:
                return
            claimed = time.monotonic()
            for document in batch:
                await _noop(document)
            now = int(time.time())
            for document in batch:
                document |= {"done": now, "exit_code": 0}
                del document["apicas"]
            done = await self._write(batch)
            gate.acknowledged()
            gate.tally_all([document["input"] for document in done])
            gate.extra["latencies"].append(time.monotonic() - claimed)  # the same for each of them


async def _noop(document: Document) -> None:
    document["output"] = document["input"]


def work(settings: dict[str, Any], gate: Gate) -> None:
    """Run the loops of one process."""
    run(_work(settings, gate))


async def _work(settings: dict[str, Any], gate: Gate) -> None:
    async with aiohttp.ClientSession(settings["url"], headers=headers_for(settings)) as session:
        loop = _Loop(session, settings, gate)
        async with asyncio.TaskGroup() as group:
            await gate.opened()
            for _ in range(settings["loops"]):
                group.create_task(loop.drain())
