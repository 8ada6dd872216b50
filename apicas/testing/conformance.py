"""The conformance suite: what every client must do, one check a duty.

A change of the port's meaning starts here. A third party proves its own client with

    await check_client(make_client)

or, for a report per duty, by parametrising a test over `CLIENT_CHECKS`. Each check gets a factory, and opens as many
clients on one empty pool as it needs.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

import anyio
import anyio.abc

from apicas.clients.base import PoolClient
from apicas.clients.port import Arrival, SaveResult, SaveStatus, ViewRow
from apicas.exceptions import EditConflictError, TokenNotFoundError, ViewNotFoundError
from apicas.tokens import Token, TokenState
from apicas.views import View, field

MakeClient = Callable[[], PoolClient]
"""Makes a client, not yet open, of the pool under test: within one check always the same pool, empty at first."""
Check = Callable[[MakeClient], Awaitable[None]]

CLIENT_CHECKS: Final[list[Check]] = []
"""Every check, in the order of this file."""

LOCKED = {"lock": 1_700_000_000}
DONE = {**LOCKED, "done": 1_700_000_100, "exit_code": 0}
ERROR = {"lock": 99, "done": 99, "exit_code": 1}

LOOKS: Final = 500
"""At a replicated store, until its replicas agree: each takes some milliseconds."""


def check(function: Check) -> Check:
    """Add a check to the suite."""
    CLIENT_CHECKS.append(function)
    return function


async def check_client(make_client: Callable[[], MakeClient]) -> None:
    """Run the whole suite.

    Args:
        make_client: called once per check; returns a factory of clients on a new, empty pool.

    Raises:
        AssertionError: a duty is not fulfilled; the traceback says which.
    """
    for function in CLIENT_CHECKS:
        await function(make_client())


async def _open(make_client: MakeClient, *contents: dict[str, Any]) -> PoolClient:
    client = make_client()
    await client.open()
    await client.setup()
    for _ in range(LOOKS // 10 if client.replicated else 0):
        # The replicas of a new pool come up one by one. Until they have, even a write without a rival may be unknown.
        await client.counts()
    if contents:
        report = await client.upload(contents)
        assert report.uploaded == len(contents), report
    return client


async def _ids(client: PoolClient, view: str, **options: Any) -> list[str | None]:
    return [row.id for row in await client.view(view, **options)]


async def _sees(client: PoolClient, expected: Any, read: Callable[[], Awaitable[Any]]) -> None:
    """Check what is read through a view.

    A view is read from one replica. On a replicated store that one may be a moment behind the majority which has
    confirmed a write, even in a fresh view, so it is asked again, for a bounded number of times.
    """
    found = await read()
    for _ in range(LOOKS if client.replicated else 0):
        if found == expected:
            break
        found = await read()
    assert found == expected, (found, expected)


async def _only_row(client: PoolClient, view: str) -> ViewRow:
    """The row of a view that has one, with its document."""
    rows = await client.view(view, include_docs=True)
    for _ in range(LOOKS if client.replicated else 0):
        if rows:
            break
        rows = await client.view(view, include_docs=True)
    (row,) = rows
    return row


async def _lists(client: PoolClient, expected: list[str], view: str, **options: Any) -> None:
    """Check which documents a view lists."""
    await _sees(client, expected, lambda: _ids(client, view, **options))


@check
async def setup_is_safe_to_repeat(make_client: MakeClient) -> None:
    """A second setup changes nothing, and the views are there, empty."""
    async with await _open(make_client) as client:
        again = await client.setup()
        assert not again.created
        assert not again.installed
        for state in ("todo", "locked", "done", "error"):
            assert await client.view(state) == []
        assert not await client.view("overview_total", group=True)


@check
async def upload_fills_every_field(make_client: MakeClient) -> None:
    """An uploaded token has an id and every field that PiCaS reads, and the user's content unchanged."""
    content = {"input": {"text": "caf\u00e9 \U0001f600", "n": [1, 2.5, None, True], "big": 2**80}, "cores": 4}
    async with await _open(make_client, content) as client:
        row = await _only_row(client, "todo")
        assert row.document is not None
        assert row.document["input"] == content["input"]
        assert row.document["cores"] == 4
        expected = {
            "type": "token",
            "lock": 0,
            "done": 0,
            "hostname": "",
            "scrub_count": 0,
            "exit_code": "",
            "error": [],
        }
        assert {key: row.document[key] for key in expected} == expected
        assert row.id == row.document["_id"] == row.key == row.value
        assert row.document["_rev"].startswith("1-")


