"""Listing tokens: which, in which order, and how they are shown."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from apicas._documents import decode
from apicas.cli.fields import NOTHING, ago, value_at, where, with_value
from apicas.cli.listing import Ranking
from apicas.clients.sqlite import SQLiteClient
from apicas.exceptions import ConfigError
from tests.cli.program import Program, as_of_now
from tests.cli.test_commands import SLOW, fill, modules_after
from tests.cli.test_tokens import store

NOW = int(time.time())
KINDS: list[dict[str, Any]] = [
    {"_id": "new", "input": {"size": 3, "kind": "julia"}},
    {
        "_id": "back",
        "input": {"size": "3"},
        "apicas": {"generation": 2, "history": [{"event": "x", "time": NOW - 500}]},
    },
    {
        "_id": "held",
        "input": {"size": 10},
        "lock": NOW - 60,
        "hostname": "node7",
        "apicas": {"claim": "c", "lock": NOW - 60, "claimed": NOW - 7300, "generation": 3},
    },
    {"_id": "good", "lock": NOW - 100, "done": NOW - 90, "exit_code": 0, "hostname": "node8", "output": {"y": 1.5}},
    {
        "_id": "bad",
        "lock": 99,
        "done": 99,
        "exit_code": 137,
        "error": [{"time": NOW - 4000, "message": "first"}, {"time": NOW - 3700, "message": "killed: out of memory"}],
    },
    {"_id": "odd", "lock": None},
]


def listed(apicas: Program, *arguments: str) -> list[str]:
    """The ids that are listed, in their order."""
    result = apicas("ls", "--json", "--columns", "id", *arguments)
    assert result.code == 0, result.err
    return [decode(line)["id"] for line in result.out.splitlines()]


@pytest.fixture
def filled(apicas: Program) -> Program:
    """A pool with a token of every kind."""
    store(apicas, *as_of_now(KINDS, NOW))
    return apicas


def test_everything_is_listed_by_id_also_what_is_in_no_view(filled: Program) -> None:
    assert listed(filled) == ["back", "bad", "good", "held", "new", "odd"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["todo"], ["back", "new"]),
        (["Monitor/error"], ["bad"]),
        (["done", "locked"], ["good", "held"]),
        (["held", "new"], ["held", "new"]),
        (["todo", "new", "held"], ["back", "new", "held"]),
    ],
)
def test_names_are_views_and_ids_and_nothing_comes_twice(
    filled: Program, names: list[str], expected: list[str]
) -> None:
    assert listed(filled, *names) == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("input.size=3", ["back", "new"]),  # the number and the text
        ('input.size="3"', ["back"]),
        ("input.size>=3", ["held", "new"]),
        ("input.size<10", ["new"]),
        ("input.size!=3", ["held"]),
        ("input.kind=julia", ["new"]),
        ("input.kind!=null", ["new"]),
        ("input.size=null", ["bad", "good", "odd"]),
        ("reason~memory", ["bad"]),
        ("error.-1.message=first", []),
        ("error.0.message=first", ["bad"]),
        ("output.y>1", ["good"]),
        ("state=locked", ["held"]),
        ("id>h", ["held", "new", "odd"]),
        ("age>2h", ["held"]),
        ("beat>30s", ["held"]),
        ("attempt=2", ["held"]),
        ("hostname~node", ["good", "held"]),
        (".state=null", ["back", "bad", "good", "held", "new", "odd"]),
    ],
)
def test_conditions_select(filled: Program, condition: str, expected: list[str]) -> None:
    assert listed(filled, "--where", condition) == expected


def test_several_conditions_must_all_hold(filled: Program) -> None:
    assert listed(filled, "--where", "input.size=3", "--where", "input.kind=julia") == ["new"]


def test_older_is_the_time_in_the_state(filled: Program) -> None:
    """A held token is as old as its claim, not its heartbeat; one in error as old as its last error."""
    assert listed(filled, "--older", "1h") == ["bad", "held"]
    assert listed(filled, "--older", "400s") == ["back", "bad", "held"]


@pytest.mark.parametrize("text", ["size", "=3", "size={}", "size=[1]", "size>null", "age>soon"])
def test_what_is_no_condition_is_refused(filled: Program, text: str) -> None:
    result = filled("ls", "--where", text)
    assert (result.code, result.out) == (2, "")
    assert result.error.startswith("apicas: ")


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("input.size", ["new", "held", "back", "bad", "good", "odd"]),  # numbers, text, and those without it
        ("-input.size", ["back", "held", "new", "bad", "good", "odd"]),
        ("-age", ["held", "bad", "back", "good", "new", "odd"]),
        ("-id", ["odd", "new", "held", "good", "bad", "back"]),
    ],
)
def test_a_sorted_list(filled: Program, sort: str, expected: list[str]) -> None:
    assert listed(filled, f"--sort={sort}") == expected


def test_the_first_of_a_sorted_list_and_a_word_about_the_rest(filled: Program) -> None:
    result = filled("ls", "--sort", "-id", "--limit", "2", "--columns", "id")
    assert result.out.splitlines() == ["id", "odd", "new"]
    assert result.error == "apicas: 4 more tokens: --limit 0 shows all"


def test_a_table_of_a_view_has_its_columns(filled: Program) -> None:
    head, line = filled("ls", "error").out.splitlines()
    assert head.split() == ["id", "attempt", "age", "hostname", "exit_code", "reason"]
    assert line.split()[:1] + line.split()[-4:] == ["bad", "killed:", "out", "of", "memory"]
    head, line = filled("ls", "locked").out.splitlines()
    assert head.split() == ["id", "attempt", "age", "beat", "hostname", "input"]
    assert line.split()[:3] == ["held", "2", "2.0h"]


def test_what_came_from_a_table_is_listed_by_its_fields(apicas: Program) -> None:
    apicas("push", "--format", "csv", "--id-field", "name", stdin="name,mass,state,far,away\na,1,x,2,3\nb,4,y,5,6\n")
    head, first, second = apicas("ls", "todo").out.splitlines()
    assert (head.split(), first.split(), second.split()) == (
        ["id", "attempt", "age", "mass", ".state", "far"],
        ["a", "0", "1", "x", "2"],
        ["b", "0", "4", "y", "5"],
    )
    assert apicas("ls", "--columns", "id,input").out.split() == ["id", "input", "a", "{}", "b", "{}"]
    apicas("push", stdin='{"_id": "0", "input": 7}')
    assert apicas("ls", "todo").out.splitlines()[0].split() == ["id", "attempt", "age", "input"]


def test_columns_of_choice(filled: Program) -> None:
    result = filled("ls", "good", "new", "--columns", "id, output.y ,input")
    assert [line.split() for line in result.out.splitlines()] == [
        ["id", "output.y", "input"],
        ["good", "1.5", "{}"],
        ["new", '{"size":3,"kind":"julia"}'],
    ]


def test_json_is_the_whole_token_or_its_columns(filled: Program) -> None:
    (whole,) = map(decode, filled("ls", "good", "--json").out.splitlines())
    assert (whole["_id"], whole["output"], whole["_rev"][:2]) == ("good", {"y": 1.5}, "2-")
    (some,) = map(decode, filled("ls", "good", "--json", "--columns", "state,output.z").out.splitlines())
    assert some == {"state": "done", "output.z": None}


def test_a_table_ends_after_fifty_and_says_how_many_more(apicas: Program) -> None:
    fill(apicas, todo=60, done=2)
    result = apicas("ls")
    assert (len(result.out.splitlines()), result.error) == (51, "apicas: about 12 more tokens: --limit 0 shows all")
    assert apicas("ls", "todo").error == "apicas: 10 more tokens: --limit 0 shows all"
    assert "there are more" in apicas("ls", "--where", "scrub_count=0").error
    everything = apicas("ls", "-n", "0")
    assert (len(everything.out.splitlines()), everything.err) == (63, "")
    assert apicas("ls", "todo", "-n", "60").err == ""
    assert len(apicas("ls", "--json").out.splitlines()) == 62


def test_a_list_goes_through_many_pages(apicas: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apicas.cli.selection.PAGE", 7)
    fill(apicas, todo=30, error=20)
    assert len(set(listed(apicas))) == 50
    assert len(set(listed(apicas, "todo", "error"))) == 50


def test_a_token_that_goes_from_view_to_view_meanwhile_is_listed_once(
    apicas: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tokens are read in the order of ids; several views are remembered."""
    monkeypatch.setattr("apicas.cli.selection.PAGE", 2)
    store(apicas, *({"_id": f"t{number}"} for number in range(6)))
    moved: list[str | None] = []
    original = SQLiteClient.query

    async def query(self: SQLiteClient, view: str, options: Any) -> Any:
        rows = await original(self, view, options)
        if not moved:
            moved.append(rows[0].id)
            async with self.fork() as other:
                await other.edit(rows[0].id or "", lambda token: token.update(lock=NOW))
        return rows

    monkeypatch.setattr(SQLiteClient, "query", query)
    assert listed(apicas, "todo", "locked") == [f"t{number}" for number in range(6)]
    assert moved == ["t0"]


