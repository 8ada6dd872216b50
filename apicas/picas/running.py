"""`run`: what takes the place of the actor's own run method."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from anyio import to_thread

from apicas._runtime.reports import Report
from apicas.actors import RunKeywords, run_options
from apicas.clients.connect import connect
from apicas.clients.port import Client
from apicas.exceptions import ConfigError
from apicas.iterators import (
    BasicViewIterator,
    EndlessViewIterator,
    IteratorKeywords,
    PrioritizedViewIterator,
    ViewIterator,
)
from apicas.picas.adapter import PicasActor, client_of, work_of
from apicas.picas.guard import place_of


def run(actor: Any, pool: str | Client | None = None, **options: Any) -> Report:
    """Work tokens with an actor of PiCaS's, in place of its own `run`.

    Drains on SIGTERM, SIGINT and SIGUSR1, unless the program handles them itself.

    Args:
        actor: the actor, made as for PiCaS. Its class must be importable, and what it holds fit for a pickle: each
            worker process gets a copy.
        pool: the pool's address or an open client; None for the database of the actor's own PiCaS client.
        options: what PiCaS's run takes: max_token_time, max_total_time, max_tasks, max_scrub, stop_function and its
            arguments; `workers`, how many tokens are worked at once, one where it is left out; and all other options
            of RunActor.run and BasicViewIterator but `executor`, such as grace, walltime, lock_timeout.

    Returns:
        What was done.

    Raises:
        ConfigError: the actor, its client, its iterator or an option cannot be used.
    """
    return asyncio.run(run_async(actor, pool, **options))


async def run_async(actor: Any, pool: str | Client | None = None, **options: Any) -> Report:
    """The same, in a loop that runs already."""
    if "executor" in options:
        raise ConfigError("a PiCaS actor runs in worker processes: leave out executor")
    work_of(actor)
    keeping = {name: options.pop(name) for name in list(options) if name in _KEEPING}
    run_options(dict(options))  # says what is wrong with them, before anything is opened
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="apicas-")))
        client = await stack.enter_async_context(_client(actor)) if pool is None else pool
        if isinstance(client, str):
            client = await stack.enter_async_context(connect(client))
        iterator = iterator_for(actor, client, keeping)
        adapted = PicasActor(actor, iterator, stop_file=directory / "stop")
        stop = _Stop(directory / "stop", options.pop("stop_function", None), getattr(actor, "iterator", None))
        report = await adapted.run(**{"workers": 1, "handle_signals": True, **options, "stop_function": stop})
    if adapted.is_unfit:
        raise ConfigError("no worker process could be prepared for the actor: the log says why")
    return report


_KEEPING = frozenset(IteratorKeywords.__annotations__) - RunKeywords.__annotations__.keys()


class _Stop:
    """Asked after each token whether that was the last: the actor's iterator says so, or a function of the user's.

    Args:
        mark: the file that is there once the iterator was stopped.
        function: the user's; it may block, so it is asked in a thread.
        iterator: the actor's; one of PiCaS's asks its stop_callback before each token, and not only before it waits.
    """

    def __init__(self, mark: Path, function: Callable[..., Any] | None, iterator: Any) -> None:
        self._mark = mark
        self._function = function
        self._iterator = iterator

    async def __call__(self, **arguments: Any) -> bool:
        if os.path.exists(self._mark):  # noqa: ASYNC240, PTH110 - a file of ours, on this node; quicker than a thread
            return True
        callback = getattr(self._iterator, "stop_callback", None)
        if callback is not None and await in_thread(callback, getattr(self._iterator, "stop_callback_args", {})):
            return True
        return self._function is not None and bool(await in_thread(self._function, arguments))


async def in_thread(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a function that may block."""
    return await to_thread.run_sync(lambda: function(**arguments))


def _client(actor: Any) -> Any:
    place = place_of(client_of(actor).db)
    if not place.verifies_tls:
        raise ConfigError(
            "the actor's PiCaS client does not verify the server's certificate, and apicas always does: "
            "pass pool=apicas.connect(address, ca_file=...), opened"
        )
    username, password = place.credentials or (None, None)
    return connect(place.url, username=username, password=password)


# Iterators. -----------------------------------------------------------------------------------------------------------


def iterator_for(actor: Any, client: Client, keeping: Mapping[str, Any]) -> ViewIterator:
    """An iterator of ours that claims what the actor's own would.

    Args:
        actor: the actor.
        client: the pool.
        keeping: how tokens are kept.

    Raises:
        ConfigError: the actor's iterator is of a kind of its own.
    """
    return _translated(getattr(actor, "iterator", None), client, keeping)


def _translated(iterator: Any, client: Client, keeping: Mapping[str, Any]) -> ViewIterator:
    if hasattr(iterator, "stop_callback"):
        callback, arguments = iterator.stop_callback, getattr(iterator, "stop_callback_args", {})

        async def is_over() -> bool:
            return bool(await in_thread(callback, arguments))

        return EndlessViewIterator(
            _translated(iterator.iterator, client, keeping), stop_callback=None if callback is None else is_over
        )
    parameters = dict(getattr(iterator, "view_params", {}))
    design = parameters.pop("design_doc", "Monitor")
    if parameters:
        raise ConfigError(
            f"the actor's iterator asks its view for {', '.join(sorted(parameters))}: pilots of apicas take tokens "
            "from the whole view; make a view of your own instead"
        )
    if hasattr(iterator, "high_priority_view"):
        views = [_full(design, iterator.high_priority_view), _full(design, iterator.low_priority_view)]
        return PrioritizedViewIterator(client, views=views, **keeping)
    if not hasattr(iterator, "view"):
        raise ConfigError(f"{type(iterator).__name__} is no iterator that apicas knows: it has no view")
    return BasicViewIterator(client, view=_full(design, iterator.view), **keeping)


def _full(design: str, view: str) -> str:
    return view if "/" in view else f"{design}/{view}"