@check
async def upload_takes_a_stream(make_client: MakeClient) -> None:
    """An asynchronous stream is uploaded in bulks, with progress."""

    async def stream() -> AsyncIterator[dict[str, Any]]:
        for number in range(1500):
            yield {"_id": f"t{number:05}"}

    seen: list[int] = []
    async with await _open(make_client) as client:
        report = await client.upload(stream(), on_progress=lambda progress: seen.append(progress.uploaded))
        assert (report.uploaded, report.rejected) == (1500, 0)
        assert seen[-1] == 1500
        assert len(seen) > 1
        await _sees(client, {"todo": 1500, "locked": 0, "done": 0, "error": 0}, client.counts)


@check
async def upload_leaves_bad_tokens_out(make_client: MakeClient) -> None:
    """What cannot be stored is reported with its place and reason; the rest goes in. A claim is not taken along."""
    contents: list[Any] = [
        {"_id": "good", "apicas": {"claim": "x", "generation": 7}, "_rev": "4-abc"},
        {"_id": "good"},
        {"_id": "_reserved"},
        {"_foo": 1},
        {"input": math.nan},
        "no mapping",
        {"_id": "also-good"},
    ]
    async with await _open(make_client) as client:
        report = await client.upload(contents)
        assert report.uploaded == 2
        assert report.rejected == 5
        assert sorted(reject.position for reject in report.rejects) == [1, 2, 3, 4, 5]
        assert all(reject.reason for reject in report.rejects)
        assert "apicas" not in (await client.fetch("good"))


@check
async def get_answers_in_order(make_client: MakeClient) -> None:
    """Documents come in the order asked for, with None for one that does not exist or was deleted."""
    async with await _open(make_client, {"_id": "a"}, {"_id": "b"}, {"_id": "c"}) as client:
        (gone,) = await client.get(["c"])
        assert gone is not None
        await client.delete([gone])
        found = await client.get(["b", "nothing", "a", "c", "b"])
        assert [document and document["_id"] for document in found] == ["b", None, "a", None, "b"]
        assert await client.get([]) == []


@check
async def ids_may_hold_any_text(make_client: MakeClient) -> None:
    """Ids with slashes, blanks, plus signs, percent signs, quotes and letters of any script are found again."""
    ids = ["a/b", "a b", "a+b", "a%2Fb", "\u00fcml\u00e4ut", "\u65e5\u672c", "quote'\"", "?x=1&y=2#z", "..", "a:b"]
    async with await _open(make_client, *({"_id": identifier} for identifier in ids)) as client:
        found = await client.get(ids)
        assert [document and document["_id"] for document in found] == ids
        for identifier in ids:
            token = await client.edit(identifier, lambda token: token.update(seen=True))
            (info,) = await _attach(client, token, "log.txt", b"x")
            assert info == "log.txt"
            assert await client.get_attachment(identifier, "log.txt") == b"x"


async def _attach(client: PoolClient, token: Token, name: str, data: bytes) -> list[str]:
    assert token.rev is not None
    result = await client.put_attachment(token.id, token.rev, name, data, "text/plain")
    assert result.written, result
    return [info.name for info in await client.attachments(token.id)]


def _lost(client: PoolClient, *late: SaveResult) -> bool:
    """Check that late writers lost, and answer whether they lost without a trace.

    A replicated store confirms a write when a majority has it. A late writer may find a replica that does not have it
    yet, and takes his: he is told that it is unknown, and a conflict is stored. That he won, he is never told.
    """
    for result in late:
        assert result.status is SaveStatus.CONFLICT or (client.replicated and result.status is SaveStatus.UNKNOWN)
    return all(result.status is SaveStatus.CONFLICT for result in late)


@check
async def save_is_compare_and_swap(make_client: MakeClient) -> None:
    """A write with the stored revision wins and changes it; one with an older or no revision meets a conflict."""
    async with await _open(make_client, {"_id": "t"}) as client:
        (first,) = await client.get(["t"])
        assert first is not None
        (won,) = await client.save([{**first, "input": 1}])
        assert won.status is SaveStatus.WRITTEN
        assert won.rev not in {None, first["_rev"]}
        late = await client.save([{**first, "input": 2}])
        new = await client.save([{"_id": "t", "input": 3}])
        if _lost(client, *late, *new):
            (stored,) = await client.get(["t"])
            assert stored == {**first, "input": 1, "_rev": won.rev}


@check
async def save_of_what_is_gone_is_a_conflict(make_client: MakeClient) -> None:
    """A deleted document is not brought back by a writer who still has a revision of it."""
    async with await _open(make_client, {"_id": "t"}) as client:
        (stored,) = await client.get(["t"])
        assert stored is not None
        (deleted,) = await client.delete([stored])
        assert deleted.written
        late = await client.save([{**stored, "input": 1}])
        again = await client.delete([stored])
        if _lost(client, *late, *again):
            assert await client.get(["t"]) == [None]
            (new,) = await client.save([{"_id": "t", "type": "token", "lock": 0, "done": 0}])
            assert new.written


