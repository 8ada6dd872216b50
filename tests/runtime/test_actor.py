"""RunActor and run(): hooks, outcomes, stop criteria, and the way down."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

import apicas
from apicas.exceptions import AccessDeniedError, ConfigError, PoolUnavailableError
from apicas.iterators import BasicViewIterator, EndlessViewIterator, PrioritizedViewIterator
from apicas.testing import FaultyClient, unix_time, virtual_environment
from apicas.tokens import Token, TokenState, annex
from apicas.views import View, field
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


async def only(client: FaultyClient) -> Token:
    """The one token of a pool."""
    (identifier,) = [row.id for state in ("todo", "locked", "done", "error") for row in await client.view(state)]
    return await client.fetch(str(identifier))


async def work(client: FaultyClient, process: Any, **options: Any) -> apicas.Report:
    """Run a function over the pool's tokens."""
    options.setdefault("handle_signals", False)
    async with pilot(client) as tokens:
        return await _actor(tokens, process).run(**options)


def _actor(tokens: Any, process: Any) -> apicas.RunActor:
    class Actor(apicas.RunActor):
        process_token = staticmethod(process)

    return Actor(tokens)


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


# What becomes of a token. -------------------------------------------------------------------------------------------


def _raise(error: BaseException) -> Any:
    raise error


def _set(**fields: Any) -> Any:
    async def process(token: Token) -> None:
        token.update(fields)

    return process


async def returns(token: Token) -> Any:
    return {"answer": 42}


async def returns_nothing(token: Token) -> None:
    token["output"] = "set by hand"


OUTCOMES: list[tuple[str, Any, str, dict[str, Any]]] = [
    ("a value becomes the output", returns, "done", {"output": {"answer": 42}, "exit_code": 0, "scrub_count": 0}),
    ("None leaves the output", returns_nothing, "done", {"output": "set by hand"}),
    ("exit code 0 is done", _set(exit_code=0), "done", {"exit_code": 0}),
    ("another exit code is a failure", _set(exit_code=3), "error", {"exit_code": 3, "lock": 99, "done": 99}),
    ("Fail ends in error", lambda _: _raise(apicas.Fail("bad data", exit_code=7)), "error", {"exit_code": 7}),
    ("Fail with exit code 0 is an error all the same", lambda _: _raise(apicas.Fail(exit_code=0)), "error", {}),
    ("Retry goes back, counted", lambda _: _raise(apicas.Retry()), "todo", {"scrub_count": 1}),
    ("Release goes back, uncounted", lambda _: _raise(apicas.Release()), "todo", {"scrub_count": 0}),
    ("an exception is an error", lambda _: _raise(KeyError("x")), "error", {"exit_code": 1, "lock": 99}),
    ("NaN is an error", _set(output=float("nan")), "error", {"output": {}}),
    ("what is no JSON is an error", _set(output=object()), "error", {"output": {}}),
    ("a reserved field is an error", _set(_foo=1), "error", {}),
    ("too much is an error", _set(output="x" * 9_000_000), "error", {"output": {}}),
    ("a broken lock field is put right", _set(lock="gone", done=None), "done", {}),
    ("another id cannot be taken", _set(_id="stolen", _rev="9-stolen", type="mine"), "done", {"type": "token"}),
    ("the fence cannot be broken by hand", _set(apicas={"claim": "mine", "generation": 99}), "done", {}),
    ("an apicas field of an odd type is put right", _set(apicas=5), "done", {}),
]


@pytest.mark.parametrize(("process", "state", "fields"), [case[1:] for case in OUTCOMES], ids=[c[0] for c in OUTCOMES])
async def test_the_outcome_of_a_token(process: Any, state: str, fields: dict[str, Any]) -> None:
    """Whatever process_token does, its token ends in the right state with the right fields, and the pilot lives."""
    client = FaultyClient()
    await client.upload([{"_id": "t"}])
    async with BasicViewIterator(client) as tokens:
        await _actor(tokens, process).run(workers=1, max_tokens=1)
    token = await client.fetch("t")
    assert token.state == state
    assert {name: token[name] for name in fields} == fields
    assert "claim" not in annex(token)
    assert token.generation == 1
    if state == "error":
        assert token.errors
        assert token.errors[0]["message"]


