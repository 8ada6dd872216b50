"""What apicas uses of msgspec, on the standard library alone: for nodes on which its compiled part does not run.

It goes into the one-file program under the name `msgspec`, and is imported there if the real one cannot be. It is
several times slower, and means the same; tests/packaging compares both.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import enum
import inspect
import json as _json
import math
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar, dataclass_transform

T = TypeVar("T")
_NAME: Final = "msgspec.name"
"""Where the metadata of a field has the name that it has in JSON."""
_EMPTY_DEFAULTS: Final = (list, dict, set)
MAX_DEPTH: Final = 10_000
"""Levels of a value; what has more refers to itself."""


class MsgspecError(Exception):
    """The root of the errors of this module."""


class EncodeError(MsgspecError):
    """A value cannot be written."""


class DecodeError(MsgspecError):
    """A text is no JSON."""


class ValidationError(DecodeError):
    """A value is not of its type."""


class UnsetType(enum.Enum):
    """The type of UNSET."""

    UNSET = "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET: Final = UnsetType.UNSET
"""Stands for a field that was not given."""


# Structs. -----------------------------------------------------------------------------------------------------------


def field(
    *, default: Any = dataclasses.MISSING, default_factory: Any = dataclasses.MISSING, name: str | None = None
) -> Any:
    """Configure a field of a struct.

    Args:
        default: its value where none is given.
        default_factory: makes it.
        name: what it is called in JSON.
    """
    metadata = {} if name is None else {_NAME: name}
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass_transform(field_specifiers=(field,))
class Struct:
    """A class of typed fields: a dataclass here."""

    def __init_subclass__(
        cls, *, frozen: bool = False, eq: bool = True, kw_only: bool = False, gc: bool = True, **keywords: Any
    ) -> None:
        """Make a dataclass of it; a struct that inherits is as frozen as what it inherits from."""
        del gc
        super().__init_subclass__(**keywords)
        for name in inspect.get_annotations(cls):
            default = cls.__dict__.get(name, dataclasses.MISSING)
            if type(default) in _EMPTY_DEFAULTS:
                setattr(cls, name, dataclasses.field(default_factory=default.copy))
        parameters = [vars(base).get("__dataclass_params__") for base in cls.__mro__[1:]]
        frozen = frozen or any(found.frozen for found in parameters if found is not None)
        dataclasses.dataclass(frozen=frozen, eq=eq, kw_only=kw_only)(cls)


class structs:  # noqa: N801 - a module of msgspec's
    """Functions of structs."""

    replace = staticmethod(dataclasses.replace)

    @staticmethod
    def force_setattr(struct: Any, name: str, value: Any) -> None:
        """Set a field, also of a frozen struct."""
        object.__setattr__(struct, name, value)

    @staticmethod
    def asdict(struct: Any) -> dict[str, Any]:
        """The fields by name; not deep."""
        return {each.name: getattr(struct, each.name) for each in dataclasses.fields(struct)}


def _named(struct: Any) -> dict[str, Any]:
    """The fields by the names that they have in JSON."""
    pairs = ((each.metadata.get(_NAME, each.name), getattr(struct, each.name)) for each in dataclasses.fields(struct))
    return {name: value for name, value in pairs if value is not UNSET}


# From and to values. ------------------------------------------------------------------------------------------------


def to_builtins(value: Any) -> Any:
    """A value as JSON knows it: mappings, lists, texts, numbers.

    No recursion: it may be nested more deeply than Python's stack.

    Raises:
        RecursionError: it has no end.
    """
    root = [value]
    stack: list[tuple[Any, Any, int]] = [(root, 0, 0)]
    while stack:
        place, key, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise RecursionError("nested too deeply")
        item = place[key]
        if isinstance(item, Mapping):
            place[key] = dict(item)
            stack.extend((place[key], inner, depth + 1) for inner in item)
        elif isinstance(item, (list, tuple, set, frozenset)):
            place[key] = list(item)
            stack.extend((place[key], inner, depth + 1) for inner in range(len(item)))
        elif isinstance(item, enum.Enum) or not (item is None or isinstance(item, (str, int, float))):
            place[key] = _plain(item)
            stack.append((place, key, depth + 1))
    return root[0]


def _plain(value: Any) -> Any:
    """What JSON has for an object that it does not know.

    Raises:
        TypeError: nothing.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _named(value)
    match value:
        case enum.Enum():
            return value.value
        case set() | frozenset():
            return list(value)
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode("ascii")
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case uuid.UUID():
            return str(value)
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


def convert(value: Any, type: Any, *, strict: bool = True) -> Any:  # noqa: A002 - msgspec's name of it
    """A value as one of a type: structs out of mappings, and what is in them.

    Raises:
        ValidationError: it is none.
    """
    del strict
    return _converted(value, type, "$")


