"""From what the user's code did to what is written: plain functions.

| what happened | what is written |
|---|---|
| a normal end | done; what process_token returned becomes `output`; None leaves it |
| a normal end with a non-zero exit code, or after set_error | a failure |
| an exception, the time limit, content that is no JSON | a failure, with the reason and the traceback in `error` |
| a failure | back to todo and counted while scrub_count < max_scrub, else error |
| the death of the token's own process | back to todo and charged while crashes <= max_crashes, else error |
| Retry, Fail, Release | just that |
| a cancellation: shutdown, hand-back | back to todo, uncharged |
| the user unlocked or scrubbed the token | as the user left it |

What goes back to todo waits there, the longer the more often it did; `after=` of Retry and Release wins over that.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, TypeAlias

from apicas._documents import Document
from apicas._javascript import equals_number, parse_int, to_string
from apicas._runtime.attempts.logs import keep_attempt
from apicas._runtime.attempts.notes import Usage
from apicas._runtime.keeping.leases import Lease
from apicas._runtime.keeping.settlements import Ending, Outcome
from apicas.exceptions import (
    CommandError,
    Decision,
    Fail,
    InvalidTokenError,
    OutputError,
    PoolError,
    Release,
    Retry,
    TokenMemoryError,
    TokenTimeoutError,
)
from apicas.modifiers import CLAIM_FIELDS, BasicTokenModifier, TokenModifier, noted
from apicas.policies.retries import MAX_CRASHES, RetryDelays, tries_again
from apicas.tokens import Token, TokenState, annex, attempt_of, claim_of, count, generation_of, state_of


@dataclass(frozen=True, slots=True)
class Returned:
    """process_token came to its end."""

    value: Any = None
    usage: Usage | None = field(default=None, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Raised:
    """process_token, or a hook around it, raised."""

    error: BaseException
    usage: Usage | None = field(default=None, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Cut:
    """The work was ended from outside, through no fault of the token."""

    usage: Usage | None = field(default=None, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Crashed:
    """The process that the token had to itself died of it."""

    reason: str
    traceback: str | None = None
    """Where its threads were."""
    usage: Usage | None = field(default=None, compare=False, kw_only=True)


Verdict: TypeAlias = Returned | Raised | Cut | Crashed


class ForeignError(Exception):
    """What the user's code raised in another process: told in text, since nothing from there is unpickled.

    Args:
        message: as `describe` puts it.
        traceback: where it was raised; None for what says enough by itself.
    """

    def __init__(self, message: str, traceback: str | None) -> None:
        super().__init__(message)
        self.traceback = traceback


MAX_TEXT: Final = 20_000
"""Characters of a message or a traceback that are kept: its head and its tail."""
_RUNTIME: Final = f"{Path(__file__).parents[1]}/"
_EXPLAINED: Final = (Retry, CommandError, OutputError, TokenTimeoutError, TokenMemoryError, ForeignError)


@dataclass(frozen=True, slots=True)
class Concluding:
    """What turns a verdict into an outcome.

    Args:
        modifier: changes the token's state.
        now: store time, unix seconds.
        max_scrub: how many times a failed token is tried again.
        max_crashes: how many times one whose process died is tried again.
        delays: how long what goes back waits.
        rng: the dice for that.
    """

    modifier: TokenModifier
    now: Callable[[], float]
    max_scrub: int = 0
    max_crashes: int = MAX_CRASHES
    delays: RetryDelays = field(default_factory=RetryDelays)
    rng: Random = field(default_factory=Random)

    def conclude(self, token: Token, lease: Lease, verdict: Verdict) -> Outcome:
        """The outcome of a token: the user's mapping, with the change of state that the verdict calls for.

        What the processes of the attempt took goes with it.
        """
        log = None if lease.notes is None else lease.notes.log
        if log is not None and log.is_own and lease.attaches:
            log.attach(token)
        outcome = self._conclude(token, lease, verdict)
        usage = verdict.usage
        if usage is None and lease.notes is not None:
            usage = lease.notes.usage
        if usage is not None:
            noted(outcome.document, usage=usage.entry())
        if lease.notes is not None and lease.notes.workdir is not None:
            noted(outcome.document, workdir=lease.notes.workdir)
        if lease.notes is not None and lease.notes.log is not None:
            if lease.notes.directory is not None:
                noted(outcome.document, log={"path": lease.notes.directory})
            if outcome.ending is not Ending.DONE:
                keep_attempt(outcome.document, attempt_of(lease.base))
        return outcome

    def _conclude(self, token: Token, lease: Lease, verdict: Verdict) -> Outcome:
        # Our own modifier changes no list and no object in place. What one of the user's changes is no lease's.
        content = token.peek() if type(self.modifier) is BasicTokenModifier else token.document
        if content is lease.stored and isinstance(verdict, Returned) and verdict.value is None:
            # Nobody has written anything: it is as it was locked.
            return Outcome(self.modifier.close(dict(content), self.now()), Ending.DONE)
        document = _with_lease(content, lease)
        match verdict:
            case Returned(value):
                return self._returned(document, value, lease)
            case Raised(error):
                return self._raised(document, error)
            case Crashed():
                return self._crashed(document, verdict)
            case Cut():
                return self._released(document, 0.0)

    def rejected(self, lease: Lease, reason: str) -> Outcome:
        """The outcome of a token whose content the store does not take: the content as it was, and a failure."""
        error = InvalidTokenError(f"the outcome cannot be stored: {reason}")
        return self._failed(self._noted(dict(lease.stored), error))

    def _returned(self, document: Document, value: Any, lease: Lease) -> Outcome:
        if value is not None:
            document["output"] = value
        state = state_of(document)
        exit_code = document.get("exit_code", "")
        if state is TokenState.LOCKED and exit_code == "":
            return Outcome(self.modifier.close(document, self.now()), Ending.DONE)
        if state is TokenState.TODO:  # the user unlocked or scrubbed it
            return _left_in_todo(document, lease)
        if state is TokenState.ERROR or not (exit_code == "" or exit_code is None or parse_int(exit_code) == 0):
            if _number_of_errors(document) <= _number_of_errors(lease.base):  # else the user has said why
                self.modifier.add_error(document, f"exit code {to_string(exit_code)[:100]}", None, self.now())
            return self._failed(document)
        return Outcome(self.modifier.close(document, self.now()), Ending.DONE)

    def _raised(self, document: Document, error: BaseException) -> Outcome:
        match error:
            case Release():
                return self._released(document, error.after)
            case Retry():
                return self._scrubbed(self._noted(document, error), error.after)
            case Fail():
                document["exit_code"] = error.exit_code
                return Outcome(self.modifier.set_error(document, str(error), None, self.now()), Ending.FAILED)
            case CommandError():
                document["exit_code"] = error.exit_code
        return self._failed(self._noted(document, error))

    def _failed(self, document: Document) -> Outcome:
        if tries_again(count(document.get("scrub_count")), self.max_scrub):
            return self._scrubbed(document, 0.0)
        return Outcome(self.modifier.set_error(document, None, None, self.now()), Ending.FAILED)

    def _scrubbed(self, document: Document, after: float) -> Outcome:
        scrubs = count(document.get("scrub_count")) + 1
        later = self._later(after or self.delays.after_scrub(scrubs, self.rng))
        return Outcome(self.modifier.scrub(document, self.now(), not_before=later), Ending.SCRUBBED)

    def _released(self, document: Document, after: float) -> Outcome:
        releases = count(annex(document).get("releases")) + 1
        later = self._later(after or self.delays.after_release(releases, self.rng))
        return Outcome(self.modifier.release(document, self.now(), not_before=later), Ending.RELEASED)

    def _crashed(self, document: Document, crash: Crashed) -> Outcome:
        now = self.now()
        self.modifier.add_error(document, crash.reason, crash.traceback, now)
        crashes = count(annex(document).get("crashes")) + 1
        if crashes <= self.max_crashes:
            later = self._later(self.delays.after_crash(crashes, self.rng))
            return Outcome(self.modifier.crash(document, now, not_before=later), Ending.CRASHED)
        message = f"its work took {crashes} processes down; the limit is {self.max_crashes}"
        return Outcome(self.modifier.set_error(self.modifier.crash(document, now), message, None, now), Ending.FAILED)

    def _later(self, seconds: float) -> float:
        """Store time after so many seconds; 0 for at once."""
        return self.now() + seconds if seconds else 0.0

    def _noted(self, document: Document, error: BaseException) -> Document:
        """The document with the reason in its `error` list."""
        return self.modifier.add_error(document, describe(error), traceback_of(error), self.now())


def raised(error: BaseException) -> Raised:
    """The verdict on what the user's code raised; a decision that comes out of a task group is still a decision."""
    leaf = only_leaf(error)
    return Raised(leaf if isinstance(leaf, Decision) else error)


