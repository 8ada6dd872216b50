"""`apicas heal`: give tokens that a cluster stores in several versions one version again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from apicas.cli.exits import ExitCode
from apicas.cli.parameters import DryRunOption, OutboxOption, PoolOption, YesOption
from apicas.cli.terminal import agree, plural, say, tell

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from apicas._runtime.keeping.healer import Healing
    from apicas.clients.base import PoolClient
    from apicas.configuration import Configuration

EPILOG = """\b
On a CouchDB cluster two writers may get at a token at the same moment, each on another node. The token then has
several versions, of which the cluster shows one. Running pilots heal that by themselves: a token whose versions have
not changed for the length of a lease keeps the one that is furthest in its life; the others are deleted, and results
on them are kept aside (`apicas flush --list`). This command does the same, and needs as long. Other pools have such
tokens only where databases are replicated into each other.

\b
Without pilots nobody changes a version, and waiting is no use: --now. With pilots, --now may delete the version that
a pilot works on; its work is then lost, and done again.

\b
Examples:
  apicas heal --dry-run
  apicas heal
  apicas heal --now
"""

_SHOWN: Final = 20
"""Tokens that a dry run lists; the others are counted."""
_VAIN_LOOKS: Final = 10
"""Looks that heal nothing, four in a lease, before it gives up: more than a token needs that nobody writes to."""
_PAUSE: Final = 1.0
"""Seconds between looks that wait for nothing: replicas tell each other of deletions in much less."""


def heal(
    *,
    pool: PoolOption = None,
    outbox: OutboxOption = None,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for the length of a lease. Only when no pilot runs.")
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Heal tokens that a CouchDB cluster stores in several versions."""
    import asyncio

    from apicas.cli.opening import configured

    asyncio.run(_heal(configured(pool), outbox, now=now, dry_run=dry_run, yes=yes))


async def _heal(
    configuration: Configuration, outbox: str | Path | None, *, now: bool, dry_run: bool, yes: bool
) -> None:
    from apicas.cli.opening import opened, patiently

    async with opened(configuration) as client:
        ids = await patiently(client.conflicted)
        if not ids:
            say(f"nothing to heal in {client.address}")
        elif dry_run:
            await _list(client, ids)
        else:
            if now:
                agree(f"Heal {plural(len(ids))} of {client.address} at once? No pilot may run meanwhile.", yes=yes)
            await _heal_all(client, outbox or configuration.outbox, len(ids), now=now)


async def _list(client: PoolClient, ids: list[str]) -> None:
    from apicas.cli.opening import patiently
    from apicas.policies.merging import heal_order

    for token_id, leaves in zip(ids[:_SHOWN], await patiently(lambda: client.leaves(ids[:_SHOWN])), strict=True):
        if len(leaves) > 1:
            keep, *others = heal_order(leaves)
            say(f"{token_id}: would keep {_described(keep)}, delete {', '.join(map(_described, others))}")
    if len(ids) > _SHOWN:
        say(f"and {plural(len(ids) - _SHOWN, 'more token')}")


def _described(leaf: Mapping[str, Any]) -> str:
    from apicas.tokens import generation_of, state_of

    return f"{state_of(leaf)} (generation {generation_of(leaf)}, {leaf['_rev'].partition('-')[0]} writes)"


async def _heal_all(client: PoolClient, outbox: str | Path | None, number: int, *, now: bool) -> None:
    import anyio

    from apicas._runtime.environment import real_environment
    from apicas._runtime.keeping.healer import Healer, Healing
    from apicas._runtime.outbox.aside import LostVersions
    from apicas._runtime.outbox.disk import outbox_for
    from apicas.cli.opening import patiently
    from apicas.policies.leases import LeaseTimes

    times = LeaseTimes(lease=client.default_lease)
    environment, total = real_environment(), Healing()
    healer, box = Healer(client, times, environment), outbox_for(outbox, client.address)
    if box is not None:
        healer.aside = LostVersions(box, client.address, environment.owner, client.time)
    if not now:
        tell(f"watching {plural(number)} for the length of a lease, {times.lease:g} s, or longer if they say so")
    vain = 0
    while vain < _VAIN_LOOKS:
        healing = await patiently(lambda: healer.run_once(now=now))
        total.add(healing)
        if not total.conflicted:
            break
        vain = 0 if healing.healed else vain + 1
        await anyio.sleep(_PAUSE if now else times.sweep)
    conclude(total)


def conclude(total: Healing) -> None:
    """Say what was done.

    Raises:
        typer.Exit: some tokens were left as they are.
    """
    say(f"healed {plural(len(total.healed))}, {plural(total.discarded, 'version')} deleted")
    if total.kept_aside:
        tell(f"{plural(total.kept_aside, 'result')} on deleted versions kept aside: see `apicas flush --list`")
    if total.conflicted:
        tell(f"{plural(total.conflicted)} not healed: something still writes to them; pilots heal them at the end")
        raise typer.Exit(ExitCode.INCOMPLETE)
