"""What a pilot has seen and left to others, and why: said once, and not for each."""

from __future__ import annotations

import logging
import re
from collections import Counter
from typing import Final

log = logging.getLogger("apicas")

MAX_LEFT: Final = 10_000
"""Tokens that are remembered: more are counted no longer."""
MAX_SAID: Final = 3
"""Reasons that are said."""
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")


class Left:
    """Tokens that were left in todo for others."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self._said = 0

    def __len__(self) -> int:
        return len(self._reasons)

    def add(self, token_id: str, reason: str) -> None:
        """Note that a token is left, and why."""
        if len(self._reasons) < MAX_LEFT or token_id in self._reasons:
            self._reasons[token_id] = reason

    def remove(self, token_id: str) -> None:
        """Note that a token is taken after all."""
        self._reasons.pop(token_id, None)

    def say(self, *, at_end: bool = False) -> None:
        """Say how many there are and why, unless that was said: again at the end, or when they are twice as many."""
        if len(self) - self._said <= (0 if at_end else self._said):
            return
        self._said = len(self)
        log.warning("%d token%s left to others: %s", len(self), " was" if len(self) == 1 else "s were", self.reasons())

    def reasons(self) -> str:
        """The most frequent reasons, each with the number of tokens and one as an example."""
        # They differ by the numbers in them: how long a token takes, and how much of the batch job was left just then.
        kinds = Counter(_kind(reason) for reason in self._reasons.values())
        examples = {_kind(reason): (token_id, reason) for token_id, reason in self._reasons.items()}
        said = [(number, *examples[kind]) for kind, number in kinds.most_common(MAX_SAID)]
        texts = [f"{reason} ({_tokens(number, token_id)})" for number, token_id, reason in said]
        others = len(self) - sum(number for number, _, _ in said)
        return "; ".join([*texts, f"{others} for other reasons"] if others else texts)


def _kind(reason: str) -> str:
    return _NUMBER.sub("#", reason)


def _tokens(number: int, token_id: str) -> str:
    return f"token {token_id}" if number == 1 else f"{number} tokens, as {token_id}"