def only_leaf(error: BaseException, stop_at: BaseException | None = None) -> BaseException | None:
    """The one exception in nested groups; None where there are several.

    A pool that refuses us tells everybody who asks it at that moment: claims, outcomes, beats. That is one exception.

    Args:
        error: the group, or an exception that is none.
        stop_at: a group that is not looked into.
    """
    leaves = [*_leaves(error, stop_at)]
    first = leaves[0]
    if isinstance(first, PoolError) and all(_says_the_same(leaf, first) for leaf in leaves):
        return stop_at if stop_at in leaves else first
    return first if len(leaves) == 1 else None


def _leaves(error: BaseException, stop_at: BaseException | None) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup) and error is not stop_at:
        for inner in error.exceptions:
            yield from _leaves(inner, stop_at)
    else:
        yield error


def _says_the_same(one: BaseException, other: BaseException) -> bool:
    return type(one) is type(other) and str(one) == str(other)


def describe(error: BaseException) -> str:
    """An exception as text that can be stored."""
    text = storable(str(error)) or type(error).__name__
    return text if isinstance(error, _EXPLAINED) else f"{type(error).__name__}: {text}"


def traceback_of(error: BaseException) -> str | None:
    """Where it was raised, from the user's code on; None for what says enough by itself."""
    if isinstance(error, ForeignError):
        return error.traceback
    if isinstance(error, _EXPLAINED):
        return None
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return storable("".join(traceback.format_exception(type(error), error, frames)))


