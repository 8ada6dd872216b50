"""Where a token is worked: in the pilot, or in a process of its own; chosen for a run, an actor, or each token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, cast, get_args

from apicas._node.requests import field_at
from apicas.exceptions import ConfigError
from apicas.tokens import Token

ExecutorName: TypeAlias = Literal["auto", "process"]
"""In the pilot, unless one has vanished under the token; or in a process of its own."""
ExecutorChoice: TypeAlias = ExecutorName | Callable[[Token], ExecutorName]
"""The same for all tokens, or a function that says it of each. It runs on the loop, so it must not block."""


def check_executor(name: object) -> None:
    """Refuse what is no name of an executor.

    Raises:
        ConfigError: it is none.
    """
    if name not in get_args(ExecutorName):
        raise ConfigError(f"executor is {' or '.join(get_args(ExecutorName))}, not {name!r}")


class FieldChoice:
    """Reads the executor from a field of the token.

    Args:
        path: the field; `input.how` for one inside another.
        otherwise: for tokens that say nothing there.

    Raises:
        ConfigError: there is no such executor.
    """

    def __init__(self, path: str, otherwise: str) -> None:
        check_executor(otherwise)
        self._path = path
        self._otherwise = otherwise

    def __call__(self, token: Token) -> ExecutorName:
        """What the token says; whoever asks checks it."""
        said = field_at(token.peek(), self._path)
        return cast("ExecutorName", self._otherwise if said is None or said == "" else said)
