"""The adapter: an actor of PiCaS's as an actor of ours.

Rules:
- PiCaS actors are not thread-safe. Each worker process has one of its own, a copy of the one that the pilot was given,
  and calls it from one thread only.
- In the pilot the actor is never called: it has no guard for its database there.
- Whatever the actor does to its token is in the outcome. The pilot alone claims, beats and commits.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import importlib
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from apicas._documents import Document
from apicas._javascript import equals_number, greater_than
from apicas.actors import RunActor
from apicas.exceptions import ConfigError, Release
from apicas.iterators import ViewIterator
from apicas.modifiers import TokenModifier
from apicas.picas.guard import held, make_sendable
from apicas.tokens import ERROR_MARK, Token, count

_LATER: Final = 60.0
"""Seconds before a token is claimed again whose worker process could not be prepared."""


class PicasActor(RunActor):
    """Runs an actor of PiCaS's: any object with `process_task` or `process_token`, and a `db` or `client`.

    Args:
        actor: the actor, as it is before `prepare_env`.
        iterator: claims the tokens; the actor's own claims none.
        modifier: changes tokens for the pilot; the actor has its own. The iterator's where it is left out.
        stop_file: a path where the actor's `iterator.stop()` leaves a mark; None to heed no such call.

    Raises:
        ConfigError: the object has none of these.
    """

    executor = "process"

    def __init__(
        self,
        actor: Any,
        iterator: ViewIterator,
        modifier: TokenModifier | None = None,
        *,
        stop_file: Path | None = None,
    ) -> None:
        super().__init__(iterator, modifier)
        work_of(actor)
        make_sendable(client_of(actor))
        self.actor = actor
        self.is_unfit = False
        """Whether no worker process could be prepared, for which the log has the reason."""
        self._stop_file = stop_file
        self._thread: ThreadPoolExecutor | None = None

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "actor": _travelling(self.actor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._thread = ThreadPoolExecutor(1, "picas")  # whatever the actor opens there, it finds there again

    @override
    async def prepare_env(self) -> None:
        await self._call(self.actor.prepare_env)

    @override
    async def process_token(self, token: Token) -> None:
        if self._thread is None:
            self.is_unfit = True
            self.iterator.stop()
            raise Release("no worker process could be prepared for it", after=_LATER)
        await self._call(self._work, token)

    @override
    async def cleanup_run(self) -> None:  # type: ignore[override]  # both are right: PiCaS's is called without a token
        await self._call(self._clean_up)

    @override
    async def cleanup_env(self) -> None:
        await self._call(self.actor.cleanup_env)
        if self._thread is not None:
            self._thread.shutdown()

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call something of the actor's, in its thread; what it returns is for nobody. Nothing in the pilot."""
        if self._thread is not None:
            call = partial(contextvars.copy_context().run, function, *arguments)
            await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _work(self, token: Token) -> None:
        actor, document = self.actor, token.document
        before = {name: document.get(name) for name in ("lock", "scrub_count")}
        task = task_of(actor, document)
        held.begin(document)
        try:
            actor.prepare_run()
            actor.current_task = task
            work_of(actor)(token.id, task)
            _take_back(task, document)
        finally:
            held.end()
            self._pass_stop_on()
        self._settle(token, before)

    def _clean_up(self) -> None:
        self.actor.cleanup_run()
        self.actor.current_task = None
        self.actor.tasks_processed = getattr(self.actor, "tasks_processed", 0) + 1

    def _settle(self, token: Token, before: Document) -> None:
        """Say in our words what the actor has done to the token with PiCaS's modifier, or with methods of its Task."""
        document = token.document
        lock, done = document.get("lock"), document.get("done")
        if equals_number(lock, 0) and equals_number(done, 0):
            scrubs = count(document.get("scrub_count"))
            document["lock"] = before["lock"]
            if scrubs > count(before["scrub_count"]):
                document["scrub_count"] = scrubs - 1
                self.modifier.scrub(token)
            else:
                self.modifier.unlock(token)
        elif greater_than(done, 0) and lock != ERROR_MARK and document.get("exit_code") in ("", None):
            document["exit_code"] = 0

    def _pass_stop_on(self) -> None:
        iterator = getattr(self.actor, "iterator", None)
        if self._stop_file is not None and getattr(iterator, "_stop", False) is True:
            self._stop_file.touch()


def client_of(actor: Any) -> Any:
    """The PiCaS client of an actor.

    Raises:
        ConfigError: there is none.
    """
    for name in ("db", "client"):
        client = getattr(actor, name, None)
        if hasattr(getattr(client, "db", None), "resource"):
            return client
    raise ConfigError(f"{type(actor).__name__} has no PiCaS client, neither in self.db nor in self.client")


def work_of(actor: Any) -> Callable[[str, Any], Any]:
    """The actor's process_task or process_token, called with the token's id and the token.

    Raises:
        ConfigError: it has none of its own, or that needs more arguments.
    """
    if isinstance(actor, type):
        raise ConfigError(f"{actor.__name__} is a class: make the actor first, as for its own run()")
    for name in ("process_task", "process_token"):
        method = getattr(actor, name, None)
        if method is not None and not _is_abstract(actor, name):
            return _called_with_both(method)
    raise ConfigError(f"{type(actor).__name__} has neither a process_task nor a process_token")


def _is_abstract(actor: Any, name: str) -> bool:
    home = next((kind for kind in type(actor).__mro__ if name in vars(kind)), object)
    return home.__module__.partition(".")[0] == "picas"


def _called_with_both(method: Callable[..., Any]) -> Callable[[str, Any], Any]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(method).parameters.values()
    needed = sum(one.kind in kinds and one.default is one.empty for one in parameters)
    if needed > 2:
        raise ConfigError(f"{method.__qualname__} is called with a token, or with a key and a token, and needs more")
    return method if needed == 2 else lambda _key, token: method(token)


def task_of(actor: Any, document: Document) -> Any:
    """What the actor gets to work on: the Task of its own PiCaS, around the document; else the document."""
    for kind in type(actor).__mro__:
        package, _, module = kind.__module__.rpartition(".")
        if module == "actors" and package:
            try:
                return importlib.import_module(f"{package}.documents").Task(document)
            except (ImportError, AttributeError):
                continue
    return document


def _take_back(task: Any, document: Document) -> None:
    content = getattr(task, "value", task)
    if content is not document:
        kept = dict(content)
        document.clear()
        document.update(kept)


def _travelling(actor: Any) -> Any:
    """The actor as it is sent to a worker process: without what only the pilot asks."""
    sent, iterator = copy.copy(actor), getattr(actor, "iterator", None)
    if getattr(iterator, "stop_callback", None) is not None:
        sent.iterator = copy.copy(iterator)
        sent.iterator.stop_callback = None
    return sent
