"""What a token was given of its node, as its commands and its worker process see it.

A command is started on its cores and stays there: the thread that starts it is on them for that moment, and a child
begins where its parent is. A worker process is kept for many tokens, so it goes to the cores of each, and back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from apicas._node.inventory import Allocation

Environment: TypeAlias = "Mapping[str, str] | Mapping[bytes, bytes] | None"
"""The whole environment of a process; None for ours."""

running_allocation: ContextVar[Allocation | None] = ContextVar("running_allocation", default=None)
"""What the token has been given that a task works on, also for the tasks and threads that the user's code starts; None
in a pilot that does not pack."""

_CAN_PIN: Final = hasattr(os, "sched_setaffinity")
_TASKS: Final = "/proc/self/task"


def with_variables(environment: Environment) -> Environment:
    """An environment with the variables that keep a command to what its token was given.

    What the user has set for this command stays: a variable with another value than in our own environment.
    """
    allocation = running_allocation.get()
    if allocation is None:
        return environment
    ours: Mapping[bytes, bytes] = getattr(os.environb, "_data", os.environb)
    given: Mapping[Any, Any] = ours if environment is None else environment
    in_bytes = isinstance(next(iter(given), b""), bytes)
    changed: dict[Any, Any] = dict(given)
    for name, value in allocation.variables().items():
        key: Any = name.encode() if in_bytes else name
        inherited = ours.get(name.encode())
        if key not in given or os.fsencode(given[key]) == inherited:
            changed[key] = os.fsencode(value) if in_bytes else value
    return changed


def cores_to_start_on() -> tuple[int, ...]:
    """The cores for a command that is started now; none where it may run on all of ours."""
    allocation = running_allocation.get()
    return allocation.cores if allocation is not None and allocation.is_pinned else ()


@contextmanager
def on_cores(cores: tuple[int, ...]) -> Iterator[None]:
    """Have this thread run on some cores meanwhile, and with it what it starts; on none is on all of ours."""
    before = _moved(0, cores) if cores and _CAN_PIN else None
    try:
        yield
    finally:
        if before is not None:
            _move(0, before)


Shape: TypeAlias = "tuple[int, tuple[str, ...]] | None"
"""What a library looks at when it is loaded, and never again: how many cores, and which GPUs."""


def shape_of(allocation: Allocation | None) -> Shape:
    """The shape of an allocation; None for none."""
    return None if allocation is None else (len(allocation.cores), allocation.gpus)


# In a worker process. -------------------------------------------------------------------------------------------------


def told_allocation(allocation: Allocation | None) -> dict[str, Any] | None:
    """What a worker process is told of an allocation."""
    if allocation is None:
        return None
    return {
        "amounts": allocation.amounts,
        "cores": allocation.cores,
        "gpus": allocation.gpus,
        "is_pinned": allocation.is_pinned,
        "gpu_variable": allocation.gpu_variable,
    }


def heard_allocation(message: Mapping[str, Any] | None) -> Allocation | None:
    """The allocation that a worker process was told of."""
    if message is None:
        return None
    from apicas._node.inventory import Allocation  # noqa: PLC0415 - few worker processes are told of any

    return Allocation(
        tuple((name, number) for name, number in message["amounts"]),
        tuple(message["cores"]),
        tuple(message["gpus"]),
        message["is_pinned"],
        message["gpu_variable"],
    )


@contextmanager
def in_force(allocation: Allocation | None) -> Iterator[None]:
    """Keep this whole process to what a token was given: its variables, and the cores of all its threads."""
    if allocation is None:
        yield
        return
    variables = allocation.variables()
    known = {name: os.environ.get(name) for name in variables}
    cores = allocation.cores if allocation.is_pinned and _CAN_PIN else ()
    before = os.sched_getaffinity(0) if cores else None
    mark = running_allocation.set(allocation)
    os.environ.update(variables)
    if cores:
        _move_all(cores)
    try:
        yield
    finally:
        if before is not None:
            _move_all(before)
        _put_back(known)
        running_allocation.reset(mark)


def _put_back(known: Mapping[str, str | None]) -> None:
    for name, value in known.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _move_all(cores: Any) -> None:
    """Move all threads: each has a place of its own."""
    try:
        threads = [int(entry.name) for entry in Path(_TASKS).iterdir()]
    except OSError:
        threads = [0]
    for thread in threads:
        _move(thread, cores)


def _moved(thread: int, cores: Any) -> set[int] | None:
    """Move a thread; answers with where it was, and None where it stays: it may no longer run on these cores."""
    try:
        before = os.sched_getaffinity(thread)
        os.sched_setaffinity(thread, cores)
    except OSError:
        return None
    return before


def _move(thread: int, cores: Any) -> None:
    with suppress(OSError):  # a thread that has just ended, or cores that were taken from us
        os.sched_setaffinity(thread, cores)
