"""Views: named predicates over tokens, each defined once.

From one definition come the CouchDB map function, the SQL condition and the Python predicate, so that a pool answers
alike on every store. The Monitor views have PiCaS's names and meaning. A user's view is a Monitor state with a further
condition (by core count, by workflow), in a design document of its own:

    View("SingleCore/todo", TokenState.TODO, field("cores") == 1)

A condition compares like with like: a number with a number, a string with a string. A field that is missing, or of
another type, fulfils no comparison, `!=` included. Numbers are doubles, as in JavaScript. Strings are ordered by code
point, but CouchDB puts what is beyond U+FFFF before U+E000.
"""

from __future__ import annotations

import json
import math
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
from typing_extensions import override

from apicas._documents import shown
from apicas._javascript import to_number
from apicas.exceptions import ConfigError
from apicas.tokens import TYPES, TokenState, state_of

Scalar: TypeAlias = str | int | float | bool
SQL: TypeAlias = tuple[str, list[Any]]

MONITOR: Final = "Monitor"
STATES: Final = (TokenState.TODO, TokenState.LOCKED, TokenState.DONE, TokenState.ERROR)
OVERVIEW: Final = "Monitor/overview_total"

_JAVASCRIPT_STATES: Final[Mapping[TokenState, str]] = {
    TokenState.TODO: "doc.lock == 0 && doc.done == 0",
    TokenState.LOCKED: "doc.lock > 0 && doc.done == 0",
    TokenState.DONE: "doc.lock > 0 && doc.done > 0 && parseInt(doc.exit_code) == 0",
    TokenState.ERROR: "doc.lock > 0 && doc.done > 0 && parseInt(doc.exit_code) != 0",
}
_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# SQLite ends a text at a NUL, and a lone surrogate is no text at all.
_UNSEARCHABLE: Final = re.compile("[\x00\ud800-\udfff]")
_JAVASCRIPT_OPERATORS: Final[Mapping[str, str]] = {
    **{name: name for name in _OPERATORS},
    "==": "===",
    "!=": "!==",
}


def full_name(name: str) -> str:
    """A view's name with its design document: `todo` is `Monitor/todo`.

    Raises:
        ConfigError: the name has more than one slash, or nothing on one side of it.
    """
    parts = name.split("/") if "/" in name else [MONITOR, name]
    if len(parts) != 2 or not all(parts) or parts[0].startswith("_"):
        raise ConfigError(f"{name!r} is no view's name: write todo, or Design/view")
    return "/".join(parts)


class Condition(ABC):
    """A predicate over a document; combine them with `&`, `|` and `~`."""

    def __and__(self, other: Condition) -> Condition:
        return Every((self, other))

    def __or__(self, other: Condition) -> Condition:
        return Either((self, other))

    def __invert__(self) -> Condition:
        return Not(self)

    def __bool__(self) -> bool:
        # `a and b`, `not a` and `1 < field < 3` ask for it, and would quietly drop a part of what they say.
        raise TypeError("conditions are joined with &, | and ~, not with `and`, `or`, `not` or a chain of comparisons")

    @abstractmethod
    def matches(self, document: Mapping[str, Any]) -> bool:
        """Whether a document fulfils the condition."""

    @abstractmethod
    def javascript(self) -> str:
        """The condition as an expression over `doc`."""

    @abstractmethod
    def sql(self, body: str) -> SQL:
        """The condition as SQLite's SQL over a column with the document's JSON, and its parameters."""

    @abstractmethod
    def to_json(self) -> Any:
        """The condition as JSON, to be stored with a pool; `condition_from_json` reads it back."""