def test_names_that_are_nothing(filled: Program) -> None:
    result = filled("ls", "new", "none", "--json", "--columns", "id")
    assert (result.code, result.out, result.error) == (1, '{"id":"new"}\n', "apicas: there is no token 'none'")
    assert filled("ls", "none").code == 2
    assert filled("ls", "Mine/todo").code == 2
    assert filled("ls", "--id", "todo").error == "apicas: there is no token 'todo'"


def test_a_state_that_is_misspelt(filled: Program) -> None:
    assert filled("ls", "lockd").error.endswith("of the name 'lockd': did you mean locked?")
    assert filled("delete", "Done").error.endswith("did you mean done?")
    assert filled("ls", "held7").error.endswith("of the name 'held7'")


@pytest.mark.parametrize("option", ["--state", "--error"])
def test_a_state_is_no_option(filled: Program, option: str) -> None:
    result = filled("ls", option, "error")
    assert (result.code, result.out) == (2, "")
    assert result.error.startswith(
        f"apicas: No such option: {option}: a state is a word of its own, as in `apicas ls error` (see "
    )


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["--columns", "id,input.siz"], ["input.siz"]),
        (["--sort=-siz"], ["siz"]),
        (["--where", "input.siz>3"], ["input.siz"]),
        (["--where", "input.siz>3", "--json"], []),
        (["done", "--where", "knd=julia", "--where", "outptu.y>1"], ["knd", "outptu.y"]),
        (["--where", "input.size>1000"], []),
        (["todo", "--columns", "id,reason", "--sort", "beat"], []),
        (["--where", "reason~x", "--older", "1000d"], []),
    ],
)
def test_a_field_that_no_token_has_is_said(filled: Program, arguments: list[str], fields: list[str]) -> None:
    result = filled("ls", *arguments)
    assert result.code == 0
    said = [line for line in result.err.splitlines() if "has a field" in line]
    assert said == [f"apicas: none of the tokens that were looked at has a field {field!r}" for field in fields]


