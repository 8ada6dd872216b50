"""What becomes of a token, whatever its work did."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

import apicas
from apicas.exceptions import LeaseLostError
from apicas.iterators import BasicViewIterator
from apicas.modifiers import BasicTokenModifier
from apicas.testing import FaultyClient, unix_time, virtual_environment
from apicas.tokens import Token, annex
from tests.runtime.acting import acting, filled, only, raising, returns, setting, work
from tests.runtime.virtual import LEASE, make_pool, pilot, virtual


async def returns_nothing(token: Token) -> None:
    token["output"] = "set by hand"


async def _set_inside(token: Token, **fields: Any) -> None:
    token["apicas"].update(fields)


OUTCOMES: list[tuple[str, Any, str, dict[str, Any]]] = [
    ("a value becomes the output", returns, "done", {"output": {"answer": 42}, "exit_code": 0, "scrub_count": 0}),
    ("None leaves the output", returns_nothing, "done", {"output": "set by hand"}),
    ("exit code 0 is done", setting(exit_code=0), "done", {"exit_code": 0}),
    ("another exit code is a failure", setting(exit_code=3), "error", {"exit_code": 3, "lock": 99, "done": 99}),
    ("Fail ends in error", lambda _: raising(apicas.Fail("bad data", exit_code=7)), "error", {"exit_code": 7}),
    ("Fail with exit code 0 is an error all the same", lambda _: raising(apicas.Fail(exit_code=0)), "error", {}),
    ("Retry goes back, counted", lambda _: raising(apicas.Retry()), "todo", {"scrub_count": 1}),
    ("Release goes back, uncounted", lambda _: raising(apicas.Release()), "todo", {"scrub_count": 0}),
    ("an exception is an error", lambda _: raising(KeyError("x")), "error", {"exit_code": 1, "lock": 99}),
    ("NaN is an error", setting(output=float("nan")), "error", {"output": {}}),
    ("what is no JSON is an error", setting(output=object()), "error", {"output": {}}),
    ("a reserved field is an error", setting(_foo=1), "error", {}),
    ("too much is an error", setting(output="x" * 9_000_000), "error", {"output": {}}),
    ("a broken lock field is put right", setting(lock="gone", done=None), "done", {}),
    ("another id cannot be taken", setting(_id="stolen", _rev="9-stolen", type="mine"), "done", {"type": "token"}),
    ("the fence cannot be broken by hand", setting(apicas={"claim": "mine", "generation": 99}), "done", {}),
    ("True is no generation, though it equals 1", lambda token: _set_inside(token, generation=True), "done", {}),
    ("an apicas field of an odd type is put right", setting(apicas=5), "done", {}),
]


@pytest.mark.parametrize(("process", "state", "fields"), [case[1:] for case in OUTCOMES], ids=[c[0] for c in OUTCOMES])
async def test_the_outcome_of_a_token(process: Any, state: str, fields: dict[str, Any]) -> None:
    """Whatever process_token does, its token ends in the right state with the right fields, and the pilot lives."""
    client = FaultyClient()
    await client.upload([{"_id": "t"}])
    async with BasicViewIterator(client) as tokens:
        await acting(tokens, process).run(workers=1, max_tokens=1)
    token = await client.fetch("t")
    assert token.state == state
    assert {name: token[name] for name in fields} == fields
    assert "claim" not in annex(token)
    assert token.generation == (2 if state == "todo" else 1)  # each way back is one of its own
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
    assert "test_outcomes.py" in error["exception"]
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
async def test_the_iterators_max_scrub_stands_unless_run_is_given_one() -> None:
    """run() without max_scrub does not set back what the iterator was given."""
    client = make_pool()
    await client.upload([{}])

    async def process(token: Token) -> None:
        raise OSError("flaky")

    async with pilot(client, max_scrub=2) as tokens:
        report = await acting(tokens, process).run(workers=1)
    assert (report.scrubbed, report.failed) == (2, 1)


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


@pytest.mark.parametrize(
    "process",
    [
        setting(exit_code=[1]),
        setting(exit_code={"a": 1}),
        setting(error="text", exit_code=2),
        lambda _: raising(OSError(2, "no such file", "caf\udce9")),
        lambda _: raising(ValueError("x" * 1_000_000)),
        lambda token: token.document.clear(),
        lambda token: token.document.pop("_id"),
    ],
)
async def test_no_oddity_ends_the_pilot(process: Any) -> None:
    """Whatever is left in a token, it ends in a Monitor view, and the next token is worked."""
    client = FaultyClient()
    await client.upload([{"_id": "t"}])
    async with BasicViewIterator(client) as tokens:
        report = await acting(tokens, process).run(workers=1)
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


async def _await_a_cancelled_task() -> None:
    task = asyncio.create_task(asyncio.sleep(1000))
    await asyncio.sleep(0)
    task.cancel()
    await task


async def _exit() -> None:
    raise SystemExit(3)


class _Odd(BaseException):
    """What pytest.fail and others raise."""


async def _raise_odd() -> None:
    raise _Odd("odd")


async def _raise_odd_in_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(_raise_odd)


@pytest.mark.parametrize("hook", ["prepare_run", "process_token", "cleanup_run"])
@pytest.mark.parametrize("bad", [_await_a_cancelled_task, _exit, _raise_odd, _raise_odd_in_group])
@virtual
async def test_whatever_a_hook_raises_ends_its_token_alone(bad: Any, hook: str) -> None:
    """A task of the user's that was cancelled, sys.exit(), a BaseException: a failure; the pilot goes on."""
    client = await filled()

    async def run(token: Token) -> None:
        if token.id == "t0":
            await bad()

    async def nothing(_token: Token) -> None:
        pass

    hooks = {name: staticmethod(run if name == hook else nothing) for name in ("prepare_run", "cleanup_run")}
    report = await acting(pilot(client), run if hook == "process_token" else nothing, **hooks).run(workers=2)
    assert (report.done, report.failed) == (2, 1)
    assert (await client.fetch("t0")).errors[0]["message"]