class Field(msgspec.Struct, frozen=True, eq=False):
    """A field of a document, to be compared: `field("input", "cores") >= 4`."""

    path: tuple[str, ...]

    def __eq__(self, value: Scalar) -> Condition:  # type: ignore[override]  # builds a condition, as ORMs do
        return Comparison(self.path, "==", value)

    def __ne__(self, value: Scalar) -> Condition:  # type: ignore[override]  # builds a condition, as ORMs do
        return Comparison(self.path, "!=", value)

    def __lt__(self, value: Scalar) -> Condition:
        return Comparison(self.path, "<", value)

    def __le__(self, value: Scalar) -> Condition:
        return Comparison(self.path, "<=", value)

    def __gt__(self, value: Scalar) -> Condition:
        return Comparison(self.path, ">", value)

    def __ge__(self, value: Scalar) -> Condition:
        return Comparison(self.path, ">=", value)

    def __hash__(self) -> int:
        return hash(self.path)

    def one_of(self, values: Sequence[Scalar]) -> Condition:
        """Whether the field has one of these values.

        Raises:
            ConfigError: the values are a text, whose letters nobody means.
        """
        if isinstance(values, str):
            raise ConfigError(f"one_of takes several values, and {values!r} is one: write [{values!r}]")
        return Either(tuple(Comparison(self.path, "==", value) for value in values))


def field(*path: str) -> Field:
    """Name a field of a document by its path: `field("cores")`, `field("input", "cores")`."""
    return Field(path)


@dataclass(frozen=True, slots=True)
class Comparison(Condition):
    """A field compared with a value of one type."""

    path: tuple[str, ...]
    operator: str
    value: Scalar

    def __post_init__(self) -> None:
        if self.operator not in _OPERATORS:
            raise ConfigError(f"{self.operator!r} is no comparison; there are {' '.join(_OPERATORS)}")
        if not self.path or not all(_is_text(key) and key for key in self.path):
            raise ConfigError("a field is named by one or more strings, none of them empty or with a NUL character")
        _check_scalar(self.value)

    @override
    def matches(self, document: Mapping[str, Any]) -> bool:
        found: Any = document
        for key in self.path:
            if not isinstance(found, Mapping) or key not in found:
                return False
            found = found[key]
        same_type = _json_type(found) == _json_type(self.value)
        return same_type and _OPERATORS[self.operator](_comparable(found), _comparable(self.value))

    @override
    def javascript(self) -> str:
        # Each step is checked, since a map function that throws drops the document from every view of its group.
        keys = [f"[{json.dumps(key)}]" for key in self.path]
        steps = ["doc" + "".join(keys[:depth]) for depth in range(1, len(keys))]
        guards = [f'{step} !== null && typeof {step} === "object" && !Array.isArray({step})' for step in steps]
        target = "doc" + "".join(keys)
        guards.append(f'typeof {target} === "{_json_type(self.value)}"')
        return " && ".join([*guards, f"{target} {_JAVASCRIPT_OPERATORS[self.operator]} {json.dumps(self.value)}"])

    @override
    def sql(self, body: str) -> SQL:
        types = {"string": "'text'", "number": "'integer', 'real'", "boolean": "'true', 'false'"}[
            _json_type(self.value)
        ]
        number = _json_type(self.value) == "number"
        comparison = "=" if self.operator == "==" else self.operator
        wanted = _comparable(self.value)
        if any('"' in key for key in self.path):
            return self._step_by_step(body, types, f"{_real('atom', number)} {comparison} ?", wanted)
        path = "$" + "".join(f".{json.dumps(key, ensure_ascii=False)}" for key in self.path)
        found = _real(f"json_extract({body}, ?)", number)
        return f"(json_type({body}, ?) IN ({types}) AND {found} {comparison} ?)", [path, path, wanted]

    def _step_by_step(self, body: str, types: str, comparison: str, wanted: Any) -> SQL:
        """The same without a path: older SQLite finds no name with a quotation mark by one."""
        inside = body
        for _ in self.path[1:]:
            inside = f"(SELECT value FROM json_each({inside}) WHERE key = ? AND type = 'object')"  # noqa: S608 - no text of a user
        condition = f"key = ? AND type IN ({types}) AND {comparison}"
        return f"EXISTS (SELECT 1 FROM json_each({inside}) WHERE {condition})", [*self.path, wanted]  # noqa: S608

    @override
    def to_json(self) -> Any:
        return {"path": list(self.path), "operator": self.operator, "value": self.value}