@check
async def what_nobody_raced_for_has_one_leaf(make_client: MakeClient) -> None:
    """Each document that exists has its one live version; one that does not, or is deleted, has none."""
    async with await _open(make_client, {"_id": "a"}, {"_id": "b"}, {"_id": "c"}) as client:
        a, b, c = await client.get(["a", "b", "c"])
        assert a is not None
        assert c is not None
        assert "_conflicts" not in a
        await client.delete([c])
        (edited,) = await client.save([{**a, "input": 1}])
        if edited.written:  # else a replica was late, and there are two
            a = {**a, "input": 1, "_rev": edited.rev}
            assert await client.leaves(["b", "nothing", "a", "c", "b"]) == [[b], [], [a], [], [b]]
            assert await client.conflicted() == []
            assert await client.conflicted(5) == []
        assert await client.leaves([]) == []


@check
async def what_was_read_may_be_written(make_client: MakeClient) -> None:
    """The revisions of other versions, which a store puts into what it reads, are nothing that is stored."""
    async with await _open(make_client, {"_id": "t"}) as client:
        (stored,) = await client.get(["t"])
        assert stored is not None
        (result,) = await client.save([{**stored, "input": 1, "_conflicts": ["1-a"]}])
        assert result.written, result
        assert await client.get(["t"]) == [{**stored, "input": 1, "_rev": result.rev}]


@check
async def discard_deletes_one_version(make_client: MakeClient) -> None:
    """Exactly the version that is named: of an older one, or of what is gone, nothing."""
    async with await _open(make_client, {"_id": "t"}, {"_id": "u"}) as client:
        old, other = await client.get(["t", "u"])
        assert old is not None
        assert other is not None
        (edited,) = await client.save([{**old, "input": 1}])
        late, won = await client.discard([old, other])
        assert won.written
        assert await client.get(["u"]) == [None]
        _lost(client, *await client.discard([other]))
        if _lost(client, late) and edited.written:
            assert await client.get(["t"]) == [{**old, "input": 1, "_rev": edited.rev}]
            (gone,) = await client.discard([{"_id": "t", "_rev": edited.rev}])
            assert gone.written
            assert await client.leaves(["t"]) == [[]]


@check
async def delete_is_compare_and_swap(make_client: MakeClient) -> None:
    """A document is deleted by whoever knows its revision; others meet a conflict, and it stays."""
    async with await _open(make_client, {"_id": "t"}) as client:
        (old,) = await client.get(["t"])
        assert old is not None
        (edited,) = await client.save([{**old, "input": 1}])
        assert edited.written, edited
        if _lost(client, *await client.delete([old, {"_id": "nothing", "_rev": old["_rev"]}])):
            assert await client.get(["t"]) == [{**old, "input": 1, "_rev": edited.rev}]
            (gone,) = await client.delete([{"_id": "t", "_rev": edited.rev}])
            assert gone.written, gone
            assert await client.leaves(["t"]) == [[]]


@check
async def a_revision_never_comes_twice(make_client: MakeClient) -> None:
    """Deleted and made again with the same content, a document has another revision: old writers stay out."""
    async with await _open(make_client, {"_id": "t"}) as client:
        (old,) = await client.get(["t"])
        assert old is not None
        await client.delete([old])
        await client.upload([{"_id": "t"}])
        _lost(client, *await client.save([{**old, "input": "late"}]))


@check
async def racing_writers_have_one_winner(make_client: MakeClient) -> None:
    """Of many clients that write the same revision at the same time, one wins each document."""
    contents = [{"_id": f"t{number}"} for number in range(20)]
    async with await _open(make_client, *contents) as client:
        documents = await client.get([content["_id"] for content in contents])
        rivals = [make_client() for _ in range(4)]
        outcomes: list[list[bool]] = []

        async def write(rival: PoolClient, number: int) -> None:
            results = await rival.save([{**document, "input": number} for document in documents if document])
            outcomes.append([result.written for result in results])

        async with anyio.create_task_group() as group:
            for number, rival in enumerate(rivals):
                await rival.open()
                group.start_soon(write, rival, number)
        for rival in rivals:
            await rival.aclose()
        winners = [sum(column) for column in zip(*outcomes, strict=True)]
        # A replicated store may leave a race without a winner; none may ever have two.
        assert all(number == 1 or (client.replicated and number == 0) for number in winners), winners