async def test_an_exit_in_a_thread_ends_its_token_alone() -> None:
    """A plain function that calls sys.exit(), as scripts do."""
    client = FaultyClient()
    await client.upload([{"_id": f"t{n}"} for n in range(3)])

    def process(token: Token) -> None:
        if token.id == "t0":
            raise SystemExit(3)

    report = await acting(BasicViewIterator(client), process).run(workers=2)
    assert (report.done, report.failed) == (2, 1)


@virtual
async def test_a_decision_in_a_task_group_is_one() -> None:
    """Retry, raised in a task of the work, arrives in a group of one; it is what the user asked for all the same."""
    client = await filled(1)
    attempts: list[int] = []

    async def retry() -> None:
        raise apicas.Retry("later")

    async def process(token: Token) -> None:
        attempts.append(token.scrub_count)
        if len(attempts) == 1:
            async with anyio.create_task_group() as group:
                group.start_soon(retry)

    report = await acting(pilot(client), process).run(workers=1)
    assert (report.done, report.scrubbed, report.failed) == (1, 1, 0)


@virtual
async def test_a_token_is_settled_once() -> None:
    """Nested, or again later: the first end counts, and nothing is counted as lost."""
    client = await filled(2)
    async with pilot(client) as tokens:
        first, second = await tokens.claim(2)
        async with first, first:
            pass
        async with first:
            first["output"] = "too late"
        with pytest.raises(KeyError):
            async with second:
                async with second:
                    second["output"] = 2
                raise KeyError
        assert (tokens.keeper.tally.done, tokens.keeper.tally.lost) == (2, 0)


@virtual
async def test_old_work_does_not_settle_a_new_claim_of_its_own_pilot() -> None:
    """A reset token is claimed again by the same pilot, while the work on it goes on: the fence holds here as well."""
    client = await filled(1)
    async with pilot(client) as tokens:
        (old,) = await tokens.claim(1)
        await client.edit("t0", lambda stored: BasicTokenModifier().reset(stored, unix_time()))
        await anyio.sleep(LEASE / 2)
        (new,) = await tokens.claim(1)
        with pytest.raises(LeaseLostError):
            async with old:
                old["output"] = "old"
        async with new:
            new["output"] = "new"
    assert (await client.fetch("t0")).output == "new"


ODD_TOKENS: list[dict[str, Any]] = [
    {"lock": "0", "done": False},
    {"lock": [], "done": " "},
    {"scrub_count": "x"},
    {"scrub_count": None, "error": "text"},
    {"error": {"not": "a list"}, "exit_code": {"odd": True}},
    {"hostname": 5, "apicas": "mine", "slurm_job_id": []},
    {"apicas": {"generation": "x", "crashes": -1, "not_before": "soon", "history": 7, "claim": 1}},
]


@pytest.mark.parametrize("odd", ODD_TOKENS, ids=str)
@pytest.mark.parametrize("fails", [False, True])
@virtual
async def test_a_token_with_fields_of_odd_types_is_worked(odd: dict[str, Any], fails: bool) -> None:
    """The view says todo, so it is worked, tried again and written back with the fields as they should be."""
    client = make_pool()
    document = {"_id": "t", "type": "token", "lock": 0, "done": 0, **odd}
    assert (await client.save([document]))[0].written

    async def process(token: Token) -> None:
        if fails:
            raise ValueError("broken")

    report = await work(client, process, max_scrub=1)
    assert (report.done, report.scrubbed, report.failed) == ((0, 1, 1) if fails else (1, 0, 0))
    token = await client.fetch("t")
    assert token.state == ("error" if fails else "done")
    assert (token["scrub_count"], len(token["error"])) == ((1, 2) if fails else (0, 0))
    assert all(type(token[name]) is int for name in ("lock", "done", "exit_code"))
    assert isinstance(token["hostname"], str)
    assert isinstance(token["apicas"], dict)
    assert "slurm_job_id" not in token


@virtual
async def test_what_the_users_modifier_changes_in_place_is_kept_beside_somebody_elses_edit() -> None:
    """The work reaches for nothing in the token, so the token shares all of it with the lease."""

    class Signing(BasicTokenModifier):
        def close(self, token: Any, now: float | None = None) -> Any:
            token["output"]["closed_by"] = "me"
            return super().close(token, now)

    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with BasicViewIterator(client.fork(), Signing(), environment=virtual_environment("one")) as tokens:
        async for token in tokens:
            async with token:
                await client.edit("t", lambda edited: edited.update(note="by hand"))
    token = await only(client)
    assert (token.output, token["note"]) == ({"closed_by": "me"}, "by hand")


@virtual
async def test_a_token_that_is_left_after_its_iterator_waits_for_nobody() -> None:
    client = make_pool()
    await client.upload([{"_id": "t"}])
    async with pilot(client, lock_timeout=LEASE, outbox=False) as tokens:
        token = await anext(tokens)
        await client.edit("t", lambda taken: taken.update(lock=0, apicas={}))
        await anyio.sleep(LEASE)  # a beat sees it
    with anyio.fail_after(LEASE), pytest.raises(LeaseLostError):
        async with token:
            pass
