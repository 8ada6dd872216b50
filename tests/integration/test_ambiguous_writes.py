"""Writes of which nobody knows whether they happened: every fault on every kind of write, through a proxy.

After the fault the pool and the pilot agree: nothing is lost, done twice, or locked by nobody; the counts are exact.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final, TypeVar

import pytest

from apicas._documents import Document
from apicas._runtime.environment import Environment
from apicas._runtime.keeping.keeper import Keeper
from apicas._runtime.keeping.outcomes import Cut, Returned
from apicas.clients.couch import CouchClient
from apicas.clients.couch.designs import OWN_NAME, own_views
from apicas.exceptions import InvalidTokenError, PoolUnavailableError
from apicas.iterators import BasicViewIterator
from apicas.modifiers import BasicTokenModifier, Claim, Owner
from apicas.policies.retries import Backoff
from apicas.tokens import Token, annex, claim_of
from apicas.views import monitor_design
from tests.couchdb import SERVERS, Server, server
from tests.faults.proxy import Exchange, Fault, FaultProxy

T = TypeVar("T")

AT_ONCE: Final = Backoff(first=0.001, most=0.01)
WRITE: Final = "POST */_bulk_docs"
TOKENS: Final = 3
LEASE: Final = 900.0

QUICK: Final = [fault for fault in Fault if fault not in {Fault.PASS, Fault.HANG}]
FAULTS: Final = [pytest.param((fault, False), id=fault.value) for fault in QUICK]
FAULTS.append(pytest.param((Fault.LATE, True), id="later"))
"""Each fault, but the one that costs a timeout; and a request that arrives only when its client has long gone on."""
SILENCE: Final = pytest.mark.parametrize("bench", [pytest.param((Fault.HANG, False), id="hang")], indirect=True)


@dataclass
class Clock:
    """Monotonic seconds, by hand."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Bench:
    """A pool on a server, a proxy in front of it, and the fault that one write is to get."""

    couch: Server
    database: str
    proxy: FaultProxy
    truth: CouchClient
    """Past the proxy."""
    fault: Fault
    later: bool
    clock: Clock = field(default_factory=Clock)

    def client(self) -> CouchClient:
        """A client through the proxy."""
        options: dict[str, Any] = {"timeout": 1.0} if self.fault is Fault.HANG else {}
        through = Server(self.proxy.url, self.couch.username, self.couch.password)
        return through.client(self.database, attempts=3, backoff=AT_ONCE, **options)

    def strike(self, *patterns: str) -> None:
        """Let the next request of each kind get the fault."""
        if self.later:
            self.proxy.hold()
        for pattern in patterns:
            self.proxy.script(pattern, self.fault)

    async def settle(self, times: int = 1) -> None:
        """Make sure that the fault has fired, and what is late has arrived."""
        self.proxy.deliver()
        assert self.proxy.fired[self.fault] == times
        if self.fault is Fault.LATE:
            await self.proxy.until(lambda: all(one.status for one in self.proxy.seen if one.fault is Fault.LATE))

    async def documents(self) -> list[Document]:
        """All documents of the pool but the design documents."""
        rows = self.couch.request("GET", f"{self.database}/_all_docs?include_docs=true")["rows"]
        return [row["doc"] for row in rows if not row["id"].startswith("_design/")]

    async def fill(self) -> None:
        """Put tokens into the pool."""
        report = await self.truth.upload({"_id": f"t{number}", "input": number} for number in range(TOKENS))
        assert report.uploaded == TOKENS

    def environment(self, *, alone: bool = False) -> Environment:
        """Clocks and dice; alone, every owner of another claim is gone."""
        return Environment(
            owner=Owner(pilot="one", hostname="here"),
            monotonic=self.clock,
            rng=Random(1),
            owner_is_gone=lambda _: alone,
            threads=False,
        )

    @asynccontextmanager
    async def pilot(self, **options: Any) -> AsyncIterator[Keeper]:
        """A pilot that has claimed nothing yet."""
        environment = options.pop("environment", None) or self.environment()
        async with (
            self.client() as client,
            BasicViewIterator(client, BasicTokenModifier(), environment=environment, **options) as iterator,
        ):
            yield iterator.keeper


@pytest.fixture(params=SERVERS)
def couch(request: pytest.FixtureRequest) -> Server:
    return server(request.config, request.param)