BAD_DOCUMENTS: Final[list[tuple[str, dict[str, Any]]]] = [
    ("a field of 9 MB", {"input": "x" * 9_000_000}),
    ("a reserved field", {"_foo": 1}),
    (
        "an attachment's name with an underscore",
        {"_attachments": {"_log": {"data": "YQ==", "content_type": "text/plain"}}},
    ),
    ("an attachment's name with a slash", {"_attachments": {"a/b": {"data": "YQ==", "content_type": "text/plain"}}}),
    ("an attachment's name with dots", {"_attachments": {"..": {"data": "YQ==", "content_type": "text/plain"}}}),
    ("bad base64", {"_attachments": {"log": {"data": "%%%", "content_type": "text/plain"}}}),
    ("a stub of nothing", {"_attachments": {"log": {"stub": True, "content_type": "text/plain", "revpos": 1}}}),
    ("NaN", {"input": math.nan}),
    ("infinity", {"input": [1, {"deep": math.inf}]}),
    ("a lone surrogate", {"input": "\ud800"}),
    ("a malformed revision", {"_rev": "junk"}),
    ("an id that is no string", {"_id": 5}),
    ("an empty id", {"_id": ""}),
    ("an integer of 400 digits", {"input": 10**400}),
    ("what is no JSON", {"input": object()}),
]


@check
async def one_bad_document_does_not_fail_the_others(make_client: MakeClient) -> None:
    """Each document that fails a whole bulk on CouchDB is rejected alone, with a reason; the good ones are written."""
    good = [
        {"_id": f"good{number:02}", "type": "token", "lock": 0, "done": 0} for number in range(len(BAD_DOCUMENTS) + 1)
    ]
    batch: list[dict[str, Any]] = [good[0]]
    for number, (_, content) in enumerate(BAD_DOCUMENTS):
        batch += [{"_id": f"bad{number:02}", "type": "token", "lock": 0, "done": 0, **content}, good[number + 1]]
    async with await _open(make_client) as client:
        results = await client.save(batch)
        for document, result in zip(batch, results, strict=True):
            expected = SaveStatus.WRITTEN if document in good else SaveStatus.REJECTED
            assert result.status is expected, (str(document)[:80], result)
            assert result.written or result.reason
        await _sees(client, {"todo": len(good), "locked": 0, "done": 0, "error": 0}, client.counts)


@check
async def view_lists_the_states(make_client: MakeClient) -> None:
    """Each Monitor view lists the tokens of its state, in the order of their ids; overview_total counts them."""
    contents: list[dict[str, Any]] = [
        {"_id": "t1"},
        {"_id": "t0"},
        {"_id": "l", **LOCKED},
        {"_id": "d", **DONE},
        {"_id": "e", **ERROR},
        {"_id": "e2", **DONE, "exit_code": "x"},
        {"_id": "d2", **DONE, "exit_code": "0 ok"},
        {"_id": "other", "type": "task"},
        {"_id": "stray", "lock": None},
    ]
    async with await _open(make_client, *contents) as client:
        states = {"todo": 2, "locked": 1, "done": 2, "error": 2}
        await _lists(client, ["t0", "t1"], "todo")
        await _lists(client, ["l"], "Monitor/locked")
        await _lists(client, ["d", "d2"], "done")
        await _lists(client, ["e", "e2"], "error")
        await _sees(client, states, client.counts)
        await _sees(client, {"Monitor/done": 2, "todo": 2}, lambda: client.counts(["Monitor/done", "todo"]))
        await _sees(client, 8, client.total)
        await _sees(client, states, lambda: _values(client, group=True))
        await _sees(client, {None: 7}, lambda: _values(client))
        await _sees(client, True, lambda: client.is_view_nonempty("error"))
        assert not await client.is_view_nonempty("Nobody/knows")


async def _values(client: PoolClient, **options: Any) -> dict[Any, Any]:
    return {row.key: row.value for row in await client.view("overview_total", **options)}


ODD_VALUES: Final[list[Any]] = [
    0, 1, -1, 1_700_000_000, 0.0, 0.5, True, False, None, "", "0", " 7 ", "0x10", "abc", "1e3", "-1", [], [0], [5],
    ["7"], [1, 2], {}, {"a": 1}, "Infinity", "\u00a00",
]  # fmt: skip
ODD_CODES: Final[list[Any]] = [0, 1, "", "0", "0abc", " 0", "x", None, 0.5, -0.9, 1e-7, True, [], [0], "0x0", "-0", {}]


@check
async def view_coerces_as_javascript_does(make_client: MakeClient) -> None:
    """Whatever a script wrote into lock, done and exit_code, every store puts the token into the same view."""
    contents: list[dict[str, Any]] = [
        {"_id": f"{a:02}-{b:02}", "lock": lock, "done": done}
        for a, lock in enumerate(ODD_VALUES)
        for b, done in enumerate(ODD_VALUES)
    ]
    contents += [{"_id": f"x{number:02}", **DONE, "exit_code": code} for number, code in enumerate(ODD_CODES)]
    async with await _open(make_client, *contents) as client:
        for state in ("todo", "locked", "done", "error"):
            expected = sorted(content["_id"] for content in contents if _new_state(content) == state)
            await _lists(client, expected, state)


