"""From what the user's code did to what is written: plain functions.

| what happened | what is written |
|---|---|
| a normal end | done; what process_token returned becomes `output`; None leaves it |
| a normal end with a non-zero exit code, or after set_error | a failure |
| an exception, the time limit, content that is no JSON | a failure, with the reason and the traceback in `error` |
| a failure | back to todo and counted while scrub_count < max_scrub, else error |
| Retry, Fail, Release | just that |
| a cancellation: shutdown, hand-back | back to todo, uncharged |
| the user unlocked or scrubbed the token | as the user left it |
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from apicas._documents import Document
from apicas._javascript import equals_number, parse_int
from apicas._runtime.committer import Ending, Outcome
from apicas._runtime.leases import Lease
from apicas.exceptions import CommandError, Fail, InvalidTokenError, Release, Retry, TokenTimeoutError
from apicas.modifiers import CLAIM_FIELDS, TokenModifier
from apicas.policies import tries_again
from apicas.tokens import Token, TokenState, annex, claim_of, count, state_of


@dataclass(frozen=True, slots=True)
class Returned:
    """process_token came to its end."""

    value: Any = None


@dataclass(frozen=True, slots=True)
class Raised:
    """process_token, or a hook around it, raised."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Cut:
    """The work was ended from outside, through no fault of the token."""


Verdict: TypeAlias = Returned | Raised | Cut

MAX_TRACEBACK: Final = 20_000
"""Characters of a traceback that are kept: its head and its tail."""
_EXPLAINED: Final = (Retry, CommandError, TokenTimeoutError)


@dataclass(frozen=True, slots=True)
class Concluding:
    """What turns a verdict into an outcome.

    Args:
        modifier: changes the token's state.
        now: store time, unix seconds.
        max_scrub: how many times a failed token is tried again.
    """

    modifier: TokenModifier
    now: Callable[[], float]
    max_scrub: int = 0

    def conclude(self, token: Token, lease: Lease, verdict: Verdict) -> Outcome:
        """The outcome of a token: the user's mapping, with the change of state that the verdict calls for."""
        document = _with_lease(token.document, lease)
        match verdict:
            case Returned(value):
                return self._returned(document, value)
            case Raised(error):
                return self._raised(document, error)
            case Cut():
                return Outcome(self.modifier.release(document, self.now()), Ending.RELEASED)

    def rejected(self, lease: Lease, reason: str) -> Outcome:
        """The outcome of a token whose content the store does not take: the content as it was, and a failure."""
        return self._failed(dict(lease.stored), InvalidTokenError(f"the outcome cannot be stored: {reason}"))

    def _returned(self, document: Document, value: Any) -> Outcome:
        if value is not None:
            document["output"] = value
        state = state_of(document)
        if state is TokenState.TODO:  # the user unlocked or scrubbed it
            return _left_in_todo(document)
        exit_code = document.get("exit_code", "")
        if state is TokenState.ERROR or not (exit_code in {"", None} or parse_int(exit_code) == 0):
            return self._failed(document, None)
        return Outcome(self.modifier.close(document, self.now()), Ending.DONE)

    def _raised(self, document: Document, error: BaseException) -> Outcome:
        now = self.now()
        match error:
            case Release():
                later = now + error.after if error.after else 0.0
                return Outcome(self.modifier.release(document, now, not_before=later), Ending.RELEASED)
            case Retry():
                return self._scrubbed(self._noted(document, error), now + error.after if error.after else 0.0)
            case Fail():
                document["exit_code"] = error.exit_code
                return Outcome(self.modifier.set_error(document, str(error), None, now), Ending.FAILED)
            case CommandError():
                document["exit_code"] = error.exit_code
        return self._failed(document, error)

    def _failed(self, document: Document, error: BaseException | None) -> Outcome:
        noted = self._noted(document, error)
        if tries_again(count(noted.get("scrub_count")), self.max_scrub):
            return self._scrubbed(noted, 0.0)
        return Outcome(self.modifier.set_error(noted, None, None, self.now()), Ending.FAILED)

    def _scrubbed(self, document: Document, later: float) -> Outcome:
        return Outcome(self.modifier.scrub(document, self.now(), not_before=later), Ending.SCRUBBED)

    def _noted(self, document: Document, error: BaseException | None) -> Document:
        """The document with the reason in its `error` list."""
        if error is None:
            if document.get("error"):  # the user's set_error has said why
                return document
            return self.modifier.add_error(document, f"exit code {document.get('exit_code')}", None, self.now())
        return self.modifier.add_error(document, describe(error), _traceback(error), self.now())


def describe(error: BaseException) -> str:
    """An exception in one line."""
    text = str(error) or type(error).__name__
    return text if isinstance(error, _EXPLAINED) else f"{type(error).__name__}: {text}"


def _traceback(error: BaseException) -> str | None:
    """Where it was raised, from the user's code on; None for what says enough by itself."""
    if isinstance(error, _EXPLAINED):
        return None
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    return text if len(text) <= MAX_TRACEBACK else f"{text[: MAX_TRACEBACK // 2]}\n[...]\n{text[-MAX_TRACEBACK // 2 :]}"


def _is_ours(filename: str) -> bool:
    return Path(filename).parent == Path(__file__).parent


def _with_lease(content: Document, lease: Lease) -> Document:
    """The user's mapping, but its id and its claim as the store knows them: nobody breaks the fence by hand."""
    document = dict(content)
    document["_id"] = lease.token_id
    if claim_of(document) is None and state_of(document) is TokenState.TODO:
        return document  # the user unlocked or scrubbed it with a modifier
    document["apicas"] = {**annex(document), **{name: annex(lease.stored)[name] for name in _claim_of(lease)}}
    document["type"] = lease.stored["type"]
    if state_of(document) in {TokenState.NO_VIEW, TokenState.TODO} or equals_number(document.get("done"), 0):
        document.update(lock=lease.stored["lock"], done=0)
    return document


def _claim_of(lease: Lease) -> list[str]:
    return [name for name in (*CLAIM_FIELDS, "generation") if name in annex(lease.stored)]


def _left_in_todo(document: Document) -> Outcome:
    scrubbed = annex(document).get("history") or [{}]
    return Outcome(document, Ending.SCRUBBED if scrubbed[-1].get("event") == "scrubbed" else Ending.RELEASED)