def _converted(value: Any, wanted: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any or isinstance(wanted, TypeVar):
        return value
    if origin in {typing.Union, types.UnionType}:
        return _one_of(value, arguments, path)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValidationError(f"Invalid enum value {value!r} - at `{path}`")
        return value
    plain = origin or wanted
    if isinstance(plain, type) and issubclass(plain, Struct):
        return _struct(value, plain, path)
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        try:
            return plain(value)
        except ValueError:
            raise ValidationError(f"Invalid enum value {value!r} - at `{path}`") from None
    return _builtin(value, plain, arguments, path)


def _one_of(value: Any, choices: Iterable[Any], path: str) -> Any:
    error = ValidationError(f"no such value - at `{path}`")
    for choice in choices:
        if choice is type(None):
            if value is None:
                return None
            continue
        try:
            return _converted(value, choice, path)
        except ValidationError as failure:
            error = failure
    raise error


def _struct(value: Any, wanted: type[Any], path: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValidationError(f"Expected `object`, got `{_kind(value)}` - at `{path}`")
    hints = typing.get_type_hints(wanted)
    given: dict[str, Any] = {}
    for each in dataclasses.fields(wanted):
        name = each.metadata.get(_NAME, each.name)
        if name in value:
            given[each.name] = _converted(value[name], hints[each.name], f"{path}.{name}")
        elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise ValidationError(
                f"Object missing required field `{name}`" + ("" if path == "$" else f" - at `{path}`")
            )
    return wanted(**given)


def _builtin(value: Any, wanted: Any, arguments: tuple[Any, ...], path: str) -> Any:
    if not isinstance(wanted, type):
        return value
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is int and isinstance(value, bool):
        raise ValidationError(f"Expected `int`, got `bool` - at `{path}`")
    if wanted in {tuple, set, frozenset} and isinstance(value, list):
        inner = arguments[0] if arguments else Any
        return wanted(_converted(item, inner, f"{path}[...]") for item in value)
    if not isinstance(value, wanted):
        raise ValidationError(f"Expected `{_kind(wanted())}`, got `{_kind(value)}` - at `{path}`")
    if isinstance(value, list) and arguments:
        return [_converted(item, arguments[0], f"{path}[...]") for item in value]
    if isinstance(value, Mapping) and len(arguments) > 1:
        return {key: _converted(item, arguments[1], f"{path}[...]") for key, item in value.items()}
    return value


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", type(None): "null"}
    return names.get(type(value), type(value).__name__)


# JSON. --------------------------------------------------------------------------------------------------------------


class _Encoder:
    """Writes JSON.

    Args:
        enc_hook: makes something known of an object that is not.
    """

    def __init__(self, *, enc_hook: Callable[[Any], Any] | None = None) -> None:
        self._hook = enc_hook
        self._dump = _json.JSONEncoder(
            ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=self._known
        ).encode

    def _known(self, value: Any) -> Any:
        try:
            return _plain(value)
        except TypeError:
            if self._hook is None:
                raise
        return self._hook(value)

    def encode(self, value: Any) -> bytes:
        """A value as JSON."""
        try:
            return self._dump(value).encode()
        except ValueError as error:
            if not str(error).startswith("Out of range float"):
                raise
        return self._dump(_finite(to_builtins(value))).encode()

    def encode_lines(self, values: Iterable[Any]) -> bytes:
        """Values as JSON Lines."""
        return b"".join(self.encode(value) + b"\n" for value in values)


def _finite(value: Any) -> Any:
    """A value with null for each number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return value


class _Decoder:
    """Reads JSON.

    Args:
        type: what is to come out.
    """

    def __init__(self, type: Any = Any) -> None:  # noqa: A002 - msgspec's name of it
        self._type = type

    def decode(self, text: bytes | bytearray | memoryview | str) -> Any:
        """The value of a text.

        Raises:
            DecodeError: it is no JSON.
            ValidationError: it is of another type.
        """
        try:
            value = _json.loads(
                text if isinstance(text, str) else bytes(text).decode(), parse_float=_number, parse_constant=_constant
            )
        except ValueError as error:
            raise DecodeError(f"JSON is malformed: {error}") from None
        return value if self._type is Any else _converted(value, self._type, "$")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("number out of range")
    return value


def _constant(text: str) -> Any:
    raise ValueError(f"invalid character: {text}")


class json:  # noqa: N801 - a module of msgspec's
    """JSON, written and read."""

    Encoder = _Encoder
    Decoder = _Decoder

    @staticmethod
    def encode(value: Any, *, enc_hook: Callable[[Any], Any] | None = None) -> bytes:
        """A value as JSON."""
        return _Encoder(enc_hook=enc_hook).encode(value)

    @staticmethod
    def decode(text: bytes | str, *, type: Any = Any) -> Any:  # noqa: A002 - msgspec's name of it
        """The value of a text; raises what a decoder does."""
        return _Decoder(type).decode(text)

    @staticmethod
    def format(text: bytes | str, *, indent: int = 2) -> Any:
        """A text of JSON with line ends and blanks, of the same type."""
        shaped = _json.dumps(_json.loads(text), ensure_ascii=False, indent=indent)
        return shaped if isinstance(text, str) else shaped.encode()