def _new_state(content: dict[str, Any]) -> TokenState:
    return Token({"type": "token", "exit_code": "", **content}).state


@check
async def view_reads_ranges(make_client: MakeClient) -> None:
    """Limit, start, end and direction select rows by key; documents come along on request."""
    async with await _open(make_client, *({"_id": f"t{number}"} for number in range(8))) as client:
        await _lists(client, ["t0", "t1", "t2"], "todo", limit=3)
        await _lists(client, [], "todo", limit=0)
        await _lists(client, ["t5", "t6", "t7"], "todo", start_key="t5")
        await _lists(client, ["t2", "t3", "t4"], "todo", start_key="t2", end_key="t4")
        await _lists(client, ["t7", "t6"], "todo", descending=True, limit=2)
        await _lists(client, ["t4", "t3", "t2"], "todo", descending=True, start_key="t4", end_key="t2")
        await _sees(client, ["t7"], lambda: _document_ids(client, "todo", start_key="t7"))
        assert all(row.document is None for row in await client.view("todo"))


async def _document_ids(client: PoolClient, view: str, **options: Any) -> list[str | None]:
    rows = await client.view(view, include_docs=True, **options)
    return [None if row.document is None else row.document["_id"] for row in rows]


@check
async def scan_reads_every_token_once(make_client: MakeClient) -> None:
    """Page by page, whatever their state, also one that changes it meanwhile; what is no token is left out."""
    contents = [{"_id": f"t{number}", **fields} for number, fields in enumerate(({}, LOCKED, DONE, ERROR, {}, {}, {}))]
    other = {"_id": "t55", "type": "note"}
    async with await _open(make_client, *contents, {"_id": "odd\u20ac", "lock": None}, other) as client:
        await _sees(client, 9, lambda: _number_of_ids(client))
        seen: list[str] = []
        after: str | None = None
        while True:
            page = await client.scan(after, limit=2)
            assert len(page.documents) <= 2
            seen += [document["_id"] for document in page.documents]
            assert all(document["_rev"] for document in page.documents)
            if seen and seen[-1] in {"t1", "t2"}:  # t6 passes on to a state that was read already, in another order
                await client.edit("t6", lambda token: token.update(LOCKED))
            after = page.after
            if after is None:
                break
        assert seen == ["odd\u20ac", *(f"t{number}" for number in range(7))]
        assert [page.documents for page in [await client.scan("t6")]] == [[]]
        assert len((await client.scan()).documents) == 8


async def _number_of_ids(client: PoolClient) -> int:
    """How many documents are known to be there, other than tokens too."""
    ids = ["odd\u20ac", "t55", *(f"t{number}" for number in range(7))]
    return sum(document is not None for document in await client.get(ids))


@check
async def view_that_is_missing_is_an_error(make_client: MakeClient) -> None:
    """Asking for a view that nobody installed says so."""
    async with await _open(make_client, {}) as client:
        for name in ("Nobody/todo", "Monitor/nothing"):
            try:
                await client.view(name)
            except ViewNotFoundError as error:
                assert name in str(error)  # noqa: PT017 - the suite runs without pytest
            else:
                raise AssertionError(f"{name} was answered")


@check
async def views_of_users_have_conditions(make_client: MakeClient) -> None:
    """A view with a condition lists what fulfils it, on tokens that were there before and on new ones."""
    contents: list[dict[str, Any]] = [
        {"_id": "a", "cores": 1, "input": {"workflow": "x", "n": 5}},
        {"_id": "b", "cores": 4, "input": {"workflow": "x", "n": 15}},
        {"_id": "c", "cores": 1, "input": {"workflow": "y", "n": 25}, **LOCKED},
        {"_id": "d", "cores": True, "input": "text"},
        {"_id": "e", "cores": "1", "input": None},
        {"_id": "f", "input": [1]},
    ]
    cores, workflow, n = field("cores"), field("input", "workflow"), field("input", "n")
    views = [
        View("SingleCore/todo", TokenState.TODO, cores == 1),
        View("SingleCore/locked", TokenState.LOCKED, cores == 1),
        View("Some/flow", TokenState.TODO, (workflow == "x") & (n > 5)),
        View("Some/not", TokenState.TODO, ~(workflow == "x")),
        View("Some/either", TokenState.TODO, (cores >= 4) | (cores == True)),  # noqa: E712 - a field is compared
        View("Some/text", TokenState.TODO, cores.one_of(["1", "2"])),
        View("Some/differs", TokenState.TODO, cores != 1),
    ]
    expected = {
        "SingleCore/todo": ["a"],
        "SingleCore/locked": ["c"],
        "Some/flow": ["b"],
        "Some/not": ["d", "e", "f"],
        "Some/either": ["b", "d"],
        "Some/text": ["e"],
        "Some/differs": ["b"],
    }
    async with await _open(make_client, *contents[:3]) as client:
        for view in views:
            await client.add_view(view)
        await client.upload(contents[3:])
        for name, ids in expected.items():
            await _lists(client, ids, name)
        other = make_client()
        async with other:
            await _lists(other, ["a"], "SingleCore/todo")
        await _sees(client, {"SingleCore/todo": 1}, lambda: client.counts(["SingleCore/todo"]))
        await _sees(client, ["a"], lambda: _sampled(client, "SingleCore/todo", 5, 0.7))
        await client.add_view(View("SingleCore/todo", TokenState.TODO, cores == 4))
        await _lists(client, ["b"], "SingleCore/todo")
        await _lists(client, ["c"], "SingleCore/locked")


