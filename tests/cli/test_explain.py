"""explain: why a token does not run."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import pytest

import apicas as library
from apicas._documents import decode
from apicas._runtime.environment import real_environment
from apicas.iterators import BasicViewIterator
from tests.cli.program import Program

CLAIMABLE = "nothing keeps a pilot on this node from claiming it now"
ELSEWHERE = "a pilot with --resources leaves it to other nodes"


def put(program: Program, **fields: Any) -> None:
    """Put the token `t` into the pool."""

    async def upload() -> None:
        async with library.connect(f"sqlite:///{program.directory}/apicas.db") as client:
            await client.setup()
            assert (await client.upload([{"_id": "t", **fields}])).rejected == 0

    asyncio.run(upload())


def edit(program: Program, **annex: Any) -> None:
    """Put something into the `apicas` sub-object of the token."""

    async def change() -> None:
        async with library.connect(f"sqlite:///{program.directory}/apicas.db") as client:
            await client.edit("t", lambda token: token.update(apicas=annex))

    asyncio.run(change())


def lines(program: Program, *options: str) -> list[str]:
    result = program("explain", "t", *options)
    assert result.code == 0, result.err
    return [line.strip() for line in result.out.splitlines()]


def test_a_token_that_nothing_keeps(apicas: Program) -> None:
    put(apicas, time_request="5m")
    assert lines(apicas, "--walltime", "1h") == ["token t is in todo", CLAIMABLE]
    answer = decode(apicas("explain", "t", "--walltime", "1h", "--json").out)
    assert answer == {
        "id": "t",
        "state": "todo",
        "claimable": True,
        "facts": [],
        "reasons": [],
        "asks": {"cores": 1},
        "seconds": 300,
    }


def test_a_token_that_takes_its_time_says_so_where_no_end_is_known(apicas: Program) -> None:
    put(apicas, time_request="300h")
    _, fact, last = lines(apicas)
    assert (fact, last) == (
        "it takes 300:00:00: a pilot whose batch job ends sooner leaves it (try --walltime)",
        CLAIMABLE,
    )


def test_a_token_that_is_not_there(apicas: Program) -> None:
    put(apicas)
    result = apicas("explain", "other")
    assert (result.code, "there is no token 'other' in sqlite:///" in result.error) == (2, True)


@pytest.mark.parametrize(
    ("fields", "options", "reason"),
    [
        (
            {"cores": 64},
            ["--resources", "cores=2"],
            f"{ELSEWHERE}: it asks for 64 cores, and this node has 2 cores",
        ),
        (
            {"resources": {"license": 1}},
            ["--resources", "cores=2"],
            f"{ELSEWHERE}: it asks for 1 of 'license', and this node has 0 of 'license'",
        ),
        (
            {},
            ["--resources", "cores=2", "--request", "cores=3"],
            f"{ELSEWHERE}: it asks for 3 cores, and this node has 2 cores",
        ),
        (
            {"ncpus": "many"},
            ["--request-fields", "cores=ncpus"],
            "what it asks cannot be understood by a pilot with --resources: ncpus: 'many' is no whole number",
        ),
        (
            {"time_request": "1h"},
            ["--walltime", "30m", "--end-margin", "0"],
            "a pilot in this batch job leaves it to others: it takes 3600 s, and 1800 s of the batch job are left",
        ),
        ({"type": "note"}, [], "its type is 'note', and not 'token': pilots leave it alone"),
        ({"lock": None}, [], "these fields mean no state: lock None, done 0, exit_code ''; pilots leave it alone"),
    ],
)
def test_what_keeps_a_token(apicas: Program, fields: dict[str, Any], options: list[str], reason: str) -> None:
    put(apicas, **fields)
    _, *said = lines(apicas, *options)
    assert said == [reason]


def test_a_token_that_waits_for_its_time(apicas: Program) -> None:
    put(apicas, scrub_count=2)
    edit(apicas, not_before=time.time() + 90)
    _, fact, reason = lines(apicas)
    assert fact == "it failed 2 times so far"
    assert reason.startswith("it waits until ")
    assert ", for 0:01:" in reason


def test_a_token_that_a_pilot_holds(apicas: Program) -> None:
    put(apicas)
    environment = real_environment()

    async def hold() -> list[str]:
        async with (
            library.connect(f"sqlite:///{apicas.directory}/apicas.db") as client,
            BasicViewIterator(client, environment=environment, linger=False) as tokens,
        ):
            await tokens.claim(1)
            return await asyncio.to_thread(lines, apicas)

    first, held, alive = asyncio.run(hold())
    assert first == "token t is in locked"
    assert held.startswith(f"it is held on {environment.owner.hostname}, by pilot '")
    assert re.fullmatch(r"its last sign of life was 0:00:\d\d ago: that pilot is at work on it", alive)


@pytest.mark.parametrize(
    ("process", "reason"),
    [
        ("", r"its last sign of life was 1:00:\d\d ago, and the lease is 0:01:00: a running pilot that sees no other"),
        ("gone", "that pilot's process is gone: the next look of a pilot on this node puts it back to todo"),
    ],
)
def test_a_token_whose_pilot_is_silent(apicas: Program, process: str, reason: str) -> None:
    lock = int(time.time()) - 3600
    put(apicas, lock=lock)
    name = real_environment().owner.process.rpartition(".")[0] + ".0" if process else ""
    edit(apicas, claim="c", pilot="p", process=name, lease=60, lock=lock)
    _, held, said = lines(apicas)
    assert "it is held on a node that is not named, by pilot 'p' since " in held
    assert re.match(reason, said)


def test_a_lock_of_another_tool(apicas: Program) -> None:
    put(apicas, lock=int(time.time()) - 60, hostname="node1", slurm_job_id="12_3")
    _, held, advice = lines(apicas)
    assert held.startswith("it is locked on node1, slurm job '12_3' since ")
    assert re.search(r", for 0:01:\d\d, by another tool than apicas$", held)
    assert "--foreign-lock-timeout" in advice


def test_a_token_that_has_ended(apicas: Program) -> None:
    put(apicas, lock=1_700_000_000, done=1_700_000_001, exit_code=0, hostname="node1")
    first, done = lines(apicas)
    assert first == "token t is in done"
    assert done.startswith("it is done since 2023-11-1")
    assert done.endswith(", on node1")


def test_a_token_in_error_tells_the_last_of_its_errors(apicas: Program) -> None:
    put(apicas, lock=99, done=99, exit_code=3, error=[{"message": "first"}, {"message": "no such\ngalaxy \x1b[31m"}])
    _, ended, error, advice = lines(apicas)
    assert ended == "it ended with exit code 3, on a node that is not named"
    assert error == r"the last of its errors: no such\ngalaxy \x1b[31m"
    assert "apicas reset error" in advice


def test_nonsense_is_explained_as_well(apicas: Program) -> None:
    put(apicas, lock=1e300, scrub_count="x", error="x", hostname=[], cores={"a": 1}, time_request=[1])
    edit(apicas, claim="c", lock=1e300, claimed="x", lease="x", process=[1], not_before=1e300)
    first, *_ = lines(apicas)
    assert first == "token t is in locked"


def test_options_that_make_no_sense(apicas: Program) -> None:
    put(apicas)
    assert apicas("explain", "t", "--walltime", "0").code == 2
    assert "cores: 'all' is no whole number" in apicas("explain", "t", "--resources", "cores=all").error
