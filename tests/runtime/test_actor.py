"""RunActor: its hooks, their order, and what runs after a failure."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

import apicas
from apicas.exceptions import ConfigError
from apicas.iterators import BasicViewIterator
from apicas.testing import FaultyClient
from apicas.tokens import Token
from tests.runtime.acting import acting, filled, only, retried_once
from tests.runtime.virtual import LEASE, make_pool, pilot, virtual


class Recorder(apicas.RunActor):
    """Notes which hook was called when."""

    def __init__(self, iterator: BasicViewIterator) -> None:
        super().__init__(iterator)
        self.calls: list[str] = []
        self.raises: dict[str, BaseException] = {}

    def note(self, hook: str) -> None:
        self.calls.append(hook)
        if hook in self.raises:
            raise self.raises[hook]

    async def prepare_env(self) -> None:
        self.note("prepare_env")

    async def prepare_run(self, token: Token) -> None:
        self.note("prepare_run")

    async def process_token(self, token: Token) -> Any:
        self.note("process_token")

    async def cleanup_run(self, token: Token) -> None:
        self.note("cleanup_run")

    async def cleanup_env(self) -> None:
        self.note("cleanup_env")


@virtual
async def test_hooks_come_in_their_order() -> None:
    """Environment once around everything, run hooks around each token."""
    client = make_pool()
    await client.upload([{}, {}])
    actor = Recorder(pilot(client))
    report = await actor.run(workers=1)
    each = ["prepare_run", "process_token", "cleanup_run"]
    assert actor.calls == ["prepare_env", *each, *each, "cleanup_env"]
    assert (report.claimed, report.done, report.failed) == (2, 2, 0)


@pytest.mark.parametrize(
    ("failing", "calls", "state"),
    [
        ("prepare_run", ["prepare_run", "cleanup_run"], "error"),
        ("process_token", ["prepare_run", "process_token", "cleanup_run"], "error"),
        ("cleanup_run", ["prepare_run", "process_token", "cleanup_run"], "error"),
    ],
)
@virtual
async def test_a_failing_hook_fails_its_token(failing: str, calls: list[str], state: str) -> None:
    """cleanup_run comes in any case, and the pilot goes on."""
    client = make_pool()
    await client.upload([{}])
    actor = Recorder(pilot(client))
    actor.raises[failing] = ValueError(f"{failing} broke")
    report = await actor.run(workers=1)
    assert actor.calls == ["prepare_env", *calls, "cleanup_env"]
    token = await only(client)
    assert token.state == state
    assert f"{failing} broke" in token.errors[0]["message"]
    assert report.failed == 1


@virtual
async def test_a_failing_prepare_env_ends_the_pilot() -> None:
    """Nothing is claimed, cleanup_env is called, and the caller gets the exception itself."""
    client = make_pool()
    await client.upload([{}])
    actor = Recorder(pilot(client))
    actor.raises["prepare_env"] = RuntimeError("no scratch disk")
    with pytest.raises(RuntimeError, match="no scratch disk"):
        await actor.run()
    assert actor.calls == ["prepare_env", "cleanup_env"]
    assert (await client.counts())["todo"] == 1


@virtual
async def test_hooks_may_leave_the_token_out() -> None:
    """prepare_run and cleanup_run with or without the token, as in PiCaS."""
    client = make_pool()
    await client.upload([{}])
    calls: list[str] = []

    class Actor(apicas.RunActor):
        async def prepare_run(self) -> None:  # type: ignore[override]  # PiCaS's signature
            calls.append("prepare")

        async def process_token(self, token: Token) -> None:
            calls.append(token.state)

        async def cleanup_run(self, *args: Any, **kwargs: Any) -> None:
            calls.append(f"cleanup {len(args)}")

    await Actor(pilot(client)).run(workers=1)
    assert calls == ["prepare", "locked", "cleanup 1"]


async def test_plain_functions_run_in_threads() -> None:
    """A plain def blocks nobody: as many threads as workers, none of them the loop's."""
    client = FaultyClient()
    await client.upload([{} for _ in range(4)])
    together = threading.Barrier(4, timeout=20)
    threads: set[int] = set()

    class Actor(apicas.RunActor):
        def process_token(self, token: Token) -> str:
            together.wait()  # only passed if four tokens are worked at once
            threads.add(threading.get_ident())
            return "seen"

    report = await Actor(BasicViewIterator(client)).run(workers=4)
    assert report.done == 4
    assert len(threads) == 4
    assert threading.get_ident() not in threads
    assert {row.document["output"] for row in await client.view("done", include_docs=True) if row.document} == {"seen"}


@virtual
async def test_an_actor_needs_process_token() -> None:
    """One without says so before anything is claimed."""
    with pytest.raises(ConfigError, match="no process_token"):
        await apicas.RunActor(pilot(make_pool())).run()


@virtual
async def test_an_actor_runs_twice() -> None:
    """The second run finds what was left, or came since; its report is of its own tokens."""
    client = await filled(4)
    actor = acting(pilot(client), retried_once)
    assert (await actor.run(workers=1, max_tokens=1)).done == 1
    assert (await actor.run(workers=1)).done == 3
    await client.upload([{}])
    assert (await actor.run(workers=1)).done == 1


@virtual
async def test_an_actor_runs_twice_in_one_open_iterator() -> None:
    """The same where the user has entered it."""
    client = await filled(4)
    async with pilot(client) as tokens:
        actor = acting(tokens, retried_once)
        assert (await actor.run(workers=1, max_tokens=1)).done == 1
        report = await actor.run(workers=1)
        assert (report.done, report.claimed, report.reason) == (3, report.scrubbed + 3, "no more tokens")
        tokens.stop()
        assert (await actor.run(workers=1)).reason == "the iterator was stopped"


@virtual
async def test_two_runs_at_once_share_an_iterator() -> None:
    """Both end, however long their last outcomes wait for the store."""
    client = await filled(2)

    async def process(_token: Token) -> None:
        await anyio.sleep(1)
        client.faults.away = True

    async def come_back() -> None:
        await anyio.sleep(100)
        client.faults.away = False

    async with pilot(client) as tokens, anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(lambda: acting(tokens, process).run(workers=1, max_tokens=1))
        group.start_soon(come_back)
    assert (await client.counts())["done"] == 2


@virtual
async def test_a_run_does_not_wait_for_a_token_in_the_users_hands() -> None:
    """It waits for its own tokens, which may come back; not for one that its caller holds."""
    client = await filled(3)
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)
        with anyio.fail_after(10 * LEASE):
            assert (await acting(tokens, retried_once).run(workers=1)).done == 2
        async with token:
            pass


@virtual
async def test_cleanup_env_has_all_the_time_it_takes_after_a_normal_end() -> None:
    """Copying the results away may take longer than the grace period of a signal."""
    client = await filled(1)
    calls: list[str] = []

    async def cleanup_env(_self: Any) -> None:
        await anyio.sleep(100)
        calls.append("cleaned")

    await acting(pilot(client), retried_once, cleanup_env=cleanup_env).run(workers=1, grace=20)
    assert calls == ["cleaned"]