@check
async def views_are_listed(make_client: MakeClient) -> None:
    """A pool says which views it has, those of Monitor and those of users, by name and with what they list."""
    where = field("input", "cores") >= 4
    async with await _open(make_client) as client:
        assert {f"Monitor/{state}" for state in ("todo", "locked", "done", "error")} <= await _names(client)
        await client.add_view(View("Big/todo", TokenState.TODO, where))
        await client.add_view(View("All/done", TokenState.DONE))
        await _sees(client, True, lambda: _has_views(client, {"Big/todo", "All/done", "Monitor/todo"}))
        found = {view.name: view for view in await client.views()}
        assert list(found) == sorted(found)
        assert found["Big/todo"].where == where.to_json() or "cores" in found["Big/todo"].map_function
        assert found["All/done"].state == "done" or "parseInt" in found["All/done"].map_function


async def _names(client: PoolClient) -> set[str]:
    return {view.name for view in await client.views()}


async def _has_views(client: PoolClient, names: set[str]) -> bool:
    return names <= await _names(client)


async def _sampled(client: PoolClient, view: str, limit: int, place: float) -> list[str]:
    """The ids of a sample, as many times as it has them, in order."""
    return sorted(document["_id"] for document in await client.sample(view, limit, place, fresh=True))


@check
async def sample_covers_a_view(make_client: MakeClient) -> None:
    """A sample has what was asked for, nothing twice, and all of a view that is smaller, wherever it begins."""
    async with await _open(make_client, *({"_id": f"t{number:02}"} for number in range(30))) as client:
        everything = [f"t{number:02}" for number in range(30)]
        for place in (0.0, 0.3, 0.999):
            await _sees(client, everything, lambda place=place: _sampled(client, "todo", 100, place))  # type: ignore[misc]
            some = await _sampled(client, "todo", 10, place)
            assert len(set(some)) == len(some) == 10
        documents = await client.get(everything)
        results = await client.save([{**document, **LOCKED} for document in documents if document])
        assert all(result.written for result in results)
        await _sees(client, [], lambda: _sampled(client, "todo", 10, 0.5))


@check
async def a_fresh_view_has_what_was_written(make_client: MakeClient) -> None:
    """Right after a write, by any client, a fresh view shows it."""
    async with await _open(make_client) as client, make_client() as other:
        for number in range(20):
            await other.upload([{"_id": f"t{number:02}"}])
            await _lists(client, [f"t{earlier:02}" for earlier in range(number + 1)], "todo")


@check
async def edit_retries_until_it_wins(make_client: MakeClient) -> None:
    """Concurrent edits of one token are all applied; one of a missing token says so.

    At a replicated store an edit may end up on a leaf that is not shown, until the conflict is healed.
    """
    async with await _open(make_client, {"_id": "t", "n": 0}) as client:

        def increment(token: Token) -> None:
            token["n"] += 1

        async def keep_editing() -> None:
            while True:
                try:
                    await client.edit("t", increment)
                except EditConflictError:  # on a busy machine: again
                    continue
                return

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(keep_editing)
        applied = (await client.fetch("t"))["n"]
        assert applied == 5 or (client.replicated and 1 <= applied < 5)
        try:
            await client.edit("nothing", increment)
        except TokenNotFoundError:
            pass
        else:
            raise AssertionError("edited a token that does not exist")


@check
async def delete_from_view_deletes_its_tokens(make_client: MakeClient) -> None:
    """All tokens of a view go, no other."""
    contents = [{"_id": f"t{number}"} for number in range(5)] + [{"_id": "done", **DONE}]
    async with await _open(make_client, *contents) as client:
        await _lists(client, [f"t{number}" for number in range(5)], "todo")
        deleted = await client.delete_from_view("todo")
        assert deleted == 5 or (client.replicated and deleted < 5)
        await _sees(client, 0, lambda: client.delete_from_view("todo"))
        await _sees(client, {"todo": 0, "locked": 0, "done": 1, "error": 0}, client.counts)


