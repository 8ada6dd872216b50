"""The user's hooks, however they were written: async or plain, with the token or without."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import anyio
from anyio import CapacityLimiter, to_thread

from apicas._runtime.choices import ExecutorChoice
from apicas.exceptions import ConfigError
from apicas.tokens import Token

Hook: TypeAlias = Callable[[Token], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is done to each token, and around the whole run; None where the user has nothing to do there."""

    process: Hook
    prepare: Hook | None = None
    cleanup: Hook | None = None
    prepare_env: Callable[[], Awaitable[Any]] | None = None
    cleanup_env: Callable[[], Awaitable[Any]] | None = None
    remake: Callable[[], Work] | None = None
    """Makes the same work in another process, where it is sent pickled; None where nobody can."""
    executor: ExecutorChoice = "auto"
    """Where it is done, unless the pilot is told otherwise."""
    in_processes: bool = False
    """Whether it is done in processes of its own anyway, as commands are."""


def token_hook(function: Callable[..., Any], limiter: CapacityLimiter) -> Hook:
    """A hook that is called with the token, from a function that takes it, or takes nothing.

    Args:
        function: a coroutine function runs on the loop, a plain one in a thread.
        limiter: bounds the threads.

    Raises:
        ConfigError: the function needs more than one argument.
    """
    takes_token = _takes_token(function)
    if is_async(function):
        return function if takes_token else _without_token(function)

    async def in_thread(token: Token) -> Any:
        call = partial(function, token) if takes_token else function
        result = await to_thread.run_sync(call, limiter=limiter, abandon_on_cancel=True)
        return await result if inspect.isawaitable(result) else result

    return in_thread


def plain_hook(function: Callable[[], Any], limiter: CapacityLimiter) -> Callable[[], Awaitable[Any]]:
    """A hook without arguments: on the loop if it is async, else in a thread."""
    if is_async(function):
        return function

    async def in_thread() -> Any:
        result = await to_thread.run_sync(function, limiter=limiter)
        return await result if inspect.isawaitable(result) else result

    return in_thread


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine."""
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _without_token(function: Callable[[], Awaitable[Any]]) -> Hook:
    def call(_token: Token) -> Awaitable[Any]:
        return function()

    return call


def _takes_token(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin tells nothing: it is taken at its word
        return True
    positional = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    required = [p for p in positional if p.default is p.empty]
    if len(required) > 1:
        raise ConfigError(f"{getattr(function, '__qualname__', function)} is called with the token, and needs more")
    return bool(positional) or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def thread_limiter(workers: int) -> CapacityLimiter:
    """As many threads as there are workers."""
    return anyio.CapacityLimiter(workers)
