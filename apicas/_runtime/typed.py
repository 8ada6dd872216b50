"""Typed input: `process_token(self, token: Token[Model])` has `token.input` checked, and made into a Model.

The annotation decides, and nothing else: a msgspec Struct, a dataclass, a TypedDict, a pydantic model, or any other
type that msgspec or pydantic can make from JSON. Input that is none goes to error, with the field named: no other
attempt would make it right. `token["input"]` stays what it was.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from apicas._runtime.hooks import Hook
from apicas.exceptions import ConfigError, Fail
from apicas.tokens import Token

_AT: Final = re.compile(r"^(?P<what>.*) - at (?:`key` in )?`\$(?P<path>[^`]*)`$", re.DOTALL)
_MAX_NAMED: Final = 10
"""Fields that are named of those that are wrong."""


def with_typed_input(function: Callable[..., Any], prepare: Hook | None) -> Hook | None:
    """What is to be done before the work: the same, after the input was checked, where the work wants a type.

    Args:
        function: the work.
        prepare: what is to be done before it anyway.

    Raises:
        ConfigError: the type cannot be found, or is none that input can be made into.
    """
    model = _model_of(function)
    if model is None:
        return prepare
    convert = _converter(model)

    async def checked(token: Token) -> None:
        token.take_input(convert(token.get("input")))
        if prepare is not None:
            await prepare(token)

    return checked


def _model_of(function: Callable[..., Any]) -> Any:
    """The Model of the first argument's `Token[Model]`; None where it says nothing of the kind."""
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):  # a builtin tells nothing
        return None
    return _model_in(parameters[0].annotation, function) if parameters else None


def _model_in(annotation: Any, function: Callable[..., Any]) -> Any:
    if isinstance(annotation, str):
        annotation = _evaluated(annotation, function)
    if get_origin(annotation) is not Token:
        return None
    (model,) = get_args(annotation)
    return None if model is Any or isinstance(model, TypeVar) else model


def _evaluated(annotation: str, function: Callable[..., Any]) -> Any:
    """An annotation that `from __future__ import annotations` has left as text."""

    def stub() -> None: ...

    stub.__annotations__ = {"token": annotation}
    try:
        return get_type_hints(stub, _names_of(function))["token"]
    except Exception as error:  # noqa: BLE001 - whatever evaluating the user's text raises
        if "[" not in annotation:  # imported for type checkers only, and no matter here
            return None
        name = getattr(function, "__qualname__", function)
        raise ConfigError(
            f"{name} wants {annotation}, which means nothing here: {error}. What it names has to be imported, "
            "or defined, in its module, and not for type checkers only"
        ) from None


def _names_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The names that are known where a function was written."""
    while isinstance(function, partial):
        function = function.func
    written = inspect.unwrap(function if inspect.isroutine(function) else type(function).__call__)
    names: dict[str, Any] = getattr(written, "__globals__", {})
    return names


def _converter(model: Any) -> Callable[[Any], Any]:
    """A function that makes a Model from JSON, or raises Fail."""
    if _is_pydantic(model):
        return _pydantic_converter(model)
    try:
        msgspec.json.Decoder(model)
    except TypeError as error:
        raise ConfigError(f"no input can be made into {model!r}: {error}") from None

    def convert(value: Any) -> Any:
        try:
            return msgspec.convert(value, model)
        except msgspec.ValidationError as error:
            raise Fail(_named(str(error))) from None

    return convert


def _named(message: str) -> str:
    """What msgspec says of a value, with the field first: `input.size: Expected `int`, got `str``."""
    match = _AT.match(message)
    return f"input{match['path']}: {match['what']}" if match else f"input: {message}"


def _is_pydantic(model: Any) -> bool:
    return hasattr(model, "__pydantic_validator__") or any(_is_pydantic(part) for part in get_args(model))


def _pydantic_converter(model: Any) -> Callable[[Any], Any]:
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - there is one, or there were no such model

    adapter: Any = TypeAdapter(model)

    def convert(value: Any) -> Any:
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_context=False, include_input=False)
            told = [f"{_path(one['loc'])}: {one['msg']}" for one in wrong[:_MAX_NAMED]]
            more = [f"and {len(wrong) - _MAX_NAMED} more"] if len(wrong) > _MAX_NAMED else []
            raise Fail("; ".join(told + more)) from None

    return convert


def _path(location: tuple[int | str, ...]) -> str:
    return "input" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
