"""What a pilot's keeper does, watched from outside: races lost, latencies, and when the last outcome was confirmed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from apicas._bench.latencies import Latencies
from apicas._runtime.keeping.claims import Claimed
from apicas._runtime.keeping.keeper import Keeper
from apicas._runtime.keeping.outcomes import Verdict
from apicas._runtime.keeping.settlements import Ending, Settlement
from apicas.tokens import Token

if TYPE_CHECKING:
    from apicas.clients.port import Traffic

MEASURED_WHOLE: Final = 2_000
"""Tokens up to which the latency of each is measured; of more, of every sixteenth, so that it costs nothing."""
_STRIDE: Final = 16


def counted(traffic: Traffic) -> tuple[int, int, int]:
    """Requests, bytes sent and bytes received so far."""
    return traffic.requests, traffic.sent, traffic.received


class Watch:
    """Watches one keeper.

    Args:
        keeper: of the pilot, which has claimed nothing yet.
        traffic: what its client counts.
        tokens: about how many there will be.
    """

    def __init__(self, keeper: Keeper, traffic: Traffic, tokens: int) -> None:
        self.latencies = Latencies()
        self.lost_races = 0
        self.last = 0.0
        """Monotonic seconds: when the last outcome so far was confirmed."""
        self.traffic = counted(traffic)
        """What had been asked of the store by then."""
        self._keeper, self._traffic = keeper, traffic
        self._stride = 1 if tokens <= MEASURED_WHOLE else _STRIDE
        self._next = 0
        self._claimed: dict[str, float] = {}
        self._claim, self._give_back = keeper.claim, keeper.give_back
        # Not by subclassing: whoever makes the keeper knows nothing of us.
        keeper.claim = self._watched_claim  # type: ignore[method-assign]
        keeper.give_back = self._watched_give_back  # type: ignore[method-assign]
        keeper.watch_endings(self._note_ending)

    async def _watched_claim(self, view: str, wanted: int) -> tuple[list[Token], Claimed]:
        tokens, claimed = await self._claim(view, wanted)
        now = time.monotonic()
        self.lost_races += claimed.lost
        for token in tokens[self._next :: self._stride]:
            self._claimed[token.id] = now
        self._next = (self._next - len(tokens)) % self._stride
        return tokens, claimed

    def _watched_give_back(self, token: Token, verdict: Verdict) -> Settlement | None:
        settlement = self._give_back(token, verdict)
        began = self._claimed.pop(token.id, None)
        if began is not None and settlement is not None:
            self._time(settlement, began)
        return settlement

    def _time(self, settlement: Settlement, began: float) -> None:
        tell = settlement.settled

        def settled(ending: Ending) -> None:
            if ending is Ending.DONE:
                self.latencies.add(time.monotonic() - began)
            if tell is not None:
                tell(ending)

        settlement.settled = settled

    def _note_ending(self, ending: Ending) -> None:
        if ending is not Ending.DONE:
            return
        self.last = time.monotonic()
        if self._traffic.requests != self.traffic[0]:
            self.traffic = counted(self._traffic)