def test_nor_is_one_of_a_condition_that_changes_nothing(filled: Program) -> None:
    result = filled("delete", "error", "--where", "exitcode=137", "--yes")
    assert result.out.startswith("nothing to delete: 0 tokens of ")
    assert result.error == "apicas: none of the tokens that were looked at has a field 'exitcode'"


@pytest.mark.parametrize(
    "content", ["new\n\nheld\n", '"new"\n"held"\n', '{"_id": "new", "x": 1}\n{"id": "held"}\n', "new\r\nheld\nnew"]
)
def test_ids_from_a_file_or_a_pipe(filled: Program, content: str) -> None:
    filled.write("ids", content)
    assert listed(filled, "--ids-from", "ids") == ["new", "held"]
    result = filled("ls", "--json", "--columns", "id", "--ids-from", "-", stdin=content)
    assert result.out == '{"id":"new"}\n{"id":"held"}\n'


@pytest.mark.parametrize("content", ['{"x": 1}', "{", "[1]x\n{}", '12\n""', b"\xff"])
def test_a_file_without_ids_is_refused_with_its_line(filled: Program, content: str | bytes) -> None:
    filled.write("ids", content)
    result = filled("ls", "--ids-from", "ids")
    assert (result.code, result.out) == (2, "")
    assert result.error.startswith("apicas: ids:")
    assert filled("ls", "--ids-from", "nothing").code == 2


def test_what_is_listed_can_be_handed_to_another_command(filled: Program) -> None:
    ids = filled("ls", "--where", "input.size!=null", "--json", "--columns", "id").out
    assert filled("delete", "--ids-from", "-", "--yes", stdin=ids).out == "deleted 3 tokens\n"
    assert listed(filled) == ["bad", "good", "odd"]


