"""Pilots inside other applications: they start, drain and stop with their host, and their death is seen."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from starlette.applications import Starlette

import apicas
from apicas.clients.memory import MemoryClient
from apicas.embedding import ASGIApp, EmbeddedPilot, cleanup_ctx, lifespan, running, with_pilots
from apicas.exceptions import ConfigError, PilotDiedError, PoolUnavailableError
from apicas.tokens import Token

Main = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    """Runs a coroutine function on a loop of that kind."""
    factory = None if request.param == "asyncio" else pytest.importorskip("uvloop").new_event_loop

    def run_it(main: Main) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(main(), 60))

    return run_it


class Work:
    """Notes what begins, and ends it when it is told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def __call__(self, token: Token) -> str:
        self.begun.set()
        await self.may_end.wait()
        return "worked"


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0)


async def state_of(client: MemoryClient, token: str = "t") -> str:
    return (await client.fetch(token)).state


def lives(pilot: EmbeddedPilot) -> bool:
    return pilot.is_running


async def fail(token: Token) -> None:
    raise AssertionError("nothing is to be worked")


class Unprepared(apicas.RunActor):
    async def prepare_env(self) -> None:
        raise OSError("no scratch here")

    async def process_token(self, token: Token) -> None: ...


def test_what_runs_is_finished_when_the_host_stops(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        work = Work()
        async with MemoryClient() as client:
            await client.upload([{"_id": "t"}])
            async with EmbeddedPilot(work, client, workers=2) as pilot:
                assert lives(pilot)
                await work.begun.wait()
                pilot.drain()
                work.may_end.set()
            assert await state_of(client) == "done"
            assert not lives(pilot)
            assert (pilot.report.done, pilot.report.reason) == (1, "the application stops")
            assert pilot.death is None
            pilot.check()

    run(main)


def test_what_does_not_end_within_the_grace_period_goes_back(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        work = Work()
        async with MemoryClient() as client:
            await client.upload([{"_id": "t"}])
            async with EmbeddedPilot(work, client, grace=0.05):
                await work.begun.wait()
            assert await state_of(client) == "todo"

    run(main)


def test_a_host_that_is_cancelled_while_it_waits_leaves_nothing_behind(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        work, stopping = Work(), asyncio.Event()
        async with MemoryClient() as client:
            await client.upload([{"_id": "t"}])

            async def host() -> None:
                async with EmbeddedPilot(work, client, grace=3600):
                    await work.begun.wait()
                    stopping.set()

            task = asyncio.create_task(host())
            await stopping.wait()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await state_of(client) == "todo"
            assert len(asyncio.all_tasks()) <= 2  # this one, and what wait_for made of it

    run(main)


def test_several_pilots_in_one_loop_drain_at_once(run: Callable[[Main], None]) -> None:
    """The second has a token that ends only when the first is told to drain: one after the other, it never would."""

    async def main() -> None:
        slow, quick = Work(), Work()
        async with MemoryClient() as one, MemoryClient() as other:
            await one.upload([{"_id": "t"}])
            await other.upload([{"_id": "t"}])
            pilots = EmbeddedPilot(slow, one, grace=3600), EmbeddedPilot(quick, other, grace=3600)

            async def end_when_both_drain() -> None:
                await until(lambda: _all([pilot.report.reason != "" for pilot in pilots]))
                slow.may_end.set()
                quick.may_end.set()

            async with running(*pilots):
                await slow.begun.wait()
                await quick.begun.wait()
                waiter = asyncio.create_task(end_when_both_drain())
            await waiter
            assert [await state_of(client) for client in (one, other)] == ["done", "done"]

    run(main)


async def _all(answers: list[bool]) -> bool:
    return all(answers)


def test_signals_and_the_root_logger_are_left_alone(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        def handlers() -> list[Any]:
            return [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]

        root = logging.getLogger()
        before = (handlers(), list(root.handlers), root.level)
        async with MemoryClient() as client, EmbeddedPilot(fail, client):
            assert (handlers(), list(root.handlers), root.level) == before

    run(main)
    with pytest.raises(ConfigError, match="handles no signals"):
        EmbeddedPilot(fail, "memory:", handle_signals=True)


async def test_what_keeps_a_pilot_from_starting_keeps_its_host_from_starting(tmp_path: Any) -> None:
    with pytest.raises(OSError, match="no scratch here"):
        async with EmbeddedPilot(Unprepared, "memory:"):
            raise AssertionError("it must not be entered")
    with pytest.raises(apicas.ApicasError):
        async with EmbeddedPilot(fail, f"sqlite:///{tmp_path}/missing/pool.db"):
            raise AssertionError("it must not be entered")
    with pytest.raises(ConfigError, match="no option worker"):
        EmbeddedPilot(fail, "memory:", worker=1)  # type: ignore[call-arg]


class Dying(MemoryClient):
    """Refuses us from some moment on."""

    refuses = False

    async def sample(self, *arguments: Any, **keywords: Any) -> Any:
        if self.refuses:
            raise apicas.AccessDeniedError("no longer a member")
        return await super().sample(*arguments, **keywords)


async def dead(on_death: Callable[[Exception], object] | None = None) -> EmbeddedPilot:
    """A pilot that dies of its first claim after it has started; it is entered."""
    client = Dying()
    await client.__aenter__()
    client.refuses = True
    pilot = EmbeddedPilot(fail, client, on_death=on_death)
    await pilot.__aenter__()
    while pilot.is_running:
        await asyncio.sleep(0)
    return pilot


async def test_the_death_of_a_pilot_is_seen_at_once_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    pilot = await dead()
    assert isinstance(pilot.death, apicas.AccessDeniedError)
    assert "has died, and works no more tokens: AccessDeniedError: no longer a member" in caplog.text
    with pytest.raises(PilotDiedError, match="no longer a member") as raised:
        pilot.check()
    assert raised.value.__cause__ is pilot.death
    assert pilot.client is not None  # the host goes on, and may use the pool
    with pytest.raises(apicas.AccessDeniedError, match="no longer a member"):
        await pilot.__aexit__(None, None, None)


async def test_a_host_that_was_told_of_the_death_ends_as_it_would() -> None:
    told: list[Exception] = []

    async def note(error: Exception) -> None:
        told.append(error)

    pilot = await dead(note)
    await pilot.__aexit__(None, None, None)
    assert told == [pilot.death]
    with pytest.raises(PilotDiedError):
        pilot.check()


async def test_a_pool_that_is_not_reached_at_first_is_the_hosts_to_judge() -> None:
    class Away(MemoryClient):
        async def sample(self, *arguments: Any, **keywords: Any) -> Any:
            raise PoolUnavailableError("refused")

    died = asyncio.Event()
    async with Away() as client, EmbeddedPilot(fail, client, on_death=lambda _error: died.set()):
        await died.wait()


async def test_a_pilot_that_comes_to_its_own_end_is_not_dead() -> None:
    async def nothing(token: Token) -> None: ...

    async with MemoryClient() as client:
        await client.upload([{"_id": "t"}])
        async with EmbeddedPilot(nothing, client, endless=False) as pilot:
            while pilot.is_running:
                await asyncio.sleep(0)
            pilot.check()
            assert (pilot.report.done, pilot.report.reason) == (1, "no more tokens")
        with pytest.raises(RuntimeError, match="is not open"):
            _ = pilot.client
        with pytest.raises(RuntimeError, match="started already"):
            await pilot.__aenter__()


# aiohttp. -------------------------------------------------------------------------------------------------------------


def test_aiohttp_starts_and_stops_it(run: Callable[[Main], None]) -> None:
    """Also when the application is cleaned up in another task than the one it was started in."""

    async def main() -> None:
        work = Work()
        async with MemoryClient() as client:
            await client.upload([{"_id": "t"}])
            app = web.Application()
            app.cleanup_ctx.append(cleanup_ctx(EmbeddedPilot(work, client)))
            runner = web.AppRunner(app)
            await runner.setup()
            await work.begun.wait()
            work.may_end.set()
            await asyncio.create_task(runner.cleanup())
            assert await state_of(client) == "done"

    run(main)


# ASGI. ----------------------------------------------------------------------------------------------------------------


class AsgiServer:
    """The lifespan protocol, from the server's side."""

    def __init__(self, app: ASGIApp) -> None:
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[Any] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._task: asyncio.Task[None] = asyncio.create_task(self._run(app, scope))

    async def _run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        await app(scope, self._to_app.get, self._from_app.put)

    async def say(self, word: str) -> Any:
        """Tell the application, and return its answer."""
        await self._to_app.put({"type": f"lifespan.{word}"})
        return await self._from_app.get()

    async def wait(self) -> None:
        """Wait until the application has left the lifespan."""
        await self._task


def starlette(**options: Any) -> ASGIApp:
    app: ASGIApp = Starlette(**options)
    return app


async def knows_nothing(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"


async def leaves_at_once(scope: Any, receive: Any, send: Any) -> None:
    return


APPS: dict[str, Callable[[EmbeddedPilot], ASGIApp]] = {
    "starlette, lifespan": lambda pilot: starlette(lifespan=lifespan(pilot)),
    "starlette, around": lambda pilot: with_pilots(starlette(), pilot),
    "an app that raises": lambda pilot: with_pilots(knows_nothing, pilot),
    "an app that leaves": lambda pilot: with_pilots(leaves_at_once, pilot),
}


@pytest.mark.parametrize("make_app", APPS.values(), ids=APPS)
def test_asgi_starts_and_stops_it(run: Callable[[Main], None], make_app: Callable[[EmbeddedPilot], ASGIApp]) -> None:
    async def main() -> None:
        work = Work()
        async with MemoryClient() as client:
            await client.upload([{"_id": "t"}])
            server = AsgiServer(make_app(EmbeddedPilot(work, client)))
            assert (await server.say("startup"))["type"] == "lifespan.startup.complete"
            await work.begun.wait()
            work.may_end.set()
            assert (await server.say("shutdown"))["type"] == "lifespan.shutdown.complete"
            await server.wait()
            assert await state_of(client) == "done"

    run(main)


async def test_pilots_start_after_the_application_and_stop_before_it() -> None:
    events: list[str] = []

    class Noting(apicas.RunActor):
        async def prepare_env(self) -> None:
            events.append("pilot starts")

        async def process_token(self, token: Token) -> None: ...

        async def cleanup_env(self) -> None:
            events.append("pilot stops")

    @asynccontextmanager
    async def own(app: Any) -> Any:
        events.append("app starts")
        yield
        events.append("app stops")

    server = AsgiServer(with_pilots(starlette(lifespan=own), EmbeddedPilot(Noting, "memory:")))
    await server.say("startup")
    await server.say("shutdown")
    await server.wait()
    assert events == ["app starts", "pilot starts", "pilot stops", "app stops"]


@pytest.mark.parametrize("around", [starlette(), knows_nothing], ids=["starlette", "an app that raises"])
async def test_a_server_is_told_that_a_pilot_could_not_start(around: ASGIApp) -> None:
    """The application, which has started, cleans up."""
    server = AsgiServer(with_pilots(around, EmbeddedPilot(Unprepared, "memory:")))
    answer = await server.say("startup")
    assert (answer["type"], answer["message"]) == ("lifespan.startup.failed", "OSError: no scratch here")
    await server.wait()


async def test_a_server_is_told_of_a_death_that_nobody_heard_of() -> None:
    async with Dying() as client:
        client.refuses = True
        pilot = EmbeddedPilot(fail, client)
        server = AsgiServer(with_pilots(starlette(), pilot))
        assert (await server.say("startup"))["type"] == "lifespan.startup.complete"
        while pilot.is_running:
            await asyncio.sleep(0)
        answer = await server.say("shutdown")
        assert answer["type"] == "lifespan.shutdown.failed"
        assert "no longer a member" in answer["message"]
        await server.wait()


async def test_an_application_that_fails_to_start_starts_no_pilot() -> None:
    @asynccontextmanager
    async def broken(app: Any) -> Any:
        yield dict[str, str]()["database"]

    pilot = EmbeddedPilot(fail, "memory:")
    server = AsgiServer(with_pilots(starlette(lifespan=broken), pilot))
    assert (await server.say("startup"))["type"] == "lifespan.startup.failed"
    with pytest.raises(KeyError, match="database"):
        await server.wait()
    assert not pilot.is_running


async def test_requests_pass_through() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await with_pilots(app, EmbeddedPilot(fail, "memory:"))({"type": "http"}, None, None)  # type: ignore[arg-type]
    assert seen == ["http"]
