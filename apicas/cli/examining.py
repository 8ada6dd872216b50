"""What is looked at in every pool, and in a file. A server is looked at in examining_server."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from apicas.cli.exits import exit_code_of
from apicas.cli.findings import Finding, Findings, fine, skipped, wrong
from apicas.cli.terminal import plural
from apicas.exceptions import (
    AccessDeniedError,
    ApicasError,
    ConfigError,
    PoolError,
    PoolInUseError,
    PoolNotFoundError,
    PoolUnavailableError,
)
from apicas.tokens import TokenState
from apicas.views import STATES

if TYPE_CHECKING:
    from apicas.cli.holders import Holder
    from apicas.clients.base import PoolClient
    from apicas.configuration import Configuration

_LEAST_FREE: Final = 1 << 30
"""Bytes. A pool that cannot grow refuses every outcome."""
_SHOWN: Final = 3
"""Tokens that are named as examples."""


async def examine(configuration: Configuration, outbox: str | None) -> Findings:
    """Look at a pool. What cannot be looked at because of an error is a finding, too."""
    from apicas.cli.examining_server import examine_server

    look = examine_server(configuration) if configuration.is_remote else _examine_file(configuration)
    is_over = False
    try:
        async for finding in look:
            yield finding
            is_over = is_over or finding.is_last
    except ApicasError as error:
        yield wrong("pool", str(error), _advice(configuration, error), code=exit_code_of(error))
        return
    if not is_over:
        yield await _outbox(configuration, outbox)


def _advice(configuration: Configuration, error: ApicasError) -> str:
    """What to do about an error that no look expected."""
    if not configuration.is_remote and isinstance(error, ConfigError):
        return f"is that the right file? It is named by {configuration.source}"
    if not configuration.is_remote and isinstance(error, AccessDeniedError):
        return "whose pool is it? Its owner may let you in: a pilot, and who looks, write to the file and beside it"
    if not configuration.is_remote and isinstance(error, PoolUnavailableError):
        return "make room on that disk, or let those finish who use the file; then try again"
    return "try again; if it stays so, ask who runs the pool"


# A file. --------------------------------------------------------------------------------------------------------------


async def _examine_file(configuration: Configuration) -> Findings:
    from apicas.cli.opening import opened

    if not configuration.pool.startswith("sqlite:"):
        yield skipped("pool", "it is in the memory of one process: nothing of it can be seen from here")
        return
    path = _path(configuration)
    yield _file_system(path)
    yield _room(path)
    try:
        async with opened(configuration) as client:
            yield fine("database", f"{path} can be opened")
            async for finding in examine_tokens(client):
                yield finding
    except PoolNotFoundError as error:
        advice = "`apicas init`, or the first `apicas push`, makes the file; is the directory the right one?"
        yield wrong("database", str(error), advice, code=exit_code_of(error), is_last=True)
    except PoolInUseError as error:
        yield wrong("database", str(error), "wait for that process, or use CouchDB", code=exit_code_of(error))


def _path(configuration: Configuration) -> Path:
    return Path(unquote(configuration.pool.removeprefix("sqlite:///"))).expanduser().absolute()


def _file_system(path: Path) -> Finding:
    from apicas.clients.sqlite.file_systems import network_file_system

    kind = network_file_system(path.resolve())
    if kind is None:
        return fine("file system", f"{path.parent} is local: any number of processes of this node may use the file")
    return wrong(
        "file system",
        f"{path.parent} is on {kind}: one process at a time can use the file",
        "for more pilots put the file on a local disk of one node (--pool sqlite:////tmp/...), or use CouchDB",
    )


def _room(path: Path) -> Finding:
    there = next(parent for parent in path.parents if parent.exists())
    free = shutil.disk_usage(there).free
    text = f"{free / 1e9:,.1f} GB free in {there}"
    if free < _LEAST_FREE:
        return wrong("room", text, "make room, or move the pool: a pool that cannot grow takes no outcomes")
    return fine("room", text)


# Tokens. --------------------------------------------------------------------------------------------------------------


async def examine_tokens(client: PoolClient, *, counts_all: bool = True) -> Findings:
    """Look at the tokens of a pool.

    Args:
        client: the pool, open.
        counts_all: whether to count all tokens, which takes a pool that lacks our own views long.
    """
    from apicas.cli.opening import patiently

    counts = await patiently(client.counts)
    states = {state: counts.get(str(state), 0) for state in STATES}
    yield fine("tokens", ", ".join(f"{number:,} {state}" for state, number in states.items()))
    if counts_all:
        outside = await patiently(client.total) - sum(states.values())
        yield _outside(outside)
    else:
        yield skipped("tokens in no view", "to count them takes a view that `apicas init` installs, by an admin")
    async for finding in _locks(client, states[TokenState.LOCKED]):
        yield finding


def _outside(number: int) -> Finding:
    if number <= 0:
        return fine("tokens in no view", "none")
    return wrong(
        "tokens in no view",
        f"{plural(number)}: pilots leave them alone, since their lock, done or exit_code is missing or makes no sense",
        "`apicas explain TOKEN` says what is wrong with one; give it lock 0 and done 0 to have it worked",
    )


async def _locks(client: PoolClient, locked: int) -> Findings:
    from apicas.cli.holders import Sign, holders_in

    if not locked:
        yield fine("locks", "none")
        return
    found = await holders_in(client)
    alive = [holder for holder in found if holder.sign is Sign.ALIVE]
    lost = [holder for holder in found if holder.sign in {Sign.SILENT, Sign.GONE}]
    foreign = [holder for holder in found if holder.sign is Sign.FOREIGN]
    names = [token for holder in lost for token in holder.stuck(client.time())]
    yield fine("locks", f"{plural(len(alive), 'pilot')} at work on {plural(_number(alive))}")
    if lost:
        examples = ", ".join(names[:_SHOWN])
        yield wrong(
            "stale locks",
            f"{plural(len(names))} of {plural(len(lost), 'pilot')} without a sign of life, as {examples}",
            "any running pilot puts them back to todo, so start one (`apicas run ...`); without one: `apicas reset "
            f"locked --older-than {max(client.default_lease, 60):.0f}s`",
        )
    if foreign:
        yield _foreign(foreign, client.time())


def _foreign(found: list[Holder], now: float) -> Finding:
    old = [token for holder in found for token in holder.stuck(now)]
    if not old:
        return fine("locks of other tools", f"{plural(_number(found))}, none older than two days")
    return wrong(
        "locks of other tools",
        f"{plural(len(old))} held by another tool, as PiCaS, for more than two days, as {', '.join(old[:_SHOWN])}",
        "if nothing works on them: `apicas reset locked --older-than 48h`, or pilots with --foreign-lock-timeout 48h",
    )


def _number(found: list[Holder]) -> int:
    return sum(len(holder.tokens) for holder in found)


# The outbox. ----------------------------------------------------------------------------------------------------------


async def _outbox(configuration: Configuration, outbox: str | None) -> Finding:
    from apicas._runtime.outbox.disk import outbox_for

    try:
        box = outbox_for(outbox or configuration.outbox, configuration.connect(create=False).address)
        if box is None:
            return skipped("outbox", "this pool has none")
        waiting, lost = len(await box.names()), len(await box.lost())
    except (ConfigError, PoolError) as error:
        return wrong("outbox", str(error), "put that right: finished results wait there while the pool is away")
    except OSError as error:
        return wrong("outbox", error.strerror or str(error), "put that right: finished results wait there")
    if waiting:
        return wrong(
            "outbox", f"{plural(waiting, 'finished result')} wait in {box.place}", "`apicas flush` writes them"
        )
    if lost:
        advice = "`apicas flush --list` says where they are; `apicas flush --discard-lost` deletes them"
        return wrong("outbox", f"{plural(lost, 'result')} came too late and are kept in {box.place}", advice)
    return fine("outbox", "no result waits")