@virtual
async def test_an_exception_is_recorded_with_its_traceback() -> None:
    """From the user's code on, without the frames of apicas."""
    client = make_pool()
    await client.upload([{}])

    async def process(token: Token) -> None:
        raise ValueError("no such galaxy")

    await work(client, process)
    (error,) = (await only(client)).errors
    assert error["message"] == "ValueError: no such galaxy"
    assert "test_actor.py" in error["exception"]
    assert "executor.py" not in error["exception"]
    assert error["time"] == pytest.approx(unix_time(), abs=5)


@virtual
async def test_failures_are_tried_again_up_to_max_scrub() -> None:
    """Two scrubs, then error; the report tells them apart."""
    client = make_pool()
    await client.upload([{}])
    attempts: list[int] = []

    async def process(token: Token) -> None:
        attempts.append(token.scrub_count)
        raise OSError("flaky")

    report = await work(client, process, max_scrub=2)
    assert attempts == [0, 1, 2]
    assert (report.scrubbed, report.failed, report.done) == (2, 1, 0)
    token = await only(client)
    assert (token.state, token.scrub_count, len(token.errors)) == ("error", 2, 3)


@virtual
async def test_retry_after_is_waited_for() -> None:
    """A token that waits for its time counts as work: the pilot ends only after it."""
    client = make_pool()
    await client.upload([{}])
    times: list[float] = []

    async def process(token: Token) -> None:
        times.append(unix_time())
        if len(times) == 1:
            raise apicas.Retry("later", after=300)

    report = await work(client, process)
    assert 300 <= times[1] - times[0] <= 320
    assert (report.scrubbed, report.done) == (1, 1)


@virtual
async def test_waiting_tokens_do_not_hide_others() -> None:
    """A whole window of tokens that wait for their time, and one that does not, behind them."""
    client = make_pool()
    later = unix_time() + 10_000
    documents = [
        {"_id": f"a{n:05}", "type": "token", "lock": 0, "done": 0, "apicas": {"not_before": later}} for n in range(5000)
    ]
    assert all(result.written for result in await client.save(documents))
    await client.upload([{"_id": "z"}])
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)
        assert token.id == "z"


@virtual
async def test_the_user_may_scrub_or_unlock_by_hand() -> None:
    """PiCaS actors do: the token goes back as they left it."""
    client = make_pool()
    await client.upload([{"_id": "scrub"}, {"_id": "unlock"}])
    seen: list[str] = []

    class Actor(apicas.RunActor):
        async def process_token(self, token: Token) -> None:
            if token.id in seen:
                return
            seen.append(token.id)
            if token.id == "scrub":
                self.modifier.scrub(token)
            else:
                self.modifier.unlock(token)

    report = await Actor(pilot(client)).run(workers=1)
    assert (report.done, report.scrubbed, report.released) == (2, 1, 1)
    assert (await client.fetch("scrub")).scrub_count == 1


@virtual
async def test_closing_by_hand_is_fine() -> None:
    """PiCaS actors set the exit code and close the token themselves."""
    client = make_pool()
    await client.upload([{"_id": "ok", "input": 0}, {"_id": "bad", "input": 4}])

    class Actor(apicas.RunActor):
        async def process_token(self, token: Token) -> None:
            await anyio.sleep(30)
            token["exit_code"] = token["input"]
            self.modifier.close(token)

    report = await Actor(pilot(client)).run(workers=2)
    assert (report.done, report.failed) == (1, 1)
    done = await client.fetch("ok")
    assert done["done"] - done["lock"] == 30
    bad = await client.fetch("bad")
    assert (bad.state, bad["exit_code"], bad.errors[0]["message"]) == ("error", 4, "exit code 4")


@virtual
async def test_set_error_by_hand_is_a_failure() -> None:
    """With the user's own reason, and the scrub policy applied."""
    client = make_pool()
    await client.upload([{}])

    class Actor(apicas.RunActor):
        async def process_token(self, token: Token) -> None:
            self.modifier.set_error(token, "the input is empty")

    report = await Actor(pilot(client)).run(workers=1, max_scrub=1)
    assert (report.scrubbed, report.failed) == (1, 1)
    token = await only(client)
    assert [error["message"] for error in token.errors] == ["the input is empty"] * 2


@virtual
async def test_attachments_are_written_with_the_outcome() -> None:
    """Of a success and of a failure."""
    client = make_pool()
    await client.upload([{"_id": "good"}, {"_id": "bad"}])

    async def process(token: Token) -> None:
        token.put_attachment("log.txt", f"log of {token.id}")
        if token.id == "bad":
            raise ValueError("bad")

    await work(client, process)
    for name in ("good", "bad"):
        assert await client.get_attachment(name, "log.txt") == f"log of {name}".encode()


