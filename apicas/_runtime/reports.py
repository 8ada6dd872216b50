"""What a pilot reports of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_WORDS: Final = {"left": "left to others"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a pilot did; also what it has done so far."""

    claimed: int = 0
    done: int = 0
    failed: int = 0
    """Ended in error."""
    scrubbed: int = 0
    """Failed, and sent back to todo: one that was tried three times counts two here."""
    crashed: int = 0
    """Took the process down that they had to themselves, and were sent back to todo."""
    released: int = 0
    """Handed back unfinished."""
    lost: int = 0
    """Taken by somebody else while it was worked."""
    running: int = 0
    seconds: float = 0.0
    reason: str = ""
    """Why the pilot ended."""
    held: int = 0
    """Held now. At the end, those whose outcome could not be written: their locks go stale by themselves."""
    waiting: int = 0
    """Finished results that are in the outbox and not in the pool, at the end: the next pilot writes them."""
    left: int = 0
    """Seen, and left to others: they can never start here, or would not have been over before the batch job's end."""
    signals: int = 0
    """How many signals ended the pilot: 0 if it ended by itself, 1 if it drained, more if it was cut."""

    @property
    def ended(self) -> int:
        """Attempts that came to an end of their own: done, failed, scrubbed or crashed."""
        return self.done + self.failed + self.scrubbed + self.crashed

    @property
    def tokens_per_second(self) -> float:
        """The rate of these ends."""
        return self.ended / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        counts = ", ".join(
            f"{number} {_WORDS.get(name, name)}"
            for name in ("done", "failed", "scrubbed", "crashed", "released", "lost", "waiting", "left")
            if (number := getattr(self, name)) or name == "done"
        )
        return f"{counts} in {self.seconds:.1f} s ({self.tokens_per_second:.1f} tokens/s)"