@pytest.fixture(params=FAULTS)
async def bench(request: pytest.FixtureRequest, couch: Server) -> AsyncIterator[Bench]:
    fault, later = request.param
    with couch.database() as database:
        couch.request("PUT", database)
        couch.request("PUT", f"{database}/_design/Monitor", monitor_design())
        couch.request("PUT", f"{database}/_design/{OWN_NAME}", {"language": "javascript", "views": own_views()})
        async with couch.client(database) as truth, FaultProxy(couch.url) as proxy:
            yield Bench(couch, database, proxy, truth, fault, later)


async def persist(operation: Callable[[], Awaitable[T]]) -> T:
    """Do again what the pool was not available for, as users and the command line do."""
    for _ in range(5):
        try:
            return await operation()
        except PoolUnavailableError:
            pass
    return await operation()


async def claim_all(keeper: Keeper) -> list[Token]:
    """Claim until all tokens are held, in a bounded number of attempts."""
    held: list[Token] = []
    for _ in range(5):
        tokens, _claimed = await keeper.claim("Monitor/todo", TOKENS)
        held += tokens
        if len(held) == TOKENS:
            break
    return held


def claims(tokens: list[Any]) -> dict[str, str | None]:
    """The claim by token; of a token or of a document."""
    documents = [token.document if isinstance(token, Token) else token for token in tokens]
    return {document["_id"]: claim_of(document) for document in documents}


# Each kind of write. --------------------------------------------------------------------------------------------------


async def test_upload(bench: Bench) -> None:
    """Every token is in the pool once, and counted once; no id is said to be taken."""
    contents: list[dict[str, Any]] = [{"input": 1}, {"_id": "mine", "input": [2, {"a": None}]}, {"input": 3}]
    bench.strike(WRITE)
    async with bench.client() as client:
        report = await client.upload(contents)
    await bench.settle()
    assert (report.uploaded, report.rejected, report.rejects) == (3, 0, [])
    assert sorted(str(document["input"]) for document in await bench.documents()) == ["1", "3", "[2, {'a': None}]"]


async def test_claim(bench: Bench) -> None:
    """What the pool says that the pilot holds is what it holds."""
    await bench.fill()
    async with bench.pilot() as keeper:
        bench.strike(WRITE)
        tokens = await claim_all(keeper)
        await bench.settle()
        assert len(tokens) == TOKENS
        assert claims(tokens) == claims(await bench.documents())
        assert all(annex(document)["generation"] == 1 for document in await bench.documents())
    assert [document["lock"] for document in await bench.documents()] == [0] * TOKENS


async def test_beat(bench: Bench) -> None:
    """The pilot goes on from what is stored, and loses nothing."""
    await bench.fill()
    async with bench.pilot() as keeper:
        tokens = await claim_all(keeper)
        bench.clock.seconds += LEASE / 2
        bench.strike(WRITE)
        async with bench.client() as client:
            for _ in range(3):
                await _beat(keeper, client)
        await bench.settle()
        assert keeper.held == TOKENS
        async with bench.client() as client:  # also after what came late
            bench.clock.seconds += LEASE / 2
            assert await _beat(keeper, client) + await _beat(keeper, client) <= TOKENS
        stored = await bench.documents()
        assert claims(stored) == claims(tokens)
        known = {lease.token_id: lease.stored for lease in keeper._leases}
        assert {document["_id"]: document for document in stored} == known
        assert {lease.refreshed for lease in keeper._leases} == {bench.clock.seconds}


async def _beat(keeper: Keeper, client: CouchClient) -> int:
    try:
        return await keeper._heartbeat.run_once(client)
    except TimeoutError:
        return TOKENS


async def test_commit(bench: Bench) -> None:
    """Each result is stored, and counted as done, once."""
    await bench.fill()
    async with bench.pilot() as keeper:
        tokens = await claim_all(keeper)
        bench.strike(WRITE)
        for token in tokens:
            keeper.give_back(token, Returned({"of": token.id}))
        await keeper.wait_until_written()
        await bench.settle()
        assert (keeper.tally.done, keeper.tally.lost, keeper.held) == (TOKENS, 0, 0)
    documents = await bench.documents()
    assert {document["_id"]: document["output"] for document in documents} == {t.id: {"of": t.id} for t in tokens}
    assert await bench.truth.counts() == {"todo": 0, "locked": 0, "done": TOKENS, "error": 0}
    assert {document["_rev"].partition("-")[0] for document in documents} == {"3"}