# Time limits and stop criteria. -------------------------------------------------------------------------------------


@virtual
async def test_the_time_limit_ends_the_work() -> None:
    """At the limit, not later; a failure that says so. cleanup_run still runs."""
    client = make_pool()
    await client.upload([{}])
    ended: list[tuple[str, float]] = []
    start = unix_time()

    class Actor(apicas.RunActor):
        async def process_token(self, token: Token) -> None:
            try:
                await anyio.sleep(1000)
            finally:
                ended.append(("process", unix_time() - start))

        async def cleanup_run(self, token: Token) -> None:
            ended.append(("cleanup", unix_time() - start))

    report = await Actor(pilot(client)).run(max_token_time=10)
    assert ended == [("process", 10), ("cleanup", 10)]
    assert report.failed == 1
    assert (await only(client)).errors[0]["message"] == "not done within the time limit of 10 s"


@virtual
async def test_work_that_ignores_its_time_limit_loses_its_lease() -> None:
    """It cannot be ended, so it is beaten no longer: another pilot works the token, and what it says late is lost."""
    client = make_pool()
    await client.upload([{"_id": "t"}])

    async def stubborn(token: Token) -> str:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(20 * LEASE)
        return "late"

    async def run_stubborn() -> None:
        report = await work(client, stubborn, workers=1, max_token_time=LEASE, max_tokens=1)
        assert (report.lost, report.done, report.failed) == (1, 0, 0)

    async with anyio.create_task_group() as group:
        group.start_soon(run_stubborn)
        await anyio.sleep(LEASE + 1)  # before, it is seen to live, and nobody waits for it
        async with pilot(client, "two") as tokens:
            async for token in tokens:
                async with token:
                    token["output"] = "in time"
    stored = await client.fetch("t")
    assert (stored.output, stored.crashes) == ("in time", 1)


@virtual
async def test_a_timeout_of_the_users_own_is_an_exception() -> None:
    """Not mistaken for the token's time limit."""
    client = make_pool()
    await client.upload([{}])

    async def process(token: Token) -> None:
        with anyio.fail_after(5):
            await anyio.sleep(1000)

    await work(client, process, max_token_time=10)
    assert (await only(client)).errors[0]["message"].startswith("TimeoutError")


@virtual
async def test_max_total_time_finishes_what_runs() -> None:
    """Nothing new is begun after it, and nothing that runs is cut."""
    client = make_pool()
    await client.upload([{} for _ in range(100)])

    async def process(token: Token) -> None:
        await anyio.sleep(7)

    report = await work(client, process, workers=2, max_total_time=20)
    assert report.done == 6
    assert report.reason.startswith("max_total_time")
    assert await client.counts() == {"todo": 94, "locked": 0, "done": 6, "error": 0}


@pytest.mark.parametrize("name", ["max_tokens", "max_tasks"])
@virtual
async def test_max_tokens_is_exact(name: str) -> None:
    """No more are worked, and none beyond stay claimed."""
    client = make_pool()
    await client.upload([{} for _ in range(50)])

    async def process(token: Token) -> None:
        await anyio.sleep(0.01)

    report = await work(client, process, workers=4, **{name: 17})
    assert report.done == 17
    assert await client.counts() == {"todo": 33, "locked": 0, "done": 17, "error": 0}


@virtual
async def test_stop_function_ends_the_pilot() -> None:
    """Asked after each token, with the keywords that are no options of ours, as in PiCaS."""
    client = make_pool()
    await client.upload([{} for _ in range(10)])
    worked: list[str] = []

    async def process(token: Token) -> None:
        worked.append(token.id)

    report = await work(client, process, workers=1, stop_function=lambda limit: len(worked) >= limit, limit=3)
    assert report.done == 3
    assert (await client.counts())["todo"] == 7


@virtual
async def test_unknown_options_are_refused() -> None:
    """A misspelt keyword is no stop_function's business where there is none."""
    with pytest.raises(ConfigError, match="max_tokenz"):
        await work(make_pool(), returns, max_tokenz=3)
    with pytest.raises(ConfigError, match="workers is 0"):
        await work(make_pool(), returns, workers=0)


@virtual
async def test_workers_work_at_once() -> None:
    """Twenty tokens of one second on ten workers take two seconds."""
    client = make_pool()
    await client.upload([{} for _ in range(20)])
    running = most = 0

    async def process(token: Token) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1)
        running -= 1

    report = await work(client, process, workers=10)
    assert most == 10
    assert report.done == 20
    assert report.seconds < 3


