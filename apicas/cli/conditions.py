"""Conditions as people write them: `cores >= 4 and input.survey in ["deep", "wide"]`.

It looks like Python, and is read, not run: fields, values, comparisons, `and`, `or`, `not`, `in`. The same conditions
are made in Python with `field("cores") >= 4`, see apicas.views; that is understood here, too.
"""

from __future__ import annotations

import ast
import json
import tokenize
import warnings
from collections.abc import Sequence
from io import StringIO
from keyword import iskeyword
from typing import Any, Final, NoReturn

from apicas.exceptions import ConfigError
from apicas.views import Comparison, Condition, Either, Every, Not, Scalar

_OPERATORS: Final[dict[type[ast.cmpop], str]] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_TURNED: Final = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_WORDS: Final[dict[str, bool]] = {"true": True, "false": False}
_LONGEST: Final = 10_000
"""Characters of a condition: a longer one is a mistake."""


def parse_condition(text: str) -> Condition:
    """Read a condition.

    Raises:
        ConfigError: it is none; the message says where it goes wrong.
    """
    if len(text) > _LONGEST:
        raise ConfigError(f"the condition has more than {_LONGEST:,} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its style
            tree = ast.parse(text.strip(), mode="eval")
        _check_names(text.strip())
        return _condition(tree.body)
    except SyntaxError as error:
        raise ConfigError(f"the condition {text!r} cannot be read, at column {error.offset}: {_EXAMPLE}") from None
    except (ValueError, RecursionError, MemoryError, tokenize.TokenError):
        raise ConfigError(f"the condition {text[:80]!r} cannot be read: {_EXAMPLE}") from None


_EXAMPLE: Final = 'write `cores >= 4`, `input.kind == "deep" and not urgent == true` or `cores in [1, 2]`'


def _check_names(text: str) -> None:
    """Refuse fields with letters that Python takes for others: to it `º` is `o`."""
    if text.isascii():
        return
    for token in tokenize.generate_tokens(StringIO(text).readline):
        if token.type == tokenize.NAME and not token.string.isascii():
            raise ConfigError(f"in the condition, write field({json.dumps(token.string, ensure_ascii=False)})")


_JOINED: Final[dict[type[ast.AST], type[Every | Either]]] = {
    ast.And: Every,
    ast.BitAnd: Every,
    ast.Or: Either,
    ast.BitOr: Either,
}


def _condition(node: ast.expr) -> Condition:
    match node:
        case ast.BoolOp(op=word, values=parts):
            return _JOINED[type(word)](tuple(map(_condition, parts)))
        case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() as sign, right=right):
            return _JOINED[type(sign)]((_condition(left), _condition(right)))
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
            return Not(_condition(operand))
        case ast.Compare(left=left, ops=operators, comparators=rights):
            return _comparisons([left, *rights], operators)
    return _refuse(node, "is no comparison")


def _comparisons(nodes: Sequence[ast.expr], operators: Sequence[ast.cmpop]) -> Condition:
    """A comparison, or a chain of them: `1 < cores < 8`."""
    found = [
        _comparison(left, operator, right) for left, operator, right in zip(nodes, operators, nodes[1:], strict=False)
    ]
    return found[0] if len(found) == 1 else Every(tuple(found))


def _comparison(left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Condition:
    if isinstance(operator, ast.In | ast.NotIn):
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            _refuse(right, "is no list of values")
        path = _path(left) or _refuse(left, "is no field")
        either = Either(tuple(Comparison(path, "==", _value(each)) for each in right.elts))
        return either if isinstance(operator, ast.In) else Not(either)
    sign = _OPERATORS.get(type(operator))
    if sign is None:
        return _refuse(left, "is compared with a word that there is not")
    named = _path(left)
    if named is not None:
        return Comparison(named, sign, _value(right))
    return Comparison(_path(right) or _refuse(right, "is no field"), _TURNED[sign], _value(left))


def _path(node: ast.expr) -> tuple[str, ...] | None:
    """The path of a field: `cores`, `input.cores`, `input["n cores"]`, `field("input", "cores")`; None for a value."""
    match node:
        case ast.Name(id=name) if name not in _WORDS:
            return (name,)
        case ast.Attribute(value=inner, attr=name):
            path = _path(inner)
            return None if path is None else (*path, name)
        case ast.Subscript(value=inner, slice=ast.Constant(value=str(name))):
            path = _path(inner)
            return None if path is None else (*path, name)
        case ast.Call(func=ast.Name(id="field"), args=names, keywords=[]):
            texts = [name.value for name in names if isinstance(name, ast.Constant) and isinstance(name.value, str)]
            return tuple(texts) if texts and len(texts) == len(names) else None
    return None


def _value(node: ast.expr) -> Scalar:
    match node:
        case ast.Constant(value=str() | int() | float() | bool() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Name(id=name) if name in _WORDS:
            return _WORDS[name]
    return _refuse(node, "is no text, number, true or false")


def _refuse(node: ast.expr, why: str) -> NoReturn:
    raise ConfigError(f"in the condition, `{ast.unparse(node)}` {why}: {_EXAMPLE}")


def condition_text(stored: Any) -> str:
    """A stored condition as `parse_condition` reads it; the JSON of what is none."""
    try:
        return _text(stored)
    except RecursionError:
        return "(nested too deeply to be shown)"


def _text(stored: Any) -> str:
    match stored:
        case {"path": [*path], "operator": str(sign), "value": value}:
            return f"{_field_text(path)} {sign} {json.dumps(value, ensure_ascii=False)}"
        case {"every": [*parts]}:
            return " and ".join(map(_part_text, parts)) or "true == true"
        case {"either": [*parts]}:
            return " or ".join(map(_part_text, parts)) or "true == false"
        case {"not": part}:
            return f"not {_part_text(part)}"
    return json.dumps(stored)


def _part_text(stored: Any) -> str:
    is_comparison = isinstance(stored, dict) and "path" in stored
    return _text(stored) if is_comparison else f"({_text(stored)})"


def _field_text(path: Sequence[Any]) -> str:
    first, *others = map(str, path)
    if not _is_plain(first) or first in _WORDS:
        return f"field({', '.join(json.dumps(str(name), ensure_ascii=False) for name in path)})"
    return first + "".join(
        f".{name}" if _is_plain(name) else f"[{json.dumps(name, ensure_ascii=False)}]" for name in others
    )


def _is_plain(name: str) -> bool:
    """Whether Python takes a name for what it is, without quotes."""
    return name.isascii() and name.isidentifier() and not iskeyword(name)
