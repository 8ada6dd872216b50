"""Conditions on the fields of a token: as a predicate, as JavaScript, as SQL, and as JSON to be stored."""

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

Scalar: TypeAlias = str | int | float | bool
SQL: TypeAlias = tuple[str, list[Any]]
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
