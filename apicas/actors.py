"""Actors: the user's class with the work in it, and `run()` for a function without one.

The six steps: extend RunActor, write process_token, make a client, a modifier and an iterator, hand them over, run.

    class Squares(apicas.RunActor):
        async def process_token(self, token):
            return token["input"] ** 2

    async with apicas.connect("sqlite:///pool.db") as client:
        iterator = apicas.BasicViewIterator(client, apicas.BasicTokenModifier())
        report = await Squares(iterator).run(workers=8)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from dataclasses import fields, replace
from functools import partial
from typing import Any, cast

from typing_extensions import TypedDict, Unpack

from apicas._runtime.choices import ExecutorChoice, ExecutorName, check_executor
from apicas._runtime.commands.command import CommandRunner
from apicas._runtime.hooks import Work, plain_hook, thread_limiter, token_hook
from apicas._runtime.keeping.keeper import OnLostContact
from apicas._runtime.options import Amounts, RunOptions
from apicas._runtime.pilot import Pilot
from apicas._runtime.reports import Report
from apicas._runtime.signals import SignalLadder
from apicas._runtime.survey import make_room
from apicas._runtime.typed import with_typed_input
from apicas._spelling import unknown_options
from apicas.clients.base import PoolClient
from apicas.clients.connect import connect
from apicas.clients.port import Client
from apicas.events import Observer
from apicas.exceptions import ConfigError
from apicas.iterators import BasicViewIterator, EndlessViewIterator, IteratorKeywords, ViewIterator
from apicas.modifiers import TokenModifier
from apicas.tokens import Token


class RunKeywords(TypedDict, total=False):
    """The fields of RunOptions, as keywords; and max_tasks, PiCaS's name for max_tokens."""

    workers: int | None
    resources: Amounts | None
    request: Amounts | None
    request_fields: str | Mapping[str, str] | None
    pin: bool | None
    walltime: float | str | None
    end_margin: float | None
    max_token_time: float | None
    max_token_memory: int | None
    max_total_time: float | None
    max_tokens: int | None
    max_tasks: int | None
    max_scrub: int
    retry_delay: float
    stop_function: Callable[..., Any] | None
    stop_arguments: Mapping[str, Any]
    grace: float
    claim_ahead: int | None
    on_progress: Callable[[Report], object] | None
    handle_signals: bool
    executor: ExecutorChoice
    on_lost_contact: OnLostContact
    logs: str | os.PathLike[str] | None
    observers: Sequence[Observer]
    events: str | os.PathLike[str] | None