@virtual
async def test_a_slow_token_does_not_hold_up_the_others() -> None:
    """Workers take the next token one by one, not batch by batch."""
    client = make_pool()
    await client.upload([{"_id": "a-slow"}, *({"_id": f"b{n}"} for n in range(30))])

    async def process(token: Token) -> None:
        await anyio.sleep(100 if token.id == "a-slow" else 1)

    report = await work(client, process, workers=4)
    assert report.done == 31
    assert report.seconds < 115


# Lost leases, outages, and the way down. ----------------------------------------------------------------------------


@virtual
async def test_a_lost_token_is_stopped_and_counted() -> None:
    """Its work is cancelled at the next beat, and its slot goes to the next token."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    cancelled: list[str] = []
    started = anyio.Event()

    async def process(token: Token) -> None:
        started.set()
        try:
            await anyio.sleep(10 * LEASE)
        except BaseException:
            cancelled.append(token.id)
            raise

    async with anyio.create_task_group() as group:

        async def run() -> None:
            report = await work(client, process, max_tokens=1)
            assert (report.lost, report.done) == (1, 0)

        group.start_soon(run)
        await started.wait()
        await client.rival().delete([(await client.fetch("t")).document])
    assert cancelled == ["t"]


@virtual
async def test_claims_wait_for_an_absent_store() -> None:
    """A pilot that has begun outlives a restart of the server, however long that takes."""
    client = make_pool()
    await client.upload([{} for _ in range(8)])
    seen: list[str] = []

    async def process(token: Token) -> None:
        seen.append(token.id)
        client.faults.away = len(seen) == 2
        await anyio.sleep(30)

    async def come_back() -> None:
        await anyio.sleep(3600)
        client.faults.away = False

    async with anyio.create_task_group() as group:
        group.start_soon(come_back)
        report = await work(client, process, workers=1)
    assert (report.done, report.lost, len(seen)) == (8, 0, 8)
    assert report.seconds > 3600


@virtual
async def test_outcomes_wait_for_an_absent_store() -> None:
    """The work goes on with what is held; what it came to is written when the store is back."""
    client = make_pool()
    await client.upload([{} for _ in range(8)])

    async def process(token: Token) -> str:
        client.faults.away = True
        await anyio.sleep(30)
        return "kept"

    async def come_back() -> None:
        await anyio.sleep(3600)
        client.faults.away = False

    async with anyio.create_task_group() as group:
        group.start_soon(come_back)
        report = await work(client, process, workers=8, max_tokens=8)
    assert (report.done, report.lost) == (8, 0)
    assert 3600 <= report.seconds <= 3610
    assert {row.document["output"] for row in await client.view("done", include_docs=True) if row.document} == {"kept"}


@virtual
async def test_a_commit_whose_answer_got_lost_is_recognised() -> None:
    """Carried out: not written twice, not called lost. Not carried out: written."""
    client = make_pool()
    await client.upload([{"_id": "a"}, {"_id": "b"}])

    async def process(token: Token) -> str:
        if token.id == "a":
            client.faults.lose_answers = 1
        else:
            client.faults.lose_requests = 1
        return token.id

    report = await work(client, process, workers=1)
    assert (report.done, report.lost) == (2, 0)
    assert (await client.fetch("a"))["_rev"].startswith("3-")
    assert (await client.fetch("b"))["_rev"].startswith("3-")


@virtual
async def test_a_claim_whose_answer_got_lost_is_recognised() -> None:
    """A lock that was written is kept: no token waits a lease for nothing."""
    client = make_pool()
    await client.upload([{"_id": "a"}])
    async with pilot(client) as tokens:
        client.faults.lose_answers = 1
        (token,) = await tokens.claim(1)
        client.faults.lose_requests = 1
        async with token:
            pass
    assert (await client.fetch("a")).generation == 1


@virtual
async def test_a_drain_lets_tokens_finish_within_the_grace_period() -> None:
    """What ends in time is done; the rest is cancelled and released, uncharged."""
    client = make_pool()
    await client.upload([{"_id": f"t{n}", "input": seconds} for n, seconds in enumerate([5, 15, 100, 1000])])
    started = anyio.Event()
    from apicas._runtime.hooks import Work
    from apicas._runtime.pilot import Pilot, RunOptions

    async def process(token: Token) -> None:
        if token["input"] == 1000:
            started.set()
        await anyio.sleep(token["input"])

    running = Pilot(pilot(client), Work(process=process), RunOptions(grace=20), 4)
    async with anyio.create_task_group() as group:

        async def run() -> None:
            start = unix_time()
            report = await running.run()
            assert (report.done, report.released, report.reason) == (2, 2, "SIGTERM")
            assert 20 <= unix_time() - start <= 21

        group.start_soon(run)
        await started.wait()
        running.drain("SIGTERM")
    for name in ("t2", "t3"):
        token = await client.fetch(name)
        assert (token.state, token.scrub_count, token.releases) == ("todo", 0, 1)


@virtual
async def test_cancelling_run_hands_back_what_runs() -> None:
    """An embedding service that cancels its task finds every token back in todo."""
    client = make_pool()
    await client.upload([{} for _ in range(6)])

    async def process(token: Token) -> None:
        await anyio.sleep(1000)

    with anyio.move_on_after(50):
        await work(client, process, workers=3)
    assert await client.counts() == {"todo": 6, "locked": 0, "done": 0, "error": 0}


@virtual
async def test_refused_access_ends_the_pilot() -> None:
    """At once, with the error itself and no retry."""
    client = make_pool()
    await client.upload([{}])

    async def process(token: Token) -> None:
        def refuse(documents: Any) -> None:
            raise AccessDeniedError("no longer a member")

        client.faults.before_save = refuse

    with pytest.raises(AccessDeniedError):
        await work(client, process)


@virtual
async def test_an_absent_store_at_the_start_is_an_error() -> None:
    """Nothing is held: the caller hears of it."""
    client = make_pool()
    client.faults.away = True
    with pytest.raises(PoolUnavailableError):
        await work(client, returns)


# Iterators. ---------------------------------------------------------------------------------------------------------


@virtual
async def test_one_bad_token_does_not_end_a_loop_by_hand() -> None:
    """`async with token` records the exception and goes on."""
    client = make_pool()
    await client.upload([{"input": n} for n in range(5)])
    async with pilot(client, max_scrub=1) as tokens:
        async for token in tokens:
            async with token:
                if token["input"] == 3:
                    raise ValueError("three")
    assert await client.counts() == {"todo": 0, "locked": 0, "done": 4, "error": 1}
    assert tokens is not None


@virtual
async def test_an_iterator_has_to_be_entered() -> None:
    """Without its heartbeat no token is handed out."""
    with pytest.raises(RuntimeError, match="enter the iterator"):
        await pilot(make_pool()).claim(1)


@virtual
async def test_priorities_are_strict() -> None:
    """From a view only what the views before it do not have."""
    client = make_pool()
    await client.upload([{"_id": f"t{n}", "urgent": n % 3 == 0} for n in range(12)])
    await client.add_view(View("Urgent/todo", TokenState.TODO, field("urgent") == True))  # noqa: E712
    views = ["Urgent/todo", "Monitor/todo"]
    async with PrioritizedViewIterator(client, views=views, environment=virtual_environment()) as tokens:
        order = []
        async for token in tokens:
            async with token:
                order.append(token["urgent"])
    assert order == [True] * 4 + [False] * 8


@virtual
async def test_an_endless_iterator_waits_for_work() -> None:
    """It finds tokens that are pushed later, and ends when its callback says so."""
    client = make_pool()
    worked: list[str] = []

    async def push() -> None:
        for number in range(3):
            await anyio.sleep(100)
            await client.upload([{"_id": f"t{number}"}])

    async with anyio.create_task_group() as group:
        group.start_soon(push)
        endless = EndlessViewIterator(pilot(client), poll=10, stop_callback=lambda limit: len(worked) >= limit, limit=3)
        async with endless as tokens:
            async for token in tokens:
                async with token:
                    worked.append(token.id)
    assert worked == ["t0", "t1", "t2"]


@virtual
async def test_contention_never_ends_a_pilot() -> None:
    """Rivals win every race for a long while; as soon as they stop, the token is claimed."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    races = 0

    def rival(documents: Any) -> None:
        nonlocal races
        if races < 50 and documents[0].get("lock"):
            races += 1
            stored = client._pool.documents["t"]
            client._store({**stored.document(), "touched": races}, {})

    client.faults.before_save = rival
    async with pilot(client) as tokens:
        (token,) = await tokens.claim(1)
        assert races == 50
        async with token:
            pass


