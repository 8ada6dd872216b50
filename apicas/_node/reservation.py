"""A reservation: what becomes free is kept for one token that has been passed over long enough.

Others may still start where they do not delay it: beside it, in what it does not ask for; or before it, if they are
over by the time at which it can start at the earliest. That time is fixed when the reservation is made, and never put
off: whatever comes after, the tokens that stand in its way are finitely many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from apicas._node.requests import Amounts, Request


@dataclass(frozen=True, slots=True)
class Expected:
    """When a running token gives back what.

    Args:
        at: seconds of the packer's clock; None where nobody knows.
        amounts: how much of what.
    """

    at: float | None
    amounts: Amounts


@dataclass(slots=True)
class Reservation:
    """What is kept for one token.

    Args:
        request: the token's.
        start: the time at which it can start if all others end as expected; None where nobody knows.
        beside: how much of what others may have although they may still run by then.
    """

    request: Request
    start: float | None
    beside: dict[str, int]
    _beside: dict[object, Amounts] = field(default_factory=dict)

    def allows(self, request: Request, seconds: float | None, now: float) -> bool:
        """Whether a token may start now. Whether there is enough free is another question."""
        return self.ends_before(seconds, now) or self.leaves_room(request)

    def ends_before(self, seconds: float | None, now: float) -> bool:
        """Whether a token that starts now and takes so long gives back what it has before that is needed."""
        return self.start is not None and seconds is not None and now + seconds <= self.start

    def leaves_room(self, request: Request) -> bool:
        """Whether a token may run beside the one that this is for."""
        return all(self.beside.get(name, 0) >= number for name, number in request.amounts)

    def started(self, key: object, request: Request, seconds: float | None, now: float) -> None:
        """A token that this allowed has started."""
        if not self.ends_before(seconds, now):
            self._beside[key] = request.amounts
            for name, number in request.amounts:
                self.beside[name] = self.beside.get(name, 0) - number

    def ended(self, key: object) -> None:
        """A token has ended."""
        for name, number in self._beside.pop(key, ()):
            self.beside[name] += number


def reserve(
    request: Request, has: Mapping[str, int], free: Mapping[str, int], running: Iterable[Expected]
) -> Reservation:
    """Make a reservation for a request that does not fit now, and fits if enough of the others end.

    Args:
        request: what is asked.
        has: how much there is.
        free: how much nobody has.
        running: what the others give back, and when.
    """
    then = dict(free)
    known = sorted((one for one in running if one.at is not None), key=lambda one: one.at or 0.0)
    for one in known:
        for name, number in one.amounts:
            then[name] += number
        if _fits(request, then):
            return Reservation(request, one.at, _without(then, request))
    return Reservation(request, None, _without(has, request))


def _fits(request: Request, free: Mapping[str, int]) -> bool:
    return all(free.get(name, 0) >= number for name, number in request.amounts)


def _without(amounts: Mapping[str, int], request: Request) -> dict[str, int]:
    return {name: number - request.of(name) for name, number in amounts.items()}
