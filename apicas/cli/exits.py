"""Exit codes, and how an error that a user can cause becomes one line."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from apicas.exceptions import (
    AccessDeniedError,
    ApicasError,
    ConfigError,
    PoolInUseError,
    PoolNotFoundError,
    PoolUnavailableError,
    TokenNotFoundError,
    ViewNotFoundError,
)


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    """It did what it was asked. A pilot that ended by itself, also with failed tokens."""
    INCOMPLETE = 1
    """Some of it was left undone, and was listed; or an internal error, with its traceback."""
    REFUSED = 2
    """Wrong usage or configuration, no access, no such pool or view: nothing was done."""
    UNAVAILABLE = 3
    """The pool's server did not answer, also after retries."""
    DRAINED = 4
    """A pilot ended by a signal, and everything was handed back."""
    CUT = 5
    """A pilot ended hard, by a second signal, or could not hand everything back."""
    INTERRUPTED = 130
    """Ctrl-C in any other command."""


EXIT_CODES = """\b
Exit codes:
  0    done; a pilot that ended by itself, also with failed tokens
  1    some of it was left undone, and is listed; or an internal error
  2    wrong usage or configuration, no access, no such pool, view or token; where several are named, it is 1
  3    the pool's server does not answer
  4    a pilot ended by a signal; every token is handed back
  5    a pilot ended hard, by a second signal
  130  interrupted with Ctrl-C (but `run`, which drains)
"""

_REFUSED = (
    ConfigError,
    AccessDeniedError,
    PoolNotFoundError,
    PoolInUseError,
    ViewNotFoundError,
    TokenNotFoundError,
)


def exit_code_of(error: ApicasError) -> ExitCode:
    """The exit code of a command that an error ended."""
    if isinstance(error, PoolUnavailableError):
        return ExitCode.UNAVAILABLE
    return ExitCode.REFUSED if isinstance(error, _REFUSED) else ExitCode.INCOMPLETE


def user_error(error: BaseException) -> ApicasError | None:
    """The error that users are shown in one line; None for one that is a bug, and keeps its traceback."""
    if isinstance(error, ApicasError):
        return error
    if isinstance(error, BaseExceptionGroup):
        leaves = list(_leaves(error))
        if all(isinstance(leaf, ApicasError) for leaf in leaves):
            return user_error(leaves[0])
    return None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for inner in group.exceptions:
        if isinstance(inner, BaseExceptionGroup):
            yield from _leaves(inner)
        else:
            yield inner
