"""A pilot of the model: what apicas does, decided by apicas.policies, with requests that only take time.

It follows apicas._runtime: pilot (how many to claim, and when), claims, committer, heartbeat, reaper, and the end of a
run in iterators. What differs is in `Rules`, so that another rule can be tried beside that of today.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Final, Literal, TypeAlias

from apicas._runtime.feeder import UNSTARTED_LIMIT
from apicas._runtime.keeping.committer import GATHER_MOST, GATHER_TIME, GATHER_WITHIN, MAX_BATCH
from apicas._runtime.room import RATE_TIME
from apicas.clients.couch.pulse import may_follow
from apicas.clients.couch.stretches import MANY_LOST
from apicas.iterators.iterator import IDLE_POLL
from apicas.iterators.views import SAFETY_LOOK
from apicas.policies.claiming import (
    CLAIM_PORTION,
    MAX_CLAIM,
    Portion,
    Spread,
    choose,
    claim_ahead,
    linger_pause,
    window_size,
    with_slack,
)
from apicas.policies.leases import LeaseTimes
from apicas.policies.retries import Backoff, jittered
from benchmarks.scaling.engine import Engine, Process, Signal
from benchmarks.scaling.pool import Tokens
from benchmarks.scaling.server import Cores, CouchModel
from benchmarks.scaling.walk import Request, Walk

Duration: TypeAlias = Callable[[Random], float]

_LOOKS: Final = Backoff(first=0.05, most=IDLE_POLL)
"""Pauses between looks at a view of which no feed tells."""
PAGE = 500
"""Locked tokens in one request of a sweep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the pilots of a case do; the defaults are what apicas does.

    Args:
        view: where claims look: they `walk` along neighbours from a random rank of Monitor/todo, or choose from its
            `head`, as they did before.
        ahead_seconds: of work to claim ahead, whatever it comes to in tokens; None for apicas.policies.claiming.
        commit_pause: seconds for which outcomes gather before they are written.
        beat_jitter: whether looks for old locks are spread by a tenth.
        sweep: looks at `all` locked tokens of a pool, at those whose lock is `due`, or `none`.
        linger: whether those who linger at the end look at the locks of others the less often the more these are, or
            at intervals of up to 10 s however many.
        feeds: whether those who linger follow the feed of arrivals: `all` of them; those that apicas lets, on a busy
            pool `few`; or `none`.
    """

    view: Literal["head", "walk"] = "walk"
    ahead_seconds: float | None = None
    commit_pause: float = 0.0
    beat_jitter: bool = False
    sweep: Literal["all", "due", "none"] = "all"
    linger: Literal["locks", "often"] = "locks"
    feeds: Literal["all", "few", "none"] = "few"


@dataclass(slots=True)
class Tally:
    """What all pilots of a case did together, since the last reset."""

    ended: int = 0
    won: int = 0
    lost: int = 0
    read: int = 0
    """Bodies that claims read."""
    busy: float = 0.0
    """Seconds of work that were begun."""
    latencies: list[float] = field(default_factory=list)
    """Seconds of a claim that won something, from the first request to the last answer."""
    beats: int = 0
    oldest: float = 0.0
    """Seconds: the age of the oldest lock when it was refreshed, or its token done."""
    late_beats: int = 0
    """Beats that were given up for their time."""
    empty_looks: int = 0
    sweeps: int = 0


@dataclass(slots=True, kw_only=True)
class Setting:
    """What the pilots of a case share.

    Args:
        server: of the pool.
        tokens: in it.
        tally: where they count.
        duration: draws the seconds of a token.
        residual: draws the seconds that are left of one that has been worked for a while.
        pilot_token: seconds of a core for a token in its pilot.
        cores: where pilots run on the server's own; None for a core each.
    """

    engine: Engine
    server: CouchModel
    tokens: Tokens
    tally: Tally
    duration: Duration
    residual: Duration
    workers: int
    lease: float
    rules: Rules
    pilot_token: float
    cores: Cores | None = None
    lingers: bool = True


class Pilot:
    """One pilot.

    Args:
        setting: what it shares with others.
        seed: of its dice.
    """

    def __init__(self, setting: Setting, seed: str) -> None:
        self._at = setting
        self._engine = setting.engine
        self._rng = Random(seed)
        self._times = LeaseTimes(lease=setting.lease)
        self._cores = setting.cores or Cores(setting.engine, 1)
        self._spread = Spread()
        self._portion = Portion()
        self._walk = Walk(setting.engine, setting.server, setting.tokens, self._ask, self._note_read)
        self._idle = setting.workers
        self._stock: deque[tuple[int, float]] = deque()
        self._rate = 0.0
        self._rate_of = (0.0, 0)
        self._ended = 0
        self._changed = Signal(setting.engine)
        self._changed_beside = Signal(setting.engine)
        self._came_back = Signal(setting.engine)
        self._follows: bool | None = None
        """Whether it follows the feed of arrivals; None where it has not asked to."""
        self._lingers_since: float | None = None
        self._looks = 0
        """Looks since something was won."""
        self._asked = 0
        self._is_plenty = False
        self._under_way: set[int] = set()
        self._outcomes: list[int] = []
        self._arrived = Signal(setting.engine)
        self._held: dict[int, float] = {}
        """When the lock was written that the store has, by token."""
        self._oldest = 0.0
        self.is_over = False

    def start(self, at: float = 0.0, *, rate: float = 0.0) -> None:
        """Begin, with all that runs beside each other in a pilot.

        Args:
            at: seconds.
            rate: tokens per second, for a pilot that has been at work for long: its first tokens end at any time, and
                its first sweep comes at any time; 0 for one that has just come.
        """
        self._rate, self._rate_of = rate, (at, 0)
        for process in (self._feed(), self._feed_beside(), self._commit(), self._beat()):
            self._engine.start(process, at)
        if rate:
            self._have_begun(at)
        self._engine.start(self._sweep_for_ever(), at + (self._times.sweep * self._rng.random() if rate else 0.0))

    def _have_begun(self, at: float) -> None:
        """Have a token for each worker from the start, its lock written at any time since the last beat."""
        tokens, rng, heartbeat = self._at.tokens, self._rng, self._times.heartbeat
        free = tokens.stretch(rng.random() * 0.9, self._at.workers)
        if len(free) < self._at.workers:
            free = tokens.head(self._at.workers)
        for token in tokens.lock(free, at):
            self._held[token] = at - heartbeat * rng.random()
            self._idle -= 1
            self._engine.call_at(at + self._at.residual(rng), self._end, token)
        self._oldest = min(self._held.values(), default=at)

    @property
    def oldest_lock(self) -> float:
        """When the oldest of its locks was written; in the future where it holds nothing."""
        return min(self._held.values(), default=inf)

    @property
    def working(self) -> int:
        """Workers that have a token."""
        return self._at.workers - self._idle

    # Claims; see apicas._runtime.pilot and claims. ------------------------------------------------------------------

    def _wanted(self) -> int:
        self._measure_rate()
        ahead = self._ahead()
        buffered, workers = len(self._stock) + self._asked, self._at.workers
        wanted = self._idle + ahead - buffered
        return min(wanted, CLAIM_PORTION) if buffered < self._idle or wanted * 4 >= workers + ahead else 0

    def _ahead(self) -> int:
        seconds = self._at.rules.ahead_seconds
        if seconds is None:
            return claim_ahead(self._rate, self._at.workers, None)
        return int(min(self._rate * seconds, MAX_CLAIM))

    def _measure_rate(self) -> None:
        now = self._engine.now
        since, ended = self._rate_of
        if self._ended - ended >= self._at.workers and now - since >= RATE_TIME:
            latest = (self._ended - ended) / (now - since)
            self._rate += (latest - self._rate) * (min(1.0, now - since) if self._rate else 1.0)
            self._rate_of = (now, self._ended)

    def _feed(self) -> Process:
        while not self.is_over:
            wanted = self._wanted()
            if wanted <= 0:
                yield self._changed.wait(UNSTARTED_LIMIT / 2)
                self._hand_back(self._engine.now - UNSTARTED_LIMIT)
            elif (yield from self._claim_and_take(wanted)):
                self._follows, self._lingers_since, self._looks = None, None, 0
            elif self._held or self._asked:
                yield from self._wait_for_return()
            else:
                yield from self._linger()

    def _wait_for_return(self) -> Process:
        """Wait until nothing is held any more, a claim has come back, or it is time to look at the view again."""
        follows = self._may_follow()
        self._looks += 1
        most = jittered(SAFETY_LOOK, self._rng) if follows else _LOOKS.delay(self._looks - 1, self._rng)
        self._came_back = Signal(self._engine)
        self._at.server.feeds += follows
        yield self._came_back.wait(most)
        self._at.server.feeds -= follows

    def _may_follow(self) -> bool:
        """Whether the feed of arrivals is followed; what is written is taken to be nothing but beats."""
        if self._follows is None:
            feeds, beats = self._at.rules.feeds, self._at.tokens.locked / self._times.heartbeat
            self._follows = feeds == "all" or (feeds == "few" and may_follow(beats, self._rng))
        return self._follows

    def _feed_beside(self) -> Process:
        """A second claim under way, as long as claims bring all that was asked for."""
        while not self.is_over:
            wanted = self._wanted() if self._asked and self._is_plenty else 0
            if wanted > 0:
                yield from self._claim_and_take(wanted)
            else:
                yield self._changed_beside.wait(UNSTARTED_LIMIT / 2)

    def _claim_and_take(self, wanted: int) -> Process:
        self._asked += wanted
        self._tell_feeders()
        won = yield from self._claim(wanted)
        self._asked -= wanted
        self._is_plenty = len(won) == wanted
        self._came_back.set()
        self._take(won)
        return len(won)

    def _tell_feeders(self) -> None:
        self._changed.set()
        self._changed_beside.set()

    def _claim(self, wanted: int) -> Process:
        """Claim until something is won, or a fresh view is empty."""
        backoff, attempt, tally = Backoff(first=0.02, most=2.0), 0, self._at.tally
        began = self._engine.now
        while True:
            won, listed = yield from self._try_claim(min(wanted, MAX_CLAIM))
            if won:
                tally.latencies.append(self._engine.now - began)
                return won
            if not listed:
                tally.empty_looks += 1
                return won
            yield backoff.delay(attempt, self._rng)
            attempt += 1

    def _try_claim(self, wanted: int) -> Process:
        """Claim once; answers with what was won, and with how many tokens were seen that others may have."""
        tokens, tally, began = self._at.tokens, self._at.tally, self._engine.now
        walks = self._at.rules.view == "walk"
        if walks:
            wanted = self._walk.stretches.portion(min(wanted, self._portion.size))
        window, place = window_size(wanted, self._spread.factor), self._rng.random()
        look = self._walk.sample(wanted, place, window) if walks else self._look_at_head(wanted, place, window)
        rows: list[int] = yield from look
        listed = [token for token in rows if token not in self._held and token not in self._under_way]
        chosen = choose([token for token in listed if tokens.is_todo(token)], wanted, self._rng)
        if not chosen:
            return [], len(listed)
        won: list[int] = yield from self._lock(chosen)
        lost = len(chosen) - len(won)
        if walks and len(chosen) < MANY_LOST * lost:
            self._walk.stretches.leave()
        tally.won += len(won)
        tally.lost += lost
        self._spread = self._spread.after(len(won), lost)
        self._portion = self._portion.after(wanted, lost, self._engine.now - began)
        return won, len(listed)

    def _lock(self, chosen: list[int]) -> Process:
        server, tokens, sent = self._at.server, self._at.tokens, self._engine.now
        won: list[int] = []

        def swap() -> None:
            won.extend(tokens.lock(chosen, self._engine.now))

        self._under_way.update(chosen)
        yield from self._ask(lambda done: server.write(len(chosen), swap, done))
        self._under_way.difference_update(chosen)
        self._held.update(dict.fromkeys(won, sent))
        self._oldest = min(self._oldest, sent) if len(self._held) > len(won) else sent
        return won

    def _look_at_head(self, wanted: int, place: float, window: int) -> Process:
        """Tokens from a window at the beginning of the view."""
        server, tokens, limit = self._at.server, self._at.tokens, with_slack(wanted)
        rows: list[int] = []

        def look() -> int:
            rows.extend(tokens.head(max(window, limit)))
            return len(rows)

        yield from self._ask(lambda done: server.rows(look, done))
        start = int(place * len(rows))
        rows = (rows[start:] + rows[:start])[:limit]
        if rows:
            yield from self._ask(lambda done: server.bodies(len(rows), done))
            self._note_read(len(rows))
        return rows

    def _note_read(self, bodies: int) -> None:
        self._at.tally.read += bodies

    def _ask(self, request: Request) -> Process:
        """Send a request; while the server is away, again and again."""
        backoff, attempt = Backoff(first=0.1, most=5.0), 0
        while self._at.server.down:
            yield backoff.delay(attempt, self._rng)
            attempt += 1
        yield request

    # Work. ----------------------------------------------------------------------------------------------------------

    def _take(self, won: list[int]) -> None:
        now = self._engine.now
        self._stock.extend((token, now) for token in won)
        self._begin()

    def _begin(self) -> None:
        """Give waiting tokens to idle workers. Those that take no time are worked through in one go."""
        instant: list[int] = []
        duration, rng, tally, now = self._at.duration, self._rng, self._at.tally, self._engine.now
        while self._stock and (self._idle or instant):
            token, _ = self._stock.popleft()
            seconds = duration(rng)
            tally.busy += seconds
            if seconds:
                self._idle -= 1
                self._engine.call_at(now + seconds, self._end, token)
            else:
                instant.append(token)
        if instant:
            self._idle -= min(self._idle, len(instant))
            self._cores.run(len(instant) * self._at.pilot_token, lambda: self._end_all(instant))

    def _end_all(self, tokens: list[int]) -> None:
        self._idle = self._at.workers
        self._ended += len(tokens)
        self._outcomes += tokens
        self._begin()
        self._arrived.set()
        self._tell_feeders()

    def _end(self, token: int) -> None:
        self._idle += 1
        self._ended += 1
        self._outcomes.append(token)
        self._begin()
        self._arrived.set()
        self._tell_feeders()

    def _hand_back(self, before: float) -> None:
        unstarted = []
        while self._stock and self._stock[0][1] < before:
            unstarted.append(self._stock.popleft()[0])
        if unstarted:
            for token in unstarted:
                del self._held[token]
            self._at.server.write(len(unstarted), lambda: self._at.tokens.release(unstarted), lambda: None)

    # Outcomes, beats and sweeps; see apicas._runtime.keeping.committer, heartbeat and reaper. -----------------------

    def _commit(self) -> Process:
        server, tokens, tally = self._at.server, self._at.tokens, self._at.tally
        wrote = -inf
        while True:
            if not self._outcomes:
                yield self._arrived.wait()
                if self._at.rules.commit_pause:
                    yield self._at.rules.commit_pause
            if len(self._outcomes) < GATHER_MOST and self._engine.now - wrote < GATHER_WITHIN:
                yield GATHER_TIME
            batch, self._outcomes = self._outcomes[:MAX_BATCH], self._outcomes[MAX_BATCH:]
            if not batch:
                continue
            wrote, locked = self._engine.now, [self._held[token] for token in batch]
            yield from self._ask(
                lambda done, batch=batch, locked=locked: server.write(  # type: ignore[misc]
                    len(batch), lambda: tokens.finish(batch), done, kind="commit", earlier=locked
                )
            )
            now = self._engine.now
            tally.oldest = max(tally.oldest, now - min(map(self._held.__getitem__, batch)))
            for token in batch:
                del self._held[token]
            tally.ended += len(batch)
            if not self._held:
                self._came_back.set()

    def _beat(self) -> Process:
        look, age = min(self._times.heartbeat / 10, 5.0), self._times.heartbeat
        server, tally = self._at.server, self._at.tally
        while not self.is_over:
            if self._held and self._engine.now - self._oldest >= age:
                sent, outcomes = self._engine.now, set(self._outcomes)
                due = [one for one, at in self._held.items() if sent - at >= age and one not in outcomes]
                for start in range(0, len(due), 1000):
                    number = len(due[start : start + 1000])
                    yield from self._ask(
                        lambda done, number=number: server.write(number, lambda: None, done, kind="beat")  # type: ignore[misc]
                    )
                    tally.beats += number
                tally.late_beats += self._engine.now - sent > self._times.beat_retry
                for token in due:
                    if token in self._held:
                        tally.oldest = max(tally.oldest, self._engine.now - self._held[token])
                        self._held[token] = sent
                self._oldest = min(self._held.values(), default=self._engine.now)
            yield jittered(look, self._rng) if self._at.rules.beat_jitter else look

    def _sweep_for_ever(self) -> Process:
        while not self.is_over and self._at.rules.sweep != "none":
            yield from self._sweep()
            yield jittered(self._times.sweep, self._rng)

    def _sweep(self) -> Process:
        """Look at the locked tokens, page by page; answers with how many they were."""
        server, tally = self._at.server, self._at.tally
        tally.sweeps += 1
        looked = left = self._at.tokens.locked if self._at.rules.sweep == "all" else 0
        while True:
            page = min(PAGE, left)
            yield from self._ask(lambda done, page=page: server.rows(page, done))  # type: ignore[misc]
            if page:
                yield from self._ask(lambda done, page=page: server.bodies(page, done))  # type: ignore[misc]
            left -= PAGE
            if left <= 0:
                return looked

    # The end; see apicas.iterators. ---------------------------------------------------------------------------------

    def _linger(self) -> Process:
        """Wait until no other pilot can lose a token any more, or there is one to claim."""
        if not self._at.lingers:
            self.is_over = True
            return
        tokens, now = self._at.tokens, self._engine.now
        began = self._lingers_since = now if self._lingers_since is None else self._lingers_since
        follows = self._may_follow()
        self._at.server.feeds += follows
        while tokens.locked and not tokens.todo:
            looked: int = yield from self._sweep()
            # Each holder has been seen to beat once a heartbeat has gone by.
            if self._engine.now - began > self._times.heartbeat * 1.2:
                break
            yield self._pause(looked)
            if not follows:
                return  # nothing would say that a token came: the view is looked at
        self._at.server.feeds -= follows
        if not tokens.todo:
            yield from self._try_claim(self._at.workers)
            self.is_over = not tokens.todo

    def _pause(self, looked: int) -> float:
        """Seconds until the next look at the locks of others."""
        self._looks += 1
        sweep, often = jittered(self._times.sweep, self._rng), _LOOKS.delay(self._looks - 1, self._rng)
        return linger_pause(often, looked, sweep) if self._at.rules.linger == "locks" else min(often, sweep)