async def _save(client: PoolClient, token: Token) -> None:
    """Save a token that nobody else writes; where a replicated store is not sure, again on what it has by then."""
    (result,) = await client.save([token])
    for _ in range(LOOKS if client.replicated else 0):
        if result.written:
            break
        (stored,) = await client.get([token.id])
        (result,) = await client.save([token if stored is None else {**token.document, "_rev": stored["_rev"]}])
    assert result.written, result


@check
async def attachments_ride_inside_a_save(make_client: MakeClient) -> None:
    """An attachment inside a document is stored with it, stays as a stub, is kept, replaced or removed by a write."""
    token = Token({"_id": "t", "type": "token", "lock": 0, "done": 0})
    token.put_attachment("log.txt", "first")
    token.put_attachment("pic.png", b"\x89PNG\x00", "image/png")
    async with await _open(make_client) as client:
        await _save(client, token)
        stored = await client.fetch("t")
        assert sorted(stored.attachments) == ["log.txt", "pic.png"]
        assert all(stub["stub"] is True for stub in stored["_attachments"].values())
        assert "data" not in stored["_attachments"]["log.txt"]
        assert await client.get_attachment("t", "pic.png") == b"\x89PNG\x00"
        infos = await client.attachments("t")
        assert [(info.name, info.content_type, info.length) for info in infos] == [
            ("log.txt", "text/plain", 5),
            ("pic.png", "image/png", 5),
        ]
        stored["input"] = "changed"
        stored.put_attachment("log.txt", "second")
        await _save(client, stored)
        assert await client.get_attachment("t", "log.txt") == b"second"
        assert await client.get_attachment("t", "pic.png") == b"\x89PNG\x00"
        stored = await client.fetch("t")
        del stored["_attachments"]["pic.png"]
        await _save(client, stored)
        assert [info.name for info in await client.attachments("t")] == ["log.txt"]


@check
async def a_large_attachment_is_streamed(make_client: MakeClient) -> None:
    """An attachment goes in and comes out in chunks, under the revision that it is meant for."""
    chunks = [bytes([number]) * 300_000 for number in range(20)]

    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async with await _open(make_client, {"_id": "t", "input": 1}) as client:
        token = await client.fetch("t")
        assert token.rev is not None
        result = await client.put_attachment("t", token.rev, "big.bin", stream(), "application/octet-stream")
        assert result.written, result
        received = [chunk async for chunk in client.stream_attachment("t", "big.bin")]
        assert b"".join(received) == b"".join(chunks)
        assert len(received) > 1
        late = await client.put_attachment("t", token.rev, "late.txt", b"x", "text/plain")
        stored = await client.fetch("t")
        if _lost(client, late):
            assert stored.rev == result.rev
            assert stored.input == 1
        bad = await client.put_attachment("t", str(stored.rev), "../up", b"x", "text/plain")
        assert bad.status is SaveStatus.REJECTED


@check
async def a_missing_attachment_is_an_error(make_client: MakeClient) -> None:
    """Asking for what is not there says so, for a token and for an attachment."""
    async with await _open(make_client, {"_id": "t"}) as client:
        for token, name in (("t", "nothing"), ("nobody", "log.txt")):
            try:
                await client.get_attachment(token, name)
            except TokenNotFoundError:
                continue
            raise AssertionError(f"read {name} of {token}")
        assert await client.attachments("t") == []


@check
async def changes_follow_the_pool(make_client: MakeClient) -> None:
    """The feed tells what was written and deleted, from where it is asked, and goes on from a seq."""
    async with await _open(make_client, {"_id": "a"}) as client, make_client() as writer:
        async with aclosing(client.changes("0")) as feed:  # type: ignore[type-var]  # adapters return generators
            first = await _next_token(feed)
            assert (first.id, first.deleted) == ("a", False)
        with anyio.fail_after(20):
            async with aclosing(client.changes(first.seq)) as feed:  # type: ignore[type-var]
                await writer.upload([{"_id": "b"}])
                second = await _next_token(feed)
                assert second.id == "b"
                (stored,) = await writer.get(["b"])
                assert stored is not None
                assert second.rev == stored["_rev"]
                await writer.delete([stored])
                third = await _next_token(feed)
                assert (third.id, third.deleted) == ("b", True)


async def _next_token(feed: AsyncIterator[Any]) -> Any:
    async for change in feed:
        if not change.id.startswith("_"):
            return change
    raise AssertionError("the feed ended")


@check
async def a_fork_is_a_client_of_its_own(make_client: MakeClient) -> None:
    """A fork sees the same pool, and outlives the client that it came from."""
    client = await _open(make_client, {"_id": "t"})
    fork = client.fork()
    async with fork:
        await client.aclose()
        await client.aclose()
        await _lists(fork, ["t"], "todo")