def test_odd_tokens_are_listed(apicas: Program) -> None:
    odd = {"hostname": 5, "error": "x", "apicas": {"history": [7], "generation": "x"}, "input": "a\x1b[2J\nb"}
    store(apicas, {"_id": "t1", **odd}, {"_id": "t2", "lock": "12", "error": [3]}, {"_id": "t3", "lock": 1e300})
    lines = apicas("ls").out.splitlines()
    assert len(lines) == 4
    assert "a\\x1b[2J\\nb" in lines[1]
    assert len(apicas("ls", "--json").out.splitlines()) == 3


def test_a_list_waits_for_no_library_that_it_does_not_need(apicas: Program) -> None:
    fill(apicas, todo=1)
    assert modules_after("ls", directory=apicas.directory) & SLOW == set()


def test_the_memory_of_a_long_list_is_that_of_a_page(apicas: Program) -> None:
    """Twenty times as many tokens take no more than before, and a sorted list with a limit neither."""
    peaks = []
    for number in (1_000, 20_000):
        fill(apicas, todo=number)
        for options in ([], ["--sort", "id", "--limit", "3"]):
            script = (
                "import resource, sys; from apicas.cli import main; code = main(sys.argv[1:]);"
                " print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
            )
            peaks.append(_peak(apicas, script, ["ls", "--json", *options]))
        apicas("delete", "todo", "--yes")
    assert peaks[2] < peaks[0] + 12_000  # kilobytes; 20,000 documents held are four times as many
    assert peaks[3] < peaks[1] + 12_000


def _peak(apicas: Program, script: str, arguments: list[str]) -> int:
    import os
    import subprocess
    import sys

    from tests.cli.program import ROOT

    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(
        command, cwd=apicas.directory, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True
    )
    return int(done.stderr.split()[-1])


# The parts. -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", 1),
        ("b.c", 2),
        ("d.0", 3),
        ("d.-1.e", 4),
        ("f.g", 5),
        ("b.f.g", 6),
        ("a.x", NOTHING),
        ("d.9", NOTHING),
        ("d.x", NOTHING),
        ("z", NOTHING),
        ("", NOTHING),
    ],
)
def test_a_value_is_found_by_its_path(name: str, expected: Any) -> None:
    value = {"a": 1, "b": {"c": 2, "f.g": 6}, "d": [3, {"e": 4}], "f.g": 5, "f": {"g": "hidden by the key"}}
    assert value_at(value, name) == expected


@pytest.mark.parametrize(
    ("name", "new", "expected"),
    [
        ("a", 2, {"a": 2, "b": {"c": [1, {"d": 1}]}}),
        ("b.c.1.d", 5, {"a": 1, "b": {"c": [1, {"d": 5}]}}),
        ("b.c.0", NOTHING, {"a": 1, "b": {"c": [{"d": 1}]}}),
        ("b.c", NOTHING, {"a": 1, "b": {}}),
        ("x.y.z", 1, {"a": 1, "b": {"c": [1, {"d": 1}]}, "x": {"y": {"z": 1}}}),
        ("x.y", NOTHING, {"a": 1, "b": {"c": [1, {"d": 1}]}}),
    ],
)
def test_a_value_is_put_in_a_copy(name: str, new: Any, expected: Any) -> None:
    value = {"a": 1, "b": {"c": [1, {"d": 1}]}}
    before = json.dumps(value)
    assert with_value(value, name, new) == expected
    assert json.dumps(value) == before


@pytest.mark.parametrize("name", ["a.b", "b.c.7", "b.c.x.y", "b.c.1.d.e"])
def test_a_value_without_a_place_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        with_value({"a": 1, "b": {"c": [1, {"d": 1}]}}, name, 1)


@pytest.mark.parametrize(("passed", "text"), [(5, "5s"), (600, "10m"), (7200, "2.0h"), (4e5, "4.6d")])
def test_times_are_said_shortly(passed: float, text: str) -> None:
    assert ago(passed) == text


def test_a_ranking_holds_little_more_than_it_is_asked_for() -> None:
    ranking = Ranking(3, descending=False)
    for number in range(10_000, 0, -1):
        ranking.add(number, [number])
        assert len(ranking._ranked) <= 1100
    ranking.add(NOTHING, ["without"])
    assert (ranking.rows(), ranking.seen) == ([[1], [2], [3]], 10_001)


def test_numbers_of_any_length_are_compared() -> None:
    assert where("x=" + "9" * 400).matches({"_id": "t", "x": "9" * 400}, 0.0)
    assert not where("x=1e999").matches({"_id": "t", "x": 1.5}, 0.0)
