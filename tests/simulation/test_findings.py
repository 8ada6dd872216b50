"""What the simulation has found, each as short as it could be made."""

from __future__ import annotations

import anyio

from apicas.iterators import BasicViewIterator
from apicas.modifiers import BasicTokenModifier, Claim, Owner
from apicas.testing import ReplicatedClient, ReplicatedStore, run_virtual, virtual_environment
from tests.simulation.scenario import Attempt, Fault, PilotPlan, Plan, TokenPlan
from tests.simulation.world import run_plan

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


def test_a_pilot_stands_down_for_a_picas_pilot_on_another_branch() -> None:
    """PiCaS locked over a held token on two replicas, a beat arrived at the third: the owner went on on its branch."""
    plan = Plan(
        seed=1351,
        replicas=3,
        hop=0.1,
        spread=0.5,
        tokens=(TokenPlan("t0", 0.0, (Attempt("return", 52.0), Attempt("return", 14.0))),),
        pilots=(
            PilotPlan("p0", 0, 10.46, 1),
            PilotPlan("p1", 2, 18.77, 2, 40.0),
            PilotPlan("p2", 0, 0.0, 1),
            PilotPlan("p3", 1, 0.0, 1),
        ),
        faults=(Fault("picas", 15.688, "t0", 57.601),),
    )
    result = run_plan(plan)
    assert any("is told unknown of t0" in line and "p3" in line for line in result.lines), "no split any more"
    assert not result.violations
