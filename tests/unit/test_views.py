"""Views: one definition, and the same answer from JavaScript, SQL and Python."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import reduce
from operator import and_, or_
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apicas._documents import encode
from apicas.exceptions import ConfigError
from apicas.tokens import TokenState, monitor_state
from apicas.views import (
    MONITOR_VIEWS,
    STATES,
    Comparison,
    Condition,
    Either,
    Every,
    Not,
    View,
    condition_from_json,
    design_document,
    field,
    full_name,
    monitor_design,
    overview_map_function,
)
from tests.unit.json_values import HOSTILE, VALUES, samples
from tests.unit.node import listed_by, needs_node

# Few names and values, so that conditions and documents meet; text without NUL and below the surrogates, where all
# three order it alike.
NAMES = st.sampled_from(["cores", "flow", 'a"b', "a\\b", "a.b[0]", "é", "\u2028", "__proto__", "constructor", "length"])
WORDS = st.one_of(
    st.sampled_from(["", "x", "X", "1", "true"]),
    st.text(st.characters(max_codepoint=0xD7FF, min_codepoint=1), max_size=3),
)
SCALARS = st.one_of(st.integers(-2, 5), st.booleans(), WORDS, st.sampled_from([0.5, 1e22, 2**53 + 1, -0.0, 10**20]))
LEAVES = st.one_of(SCALARS, st.none(), st.lists(SCALARS, max_size=2))
CONTENTS = st.dictionaries(NAMES, st.one_of(LEAVES, st.dictionaries(NAMES, LEAVES, max_size=2)), max_size=4)
COMPARISONS = st.builds(
    Comparison,
    st.lists(NAMES, min_size=1, max_size=2).map(tuple),
    st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
    SCALARS,
)
CONDITIONS: st.SearchStrategy[Condition] = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: Every(tuple(parts))),
        st.lists(inner, max_size=3).map(lambda parts: Either(tuple(parts))),
        inner.map(Not),
    ),
    max_leaves=5,
)
TODO = {"type": "token", "lock": 0, "done": 0}
# A view with a condition, and a document of which the state alone would be listed.
CASES = st.tuples(CONDITIONS, CONTENTS).map(
    lambda case: (View("Own/view", TokenState.TODO, case[0]), {**case[1], **TODO})
)
STATE_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["token", "token", "token", "task", None]),
        "lock": st.one_of(st.sampled_from([0, 99, 1_700_000_000]), VALUES),
        "done": st.one_of(st.sampled_from([0, 99, 1_700_000_000]), VALUES),
        "exit_code": st.one_of(st.sampled_from([0, 1, ""]), VALUES),
    },
)


@needs_node
def test_monitor_lists_in_node_what_it_lists_here() -> None:
    """Whatever stands in type, lock, done and exit_code."""
    documents: list[dict[str, Any]] = [{"_id": "x", **fields} for fields in samples(STATE_FIELDS, 250)]
    for name, view in MONITOR_VIEWS.items():
        listed = listed_by((view.map_function(), document) for document in documents)
        for document, keys in zip(documents, listed, strict=True):
            assert view.matches(document) == (keys == ["x"]), (name, document)


@needs_node
def test_overview_counts_each_token_once_in_node() -> None:
    documents = samples(STATE_FIELDS, 250)
    listed = listed_by((overview_map_function(), document) for document in documents)
    for document, states in zip(documents, listed, strict=True):
        state = monitor_state(document)
        assert states == ([] if state is TokenState.NO_VIEW else [str(state)]), document


@needs_node
def test_a_condition_says_the_same_in_node() -> None:
    cases = samples(CASES, 300)
    listed = listed_by((view.map_function(), {"_id": "x", **document}) for view, document in cases)
    for (view, document), keys in zip(cases, listed, strict=True):
        assert view.matches(document) == (keys == ["x"]), (view.where, document)


@given(CASES)
def test_a_condition_says_the_same_in_sqlite(case: tuple[View, dict[str, Any]]) -> None:
    view, document = case
    assert view.matches(document) == in_sqlite(view, document)


def in_sqlite(view: View, document: Any) -> bool:
    """Whether a row with the document is found by the view's SQL."""
    with_parameters, parameters = view.sql()
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE TABLE tokens (state TEXT, body TEXT)")
        row = [str(monitor_state(document)), encode(document).decode()]
        connection.execute("INSERT INTO tokens VALUES (?, ?)", row)
        return bool(
            connection.execute(f"SELECT count(*) FROM tokens WHERE {with_parameters}", parameters).fetchone()[0]
        )
    finally:
        connection.close()


@given(CONDITIONS)
def test_a_condition_survives_being_stored(condition: Condition) -> None:
    assert condition_from_json(condition.to_json()) == condition


@given(CONDITIONS, CONTENTS)
def test_not_is_the_contrary(condition: Condition, document: dict[str, Any]) -> None:
    """Also where a field is missing: of a condition and its contrary, always one holds."""
    assert (~condition).matches(document) is not condition.matches(document)


@given(CONDITIONS, CONDITIONS, CONTENTS)
def test_and_or_are_what_they_say(one: Condition, other: Condition, document: dict[str, Any]) -> None:
    assert (one & other).matches(document) is (one.matches(document) and other.matches(document))
    assert (one | other).matches(document) is (one.matches(document) or other.matches(document))


