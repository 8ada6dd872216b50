"""What is pushed, in which form, and what is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import apicas as library
from apicas.cli import opening
from apicas.clients.sqlite import SQLiteClient
from apicas.exceptions import PoolUnavailableError
from tests.cli.program import Program

COMMON = {
    "type": "token",
    "lock": 0,
    "done": 0,
    "hostname": "",
    "scrub_count": 0,
    "exit_code": "",
    "error": [],
    "output": {},
    "uploads": {},
}


def contents(program: Program) -> list[dict[str, Any]]:
    """What is in the pool, without the fields that every token has, in the order of the ids."""

    async def read() -> list[dict[str, Any]]:
        async with library.connect(f"sqlite:///{program.directory}/apicas.db") as client:
            rows = await client.view("todo", include_docs=True)
            return [row.document for row in rows if row.document is not None]

    documents = asyncio.run(read())
    return [
        {name: value for name, value in document.items() if name != "_rev" and COMMON.get(name, ...) != value}
        for document in documents
    ]


def inputs_of(program: Program) -> list[Any]:
    return sorted((token["input"] for token in contents(program)), key=repr)


def test_an_object_is_a_token_as_it_is_and_any_other_value_its_input(apicas: Program) -> None:
    lines = ['{"_id": "a", "input": {"x": 1}, "cores": 2}', "5", "[1, 2]", '"text"', "", "null"]
    apicas.write("inputs.jsonl", "\n".join(lines))
    result = apicas("push", "inputs.jsonl")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("pushed 5 tokens to sqlite:///apicas.db in ")
    assert {"_id": "a", "input": {"x": 1}, "cores": 2} in contents(apicas)
    assert inputs_of(apicas) == sorted([{"x": 1}, 5, [1, 2], "text", None], key=repr)


def test_a_table_s_cells_become_fields_as_text(apicas: Program) -> None:
    apicas.write("table.csv", 'name,_id,input\r\n"a, ""b""\nc",007,1.5\r\n\r\nd,008,\r\n')
    assert apicas("push", "table.csv").code == 0
    assert contents(apicas) == [
        {"_id": "007", "name": 'a, "b"\nc', "input": "1.5"},
        {"_id": "008", "name": "d", "input": ""},
    ]


def test_typed_reads_numbers_and_the_like_and_leaves_what_only_looks_so(apicas: Program) -> None:
    apicas.write("table.tsv", "_id\ta\tb\tc\td\te\nx\t1\t-2.5e3\ttrue\t007\tNaN\n")
    assert apicas("push", "table.tsv", "--typed").code == 0
    (token,) = contents(apicas)
    assert token == {"_id": "x", "input": {}, "a": 1, "b": -2500.0, "c": True, "d": "007", "e": "NaN"}


def test_a_byte_order_mark_is_no_part_of_the_first_line(apicas: Program) -> None:
    apicas.write("table.csv", b"\xef\xbb\xbf_id,x\nk,1\n")
    apicas.write("lines.jsonl", b'\xef\xbb\xbf{"_id": "j"}\n')
    assert apicas("push", "table.csv", "lines.jsonl").code == 0
    assert [token["_id"] for token in contents(apicas)] == ["j", "k"]


@pytest.mark.parametrize("seekable", [True, False])
@pytest.mark.parametrize("arguments", [("push",), ("push", "-")])
def test_standard_input_is_read_once_whatever_it_is(apicas: Program, arguments: list[str], seekable: bool) -> None:
    assert apicas(*arguments, stdin="one\ntwo\r\n\nthree", seekable=seekable).code == 0
    assert inputs_of(apicas) == ["one", "three", "two"]


@pytest.mark.parametrize(
    ("first", "expected"), [('{"input": 7}', 7), ("[7]", [7]), ('"7"', "7"), ("7", "7"), ("seven", "seven")]
)
def test_the_first_line_of_standard_input_tells_its_format(apicas: Program, first: str, expected: Any) -> None:
    assert apicas("push", stdin=first).code == 0
    assert inputs_of(apicas) == [expected]


def test_the_format_can_be_said(apicas: Program) -> None:
    assert apicas("push", "--format", "jsonl", stdin="1\n2\n").code == 0
    assert apicas("push", "--format", "csv", stdin="input\n3\n").code == 0
    assert inputs_of(apicas) == ["3", 1, 2]
    assert "there are auto, jsonl" in apicas("push", "--format", "xml", stdin="").error


def test_fields_for_all_and_an_id_from_a_field(apicas: Program) -> None:
    apicas.write("table.csv", "name,x\nm31,1\n")
    arguments = ("--id-field", "name", "--set", "cores=4", "--set", "owner=me", "--set", 'input={"y": 1}')
    assert apicas("push", "table.csv", *arguments).code == 0
    assert contents(apicas) == [{"_id": "m31", "name": "m31", "x": "1", "cores": 4, "owner": "me", "input": {"y": 1}}]


BAD_LINES = [
    ("a.jsonl", '{"input": 1}\n\n{"input": \n', 3, "not JSON"),
    ("a.jsonl", "[\n1\n]\n", 1, "try `jq -c '.[]'`"),
    ("a.json", '[{"input": 1},\n{"input": 2}]\n', 1, "try `jq -c '.[]'`"),
    ("a.json", '{\n"input": 1\n}\n', 1, "try `jq -c .`"),
    ("a.jsonl", '{"input": NaN}', 1, "not JSON"),
    ("a.jsonl", '{"_foo": 1}', 1, "reserved"),
    ("a.jsonl", '{"input": "\\ud800"}', 1, ""),
    ("a.jsonl", '{"_id": 5}', 1, "_id 5 is no string"),
    ("a.jsonl", '{"_attachments": {"../x": {"data": ""}}}', 1, "could leave its directory"),
    ("a.jsonl", '{"type": "galaxy"}', 1, "the field `type` is taken"),
    ("a.jsonl", '{"lock": null}', 1, "no view lists it"),
    ("a.jsonl", "[" * 600 + "]" * 600, 1, "deep"),
    ("a.jsonl", b'{"input": "\xff"}', 1, "not JSON"),
    ("a.csv", "a,b\n1,2\n1,2,3\n", 3, "3 cells where the first line names 2 fields"),
    ("a.csv", 'a,b\n1,2\n"x\ny",2\n1\n', 5, "1 cells where"),
    ("a.csv", 'a,b\n1,2\n"never\nclosed,', 3, "not CSV"),
    ("a.csv", b"a\n\xff\n", 2, "not UTF-8"),
    ("a.csv", "a,b,a\n", 1, "names a field twice: a"),
    ("a.csv", "a,,b\n", 1, "a name is missing"),
    ("a.txt", b"good\nb\xe4d\n", 2, "not UTF-8"),
]


@pytest.mark.parametrize(("name", "content", "line", "reason"), BAD_LINES)
def test_a_bad_line_is_named_and_nothing_is_pushed(
    apicas: Program, name: str, content: str | bytes, line: int, reason: str
) -> None:
    apicas.write("good.jsonl", '{"input": 1}\n')
    apicas.write(name, content)
    result = apicas("push", "good.jsonl", name)
    assert result.code == 2
    first, *_, last = result.err.splitlines()
    assert first.startswith(f"{name}:{line}: ")
    assert reason in first
    assert last.endswith("nothing was pushed (see --skip-bad)")
    assert not (apicas.directory / "apicas.db").exists()


def test_bad_lines_of_a_pipe_are_known_before_the_first_is_pushed(apicas: Program) -> None:
    result = apicas("push", stdin='{"input": 1}\n{"input": 2\n')
    assert (result.code, result.err.splitlines()[0][:5]) == (2, "-:2: ")
    assert not (apicas.directory / "apicas.db").exists()


def test_all_bad_lines_are_counted_and_the_first_are_shown(apicas: Program) -> None:
    apicas.write("a.jsonl", "x\n" * 50)
    result = apicas("push", "a.jsonl")
    assert len(result.err.splitlines()) == 22
    assert "and 30 lines more" in result.err
    assert "50 bad lines" in result.err


def test_skip_bad_pushes_the_good_ones(apicas: Program) -> None:
    result = apicas("push", "--skip-bad", stdin='{"input": 1}\n{"input": \n3\n')
    assert result.code == 0
    assert result.err.splitlines()[0].startswith("-:2: not JSON")
    assert "1 bad line skipped" in result.err
    assert inputs_of(apicas) == [1, 3]


def test_an_id_that_is_taken_is_told_with_its_line_and_the_others_are_pushed(apicas: Program) -> None:
    apicas.write("a.jsonl", '{"_id": "one"}\n{"_id": "two"}\n{"_id": "one"}\n')
    result = apicas("push", "a.jsonl")
    assert result.code == 1
    assert "a.jsonl:3: this id is in the pool already" in result.err
    assert "pushed 2 tokens" in result.out


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_read_is_one_line(apicas: Program, name: str) -> None:
    result = apicas("push", name)
    assert (result.code, result.error[: len(name) + 9]) == (2, f"apicas: {name}:")


def test_fifty_thousand_lines_stream_through(apicas: Program) -> None:
    apicas.write("many.jsonl", "".join(json.dumps({"input": n}) + "\n" for n in range(50_000)))
    result = apicas("push", "many.jsonl")
    assert result.code == 0, result.err
    assert apicas.status() == {"todo": 50_000, "locked": 0, "done": 0, "error": 0, "total": 50_000}


def test_a_file_is_never_in_memory_as_a_whole(apicas: Program) -> None:
    """The reader asks for lines one by one, and each batch is pushed before the next is read."""
    from apicas.cli.lines import Reading
    from apicas.cli.pushing import batches

    read = 0

    def lines() -> Any:
        nonlocal read
        for number in range(10_000):
            read += 1
            yield b"%d\n" % number

    found = batches(line for line in Reading().read(lines()) if hasattr(line, "content"))  # type: ignore[misc]
    assert len(next(found)) == 1000
    assert read <= 1001


class _Flaky(SQLiteClient):
    """A pool whose answer gets lost after each bulk was written."""

    failures = 0

    async def upload(self, tokens: Any, **options: Any) -> Any:
        report = await super().upload(tokens, **options)
        if _Flaky.failures:
            _Flaky.failures -= 1
            raise PoolUnavailableError("the answer got lost")
        return report


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> None:
    _Flaky.failures = 1
    monkeypatch.setattr(
        "apicas.configuration.Configuration.connect", lambda self, create=True: _Flaky("apicas.db", create=create)
    )


def test_what_was_written_without_an_answer_is_not_pushed_twice(apicas: Program, flaky: None) -> None:
    result = apicas("push", stdin='{"_id": "a"}\n{"input": 2}\n')
    assert result.code == 0
    assert result.error.startswith("apicas: the answer got lost; trying again for")
    assert "pushed 2 tokens" in result.out
    assert apicas.status()["total"] == 2


def test_a_push_that_breaks_off_says_how_far_it_came(
    apicas: Program, flaky: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "PATIENCE", 0.0)
    monkeypatch.setattr("apicas.cli.pushing.MAX_BULK_DOCUMENTS", 2)
    first = [True]

    async def upload(self: Any, tokens: Any, **options: Any) -> Any:
        if not first:
            raise PoolUnavailableError("the server is away")
        first.clear()
        return await SQLiteClient.upload(self, tokens, **options)

    monkeypatch.setattr(_Flaky, "upload", upload)
    result = apicas("push", "--format", "text", stdin="a\nb\nc\n")
    assert result.code == 3
    assert "2 tokens were pushed before that, up to line 2 of -" in result.err
    assert result.err.splitlines()[-1] == "apicas: the server is away"


def test_nothing_to_push_on_a_terminal_is_said(apicas: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    from apicas.cli import main

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    apicas.captured()
    assert main(["push"]) == 2
    assert "name a file, or pipe lines" in apicas.captured()[1]