@check
async def many_requests_at_once(make_client: MakeClient) -> None:
    """A client serves concurrent calls, each with its own answer."""
    contents = [{"_id": f"t{number:03}", "input": number} for number in range(100)]
    async with await _open(make_client, *contents) as client:
        answers: dict[int, Any] = {}

        async def read_and_write(number: int) -> None:
            (document,) = await client.get([f"t{number:03}"])
            assert document is not None
            (result,) = await client.save([{**document, "output": number}])
            answers[number] = (document["input"], result.written)

        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(read_and_write, number)
        assert answers == {number: (number, True) for number in range(100)}


@check
async def store_time_is_near_the_truth(make_client: MakeClient) -> None:
    """The store's clock, read by two clients, agrees within two seconds."""
    async with await _open(make_client, {}) as client, make_client() as other:
        await other.counts()
        assert abs(client.time() - other.time()) <= 2.0


class _Ear:
    """Hears what a client tells of arrivals, until it is left."""

    def __init__(self, client: PoolClient, *views: str) -> None:
        self._client = client
        self._views = views
        self.possible = 0
        """How many times tokens may have come."""
        self._more = anyio.Event()

    async def listen(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Count, from the first one on, which says that the feed stands."""
        async with aclosing(self._client.arrivals(self._views)) as feed:  # type: ignore[type-var]
            async for arrival in feed:
                if arrival is Arrival.POSSIBLE:
                    self.possible += 1
                    self._more.set()
                    if self.possible == 1:
                        task_status.started()

    async def hear(self, number: int) -> None:
        """Wait until it was so many times."""
        with anyio.fail_after(30):
            while self.possible < number:
                self._more = anyio.Event()
                await self._more.wait()


async def _has_seen_all(client: PoolClient, writer: PoolClient) -> None:
    """Wait until a client is told of what was written just now, so that its arrivals would be there too."""
    with anyio.fail_after(30):
        async with aclosing(client.changes()) as feed, anyio.create_task_group() as group:  # type: ignore[type-var]

            async def mark() -> None:
                while True:  # until one of them is written after the feed has begun
                    await writer.upload([{"type": "note"}])
                    await anyio.sleep(0.05)

            group.start_soon(mark)
            await _next_token(feed)
            group.cancel_scope.cancel()


@check
async def arrivals_tell_of_tokens(make_client: MakeClient) -> None:
    """A token that is uploaded, or comes back to todo, is told of."""
    async with await _open(make_client, {"_id": "a"}) as client, make_client() as writer:
        ear = _Ear(client, "todo")
        async with anyio.create_task_group() as group:
            await group.start(ear.listen)
            await writer.upload([{"_id": "b"}])
            await ear.hear(2)
            (stored,) = await writer.get(["a"])
            assert stored is not None
            await _save(writer, Token({**stored, **LOCKED}))
            await _has_seen_all(client, writer)
            before = ear.possible
            (stored,) = await writer.get(["a"])
            assert stored is not None
            await _save(writer, Token({**stored, "lock": 0}))
            await ear.hear(before + 1)
            group.cancel_scope.cancel()


@check
async def beats_are_no_arrivals(make_client: MakeClient) -> None:
    """Claims, heartbeats, outcomes, deletions and what is no token wake nobody."""
    async with await _open(make_client, {"_id": "held"}, {"_id": "old"}) as client, make_client() as writer:
        ear = _Ear(client, "todo")
        async with anyio.create_task_group() as group:
            await group.start(ear.listen)
            await _has_seen_all(client, writer)
            before = ear.possible
            for beat in range(20):
                (stored,) = await writer.get(["held"])
                assert stored is not None
                await _save(writer, Token({**stored, "lock": LOCKED["lock"] + beat}))
                await writer.upload([{"_id": f"note{beat}", "type": "note"}])
            (stored,) = await writer.get(["held"])
            assert stored is not None
            await _save(writer, Token({**stored, **DONE}))
            (old,) = await writer.get(["old"])
            assert old is not None
            await writer.delete([old])
            await _has_seen_all(client, writer)
            # At a replicated store the feed may still be behind with what was there when it began.
            assert ear.possible == before or client.replicated
            group.cancel_scope.cancel()


@check
async def arrivals_tell_of_views(make_client: MakeClient) -> None:
    """A token that comes into a view of the user's is told of, to whoever claims from several too."""
    async with await _open(make_client) as client, make_client() as writer:
        await client.add_view(View("Big/todo", TokenState.TODO, field("cores") >= 4))
        await client.add_view(View("Small/todo", TokenState.TODO, field("cores") < 4))
        ear = _Ear(client, "Big/todo", "Small/todo")
        async with anyio.create_task_group() as group:
            await group.start(ear.listen)
            for number, cores in enumerate((8, 1, 8)):
                before = ear.possible
                await writer.upload([{"_id": f"t{number}", "cores": cores}])
                await ear.hear(before + 1)
            group.cancel_scope.cancel()