@dataclass(frozen=True, slots=True)
class Every(Condition):
    """All of several conditions."""

    conditions: tuple[Condition, ...]

    @override
    def matches(self, document: Mapping[str, Any]) -> bool:
        return all(condition.matches(document) for condition in self.conditions)

    @override
    def javascript(self) -> str:
        return " && ".join(f"({condition.javascript()})" for condition in self.conditions) or "true"

    @override
    def sql(self, body: str) -> SQL:
        return _join(" AND ", self.conditions, body, empty="1")

    @override
    def to_json(self) -> Any:
        return {"every": [condition.to_json() for condition in self.conditions]}


@dataclass(frozen=True, slots=True)
class Either(Condition):
    """At least one of several conditions."""

    conditions: tuple[Condition, ...]

    @override
    def matches(self, document: Mapping[str, Any]) -> bool:
        return any(condition.matches(document) for condition in self.conditions)

    @override
    def javascript(self) -> str:
        return " || ".join(f"({condition.javascript()})" for condition in self.conditions) or "false"

    @override
    def sql(self, body: str) -> SQL:
        return _join(" OR ", self.conditions, body, empty="0")

    @override
    def to_json(self) -> Any:
        return {"either": [condition.to_json() for condition in self.conditions]}


@dataclass(frozen=True, slots=True)
class Not(Condition):
    """The contrary of a condition."""

    condition: Condition

    @override
    def matches(self, document: Mapping[str, Any]) -> bool:
        return not self.condition.matches(document)

    @override
    def javascript(self) -> str:
        return f"!({self.condition.javascript()})"

    @override
    def sql(self, body: str) -> SQL:
        text, parameters = self.condition.sql(body)
        return f"NOT coalesce({text}, 0)", parameters

    @override
    def to_json(self) -> Any:
        return {"not": self.condition.to_json()}


def condition_from_json(value: Any) -> Condition:
    """Read a condition that `Condition.to_json` wrote.

    Raises:
        ConfigError: for anything else.
    """
    try:
        return _read_condition(value)
    except RecursionError:
        raise ConfigError("the stored condition is nested too deeply") from None


def _read_condition(value: Any) -> Condition:
    match value:
        case {"path": list(path), "operator": str(name), "value": scalar}:
            return Comparison(tuple(path), name, scalar)
        case {"every": list(parts)}:
            return Every(tuple(_read_condition(part) for part in parts))
        case {"either": list(parts)}:
            return Either(tuple(_read_condition(part) for part in parts))
        case {"not": part}:
            return Not(_read_condition(part))
    raise ConfigError(f"{shown(value)} is no stored condition")


