"""What a token asks of the node: read from its fields, with the run's defaults for what it does not say.

A token is anybody's JSON. What cannot be understood is a reason in words, for the token alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeVar

from apicas._documents import shown
from apicas._node.names import CORES, GPUS, IN_BYTES, MEMORY, SCRATCH, is_resource_name
from apicas._node.units import amount, brief, bytes_of, seconds_of
from apicas.exceptions import ConfigError

T = TypeVar("T")

OWN_FIELDS: Final = MappingProxyType({name: name for name in (CORES, MEMORY, GPUS, SCRATCH)})
"""The fields of a token that name a resource."""
ONE_CORE: Final = MappingProxyType({CORES: 1})
MAX_NAMES: Final = 32
"""Resources that one token may ask for; more is a mistake."""
MAX_KIND: Final = 200
"""Characters of a kind."""
TIME: Final = "time_request"

Amounts = tuple[tuple[str, int], ...]
"""How much of what, by name, in the order of the names, without what is 0: two that ask the same are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a token asks.

    Args:
        amounts: how much of what: cores, bytes of memory and scratch, GPUs, and whatever the user named.
        seconds: how long it says that it takes; None if it does not.
        kind: tokens of one kind take alike: see Durations.
    """

    amounts: Amounts = ((CORES, 1),)
    seconds: float | None = None
    kind: str = ""

    def of(self, name: str) -> int:
        """How much it asks of one resource."""
        return next((number for one, number in self.amounts if one == name), 0)


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a token's request cannot be understood; not an error of the pilot's."""

    reason: str


def amounts_of(numbers: Mapping[str, int]) -> Amounts:
    """The amounts of a mapping."""
    return tuple(sorted((name, number) for name, number in numbers.items() if number))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFields:
    """Where tokens say what they ask, and what those ask that do not.

    Args:
        fields: the token's field for a resource, as `{"cores": "ncpus"}`, where it is not one of OWN_FIELDS; "" for
            none. A path such as `input.cores` leads into a field. The user's own resources may have one, too.
        resources: the field that holds a mapping of further resources; what has a field of its own counts first.
        time: the field of the time it takes.
        kind: the field of its kind; "" for none.
        default_kind: the kind of a token that does not say one: what a run does, as its command or its actor.
        defaults: what is asked where a token does not say: a whole core, if nothing else is given.
        default_time: seconds; None where that is not known.
    """

    fields: Mapping[str, str] = field(default_factory=lambda: OWN_FIELDS)
    resources: str = "resources"
    time: str = TIME
    kind: str = ""
    default_kind: str = ""
    defaults: Mapping[str, int] = field(default_factory=lambda: ONE_CORE)
    default_time: float | None = None

    def __post_init__(self) -> None:
        for name in (*self.fields, *self.defaults):
            if not is_resource_name(name):
                raise ConfigError(f"{shown(name)} is no name of a resource")
        object.__setattr__(self, "fields", {name: path for name, path in {**OWN_FIELDS, **self.fields}.items() if path})

    def read(self, document: Mapping[str, Any]) -> Request | Refused:
        """What a token asks, or why that cannot be understood."""
        try:
            numbers = {**self.defaults, **self._in_resources(document), **self._in_fields(document)}
            seconds = self._seconds(document)
        except _NotUnderstood as error:
            return Refused(str(error))
        return Request(amounts=amounts_of(numbers), seconds=seconds, kind=self._kind(document))

    def _in_fields(self, document: Mapping[str, Any]) -> dict[str, int]:
        found = ((name, path, field_at(document, path)) for name, path in self.fields.items())
        return {name: _number(name, path, value) for name, path, value in found if not _is_unsaid(value)}

    def _in_resources(self, document: Mapping[str, Any]) -> dict[str, int]:
        further = field_at(document, self.resources) if self.resources else None
        if _is_unsaid(further):
            return {}
        if not isinstance(further, Mapping) or len(further) > MAX_NAMES or not all(map(is_resource_name, further)):
            raise _NotUnderstood(f"{self.resources} is no mapping of names to numbers: {brief(further)}")
        return {
            name: _number(name, f"{self.resources}.{name}", value)
            for name, value in further.items()
            if not _is_unsaid(value)
        }

    def _seconds(self, document: Mapping[str, Any]) -> float | None:
        value = field_at(document, self.time) if self.time else None
        if _is_unsaid(value):
            return self.default_time
        seconds = _understood(seconds_of, self.time, value)
        return None if math.isinf(seconds) else seconds

    def _kind(self, document: Mapping[str, Any]) -> str:
        value = field_at(document, self.kind) if self.kind else None
        if _is_unsaid(value):
            return self.default_kind
        return value[:MAX_KIND] if isinstance(value, str) else shown(value)[:MAX_KIND]


class _NotUnderstood(Exception):  # noqa: N818 - it never leaves this module
    pass


def field_at(document: Mapping[str, Any], path: str) -> Any:
    """What is at a path; None where there is nothing. A field whose name has dots is found too."""
    if path in document:
        return document[path]
    value: Any = document
    for step in path.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return None
        value = value[step]
    return value


def _is_unsaid(value: Any) -> bool:
    """Whether a field says nothing: tables that people export leave fields empty."""
    return value is None or value == ""


def _number(name: str, path: str, value: Any) -> int:
    return _understood(bytes_of if name in IN_BYTES else amount, path, value)


def _understood(parse: Callable[[Any], T], path: str, value: Any) -> T:
    try:
        return parse(value)
    except (ValueError, OverflowError) as error:
        raise _NotUnderstood(f"{path}: {error}") from None


def parse_fields(texts: Iterable[str]) -> dict[str, str]:
    """What a user says about fields: `cores=ncpus`, `license=input.licenses`.

    Raises:
        ConfigError: a text is no name and field.
    """
    fields = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not path or not is_resource_name(name):
            raise ConfigError(f"{shown(text)} is no resource and field such as cores=ncpus")
        fields[name] = path
    return fields