async def test_release(bench: Bench) -> None:
    """Each token is back in todo, and has been released once."""
    await bench.fill()
    async with bench.pilot() as keeper:
        tokens = await claim_all(keeper)
        bench.strike(WRITE)
        for token in tokens:
            keeper.give_back(token, Cut())
        await keeper.wait_until_written()
        await bench.settle()
        assert (keeper.tally.released, keeper.tally.lost, keeper.held) == (TOKENS, 0, 0)
    assert await bench.truth.counts() == {"todo": TOKENS, "locked": 0, "done": 0, "error": 0}
    assert [annex(document).get("releases") for document in await bench.documents()] == [1] * TOKENS


async def test_reclaim(bench: Bench) -> None:
    """A dead pilot's tokens come back, and each is charged for one crash."""
    await bench.fill()
    modifier, dead = BasicTokenModifier(), Owner(pilot="dead", hostname="there")
    claim = Claim(claim_id="c1", owner=dead, now=bench.truth.time(), lease=LEASE)
    results = await bench.truth.save([modifier.lock(document, claim) for document in await bench.documents()])
    assert all(result.written for result in results)
    bench.strike(WRITE)
    async with bench.pilot(environment=bench.environment(alone=True)) as keeper:
        for _ in range(3):
            await persist(keeper.sweep)
        await bench.settle()
    documents = await bench.documents()
    assert [document["lock"] for document in documents] == [0] * TOKENS
    assert {document["_rev"].partition("-")[0] for document in documents} == {"3"}


async def test_edit(bench: Bench) -> None:
    """A change that is no good to make twice is made once."""
    await bench.fill()

    def change(token: Token) -> None:
        token["count"] = token.get("count", 0) + 1

    bench.strike(WRITE)
    async with bench.client() as client:
        try:
            token = await client.edit("t1", change)
        except InvalidTokenError:  # a refusal is a clear answer, where it is read
            assert bench.fault is Fault.TOO_LARGE
            token = await client.edit("t1", change)
    await bench.settle()
    stored = await bench.truth.fetch("t1")
    assert (stored["count"], stored.rev) == (1, token.rev)


async def test_delete(bench: Bench) -> None:
    """What is deleted is gone, and counted."""
    await bench.fill()
    bench.strike(WRITE)
    async with bench.client() as client:
        assert await persist(lambda: client.delete_from_view("todo")) == TOKENS
    await bench.settle()
    assert await bench.documents() == []


async def test_attachment(bench: Bench) -> None:
    """A file is there, and the revision is the one that came of it; one that was refused can be put again."""
    await bench.fill()
    bench.strike("PUT */log*")
    async with bench.client() as client:
        document = await bench.truth.fetch("t1")
        result = await persist(lambda: client.put_attachment("t1", str(document.rev), "log.txt", b"some lines"))
        stored = await bench.truth.fetch("t1")
        if result.written:
            assert result.rev == stored.rev
        else:
            assert bench.fault is Fault.TOO_LARGE
            assert "_attachments" not in stored
            result = await client.put_attachment("t1", str(stored.rev), "log.txt", b"some lines")
            assert result.written
        await bench.settle()
        assert await client.get_attachment("t1", "log.txt") == b"some lines"
    assert (await bench.truth.fetch("t1")).rev == result.rev


SETUP = ["PUT /apicas-test-*[0-9a-f]", "PUT */_design?Monitor", "PUT */_design?apicas-*"]


@pytest.mark.parametrize("pattern", SETUP, ids=["database", "monitor", "own"])
async def test_setup(bench: Bench, pattern: str) -> None:
    """One setup, or a second one, leaves a pool that works."""
    bench.couch.drop(bench.database)
    bench.strike(pattern)
    async with bench.client() as client:
        report = await persist(client.setup)
        await bench.settle()
        assert (report.created, len(report.installed)) == (True, 2)
        assert await client.view("todo") == []
        assert await client.total() == 0
        again = await client.setup()
        assert (again.created, again.installed, again.kept) == (False, (), ())


# Reads. ---------------------------------------------------------------------------------------------------------------


READS: Final[dict[str, Callable[[CouchClient], Awaitable[Any]]]] = {
    "get": lambda client: client.get(["t0", "no"]),
    "leaves": lambda client: client.leaves(["t0", "no"]),
    "view": lambda client: client.view("todo", reduce=False),
    "sample": lambda client: client.sample("todo", 2, 0.5),
    "counts": lambda client: client.counts(),
    "total": lambda client: client.total(),
    "permissions": lambda client: client.permissions(),
    "attachments": lambda client: client.attachments("t0"),
}