class RunActor:
    """Extend it, and write process_token. All hooks may be async, or plain functions, which run in a thread.

    Order: prepare_env; for each token prepare_run, process_token, cleanup_run; cleanup_env. cleanup_run comes after
    every token, cleanup_env at every end, failures included. If prepare_env raises nothing is claimed and run()
    raises it; if prepare_run raises the token has failed, and process_token is left out.

        class Squares(apicas.RunActor):
            async def process_token(self, token):
                return token.input ** 2  # becomes token.output; an exception is recorded, and the token tried again

        async with apicas.connect("sqlite:///pool.db") as client:
            report = await Squares(apicas.BasicViewIterator(client)).run(workers=8, max_scrub=2)

    Annotate process_token with `token: Token[Model]`, where Model is a msgspec Struct, a pydantic model or a dataclass,
    and `token.input` is checked and made into one.

    Args:
        iterator: claims the tokens.
        modifier: changes tokens; the iterator's where it is left out.

    Raises:
        ConfigError: the iterator is a client.
    """

    def __init__(self, iterator: ViewIterator, modifier: TokenModifier | None = None) -> None:
        if isinstance(iterator, PoolClient):  # what PiCaS's actors take
            raise ConfigError(f"{type(self).__name__} takes an iterator: write BasicViewIterator(client)")
        self.iterator = iterator
        self.modifier: TokenModifier = modifier or iterator.modifier

    def process_token(self, token: Token) -> Any:
        """Work one token. What it returns becomes the token's `output`; None leaves that as it is.

        Raise apicas.Retry, apicas.Fail or apicas.Release to say outright how the token ends; any other exception is
        recorded in it, and it is tried again up to max_scrub times.
        """
        raise NotImplementedError(f"{type(self).__name__} has no process_token")

    executor: ExecutorName = "auto"
    """Where tokens are worked, unless `run(executor=)` says: "auto", or "process" for a process of its own for each."""

    def choose_executor(self, token: Token) -> ExecutorName:  # noqa: ARG002 - those who override it need it
        """Where a token is worked; the same for all, unless it is overridden. Runs on the loop: it must not block."""
        return self.executor

    def prepare_env(self) -> Any:
        """Once, before the first token is claimed."""

    def prepare_run(self, token: Token) -> Any:
        """Before each token; may also be written without the token."""

    def cleanup_run(self, token: Token) -> Any:
        """After each token, also after a failure; may also be written without the token."""

    def cleanup_env(self) -> Any:
        """Once, at the end."""

    async def run(self, **options: Unpack[RunKeywords]) -> Report:
        """Work tokens until there are no more, or a stop criterion is met.

        Args:
            options: the fields of RunOptions: workers, resources, request, request_fields, pin, walltime, end_margin,
                max_token_time, max_token_memory, max_total_time, max_tokens, max_scrub, retry_delay, stop_function,
                stop_arguments, grace, claim_ahead, on_progress, handle_signals, executor, on_lost_contact, logs,
                observers, events.
                As in PiCaS, keywords that are none of these go to stop_function.

        Returns:
            What was done.

        Raises:
            ConfigError: an option cannot be used.
            AccessDeniedError: the pool refuses us.
        """
        return await run_pilot(self.iterator, lambda workers: _work_of(self, workers), run_options(dict(options)))


def run_options(keywords: dict[str, Any]) -> RunOptions:
    """The options from keywords.

    Raises:
        ConfigError: there is no such option.
    """
    if "max_tasks" in keywords:
        keywords["max_tokens"] = keywords.pop("max_tasks")
    known = {option.name for option in fields(RunOptions)}
    unknown = {name: keywords.pop(name) for name in list(keywords) if name not in known}
    if unknown:
        if keywords.get("stop_function") is None:
            raise ConfigError(unknown_options("run()", unknown, known | IteratorKeywords.__annotations__.keys()))
        keywords["stop_arguments"] = {**keywords.get("stop_arguments", {}), **unknown}
    return RunOptions(**keywords)


async def run_pilot(iterator: ViewIterator, make_work: Callable[[int], Work], options: RunOptions) -> Report:
    """Run one pilot to its end, by itself or by a signal.

    Args:
        iterator: claims the tokens.
        make_work: makes the work for a number of workers.
        options: how.
    """
    pilot = await make_pilot(iterator, make_work, options)
    ladder = SignalLadder(pilot.drain, pilot.cut)
    with ladder.installed() if options.handle_signals else nullcontext():
        report = await pilot.run()
    return replace(report, signals=len(ladder.received))


async def make_pilot(iterator: ViewIterator, make_work: Callable[[int], Work], options: RunOptions) -> Pilot:
    """A pilot that has not begun. See `run_pilot`.

    Raises:
        ConfigError: this process works for another pilot, and only imports the module that runs this one.
    """
    if _is_being_imported():
        raise ConfigError('the main module runs a pilot when it is imported: put that under if __name__ == "__main__"')
    room = await make_room(options, options.workers or usable_cores())
    return Pilot(iterator, make_work(room.workers), options, room)


def _is_being_imported() -> bool:
    """Whether this is a process that works for another one, and imports the main module once more."""
    module: Any = sys.modules.get("multiprocessing.process")
    return module is not None and getattr(module.current_process(), "_inheriting", False)