def storable(text: str) -> str:
    """Text within bounds, without lone surrogates: a file name that is no UTF-8 puts these into an OSError."""
    clean = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return clean if len(clean) <= MAX_TEXT else f"{clean[: MAX_TEXT // 2]}\n[...]\n{clean[-MAX_TEXT // 2 :]}"


def _is_ours(filename: str) -> bool:
    return filename.startswith(_RUNTIME)


def _with_lease(content: Mapping[str, Any], lease: Lease) -> Document:
    """The user's mapping, but its id and its claim as the store knows them: nobody breaks the fence by hand."""
    stored = lease.stored
    document = {**content, "_id": lease.token_id, "type": stored["type"]}
    if document.get("done") == 0 and document.get("apicas") == stored["apicas"]:  # as nearly all work leaves it
        document.update(lock=stored["lock"], done=0, apicas=stored["apicas"])  # True equals 1, and is no generation
        return document
    unlocked = claim_of(document) is None and state_of(document) is TokenState.TODO  # by the user, with a modifier
    ours = annex(lease.stored)
    if unlocked:
        document["apicas"] = {**annex(document), "generation": generation_of(lease.stored) + 1}
        return document
    fixed = ("generation", *CLAIM_FIELDS)
    document["apicas"] = {**annex(document), **{name: ours[name] for name in fixed if name in ours}}
    if state_of(document) in {TokenState.NO_VIEW, TokenState.TODO} or equals_number(document.get("done"), 0):
        document.update(lock=lease.stored["lock"], done=0)
    return document


def _left_in_todo(document: Document, lease: Lease) -> Outcome:
    scrubbed = count(document.get("scrub_count")) > count(lease.base.get("scrub_count"))
    return Outcome(document, Ending.SCRUBBED if scrubbed else Ending.RELEASED)


def _number_of_errors(document: Document) -> int:
    errors = document.get("error")
    return len(errors) if isinstance(errors, list) else 0
