"""How often a token is tried again, and how long it waits; and how long anybody waits who asks in vain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from apicas.exceptions import ConfigError
from apicas.policies.leases import MAX_LEASE

if TYPE_CHECKING:
    from random import Random


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with jitter: attempt n waits up to `first * factor**n`, at most `most`, seconds."""

    first: float = 0.05
    factor: float = 2.0
    most: float = 30.0

    def delay(self, attempt: int, rng: Random) -> float:
        """Seconds to wait before attempt number `attempt`, which counts from 0."""
        ceiling = min(self.most, self.first * self.factor ** min(attempt, 60))
        return ceiling * (0.1 + 0.9 * rng.random())


def jittered(seconds: float, rng: Random) -> float:
    """Seconds, a tenth more or less, so that pilots which started together do not stay in step."""
    return seconds * (0.9 + 0.2 * rng.random())


def tries_again(scrub_count: int, max_scrub: int) -> bool:
    """Whether a failed token is sent back to todo: as long as that happened fewer than `max_scrub` times."""
    return scrub_count < max_scrub


MAX_CRASHES: Final = 3
"""Crashes that are forgiven. A charge is nearly a proof: the process that died had nothing else to do."""
MAX_VANISHED: Final = 10
"""Pilots that may vanish under a suspect which had a process of its own. Hardly its fault; but a token that takes down
whole nodes must come to an end."""
FREE_RELEASES: Final = 9
"""Releases after which a token is claimed again at once: a queue of short batch jobs hands back a few times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryDelays:
    """How long a token waits before it is claimed again, by what happened and how often that was.

    Each doubles with every time, with jitter, so that tokens which failed together do not come back together.

    Args:
        scrub: after a failure.
        crash: after its process died: what a node needs to get its memory back.
        release: after it was handed back unfinished more than FREE_RELEASES times. Releases have no limit, but pilots
            that cannot work a token should not pass it round all the time.
    """

    scrub: Backoff = Backoff(first=1.0, most=300.0)
    crash: Backoff = Backoff(first=5.0, most=900.0)
    release: Backoff = Backoff(first=1.0, most=60.0)

    @classmethod
    def of(cls, retry_delay: float) -> RetryDelays:
        """The delays for what the user set.

        Args:
            retry_delay: seconds after the first failure; the first crash is followed by five times as many; 0 for no
                wait after either.

        Raises:
            ConfigError: it is negative, or no number.
        """
        if not 0 <= retry_delay <= MAX_LEASE:
            raise ConfigError(f"retry_delay is {retry_delay:g} s; it is from 0 to {MAX_LEASE:g} s, a week")
        return cls(
            scrub=Backoff(first=retry_delay, most=max(retry_delay, cls().scrub.most)),
            crash=Backoff(first=5 * retry_delay, most=max(5 * retry_delay, cls().crash.most)),
        )

    def after_scrub(self, scrubs: int, rng: Random) -> float:
        """Seconds to wait after scrub number `scrubs`, which counts from 1."""
        return self.scrub.delay(scrubs - 1, rng)

    def after_crash(self, crashes: int, rng: Random) -> float:
        """Seconds to wait after crash number `crashes`, which counts from 1."""
        return self.crash.delay(crashes - 1, rng)

    def after_release(self, releases: int, rng: Random) -> float:
        """Seconds to wait after release number `releases`, which counts from 1."""
        return self.release.delay(releases - FREE_RELEASES - 1, rng) if releases > FREE_RELEASES else 0.0