def usable_cores() -> int:
    """The number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # no such call on this system
        return os.cpu_count() or 1


def _work_of(actor: RunActor, workers: int) -> Work:
    limiter = thread_limiter(workers)

    def own(name: str) -> Any:
        """The actor's hook; None where the class does not define one, so that nothing is called."""
        return getattr(actor, name) if getattr(type(actor), name) is not getattr(RunActor, name) else None

    if own("process_token") is None:
        raise ConfigError(f"{type(actor).__name__} has no process_token")
    hooks = {name: own(name) for name in ("prepare_run", "cleanup_run", "prepare_env", "cleanup_env")}
    return Work(
        process=token_hook(actor.process_token, limiter),
        prepare=with_typed_input(
            actor.process_token, hooks["prepare_run"] and token_hook(hooks["prepare_run"], limiter)
        ),
        cleanup=hooks["cleanup_run"] and token_hook(hooks["cleanup_run"], limiter),
        prepare_env=hooks["prepare_env"] and plain_hook(hooks["prepare_env"], limiter),
        cleanup_env=hooks["cleanup_env"] and plain_hook(hooks["cleanup_env"], limiter),
        executor=own("choose_executor") or _checked(actor.executor),
        remake=partial(_work_of, actor, 1),
    )


def _checked(executor: ExecutorName) -> ExecutorName:
    check_executor(executor)
    return executor


def _work_of_function(function: Callable[..., Any], workers: int) -> Work:
    return Work(
        process=token_hook(function, thread_limiter(workers)),
        prepare=with_typed_input(function, None),
        remake=partial(_work_of_function, function, 1),
        cleanup_env=function.close if isinstance(function, CommandRunner) else None,
        in_processes=isinstance(function, CommandRunner),
    )


class RunFunctionKeywords(RunKeywords, IteratorKeywords, total=False):
    """What run() takes beside the work and the pool."""

    view: str
    endless: bool


async def run(
    work: Callable[..., Any] | type[RunActor], pool: str | Client, **options: Unpack[RunFunctionKeywords]
) -> Report:
    """Work the tokens of a pool with a function or an actor.

    Drains on SIGTERM, SIGINT and SIGUSR1 if this is the main thread and nobody else handles them.

    Args:
        work: a function of the token, async or plain; or a RunActor class, which is called with the iterator.
        pool: the pool's address, or an open client.
        options: as for RunActor.run; `view`, and `endless=True` to wait for work for ever; and how tokens are kept:
            lock_timeout, foreign_lock_timeout, max_crashes, linger, outbox.

    Returns:
        What was done.
    """
    make_iterator, run_settings = run_plan({"handle_signals": True, **options})
    async with AsyncExitStack() as stack:
        is_client = not isinstance(pool, str) and hasattr(pool, "default_lease")
        client: Any = pool if is_client else await stack.enter_async_context(connect(cast("str", pool)))
        iterator = make_iterator(client)
        return await run_pilot(iterator, work_maker(work, iterator), run_settings)


def run_plan(keywords: dict[str, Any]) -> tuple[Callable[[Client], ViewIterator], RunOptions]:
    """What the keywords of `run` ask for: what makes the iterator, and the options of the pilot.

    Raises:
        ConfigError: there is no such option.
    """
    view, endless = keywords.pop("view", "Monitor/todo"), keywords.pop("endless", False)
    names = IteratorKeywords.__annotations__.keys() - RunKeywords.__annotations__.keys()
    keeping: dict[str, Any] = {name: keywords.pop(name) for name in list(keywords) if name in names}

    def make_iterator(client: Client) -> ViewIterator:
        iterator = BasicViewIterator(client, view=view, **keeping)
        return EndlessViewIterator(iterator) if endless else iterator

    return make_iterator, run_options(keywords)


def work_maker(work: Callable[..., Any] | type[RunActor], iterator: ViewIterator) -> Callable[[int], Work]:
    """What makes the work of a pilot from a function or an actor, for a number of workers.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(work, type):
        if not issubclass(work, RunActor):
            hint = ": one of PiCaS's is for apicas.picas.run" if hasattr(work, "process_task") else ""
            raise ConfigError(f"{work.__name__} is no apicas.RunActor{hint}")
        actor = work(iterator)
        return partial(_work_of, actor)
    if not callable(work):
        raise ConfigError(f"{work!r} is neither a function nor an actor")
    return partial(_work_of_function, work)