@pytest.mark.parametrize("combine", [and_, or_])
def test_operators_of_a_field_build_conditions(combine: Any) -> None:
    cores = field("input", "cores")
    condition = reduce(combine, [cores >= 2, cores > 1, cores <= 8, cores < 9, cores != 5, cores == 4])
    assert condition.matches({"input": {"cores": 4}})


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_no_document_is_too_odd_for_a_view(value: Any) -> None:
    condition = (field("x") == 1) | (field("x", "y") == "z") | (field("x") < "a") | (field("x") > 5.5)
    for view in (*MONITOR_VIEWS.values(), View("Own/view", TokenState.TODO, condition)):
        for name in ("type", "lock", "done", "exit_code", "x"):
            assert isinstance(view.matches({"type": "token", "lock": 1, "done": 1, name: value}), bool)


def test_a_field_that_is_missing_fulfils_no_comparison() -> None:
    assert not (field("cores") != 1).matches({})
    assert not (field("cores") != 1).matches({"cores": "2"})
    assert not (field("cores") == 1).matches({"cores": True})


def test_one_of_takes_thousands_of_values_in_sqlite() -> None:
    """SQLite refuses an expression more than a thousand deep."""
    view = View("Own/many", TokenState.TODO, field("n").one_of(list(range(5000))))
    assert in_sqlite(view, {**TODO, "n": 4999})
    assert not in_sqlite(view, {**TODO, "n": 5000})


def test_integers_that_a_double_cannot_tell_apart_are_equal_everywhere() -> None:
    view = View("Own/big", TokenState.TODO, field("n") == 2**53)
    document = {**TODO, "n": 2**53 + 1}
    assert view.matches(document)
    assert in_sqlite(view, document)


@pytest.mark.parametrize(
    "value", [None, [1], float("nan"), float("inf"), 10**400, "a\x00b", "\ud800"], ids=lambda value: repr(value)[:12]
)
def test_a_value_that_some_store_cannot_look_for_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="compared with"):
        Comparison(("x",), "==", value)


@pytest.mark.parametrize("path", [(), ("",), ("a", 1), ("a\x00",), ("\udfff",)])
def test_a_path_that_names_no_field_is_refused(path: Any) -> None:
    with pytest.raises(ConfigError, match="named by"):
        _ = field(*path) == 1


@pytest.mark.parametrize(
    "write",
    [
        lambda: field("x") > 1 and field("y") == 2,
        lambda: field("x") > 1 or field("y") == 2,
        lambda: not field("x") == 1,  # noqa: SIM201 - the mistake that is meant
        lambda: 1 < field("x") < 3,
    ],
)
def test_a_condition_has_no_truth_that_would_drop_a_part_of_it(write: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="joined with &"):
        write()


def test_one_of_takes_no_text_for_its_letters() -> None:
    with pytest.raises(ConfigError, match=r"write \['deep'\]"):
        field("survey").one_of("deep")


def test_an_unknown_comparison_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no comparison"):
        Comparison(("x",), "or 1 =", 1)


def nested_not(depth: int) -> Any:
    value: Any = {"path": ["x"], "operator": "==", "value": 1}
    for _ in range(depth):
        value = {"not": value}
    return value


@pytest.mark.parametrize(
    "value", [None, {}, {"path": "x", "operator": "==", "value": 1}, {"every": 1}, [], {"not": 1}, nested_not(5000)]
)
def test_what_is_no_stored_condition_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError):
        condition_from_json(value)


@pytest.mark.parametrize(
    ("name", "full"),
    [("todo", "Monitor/todo"), ("Monitor/todo", "Monitor/todo"), ("SingleCore/todo", "SingleCore/todo")],
)
def test_a_name_without_a_design_document_belongs_to_monitor(name: str, full: str) -> None:
    assert full_name(name) == full


@pytest.mark.parametrize("name", ["", "/", "/todo", "Monitor/", "a/b/c", "_design/todo"])
def test_what_names_no_view_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is no view's name"):
        full_name(name)


@pytest.mark.parametrize(
    ("name", "state", "where"),
    [
        ("todo", TokenState.TODO, field("cores") == 1),
        ("todo", TokenState.LOCKED, None),
        ("overview_total", TokenState.TODO, None),
        ("Monitor/fast", TokenState.TODO, None),
    ],
)
def test_nobody_replaces_a_view_of_monitor(name: str, state: TokenState, where: Condition | None) -> None:
    """PiCaS's pilots and scripts read them, beside ours."""
    with pytest.raises(ConfigError, match="Monitor are fixed"):
        View(name, state, where)


def test_a_view_of_tokens_in_no_view_is_refused() -> None:
    with pytest.raises(ConfigError, match="a view lists todo"):
        View("Own/rest", TokenState.NO_VIEW)


def test_monitor_has_the_five_views_of_picas() -> None:
    views = monitor_design()["views"]
    assert set(views) == {*map(str, STATES), "overview_total"}
    assert views["overview_total"]["reduce"] == "_sum"
    assert all("reduce" not in views[state] for state in STATES)


def test_a_design_document_holds_its_views_by_their_own_names() -> None:
    design = design_document([View("SingleCore/todo", TokenState.TODO, field("cores") == 1)])
    assert design["_id"] == "_design/SingleCore"
    assert list(design["views"]) == ["todo"]


@pytest.mark.parametrize("path", [('a"b',), ("x", 'a"b'), ('a"b', "y"), ('"',), ('a"b', '"', "é")])
@pytest.mark.parametrize("content", [1, "1", True, None, {"y": 1}, [1]])
def test_a_name_with_a_quotation_mark_is_found(path: tuple[str, ...], content: Any) -> None:
    """SQLite before 3.44 does not find it by a path, and says nothing of it."""
    document: Any = content
    for key in reversed(path):
        document = {key: document, 'other"': 2}
    view = View("Own/view", TokenState.TODO, Comparison(path, "==", 1))
    document = {**document, **TODO}
    assert view.matches(document) == in_sqlite(view, document) == (content == 1 and not isinstance(content, bool))
