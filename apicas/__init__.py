"""apicas: pilot jobs on a pool of tokens, in asyncio. The successor of PiCaS.

    async def square(token):
        return token.input ** 2

    async with apicas.connect("sqlite:///pool.db") as client:
        await client.upload({"input": n} for n in range(1000))
    report = await apicas.run(square, "sqlite:///pool.db", workers=8)

Begin with `run`, or `RunActor` for a class with hooks; `connect` opens a pool, `BasicViewIterator` claims tokens by
hand, `Retry`, `Fail` and `Release` say how one ends, and every error is an `ApicasError`.

The names here are the public ones, beside those of apicas.configuration, apicas.embedding, apicas.events,
apicas.metrics, apicas.picas and apicas.testing. Each is imported when it is first used, so that `apicas --help` and
small scripts wait for nothing that they do not need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apicas._runtime.commands.options import CommandResult
    from apicas._runtime.commands.running import run_command
    from apicas._runtime.options import RunOptions
    from apicas._runtime.reports import Report
    from apicas.actors import RunActor, run
    from apicas.clients.connect import connect
    from apicas.clients.couch import CouchClient
    from apicas.clients.memory import MemoryClient
    from apicas.clients.port import SaveResult, SaveStatus, ViewQuery
    from apicas.clients.sqlite import SQLiteClient
    from apicas.exceptions import (
        AccessDeniedError,
        ApicasError,
        CommandError,
        ConfigError,
        EditConflictError,
        Fail,
        InvalidTokenError,
        LeaseLostError,
        OutputError,
        PilotDiedError,
        PoolError,
        PoolInUseError,
        PoolNotFoundError,
        PoolUnavailableError,
        Release,
        Retry,
        TokenMemoryError,
        TokenNotFoundError,
        TokenTimeoutError,
        TransitionError,
        ViewNotFoundError,
    )
    from apicas.iterators import BasicViewIterator, EndlessViewIterator, PrioritizedViewIterator
    from apicas.logs import JsonLogFormatter, TokenLogFilter, TokenLogHandler
    from apicas.modifiers import BasicTokenModifier, NestedTokenModifier
    from apicas.tokens import TRANSITIONS, Token, TokenState
    from apicas.views import View, field

__version__ = "0.1.0.dev0"

_HOMES = {
    "_runtime.options": ("RunOptions",),
    "_runtime.commands.options": ("CommandResult",),
    "_runtime.commands.running": ("run_command",),
    "_runtime.reports": ("Report",),
    "actors": ("RunActor", "run"),
    "clients.connect": ("connect",),
    "clients.couch": ("CouchClient",),
    "clients.memory": ("MemoryClient",),
    "clients.port": ("SaveResult", "SaveStatus", "ViewQuery"),
    "clients.sqlite": ("SQLiteClient",),
    "exceptions": (
        "AccessDeniedError",
        "ApicasError",
        "CommandError",
        "ConfigError",
        "EditConflictError",
        "Fail",
        "InvalidTokenError",
        "LeaseLostError",
        "OutputError",
        "PilotDiedError",
        "PoolError",
        "PoolInUseError",
        "PoolNotFoundError",
        "PoolUnavailableError",
        "Release",
        "Retry",
        "TokenMemoryError",
        "TokenNotFoundError",
        "TokenTimeoutError",
        "TransitionError",
        "ViewNotFoundError",
    ),
    "iterators": ("BasicViewIterator", "EndlessViewIterator", "PrioritizedViewIterator"),
    "logs": ("JsonLogFormatter", "TokenLogFilter", "TokenLogHandler"),
    "modifiers": ("BasicTokenModifier", "NestedTokenModifier"),
    "tokens": ("TRANSITIONS", "Token", "TokenState"),
    "views": ("View", "field"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "TRANSITIONS",
    "AccessDeniedError",
    "ApicasError",
    "BasicTokenModifier",
    "BasicViewIterator",
    "CommandError",
    "CommandResult",
    "ConfigError",
    "CouchClient",
    "EditConflictError",
    "EndlessViewIterator",
    "Fail",
    "InvalidTokenError",
    "JsonLogFormatter",
    "LeaseLostError",
    "MemoryClient",
    "NestedTokenModifier",
    "OutputError",
    "PilotDiedError",
    "PoolError",
    "PoolInUseError",
    "PoolNotFoundError",
    "PoolUnavailableError",
    "PrioritizedViewIterator",
    "Release",
    "Report",
    "Retry",
    "RunActor",
    "RunOptions",
    "SQLiteClient",
    "SaveResult",
    "SaveStatus",
    "Token",
    "TokenLogFilter",
    "TokenLogHandler",
    "TokenMemoryError",
    "TokenNotFoundError",
    "TokenState",
    "TokenTimeoutError",
    "TransitionError",
    "View",
    "ViewNotFoundError",
    "ViewQuery",
    "__version__",
    "connect",
    "field",
    "run",
    "run_command",
]


def __getattr__(name: str) -> Any:
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
