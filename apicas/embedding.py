"""Pilots inside an application that runs already: an aiohttp or ASGI service, or anything with an asyncio loop.

    squares = apicas.embedding.EmbeddedPilot(square, "sqlite:///pool.db", workers=16)

    async with squares: ...                                       # any program
    app.cleanup_ctx.append(apicas.embedding.cleanup_ctx(squares)) # aiohttp
    app = FastAPI(lifespan=apicas.embedding.lifespan(squares))    # FastAPI, Starlette; Litestar(lifespan=[...])
    app = apicas.embedding.with_pilots(app, squares)              # any ASGI application

Rules:
- A pilot starts, drains and stops with its host. It handles no signals, and leaves the root logger alone.
- What keeps it from starting keeps the host from starting.
- A pilot that dies later says so in the log and to `on_death`, `check` raises, and where nobody was told, so does the
  end of the host. The host decides what that means to it: it goes on meanwhile.
- Each pilot has a task of its own, and nothing of it is held open across a `yield` of the host's.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeAlias

from typing_extensions import Unpack

from apicas._runtime.hooks import Work
from apicas._runtime.pilot import Pilot
from apicas._runtime.reports import Report
from apicas.actors import RunActor, RunFunctionKeywords, make_pilot, run_plan, work_maker
from apicas.clients.base import PoolClient
from apicas.clients.connect import connect
from apicas.exceptions import ConfigError, PilotDiedError

log = logging.getLogger("apicas")

OnDeath: TypeAlias = Callable[[Exception], object]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class EmbeddedPilot:
    """A pilot that lives as long as its host: an async context manager, which can be entered once.

    Args:
        work: a function of the token, async or plain, or a RunActor class.
        pool: the pool's address, or an open client, which stays open.
        on_death: called with the exception that the pilot died of, once it had started; plain or async. The end of
            the host raises it no more then.
        options: as for apicas.run, but it waits for work for ever (`endless=False` to end with the last token), and
            handles no signals.

    Raises:
        ConfigError: an option cannot be used.
    """

    def __init__(
        self,
        work: Callable[..., Any] | type[RunActor],
        pool: str | PoolClient,
        *,
        on_death: OnDeath | None = None,
        **options: Unpack[RunFunctionKeywords],
    ) -> None:
        if options.get("handle_signals"):
            raise ConfigError("an embedded pilot handles no signals: its host does, and stops it")
        self._work = work
        self._pool = pool
        self._on_death = on_death
        self._make_iterator, self._options = run_plan({"endless": True, **options})
        self._client: PoolClient | None = None
        self._pilot: Pilot | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None]
        self._closing: asyncio.Event
        self._report: Report | None = None
        self._death: Exception | None = None
        self._is_told = False

    @property
    def client(self) -> PoolClient:
        """The pool, open from the start of the host to its end.

        Raises:
            RuntimeError: the pilot has not been started, or is stopped.
        """
        if self._client is None:
            raise RuntimeError("this pilot has not been started, or is stopped: its pool is not open")
        return self._client

    @property
    def is_running(self) -> bool:
        """Whether it claims and works tokens, or drains."""
        return self._pilot is not None and self._report is None and self._death is None

    @property
    def report(self) -> Report:
        """What it has done so far, or did."""
        if self._report is None and self._pilot is not None and self.is_running:
            return self._pilot.report()
        return self._report or Report()

    @property
    def death(self) -> Exception | None:
        """What it died of; None for one that lives, or came to an end."""
        return self._death

    def check(self) -> None:
        """Do nothing for a pilot that lives, or came to its own end: for the health check of a host.

        Raises:
            PilotDiedError: it has died.
        """
        if self._death is not None:
            raise PilotDiedError(f"the pilot has died: {type(self._death).__name__}: {self._death}") from self._death

    def drain(self, reason: str = "the application stops") -> None:
        """Claim nothing more, give what runs the grace period to finish, then hand it back. Waits for nothing."""
        if self._pilot is not None and self.is_running:
            self._pilot.drain(reason)

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("this pilot has been started already")
        self._ready = asyncio.get_running_loop().create_future()
        self._closing = asyncio.Event()
        # No task group: hosts may start and stop it in different tasks, and a group would cancel the host's own.
        self._task = asyncio.create_task(self._live(), name="apicas-pilot")
        try:
            await self._ready
        except BaseException:
            await self._end(cancel=True)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.drain()
        self._closing.set()
        await self._end(cancel=False)
        if self._death is not None and not self._is_told and error is None:
            raise self._death

    async def _end(self, *, cancel: bool) -> None:
        """Wait for the task; a host that is cancelled meanwhile cancels it, and has it hand back what it holds."""
        task = self._task
        assert task is not None  # noqa: S101 - called after it was made
        if cancel:
            task.cancel()
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            raise
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    async def _live(self) -> None:
        """Open the pool, run the pilot, and keep the pool open until the host stops."""
        try:
            async with AsyncExitStack() as stack:
                pool = self._pool
                self._client = await stack.enter_async_context(connect(pool)) if isinstance(pool, str) else pool
                await self._run()
                await self._closing.wait()
        except Exception as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)
        finally:
            self._client = None

    async def _run(self) -> None:
        try:
            iterator = self._make_iterator(self.client)
            make_work = work_maker(self._work, iterator)
            self._pilot = await make_pilot(iterator, lambda workers: self._announced(make_work(workers)), self._options)
            self._report = await self._pilot.run()
            if not self._ready.done():  # it was drained while it was prepared
                self._ready.set_result(None)
            log.info("the embedded pilot has ended: %s", self._report)
        except Exception as error:
            self._death = error
            if not self._ready.done():
                raise
            await self._tell_of_death(error)

    async def _tell_of_death(self, error: Exception) -> None:
        log.error("the embedded pilot has died, and works no more tokens: %s: %s", type(error).__name__, error)
        if self._on_death is None or self._closing.is_set():
            return
        self._is_told = True
        answer = self._on_death(error)
        if inspect.isawaitable(answer):
            await answer

    def _announced(self, work: Work) -> Work:
        """The same work, which says when it is prepared: then the host may start."""

        async def prepare_env() -> None:
            if work.prepare_env is not None:
                await work.prepare_env()
            if not self._ready.done():
                self._ready.set_result(None)

        return replace(work, prepare_env=prepare_env)


@asynccontextmanager
async def running(*pilots: EmbeddedPilot) -> AsyncIterator[None]:
    """Start pilots, and at the end drain all of them at once."""
    async with AsyncExitStack() as stack:
        for pilot in pilots:
            await stack.enter_async_context(pilot)
        try:
            yield
        finally:
            for pilot in pilots:
                pilot.drain()


def cleanup_ctx(*pilots: EmbeddedPilot) -> Callable[[Any], AsyncIterator[None]]:
    """What starts and stops pilots with an aiohttp application: `app.cleanup_ctx.append(cleanup_ctx(pilot))`."""

    async def context(_app: Any) -> AsyncIterator[None]:
        async with running(*pilots):
            yield

    return context


def lifespan(*pilots: EmbeddedPilot) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """What starts and stops pilots with an application that takes a lifespan: Starlette, FastAPI, Litestar."""

    def context(_app: Any) -> AbstractAsyncContextManager[None]:
        return running(*pilots)

    return context


def with_pilots(app: ASGIApp, *pilots: EmbeddedPilot) -> ASGIApp:
    """An ASGI application with pilots that start after it, and stop before it.

    Args:
        app: any ASGI application, also one that knows nothing of the lifespan protocol.
        pilots: the pilots.
    """

    async def wrapped(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _Lifespan(app, pilots, receive, send).run(scope)
        else:
            await app(scope, receive, send)

    return wrapped


class _Lifespan:
    """Stands between a server and an application, and has pilots start and stop as the two agree on it."""

    def __init__(self, app: ASGIApp, pilots: tuple[EmbeddedPilot, ...], receive: Receive, send: Send) -> None:
        self._app = app
        self._from_server = receive
        self._to_server = send
        self._pilots = running(*pilots)
        self._has_asked = False
        """Whether the server's word to start has been taken."""
        self._are_running = False
        self._is_over = False
        """Whether the server has been told of a failure, or of the end."""
        self._failure: str | None = None

    async def run(self, scope: MutableMapping[str, Any]) -> None:
        """Speak for the application where it has nothing to say: one that knows no lifespan leaves at once."""
        try:
            await self._app(scope, self._receive, self._send)
        except Exception:
            if self._are_running or self._is_over:
                await self._stop()
                raise
        if not self._are_running and not self._is_over:
            if not self._has_asked:
                await self._receive()
            await self._send({"type": "lifespan.startup.complete"})
        if not self._is_over:
            await self._receive()
            await self._send({"type": "lifespan.shutdown.complete"})

    async def _receive(self) -> Message:
        """What the server says, to the application. One whose pilots could not start is told to clean up."""
        if self._is_over:
            return {"type": "lifespan.shutdown"}
        message = await self._from_server()
        if message["type"] == "lifespan.startup":
            self._has_asked = True
        elif message["type"] == "lifespan.shutdown":
            await self._stop()
        return message

    async def _send(self, message: Message) -> None:
        """What the application says, to the server."""
        if self._is_over:
            return
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            await self._start()
            message = message if self._are_running else {"type": "lifespan.startup.failed", "message": self._failure}
        elif kind == "lifespan.shutdown.complete" and self._failure is not None:
            message = {"type": "lifespan.shutdown.failed", "message": self._failure}
        self._is_over = message["type"] != "lifespan.startup.complete"
        await self._to_server(message)

    async def _start(self) -> None:
        try:
            await self._pilots.__aenter__()
        except Exception as error:  # noqa: BLE001 - the server is told
            self._note(error)
        else:
            self._are_running = True

    async def _stop(self) -> None:
        if self._are_running:
            self._are_running = False
            try:
                await self._pilots.__aexit__(None, None, None)
            except Exception as error:  # noqa: BLE001 - the server is told, after the application has cleaned up
                self._note(error)

    def _note(self, error: Exception) -> None:
        self._failure = f"{type(error).__name__}: {error}"