@virtual
async def test_pilots_share_a_pool_without_working_anything_twice() -> None:
    """Eight pilots, many races, every token exactly once."""
    client = make_pool()
    await client.upload([{"_id": f"t{n:04}"} for n in range(400)])
    worked: list[str] = []

    async def run(name: str) -> None:
        async def process(token: Token) -> None:
            await anyio.sleep(0.5)
            worked.append(token.id)

        tokens = pilot(client, environment=virtual_environment(name, seed=int(name[-1])))
        await _actor(tokens, process).run(workers=4)

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(run, f"pilot{number}")
    assert sorted(worked) == [f"t{n:04}" for n in range(400)]


@pytest.mark.parametrize(
    "process",
    [
        _set(exit_code=[1]),
        _set(exit_code={"a": 1}),
        _set(error="text", exit_code=2),
        lambda _: _raise(OSError(2, "no such file", "caf\udce9")),
        lambda _: _raise(ValueError("x" * 1_000_000)),
        lambda token: token.document.clear(),
        lambda token: token.document.pop("_id"),
    ],
)
async def test_no_oddity_ends_the_pilot(process: Any) -> None:
    """Whatever is left in a token, it ends in a Monitor view, and the next token is worked."""
    client = FaultyClient()
    await client.upload([{"_id": "t"}])
    async with BasicViewIterator(client) as tokens:
        report = await _actor(tokens, process).run(workers=1)
    assert report.done + report.failed == 1
    assert report.lost == 0
    assert sum((await client.counts()).values()) == 1


