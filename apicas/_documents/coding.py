"""JSON: encoded once, and decoded also where another tool has stored what no store of ours would take."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import Any, NoReturn, TypeAlias

import msgspec

from apicas.exceptions import InvalidTokenError

Document: TypeAlias = dict[str, Any]
# SQLite's JSON functions end at 1000 or 2000, and Python's decoders where the stack does: a token that one pilot could
# write and another cannot read would end every pilot that meets it.
MAX_DEPTH = 500
_decoder = msgspec.json.Decoder()
_TOO_DEEP = "nested too deeply"
# Around a token there are a few levels of the answer that it comes in.
_MAX_READ_DEPTH = MAX_DEPTH + 20
# Possessive: a string of megabytes must not fill the memory with places to come back to.
_BRACKETS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]+|[\]}]+', re.DOTALL)


def encode(value: Any) -> bytes:
    """Encode a value as JSON.

    Raises:
        InvalidTokenError: for what is not JSON; the message says what.
    """
    try:
        body = _encode(value)
    except InvalidTokenError:
        raise
    except RecursionError:
        raise InvalidTokenError(_TOO_DEEP) from None
    except UnicodeEncodeError:
        raise InvalidTokenError("a string holds a lone surrogate, which is no Unicode text") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidTokenError(f"not JSON: {error}") from None
    if b"null" in body:
        refuse(value, _is_non_finite, "is {}, which is no JSON")
    return body


def decode(body: bytes | str) -> Any:
    """Decode JSON: also what no store of ours would take and another tool may have stored.

    One document comes among many. So what cannot be held in memory (what is nested too deeply for the stack, an integer
    of thousands of digits) is left out, and a stand-in for it, Unstorable, keeps the rest from being written back.

    Raises:
        InvalidTokenError: for what is not JSON.
    """
    try:
        return _decode(body)
    except RecursionError:
        pass
    raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
    # A body cannot hold its own hash, whoever wrote it.
    mark = f"too deep: {sha256(raw).hexdigest()}"
    try:
        value = _decode(_pruned(raw, f'"{mark}"'.encode()))
    except RecursionError:
        raise InvalidTokenError(_TOO_DEEP) from None
    return _planted(value, mark)


class Unstorable:
    """Stands for a value that was read and cannot be held; what has one inside is not written.

    Args:
        reason: why, after "is" or by itself.
    """

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"<{self.reason}>"


def _decode(body: bytes | str) -> Any:
    """Decode JSON; with the standard library, which takes lone surrogates as PouchDB stores them, if need be.

    Raises:
        InvalidTokenError: it is no JSON; the message is msgspec's.
        RecursionError: it is nested more deeply than what is left of the stack.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError) as error:
        first = error
    try:
        text = body if isinstance(body, str) else bytes(body).decode()
        return json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_no_constant)
    except ValueError:
        raise InvalidTokenError(f"not JSON: {first}") from None


def _integer(digits: str) -> int | Unstorable:
    if len(digits) > sys.int_info.default_max_str_digits:
        return Unstorable(f"an integer of {len(digits):,} digits")
    return int(digits)


def _number(digits: str) -> float | Unstorable:
    number = float(digits)
    return number if math.isfinite(number) else Unstorable("a number beyond the range of a double")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _pruned(body: bytes, mark: bytes) -> bytes:
    """JSON with a mark in the place of each value that is nested too deeply."""
    pieces: list[bytes] = []
    depth = start = 0
    for match in _BRACKETS.finditer(body):
        run, before = match[0], depth
        if run[0] in b"[{":
            depth += len(run)
            if before <= _MAX_READ_DEPTH < depth:
                pieces += (body[start : match.start() + _MAX_READ_DEPTH - before], mark)
        elif run[0] in b"]}":
            depth -= len(run)
            if depth <= _MAX_READ_DEPTH < before:
                start = match.start() + before - _MAX_READ_DEPTH
    return b"".join([*pieces, body[start:]])


def _planted(value: Any, mark: str) -> Any:
    """A value with Unstorable in the place of marks."""
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        places = list(item.items()) if isinstance(item, dict) else list(enumerate(item))
        for place, inner in places:
            if inner == mark:
                item[place] = Unstorable(_TOO_DEEP)
            elif isinstance(inner, (dict, list)):
                stack.append(inner)
    return value


def _refuse_unstorable(value: Any) -> NoReturn:
    if isinstance(value, Unstorable):
        raise InvalidTokenError(value.reason)
    raise TypeError(f"objects of type {type(value).__name__} have no place in it")


def _is_non_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def refuse(value: Any, wrong: Callable[[Any], bool], reason: str) -> None:
    """Refuse a value for the first thing in it that is wrong, and say where that is.

    Args:
        value: of any depth.
        wrong: whether something that is neither mapping nor sequence is.
        reason: with a place for what it is.

    Raises:
        InvalidTokenError: there is such a thing.
    """
    for path, item in _leaves(msgspec.to_builtins(value)):
        if wrong(item):
            place = path.removeprefix(".") or "the value"
            raise InvalidTokenError(f"{place if len(place) <= 200 else f'...{place[-200:]}'} {reason.format(item)}")


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Every value inside a value that is neither mapping nor sequence, with its path.

    No recursion: the value may be nested more deeply than Python's stack.
    """
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, Mapping):
            stack.extend((f"{path}.{key}", inner) for key, inner in item.items())
        elif isinstance(item, (list, tuple, set, frozenset)):
            stack.extend((f"{path}[{index}]", inner) for index, inner in enumerate(item))
        else:
            yield path, item


_encoder = msgspec.json.Encoder(enc_hook=_refuse_unstorable)
_encode, encode_lines = _encoder.encode, _encoder.encode_lines
