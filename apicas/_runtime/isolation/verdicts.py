"""Verdicts as JSON: what a process that has a token to itself tells its pilot, and what the pilot makes of it.

Exceptions are told in text. Retry, Fail and Release keep their meaning, and a command its exit code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from apicas._documents import Document, encode
from apicas._runtime.attempts.notes import Usage
from apicas._runtime.keeping.outcomes import (
    Cut,
    ForeignError,
    Raised,
    Returned,
    Verdict,
    describe,
    storable,
    traceback_of,
)
from apicas.exceptions import CommandError, Fail, InvalidTokenError, Release, Retry


def told(verdict: Verdict, document: Document) -> Document:
    """What became of a token, as JSON: `document` with it, where that is JSON too."""
    if isinstance(verdict, Returned) and verdict.value is not None:
        document["output"] = verdict.value
    try:
        encode(document)
    except InvalidTokenError as error:
        return {"raised": _told_error(InvalidTokenError(f"the outcome cannot be stored: {error}"))}
    if isinstance(verdict, Raised):
        return {"raised": _told_error(verdict.error), "document": document}
    return {"cut" if isinstance(verdict, Cut) else "returned": True, "document": document}


def with_usage(verdict: Verdict, usage: Usage) -> Verdict:
    """A verdict, with what the processes of its attempt took."""
    return replace(verdict, usage=usage)


def told_usage(usage: Usage) -> Document:
    """What an attempt took, as JSON."""
    return {"cpu_seconds": usage.cpu_seconds, "peak_memory": usage.peak_memory, "seconds": usage.seconds}


def heard_usage(told_numbers: Any) -> Usage:
    """The same from JSON.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    cpu, peak, seconds = (told_numbers[name] for name in ("cpu_seconds", "peak_memory", "seconds"))
    return Usage(
        cpu_seconds=None if cpu is None else float(cpu),
        peak_memory=None if peak is None else int(peak),
        seconds=None if seconds is None else float(seconds),
    )


def heard(answer: Document) -> Verdict:
    """The verdict in an answer.

    Raises:
        KeyError, TypeError, ValueError: it is none: its process is out of its mind.
    """
    if "raised" in answer:
        return Raised(_heard_error(answer["raised"]))
    return Returned() if answer.get("returned") else Cut()


def _told_error(error: BaseException) -> Document:
    message = storable(str(error))
    match error:
        case Retry():
            return {"kind": "Retry", "message": message, "after": error.after}
        case Release():
            return {"kind": "Release", "message": message, "after": error.after}
        case Fail():
            return {"kind": "Fail", "message": message, "exit_code": error.exit_code}
        case CommandError():
            return {"kind": "CommandError", "message": message, "exit_code": error.exit_code}
    return {"kind": "", "message": describe(error), "traceback": traceback_of(error)}


def _heard_error(told_error: Any) -> Exception:
    message = str(told_error["message"])
    match told_error["kind"]:
        case "Retry":
            return Retry(message, after=float(told_error["after"]))
        case "Release":
            return Release(message, after=float(told_error["after"]))
        case "Fail":
            return Fail(message, exit_code=int(told_error["exit_code"]))
        case "CommandError":
            return CommandError(message, int(told_error["exit_code"]))
    return ForeignError(message, told_error.get("traceback"))
