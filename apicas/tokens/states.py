"""The states of a token, and which change leads from where to where."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from apicas._javascript import equals_number, greater_than, has_string, parse_int
from apicas.exceptions import TransitionError

TYPES: Final = ("token", "task")
"""What a token's `type` may be: PiCaS's own Task says `task` where its user says nothing. Monitor lists type token
only, so tasks are for pilots on a view that lists them."""


class TokenState(StrEnum):
    """The states of a token, named as the Monitor views that list them."""

    TODO = "todo"
    LOCKED = "locked"
    DONE = "done"
    ERROR = "error"
    NO_VIEW = "no view"
    """Not in any Monitor view, as when lock is missing or null. Counted by status, never written to."""


class Change(StrEnum):
    """What can be done to a token."""

    LOCK = "lock"
    REFRESH = "refresh"
    UNLOCK = "unlock"
    CLOSE = "close"
    UNCLOSE = "unclose"
    ADD_OUTPUT = "add output to"
    SCRUB = "scrub"
    SET_ERROR = "set an error on"
    RELEASE = "release"
    RECLAIM = "reclaim"
    CRASH = "charge a crash to"
    RESET = "reset"


_TODO, _LOCKED, _DONE, _ERROR = TokenState.TODO, TokenState.LOCKED, TokenState.DONE, TokenState.ERROR
_NO_VIEW = TokenState.NO_VIEW
TRANSITIONS: Final[Mapping[Change, Mapping[TokenState, tuple[TokenState, ...]]]] = MappingProxyType(
    {
        Change.LOCK: {_TODO: (_LOCKED,)},
        Change.REFRESH: {_LOCKED: (_LOCKED,)},
        Change.UNLOCK: {_TODO: (_TODO,), _LOCKED: (_TODO,)},
        # The exit code decides. Closing twice is legal, and so is closing what set_error closed: PiCaS actors call
        # close themselves.
        Change.CLOSE: {_LOCKED: (_DONE, _ERROR), _DONE: (_DONE,), _ERROR: (_ERROR,)},
        Change.UNCLOSE: {_LOCKED: (_LOCKED,), _DONE: (_LOCKED,), _ERROR: (_LOCKED,)},
        Change.ADD_OUTPUT: {_TODO: (_TODO,), _LOCKED: (_LOCKED,), _DONE: (_DONE,), _ERROR: (_ERROR,)},
        Change.SCRUB: {_LOCKED: (_TODO,), _DONE: (_TODO,), _ERROR: (_TODO,)},
        Change.SET_ERROR: {_TODO: (_ERROR,), _LOCKED: (_ERROR,), _DONE: (_ERROR,), _ERROR: (_ERROR,)},
        # The user's code may have closed a token before its pilot was told to stop.
        Change.RELEASE: {_LOCKED: (_TODO,), _DONE: (_TODO,), _ERROR: (_TODO,)},
        Change.RECLAIM: {_LOCKED: (_TODO,)},
        # Its work died with the process that ran it, which was not the pilot's.
        Change.CRASH: {_LOCKED: (_TODO,)},
        Change.RESET: {_TODO: (_TODO,), _LOCKED: (_TODO,), _DONE: (_TODO,), _ERROR: (_TODO,)},
    }
)
"""Every legal change, and the states that it can lead to. The diagram in the docs is drawn from this table."""


def state_of(document: Mapping[str, Any]) -> TokenState:
    """The state of a token, by the same rules that JavaScript follows in the views."""
    if document.get("type") != "token" and document.get("type") != "task":  # the first nearly always says it
        return _NO_VIEW
    return state_by_fields(document)


def monitor_state(document: Mapping[str, Any]) -> TokenState:
    """The state of a token of type token: which of the Monitor views lists it."""
    return state_of(document) if document.get("type") == "token" else _NO_VIEW


def state_by_fields(document: Mapping[str, Any]) -> TokenState:
    """The state by `lock`, `done` and `exit_code` alone, as for a token that is nested in a document."""
    lock, done = document.get("lock"), document.get("done")
    if type(lock) is not int or type(done) is not int:
        return _state_by_odd_fields(lock, done, document.get("exit_code"))
    if done == 0:  # nearly every token: no coercion needed
        return _TODO if lock == 0 else _LOCKED if lock > 0 else _NO_VIEW
    return _state_by_exit_code(document.get("exit_code")) if lock > 0 and done > 0 else _NO_VIEW


def _state_by_odd_fields(lock: Any, done: Any, exit_code: Any) -> TokenState:
    done_is_zero = equals_number(done, 0)
    if done_is_zero and equals_number(lock, 0):
        return _TODO
    if not greater_than(lock, 0):
        return _NO_VIEW
    if done_is_zero:
        return _LOCKED
    return _state_by_exit_code(exit_code) if greater_than(done, 0) else _NO_VIEW


def _state_by_exit_code(exit_code: Any) -> TokenState:
    if type(exit_code) is int:
        return _DONE if exit_code == 0 else _ERROR
    if not has_string(exit_code):  # the views' parseInt throws, and CouchDB leaves such a document out
        return _NO_VIEW
    return _DONE if parse_int(exit_code) == 0 else _ERROR


def next_states(change: Change, state: TokenState) -> tuple[TokenState, ...]:
    """The states that a change can lead to.

    Raises:
        TransitionError: the token is in no state for that change.
    """
    targets = TRANSITIONS[change]
    try:
        return targets[state]
    except KeyError:
        goal = next(iter(targets.values()))[0]
        raise TransitionError(f"cannot {change} a token that is {state}: {state} -> {goal} is no transition") from None