@virtual
async def test_a_second_failure_by_exit_code_is_recorded_too() -> None:
    """The reason of the first attempt does not stand for that of the second."""
    client = make_pool()
    await client.upload([{}])

    async def process(token: Token) -> None:
        token["exit_code"] = token.scrub_count + 3

    await work(client, process, max_scrub=1)
    assert [error["message"] for error in (await only(client)).errors] == ["exit code 3", "exit code 4"]


@virtual
async def test_a_second_signal_waits_for_no_cleanup() -> None:
    """After a drain cleanup_run has the grace period; once more, and it has a moment."""
    from apicas._runtime.hooks import Work
    from apicas._runtime.pilot import Pilot, RunOptions

    client = make_pool()
    await client.upload([{"_id": "t"}])
    cleaning = anyio.Event()

    async def process(token: Token) -> None:
        await anyio.sleep(1000)

    async def cleanup(token: Token) -> None:
        cleaning.set()
        await anyio.sleep(1000)

    running = Pilot(pilot(client), Work(process=process, cleanup=cleanup), RunOptions(grace=20), 1)
    async with anyio.create_task_group() as group:
        group.start_soon(running.run)
        await anyio.sleep(5)
        running.drain("SIGTERM")
        await cleaning.wait()
        start = unix_time()
        running.cut()
    assert unix_time() - start <= 2
    assert (await client.fetch("t")).state == "todo"


@virtual
async def test_the_iterators_max_scrub_stands_unless_run_is_given_one() -> None:
    """run() without max_scrub does not set back what the iterator was given."""
    client = make_pool()
    await client.upload([{}])

    async def process(token: Token) -> None:
        raise OSError("flaky")

    async with pilot(client, max_scrub=2) as tokens:
        report = await _actor(tokens, process).run(workers=1)
    assert (report.scrubbed, report.failed) == (2, 1)


@virtual
async def test_a_second_signal_may_come_before_anything_else() -> None:
    """Even before the pilot has entered its iterator."""
    from apicas._runtime.hooks import Work
    from apicas._runtime.pilot import Pilot, RunOptions

    client = make_pool()
    await client.upload([{}])
    early = Pilot(pilot(client), Work(process=returns), RunOptions(), 1)
    early.drain("SIGTERM")
    early.cut()
    report = await early.run()
    assert (report.done, report.reason) == (0, "SIGTERM")
    assert (await client.counts())["todo"] == 1


@virtual
async def test_a_heartbeat_that_finds_no_pool_at_first_keeps_trying() -> None:
    """The server is restarted in the moment in which the heartbeat connects: no reason to end."""
    client = make_pool()
    await client.upload([{"_id": "t"}])
    tries = 0

    class Absent(FaultyClient):
        async def open(self) -> None:
            nonlocal tries
            tries += 1
            if tries < 4:
                raise PoolUnavailableError("not yet")

        def fork(self) -> FaultyClient:
            return self

    absent = Absent(now=unix_time)
    absent._pool = client._pool
    async with BasicViewIterator(absent, environment=virtual_environment()) as tokens:
        (token,) = await tokens.claim(1)
        await anyio.sleep(LEASE)
        assert (await client.fetch("t"))["lock"] > token["lock"]
        async with token:
            pass
    assert tries == 4
