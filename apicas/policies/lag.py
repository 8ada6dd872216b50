"""Whether a loop keeps up with its work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LAG_LIMIT: Final = 1.0
"""Seconds that a loop may stand still before it counts as blocked."""
CALM_LATENESS: Final = 0.2
"""Seconds that a timer may be late on a loop that is calm."""
CALM_TIME: Final = 2.0
"""Seconds of calm after which a loop that was blocked may have more work."""


@dataclass(frozen=True, slots=True)
class LoopLag:
    """Whether a pilot's loop keeps up, with hysteresis: one that was blocked is let have more only after some calm.

    A pilot that claims while its loop stands still holds tokens that nobody works, and starts them late.
    """

    blocked: bool = False
    calm_since: float | None = None
    """Monotonic seconds; None where it is not calm yet."""

    def after(self, now: float, lateness: float) -> LoopLag:
        """What is known after a timer was `lateness` seconds late, at `now` (monotonic seconds)."""
        if lateness > LAG_LIMIT:
            return LoopLag(blocked=True)
        if not self.blocked:
            return self
        if lateness > CALM_LATENESS:
            return LoopLag(blocked=True)
        since = now if self.calm_since is None else self.calm_since
        return LoopLag() if now - since >= CALM_TIME else LoopLag(blocked=True, calm_since=since)
