"""What `apicas doctor` finds: one line for each thing that was looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from apicas.cli.exits import ExitCode

OK: Final = "ok"
DO: Final = "do"
"""There is something to do."""
SKIPPED: Final = "skipped"
"""It could not be looked at, for a reason that is no fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line.

    Args:
        check: what was looked at, in a word or two.
        status: OK, DO or SKIPPED.
        text: what was found.
        advice: what to do about it; empty where there is nothing to do.
        code: what the command ends with because of it, where nothing is worse.
        is_last: whether nothing else can be looked at, and so nothing else comes.
    """

    check: str
    status: str
    text: str
    advice: str = ""
    code: ExitCode = ExitCode.OK
    is_last: bool = False


Findings: TypeAlias = AsyncIterator[Finding]


def fine(check: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(check=check, status=OK, text=text)


def wrong(
    check: str, text: str, advice: str, *, code: ExitCode = ExitCode.INCOMPLETE, is_last: bool = False
) -> Finding:
    """Something to do."""
    return Finding(check=check, status=DO, text=text, advice=advice, code=code, is_last=is_last)


def skipped(check: str, text: str) -> Finding:
    """It was not looked at, and why."""
    return Finding(check=check, status=SKIPPED, text=text)