class View(msgspec.Struct, frozen=True):
    """A view that lists the tokens of one state, and of these only the ones that fulfil a condition.

    Args:
        name: `Design/view`; a name without a design document belongs to Monitor.
        state: the state whose tokens it lists.
        where: a further condition.
        type: what stands in the tokens' `type`: `task` for those that PiCaS made of a Task without saying a type. Not
            on SQLite.
    """

    name: str
    state: TokenState
    where: Condition | None = None
    type: str = "token"

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "name", full_name(self.name))
        if self.type not in TYPES:
            raise ConfigError(f"a view lists documents of type {' or '.join(TYPES)}, not {shown(self.type)}")
        if self.state not in STATES:
            raise ConfigError(f"a view lists todo, locked, done or error tokens, not those in {self.state}")
        if self.design == MONITOR and (
            self.name != f"{MONITOR}/{self.state}" or self.where is not None or self.type != "token"
        ):
            raise ConfigError(f"{self.name}: the views of Monitor are fixed; name a design document of your own")

    @property
    def design(self) -> str:
        """The name of the design document."""
        return self.name.split("/", 1)[0]

    def matches(self, document: Mapping[str, Any]) -> bool:
        """Whether the view lists this document."""
        if document.get("type") != self.type:
            return False
        return state_of(document) is self.state and (self.where is None or self.where.matches(document))

    def map_function(self) -> str:
        """The view as a CouchDB map function; it emits the id as key and as value, like PiCaS's."""
        branch = self._branch("emit(doc._id, doc._id);")
        return f'function (doc) {{\n  if (doc.type === "{self.type}") {{\n{branch}  }}\n}}'

    def _branch(self, action: str) -> str:
        condition = _JAVASCRIPT_STATES[self.state]
        if self.where is not None:
            condition += f" && ({self.where.javascript()})"
        return f"    if ({condition}) {{\n      {action}\n    }}\n"

    def sql(self, state: str = "state", body: str = "body") -> SQL:
        """The view as a condition over two columns, the state and the document's JSON, with its parameters."""
        parameters: list[Any] = [str(self.state)]
        if self.where is None:
            return f"{state} = ?", parameters
        text, more = self.where.sql(body)
        return f"{state} = ? AND {text}", parameters + more


MONITOR_VIEWS: Final[Mapping[str, View]] = {f"{MONITOR}/{state}": View(str(state), state) for state in STATES}


def overview_map_function() -> str:
    """The map function of overview_total: a 1 under the state's name, for the built-in reduce `_sum`."""
    branches = "".join(view._branch(f"emit('{view.state}', 1);") for view in MONITOR_VIEWS.values())  # noqa: SLF001 - same module
    return f'function (doc) {{\n  if (doc.type === "token") {{\n{branches}  }}\n}}'


def design_document(views: Sequence[View], *, overview: bool = False) -> dict[str, Any]:
    """The CouchDB design document that holds these views, which must share their design name.

    Args:
        views: at least one.
        overview: add PiCaS's overview_total.
    """
    entries: dict[str, Any] = {view.name.split("/", 1)[1]: {"map": view.map_function()} for view in views}
    if overview:
        entries["overview_total"] = {"map": overview_map_function(), "reduce": "_sum"}
    return {"_id": f"_design/{views[0].design}", "language": "javascript", "views": entries}


def monitor_design() -> dict[str, Any]:
    """The design document Monitor."""
    return design_document(list(MONITOR_VIEWS.values()), overview=True)


def _join(word: str, conditions: Sequence[Condition], body: str, *, empty: str) -> SQL:
    if not conditions:
        return empty, []
    if len(conditions) == 1:
        return conditions[0].sql(body)
    # By halves, since SQLite takes a chain of a thousand ORs for an expression a thousand deep, and refuses it.
    half = len(conditions) // 2
    left, right = (_join(word, part, body, empty=empty) for part in (conditions[:half], conditions[half:]))
    return f"({left[0]}{word}{right[0]})", [*left[1], *right[1]]


def _check_scalar(value: Any) -> None:
    if not isinstance(value, (str, int, float)):
        raise ConfigError(f"a field is compared with a string, a number or a boolean, not with {shown(value)}")
    if isinstance(value, str) and not _is_text(value):
        raise ConfigError("a field is compared with text, without NUL characters")
    if not isinstance(value, str) and not math.isfinite(to_number(value)):
        raise ConfigError("a field is compared with a finite number")


def _is_text(value: Any) -> bool:
    """Whether a value is a string that every store can look for."""
    return isinstance(value, str) and not _UNSEARCHABLE.search(value)


def _real(expression: str, number: bool) -> str:
    return f"CAST({expression} AS REAL)" if number else expression


def _comparable(value: Any) -> Any:
    return to_number(value) if _json_type(value) == "number" else value


def _json_type(value: Any) -> str:
    """The type of a JSON value, as JavaScript's typeof tells it."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else "object"
