"""What a pilot finds out before it begins: what there is of the node, when the batch job ends, and so its room.

A pilot that does not pack, outside a batch job, asks nothing and imports nothing of it.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread

from apicas._documents import shown
from apicas._runtime.options import Amounts, RunOptions
from apicas._runtime.room import Room, Workers
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from apicas._node.admission import Horizon
    from apicas._node.inventory import Inventory
    from apicas._node.requests import RequestFields
    from apicas._node.surroundings import Surroundings

log = logging.getLogger("apicas")

AUTO: Final = "auto"
_TIME, _KIND, _RESOURCES = "time", "kind", "resources"
_LAST_DATE: Final = 253_000_000_000.0
"""Unix seconds, in the year 9987: what comes later cannot be shown."""
_JOBS: Final = ("SLURM_JOB_END_TIME", "SLURM_JOB_ID", "SLURM_JOBID", "PBS_JOBID")
"""The variables of a batch job whose end can be found out."""


def check(options: RunOptions) -> None:
    """Check what a user says of resources.

    Raises:
        ConfigError: it cannot be understood, or has no use.
    """
    if not _asks(options):
        return
    if options.resources is not None:
        _given(options.resources)
    elif options.pin is not None:
        raise ConfigError("pin is for a pilot that gives tokens what they ask for: give resources, too")
    fields = request_fields(options)
    if options.resources is None and dict(fields.defaults) != {"cores": 1}:
        raise ConfigError("request is for a pilot that gives tokens what they ask for: give resources, too")
    if options.walltime is not None:
        from apicas._node.walltime import of_flag  # noqa: PLC0415 - few runs have one

        of_flag(options.walltime, 0.0)


def _asks(options: RunOptions) -> bool:
    asked = (options.resources, options.request, options.request_fields, options.pin, options.walltime)
    return any(one is not None for one in asked)


async def make_room(options: RunOptions, workers: int) -> Room:
    """Look around, and make a pilot's room.

    Args:
        options: how the pilot runs.
        workers: tokens worked at once, in a pilot that does not pack.

    Raises:
        ConfigError: what the options say of resources cannot be understood.
    """
    if not _asks(options) and not any(map(os.environ.get, _JOBS)):
        return Workers(workers, options.claim_ahead)
    check(options)
    from apicas._node.surroundings import Surroundings  # noqa: PLC0415 - see above

    surroundings = Surroundings()
    horizon = await find_horizon(options, surroundings, say=log.warning)
    if options.resources is not None:
        room: Room = await _packed(options, surroundings, horizon)
    else:
        room = _timed(options, workers, horizon)
    for warning in surroundings.warnings:
        log.warning("%s", warning)
    return room


async def find_horizon(
    options: RunOptions, surroundings: Surroundings, *, say: Callable[..., None] | None = None
) -> Horizon:
    """When the batch job ends, in seconds from now on.

    Args:
        options: how the pilot runs.
        surroundings: where to look.
        say: logs the end, if there is one, in a line.
    """
    from apicas._node.admission import Horizon  # noqa: PLC0415
    from apicas._node.walltime import find_end  # noqa: PLC0415

    now = time.time()
    found = await find_end(surroundings, options.walltime, now=now)
    if found is None:
        return Horizon()
    left = found.value - now
    if say is not None:
        text = "the batch job ends at %s, in %s (%s); draining begins %g s before"
        say(text, at_time(found.value), in_hours(left), found.origin, options.margin)
    return Horizon(end=left, margin=options.margin)


def request_fields(options: RunOptions) -> RequestFields:
    """Where tokens say what they ask, and what those ask that do not.

    Raises:
        ConfigError: it cannot be understood.
    """
    from apicas._node.detection import parse_given  # noqa: PLC0415
    from apicas._node.requests import ONE_CORE, TIME, RequestFields, parse_fields  # noqa: PLC0415
    from apicas._node.units import seconds_of  # noqa: PLC0415

    request, paths = _pairs("request", options.request), _pairs("request_fields", options.request_fields)
    time_text = request.pop(_TIME, None)
    try:
        seconds = None if time_text is None else seconds_of(time_text)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"request: time: {error}") from None
    own = {"time": paths.pop(_TIME, TIME), "kind": paths.pop(_KIND, ""), "resources": paths.pop(_RESOURCES, _RESOURCES)}
    return RequestFields(
        fields=parse_fields(f"{name}={path}" for name, path in paths.items()),
        defaults={**ONE_CORE, **parse_given(f"{name}={amount}" for name, amount in request.items())},
        default_time=None if seconds is None or math.isinf(seconds) else seconds,
        time=own["time"],
        kind=own["kind"],
        resources=own["resources"],
    )


def at_time(seconds: float) -> str:
    """Unix seconds as a local time."""
    at = datetime.fromtimestamp(min(max(seconds, 0.0), _LAST_DATE), UTC).astimezone()
    return at.isoformat(sep=" ", timespec="seconds")


def in_hours(seconds: float) -> str:
    """Seconds as `1:30:00`."""
    whole = max(0, round(min(seconds, _LAST_DATE)))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


async def find_inventory(
    options: RunOptions, surroundings: Surroundings, *, say: Callable[..., None] | None = None
) -> Inventory:
    """What there is for tokens.

    Args:
        options: what the user says there is.
        surroundings: where to look.
        say: logs it, in a line.
    """
    from apicas._node.detection import find_node  # noqa: PLC0415
    from apicas._node.inventory import Inventory  # noqa: PLC0415
    from apicas._node.names import in_words  # noqa: PLC0415

    given = _given(AUTO if options.resources is None else options.resources)
    node = await anyio.to_thread.run_sync(find_node, surroundings, given)  # files of the kernel's: some may hang
    inventory = Inventory.of(node, pin=options.pin)
    if say is not None:
        what = [f"{in_words(name, found.value)} ({found.origin})" for name, found in node.has.items() if found.value]
        say("tokens share %s; they are %s to cores", ", ".join(what), "pinned" if inventory.pins else "not pinned")
    return inventory


async def _packed(options: RunOptions, surroundings: Surroundings, horizon: Horizon) -> Room:
    from apicas._runtime.packing import Packed  # noqa: PLC0415

    inventory = await find_inventory(options, surroundings, say=log.warning)
    return Packed(inventory, request_fields(options), horizon, options.claim_ahead)


def _timed(options: RunOptions, workers: int, horizon: Horizon) -> Room:
    from apicas._node.requests import OWN_FIELDS  # noqa: PLC0415
    from apicas._runtime.timing import TimedWorkers  # noqa: PLC0415

    if horizon.end is None:
        return Workers(workers, options.claim_ahead)
    # A token that names cores, or anything else that a pilot which packs would read, means nothing by it here.
    only_time = replace(request_fields(options), fields=dict.fromkeys(OWN_FIELDS, ""), resources="")
    return TimedWorkers(workers, options.claim_ahead, only_time, horizon)


def _given(resources: Amounts) -> dict[str, int]:
    """What the user says there is."""
    from apicas._node.detection import parse_given  # noqa: PLC0415

    return parse_given(f"{name}={amount}" for name, amount in _pairs(_RESOURCES, resources).items())


def _pairs(option: str, given: Amounts | None) -> dict[str, Any]:
    """Names and values, from a mapping or a text such as `cores=2,memory=4G`; `auto` stands for none.

    Raises:
        ConfigError: the text is nothing like that.
    """
    if given is None or given == AUTO:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    if not isinstance(given, str):
        raise ConfigError(f"{option} is a mapping or a text such as cores=2, not {shown(given)}")
    pairs = {}
    for part in given.split(","):
        name, equals, value = part.strip().partition("=")
        if not (name and equals and value) and part.strip() != AUTO:
            raise ConfigError(f"{option}: {shown(part)} is nothing such as cores=2")
        if equals:
            pairs[name] = value
    return pairs