@pytest.mark.parametrize("bench", [(fault, False) for fault in QUICK if fault is not Fault.TOO_LARGE], indirect=True)
async def test_reads(bench: Bench) -> None:
    """A read is repeated until its answer is one, or the pool is said to be away; nothing else comes of it."""
    await bench.fill()
    async with bench.client() as client:
        for number, (name, read) in enumerate(READS.items(), start=1):
            if name == "permissions" and bench.fault is Fault.PAGE:  # any object may be a security document
                continue
            expected = await read(bench.truth)
            bench.strike("GET */_security" if name == "permissions" else "POST *")
            # A page of somebody else's is noticed late, and not always read again.
            assert await (persist(partial(read, client)) if bench.fault is Fault.PAGE else read(client)) == expected
            assert bench.proxy.fired[bench.fault] >= number - 1


async def test_opening(bench: Bench) -> None:
    """The first request of a client is one that may fail, too."""
    bench.strike("GET *")
    client = bench.client()
    await persist(client.open)
    await bench.settle()
    try:
        assert await client.get(["no"]) == [None]
    finally:
        await client.aclose()


@SILENCE
async def test_a_claim_into_silence(bench: Bench) -> None:
    """A server that takes the request, and says nothing."""
    await test_claim(bench)


@SILENCE
async def test_a_commit_into_silence(bench: Bench) -> None:
    """The same, for results."""
    await test_commit(bench)


@pytest.mark.parametrize("bench", [(Fault.LATE, True)], indirect=True)
async def test_a_claim_that_arrives_after_everybody_gave_up(bench: Bench) -> None:
    """Its repetitions are lost, the hand-back too, once: then it comes to nothing when it arrives."""
    await bench.fill()
    async with bench.pilot() as keeper:
        bench.strike(WRITE)
        bench.proxy.script(WRITE, *[Fault.DROP_BEFORE] * 4)
        tokens, claimed = await keeper.claim("Monitor/todo", TOKENS)
        assert (tokens, claimed.leases) == ([], [])
        await keeper.wait_until_written()
        assert bench.proxy.fired[Fault.DROP_BEFORE] == 4
        await bench.settle()
        assert keeper.held == 0
        assert await bench.truth.counts() == {"todo": TOKENS, "locked": 0, "done": 0, "error": 0}


# Rivals. --------------------------------------------------------------------------------------------------------------

CARRIED_OUT: Final = pytest.mark.parametrize("bench", [(Fault.DROP_AFTER, False)], indirect=True)


def rival(bench: Bench, act: Callable[[], Awaitable[Any]]) -> None:
    """Let somebody else write between a write whose answer got lost and the next request."""

    async def meanwhile(_: Exchange) -> None:
        if any(one.fault is bench.fault and one.status for one in bench.proxy.seen):
            bench.proxy.meanwhile = None
            await act()

    bench.strike(WRITE)
    bench.proxy.meanwhile = meanwhile


@CARRIED_OUT
async def test_an_upload_of_what_is_claimed_at_once(bench: Bench) -> None:
    """Pilots wait for new tokens: by the time the upload looks they have changed, and are no strangers for that."""

    async def claim() -> None:
        for token in ("t0", "t1"):
            await bench.truth.edit(token, lambda token: token.update(lock=1_700_000_000, input="changed"))

    rival(bench, claim)
    async with bench.client() as client:
        report = await client.upload([{"_id": "t0", "input": 0}, {"_id": "t1"}, {"input": 2}])
    assert bench.proxy.meanwhile is None
    assert (report.uploaded, report.rejects) == (3, [])
    assert len(await bench.documents()) == 3


@CARRIED_OUT
async def test_an_upload_of_an_id_that_is_taken(bench: Bench) -> None:
    """A token that was there before is not taken for our own, though the answer got lost."""
    await bench.fill()
    bench.strike(WRITE)
    async with bench.client() as client:
        report = await client.upload([{"_id": "t0", "input": "another"}, {"_id": "new"}])
    assert report.uploaded == 1
    assert [(reject.id, reject.reason) for reject in report.rejects] == [("t0", "this id is in the pool already")]


@CARRIED_OUT
async def test_an_edit_that_is_edited_at_once(bench: Bench) -> None:
    """Both changes are made once, though the first had no answer, and what is stored is not what it wrote."""
    await bench.fill()

    def change(token: Token) -> None:
        token["count"] = token.get("count", 0) + 1

    rival(bench, lambda: bench.truth.edit("t1", change))
    async with bench.client() as client:
        await client.edit("t1", change)
    assert bench.proxy.meanwhile is None
    assert (await bench.truth.fetch("t1"))["count"] == 2
