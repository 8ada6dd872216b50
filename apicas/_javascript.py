"""How JavaScript sees a JSON value: the coercions behind `==`, `>` and `parseInt`.

The Monitor views are JavaScript on CouchDB. The other stores, and the check before a claim, must select the same
tokens whatever a foreign script wrote into a field, so they follow ECMA-262: 7.1.4 ToNumber, 7.1.17 ToString, 7.2.14
IsLooselyEqual and 19.2.5 parseInt, for the values that JSON can hold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)\Z", re.ASCII)
_RADIX_LITERAL = re.compile(r"0(?:[xX]([0-9a-fA-F]+)|[oO]([0-7]+)|[bB]([01]+))\Z", re.ASCII)
# More significant digits than a double has room for, in any base. Python refuses to read much longer integers.
_MAX_DIGITS = 1100
# parseInt skips what JavaScript calls white space, which is what str.strip removes, less four control characters.
_SPACE = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
# After 0x only hexadecimal digits count: `parseInt("0x")` is NaN, not 0.
_INTEGER = re.compile(r"([+-]?)(?:0[xX]([0-9a-fA-F]+)|(?!0[xX])(\d+))", re.ASCII)


def to_number(value: Any) -> float:
    """The number that JavaScript makes of a JSON value when it compares; NaN where there is none."""
    if isinstance(value, (int, float)):  # a bool is an int, and true is 1 in JavaScript too
        return _to_double(value)
    if value is None:
        return 0.0
    return _string_to_number(value if isinstance(value, str) else to_string(value))


def equals_number(value: Any, number: float) -> bool:
    """What `value == number` says. Null (and a missing field, here None) equals no number."""
    return value is not None and to_number(value) == number


def greater_than(value: Any, number: float) -> bool:
    """What `value > number` says."""
    return to_number(value) > number


def parse_int(value: Any) -> float:
    """What `parseInt(value)` says; NaN for what does not start with an integer, None and the empty string included."""
    match = _INTEGER.match(to_string(value).lstrip(_SPACE))
    if match is None:
        return math.nan
    sign, hexadecimal, decimal = match.groups()
    magnitude = _read_digits(hexadecimal or decimal, 16 if hexadecimal else 10)
    return -magnitude if sign == "-" else magnitude


def has_string(value: Any) -> bool:
    """Whether JavaScript can make a string of a JSON value.

    It throws for an object whose own `toString` hides the inherited one, and for an array with such an object in it.
    """
    return not any(isinstance(leaf, Mapping) and "toString" in leaf for leaf in _leaves(value))


def to_string(value: Any) -> str:
    """The string that JavaScript makes of a JSON value."""
    if isinstance(value, (list, tuple)):
        return ",".join("" if leaf is None else _leaf_to_string(leaf) for leaf in _leaves(value))
    return _leaf_to_string(value)


def _leaves(value: Any) -> Iterator[Any]:
    """What JavaScript joins with commas, in its order; an empty array counts as an empty string.

    The string of a nested array is that of its elements, so there is no need to recurse, whatever the depth.
    """
    stack = [value]
    while stack:
        item = stack.pop()
        if not isinstance(item, (list, tuple)):
            yield item
        elif item:
            stack.extend(reversed(item))
        else:
            yield ""


def _leaf_to_string(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return _number_to_string(_to_double(value))
    return "[object Object]"


def _to_double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _string_to_number(text: str) -> float:
    text = text.strip(_SPACE)
    if not text:
        return 0.0
    literal = _RADIX_LITERAL.match(text)
    if literal is not None:
        hexadecimal, octal, binary = literal.groups()
        return _read_digits(hexadecimal or octal or binary, 16 if hexadecimal else 8 if octal else 2)
    if _NUMBER.match(text):
        return float(text)
    return {"Infinity": math.inf, "+Infinity": math.inf, "-Infinity": -math.inf}.get(text, math.nan)


def _read_digits(digits: str, base: int) -> float:
    significant = digits.lstrip("0")
    return math.inf if len(significant) > _MAX_DIGITS else _to_double(int(significant or "0", base))


def _number_to_string(number: float) -> str:
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if number == 0:
        return "0"
    # repr() gives the shortest digits that round-trip, as JavaScript does; only the layout differs.
    mantissa, _, exponent = f"{number!r}".partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    fraction = "" if fraction == "0" else fraction
    point = len(whole) + int(exponent or 0)
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    return sign + _layout(digits.rstrip("0"), point)


def _layout(digits: str, point: int) -> str:
    """Place the decimal point: `point` is its distance from the left of the digits (ECMA-262, 6.1.6.1.20)."""
    count = len(digits)
    if count <= point <= 21:
        return digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    exponent = point - 1
    head = digits[0] + (f".{digits[1:]}" if count > 1 else "")
    return f"{head}e{'+' if exponent >= 0 else '-'}{abs(exponent)}"
