"""Where claims begin in a view of CouchDB, and how they go on: against one in memory, as stale as a real one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apicas._documents import Document
from apicas.clients.couch.landing import Ask, Update
from apicas.clients.couch.stretches import LEAST, MET, PORTIONS, PORTIONS_ALONE, Stretches
from apicas.exceptions import ViewNotFoundError
from apicas.testing import run_virtual

T = TypeVar("T")


class Server:
    """Tokens, and views of those in todo and of locked ones, which are as old as the last question that renewed them.

    Args:
        ids: of the tokens.
        says_ranks: whether answers say the rank of their first row; PouchDB's say 0.
        key: of a row, by id.
    """

    def __init__(
        self, ids: Sequence[str], *, says_ranks: bool = True, key: Callable[[str], Any] = lambda token_id: token_id
    ) -> None:
        self.key = key
        self.says_ranks = says_ranks
        self.locks = dict.fromkeys(ids, 0)
        self.now = 0.0
        self.asked: list[tuple[Mapping[str, Any], Update]] = []
        self._index()

    def _index(self) -> None:
        self._todo = sorted((self.key(token_id), token_id) for token_id, lock in self.locks.items() if not lock)
        self._locked = sorted((token_id, token_id) for token_id, lock in self.locks.items() if lock)

    async def ask_todo(self, parameters: Mapping[str, Any], update: Update) -> Mapping[str, Any]:
        self.asked.append((parameters, update))
        if update == "true":
            self._index()
        answer = self._answer(self._todo, parameters)
        if update == "lazy":
            self._index()
        return answer

    async def ask_locked(self, parameters: Mapping[str, Any], update: Update) -> Mapping[str, Any]:
        assert update == "false"  # the two views are of one index
        return self._answer(self._locked, parameters)

    def _answer(self, rows: list[tuple[Any, str]], parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        asked = dict(parameters)
        limit = asked.pop("limit")
        low, high = 0, len(rows)
        if asked.pop("descending", False):
            if "startkey" in asked:
                high = bisect_left(rows, (asked.pop("startkey"), "\x7f"))
            chosen = rows[max(0, high - limit) : high][::-1]
        else:
            if "startkey" in asked:
                low = bisect_left(rows, (asked.pop("startkey"), asked.pop("startkey_docid", "")))
            if "endkey" in asked:
                assert asked.pop("inclusive_end") is False
                high = bisect_left(rows, (asked.pop("endkey"), ""))
            chosen = rows[low : min(high, low + limit)]
        assert not asked
        return {
            "total_rows": len(rows),
            "offset": low if self.says_ranks else 0,
            "rows": [{"id": token_id, "key": key, "value": None} for key, token_id in chosen],
        }

    async def read(self, ids: Sequence[str]) -> dict[str, Document]:
        return {one: {"_id": one, "type": "token", "lock": self.locks[one], "done": 0} for one in ids}

    def client(self, ask_locked: Ask | None = None) -> Stretches:
        return Stretches(self.ask_todo, ask_locked or self.ask_locked, self.read, lambda: self.now)

    def lock(self, documents: Sequence[Document]) -> list[str]:
        ids = [document["_id"] for document in documents]
        for one in ids:
            assert not self.locks[one]
            self.locks[one] = 1
        return ids

    @property
    def left(self) -> set[str]:
        return {one for one, lock in self.locks.items() if not lock}


def numbered(number: int) -> list[str]:
    return [f"t{index:06}" for index in range(number)]


def hexadecimal(number: int) -> list[str]:
    rng = Random(number)
    return sorted(f"{rng.getrandbits(64):016x}" for _ in range(number))


async def sample(client: Stretches, limit: int, place: float = 0.4, window: int = 64) -> list[Document]:
    return await client.sample(limit, place, window=window, fresh=True)


def run(work: Coroutine[Any, Any, T]) -> T:
    return run_virtual(lambda: work)


IDS = st.builds(
    lambda make, number: make(number), st.sampled_from([numbered, hexadecimal]), st.integers(0, 400) | st.just(3000)
)


@settings(max_examples=60)
@given(IDS, st.integers(1, 100), st.booleans(), st.floats(0, 1, exclude_max=True), st.floats(0, 3))
def test_one_client_finds_each_token_once(
    ids: list[str], limit: int, says_ranks: bool, place: float, pause: float
) -> None:
    """However long it takes between its samples, and however old the index is by then."""
    server = Server(ids, says_ranks=says_ranks)

    async def work() -> None:
        client = server.client()
        while documents := [one for one in await sample(client, limit, place) if not one["lock"]]:
            left = len(server.left)
            server.lock(documents)
            server.now += pause
            assert len(documents) == min(limit, left)

    run(work())
    assert not server.left


@settings(max_examples=60)
@given(IDS, st.lists(st.integers(1, 60), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_clients_together_find_all(ids: list[str], limits: list[int], rng: Random) -> None:
    """Whatever the order in which they look, and what they do not get because others have it."""
    server = Server(ids)

    async def work() -> None:
        clients = {server.client(): limit for limit in limits}
        while clients:
            client = rng.choice(list(clients))
            free = [one for one in await sample(client, clients[client], rng.random()) if not one["lock"]]
            server.lock(free)
            server.now += rng.choice((0.0, 0.1, 5.0))
            if not free:
                assert not server.left  # "none" is only said where there are none
                del clients[client]

    run(work())
    assert not server.left


def test_neighbours_are_given_out_and_pages_grow() -> None:
    """Some two requests for a thousand tokens, from one in the middle of the view round to it."""
    server = Server(numbered(4000))

    async def work() -> list[str]:
        client = server.client()
        return [one for _ in range(80) for one in server.lock(await sample(client, 50, 0.5))]

    found = run(work())
    start = server.asked.index(next(asked for asked in server.asked if asked[0].get("startkey")))
    assert abs(int(found[0][1:]) - 2000) <= 4000 / 16
    turned = found.index("t000000")
    assert found[turned:] + found[:turned] == numbered(4000)
    assert len(server.asked) - start <= 14


def test_only_the_first_question_waits_for_the_index() -> None:
    server = Server(numbered(4000))

    async def work() -> None:
        client = server.client()
        for _ in range(35):
            server.lock(await sample(client, 100))
            server.now += 0.15

    run(work())
    assert [update for _, update in server.asked].count("true") == 1
    assert {update for _, update in server.asked} == {"true", "false", "lazy"}


def test_the_server_indexes_while_the_last_rows_are_worked() -> None:
    """When the last page of a round has come, not when the rows are used up and a fresh answer is waited for."""
    server = Server(numbered(3800))

    async def work() -> None:
        client = server.client()
        while len(server.left) > 500:
            server.lock(await sample(client, 50, 0.5))

    run(work())
    assert server.asked[-1] == ({"limit": 0}, "lazy")
    assert [update for _, update in server.asked].count("true") == 1


def test_who_comes_back_after_a_while_looks_at_a_fresh_index() -> None:
    server = Server(numbered(4000))

    async def work() -> None:
        client = server.client()
        before = server.lock(await sample(client, 100))
        server.lock([{"_id": one} for one in sorted(server.left) if one > before[-1]][:300])  # others, meanwhile
        server.now += 60
        after = await sample(client, 100)
        assert not any(document["lock"] for document in after)
        assert server.asked[-1][1] == "true"

    run(work())


def test_who_meets_others_goes_elsewhere() -> None:
    server = Server(numbered(20_000))

    async def work() -> None:
        client = server.client()
        first = server.lock(await sample(client, 100, 0.1))
        server.lock([{"_id": one} for one in sorted(server.left) if one > first[-1]][:3000])
        free = [one for one in await sample(client, 100, 0.6) if not one["lock"]]
        assert len(free) == 100
        assert abs(sorted(server.left).index(free[0]["_id"]) - 0.6 * len(server.left)) <= 20_000 / 16

    run(work())


def test_of_two_places_the_one_with_more_room_is_taken() -> None:
    """A token is locked just before the first place: whoever has it goes on there."""
    server = Server(numbered(20_000))
    server.lock([{"_id": f"t{index:06}"} for index in range(7900, 8000)])
    (first, *_) = run(sample(server.client(), 50, 8010 / 20_000))
    assert not 7900 < int(first["_id"][1:]) < 9000


def test_portions_are_smaller_among_others_and_near_the_end() -> None:
    server = Server(numbered(6400))
    client = server.client()
    assert client.portion(1000) == 1000  # nothing is known yet
    run(sample(client, 10))
    assert client.portion(1000) == 6400 // PORTIONS_ALONE
    assert client.portion(3) == 3
    client.leave()
    assert client.portion(1000) == 6400 // PORTIONS
    server.now += MET
    assert client.portion(1000) == 6400 // PORTIONS_ALONE
    few = Server(numbered(20)).client()
    run(sample(few, 1))
    assert few.portion(1000) == LEAST


def test_others_are_noticed_by_what_is_gone() -> None:
    """Without a single race lost."""
    server = Server(numbered(20_000))

    async def work() -> None:
        client = server.client()
        before = client.portion(1000), server.lock(await sample(client, 100, 0.0))
        server.lock([{"_id": one} for one in sorted(server.left, reverse=True)][:5000])
        server.now += 1.5
        for _ in range(20):
            server.lock(await sample(client, 100))
            server.now += 0.2
        assert before[0] == 1000
        assert client.portion(1000) <= 20_000 // PORTIONS

    run(work())


def test_a_view_whose_keys_mean_something_is_claimed_from_its_beginning() -> None:
    """They may say who comes first. A window is read, and nobody lands elsewhere, or remembers rows."""
    server = Server(numbered(5000), key=lambda token_id: [9 - int(token_id[-1]), token_id])

    async def work() -> list[str]:
        client = server.client()
        found = [one for _ in range(5) for one in server.lock(await sample(client, 50, 0.7, window=100))]
        server.locks["a9"] = 0  # urgent, and new
        server.now += 0.1
        return [*found, *server.lock(await sample(client, 250, 0.0, window=250))]

    found = run(work())
    assert {one[-1] for one in found} == {"9"}
    assert "a9" in found
    assert len([1 for _, update in server.asked if update == "false"]) <= 1


def test_a_pool_without_monitors_views_has_room_everywhere() -> None:
    server = Server(numbered(5000))

    async def missing(parameters: Mapping[str, Any], update: Update) -> Mapping[str, Any]:
        raise ViewNotFoundError("no such view")

    assert len(run(sample(server.client(missing), 50))) == 50


def test_what_a_place_was_left_for_is_not_read_into_the_next_one() -> None:
    """Others are met while a page is on its way."""
    server = Server(numbered(20_000))
    clients: list[Stretches] = []

    def leaving(ask: Ask) -> Callable[[Mapping[str, Any], Update], Awaitable[Mapping[str, Any]]]:
        async def left(parameters: Mapping[str, Any], update: Update) -> Mapping[str, Any]:
            answer = await ask(parameters, update)
            if "startkey_docid" in parameters and len(server.asked) < 12:
                clients[0].leave()
            return answer

        return left

    async def work() -> None:
        clients.append(Stretches(leaving(server.ask_todo), server.ask_locked, server.read, lambda: server.now))
        for place in (0.1, 0.5, 0.9):
            documents = await sample(clients[0], 200, place)
            assert len(server.lock(documents)) == 200

    run(work())


@pytest.mark.parametrize("number", [0, 1, 5])
def test_a_small_view_is_read_whole(number: int) -> None:
    server = Server(numbered(number))
    assert len(run(sample(server.client(), 10))) == number
    assert len(server.asked) <= 2
