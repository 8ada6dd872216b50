"""What the simulation has found, each as short as it could be made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import anyio
import pytest

from apicas._runtime.keeping.branches import read_own
from apicas._runtime.keeping.leases import Lease
from apicas.clients.port import Client
from apicas.iterators import BasicViewIterator
from apicas.modifiers import BasicTokenModifier, Claim, Owner
from apicas.policies.fence import Standing, standing
from apicas.testing import ReplicatedClient, ReplicatedStore, run_virtual, virtual_environment
from apicas.tokens import new_token

LEASE = 20.0


def test_a_token_that_is_claimed_anew_is_waited_for() -> None:
    """Its last lock is another one than the pilot saw first, but nobody has shown that he lives behind it.

    Every pilot of a cluster left, and a claim that a minority had taken stayed locked for ever.
    """

    async def main() -> None:
        store = ReplicatedStore(1)
        client = ReplicatedClient(store, "one")
        modifier = BasicTokenModifier()

        async def claim(name: str) -> None:
            (document,) = await client.get(["t"])
            assert document is not None
            owner = Owner(pilot=name, hostname=name)
            modifier.lock(document, Claim(claim_id=name, owner=owner, now=client.time(), lease=LEASE))
            (result,) = await client.save([document])
            assert result.written

        await client.upload([{"_id": "t"}])
        await claim("first")
        environment = virtual_environment("one")
        async with BasicViewIterator(client, lock_timeout=LEASE, environment=environment, retry_delay=0.0) as tokens:
            assert (await tokens.keeper.sweep()).unaccounted == {"t"}
            await client.edit("t", lambda token: modifier.release(token, client.time()))
            await claim("second")  # and is gone the moment after
            assert (await tokens.keeper.sweep()).unaccounted == {"t"}
            with anyio.fail_after(4 * LEASE):
                assert [token.id async for token in tokens] == ["t"]

    run_virtual(main)


class TwoLeaves:
    """A cluster that has two versions of one token."""

    replicated = True

    def __init__(self, *leaves: dict[str, Any]) -> None:
        self._leaves = leaves

    async def leaves(self, ids: Sequence[str]) -> list[list[dict[str, Any]]]:
        return [[dict(leaf) for leaf in self._leaves] for _ in ids]


@pytest.mark.parametrize("ended", [False, True])
async def test_a_pilot_stands_down_for_a_picas_pilot_on_another_branch(ended: bool) -> None:
    """PiCaS locked over a held token on two replicas, and perhaps ended it, when a beat arrived at the third.

    The owner took its beat for a sign that it still held the token, and both worked it. Seeds 1351 and 8765.
    """
    modifier = BasicTokenModifier()
    owner = Owner(pilot="one", hostname="node")
    claimed = modifier.lock(
        {**new_token({}, "t"), "_rev": "1-a"}, Claim(claim_id="c", owner=owner, now=1.8e9, lease=LEASE)
    )
    beat = {**modifier.refresh(dict(claimed), 1.8e9 + 5), "_rev": "3-beat"}
    picas = {**claimed, "lock": 1_800_000_004, "hostname": "other", "_rev": "3-picas"}
    if ended:
        picas |= {"done": 1_800_000_006, "exit_code": 0}
    lease = Lease("t", "c", stored=claimed, base=claimed, refreshed=0.0, began=0.0)
    for leaves in ([beat, picas], [picas, beat]):
        (document,) = await read_own(cast("Client", TwoLeaves(*leaves)), [lease])
        assert standing(lease.stored, document, "c") is Standing.LOST
    (document,) = await read_own(cast("Client", TwoLeaves(beat, {**beat, "_rev": "3-other"})), [lease])
    assert standing(lease.stored, document, "c") is Standing.OURS
