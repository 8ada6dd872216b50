"""The simulated store is a client like any other, and behaves as the cluster that was measured."""

from __future__ import annotations

from collections import Counter

import anyio
import pytest

from apicas.clients.port import SaveStatus
from apicas.testing import CLIENT_CHECKS, ReplicatedClient, ReplicatedStore, run_virtual
from apicas.testing.conformance import Check


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("check", CLIENT_CHECKS, ids=lambda check: check.__name__)
def test_it_is_a_client(check: Check, replicas: int) -> None:
    """One duty, with clients connected to different replicas."""

    async def main() -> None:
        store = ReplicatedStore(replicas, seed=1)
        clients = iter(range(1000))

        def make_client() -> ReplicatedClient:
            number = next(clients)
            return ReplicatedClient(store, f"client {number}", number)

        await check(make_client)

    run_virtual(main)


async def race(replicas: int, *, spread: bool, paused: int | None = None, seed: int = 0) -> list[Counter[SaveStatus]]:
    """Four writers of one revision at one moment, a hundred times: how often each answer was given."""
    store = ReplicatedStore(replicas, seed=seed)
    clients = [ReplicatedClient(store, f"writer {n}", n if spread else 0) for n in range(4)]
    if paused is not None:
        clients = [client for client in clients if client.home != paused]
    await clients[0].upload([{"_id": f"t{n}"} for n in range(100)])
    await anyio.sleep(10)
    if paused is not None:
        store.pause_replica(paused)
    found = []
    for number in range(100):
        (document,) = await clients[0].get([f"t{number}"])
        assert document is not None
        answers: list[SaveStatus] = []

        async def write(client: ReplicatedClient, stored: dict[str, object], answers: list[SaveStatus]) -> None:
            (result,) = await client.save([{**stored, "input": client.name}])
            answers.append(result.status)

        async with anyio.create_task_group() as group:
            for client in clients:
                group.start_soon(write, client, document, answers)
        found.append(Counter(answers))
    return found


def test_of_four_writers_one_owns_or_none() -> None:
    """As measured on three nodes: several are told ok, at least one of them accepted; never two plain ones."""

    async def main() -> None:
        races = await race(3, spread=True)
        assert all(race[SaveStatus.WRITTEN] <= 1 for race in races)
        several = [race for race in races if race[SaveStatus.WRITTEN] + race[SaveStatus.UNKNOWN] > 1]
        assert 20 <= len(several) <= 90
        assert all(race[SaveStatus.UNKNOWN] for race in several)
        assert any(not race[SaveStatus.WRITTEN] for race in races)

    run_virtual(main)


def test_a_single_node_has_one_winner() -> None:
    async def main() -> None:
        races = await race(1, spread=True)
        assert all(race == {SaveStatus.WRITTEN: 1, SaveStatus.CONFLICT: 3} for race in races)

    run_virtual(main)


def test_with_a_stopped_node_a_split_has_no_owner() -> None:
    """Two nodes that took different writers are no majority for either."""

    async def main() -> None:
        races = await race(3, spread=True, paused=2)
        split = [race for race in races if race[SaveStatus.UNKNOWN]]
        assert split
        assert all(not race[SaveStatus.WRITTEN] for race in split if race[SaveStatus.UNKNOWN] > 1)
        assert all(race[SaveStatus.WRITTEN] <= 1 for race in races)

    run_virtual(main)
