"""From a seed to a plan: tokens, pilots, and faults on a time line, as plain data that can be cut down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

LEASE = 20.0
"""Seconds; of all pilots."""
HORIZON = 5 * LEASE
"""Seconds after which nothing goes wrong any more."""
LATE = 15 * LEASE
"""Seconds after that when a last token comes to whoever waits for it."""
START = 2.0
"""Seconds until the tokens are in all replicas, and everything begins."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one try at a token does: sleeps, and then returns, raises, retries, fails or releases."""

    kind: str
    seconds: float


@dataclass(frozen=True, slots=True)
class TokenPlan:
    """A token, and what its work does the first time, the second time, and so on; the last of them for ever."""

    id: str
    at: float
    """When it is pushed."""
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class PilotPlan:
    """A pilot, when it starts, and the replica that it is connected to."""

    name: str
    home: int
    start: float
    workers: int
    lease: float = LEASE
    deaf: float = 0.0
    """The probability that it is not told of an arrival."""
    endless: bool = False
    """Whether it waits for work as long as there may be some, instead of ending by itself."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong, or that a person does.

    `target` is a pilot, a replica's number, or a token, as the kind calls for.
    """

    kind: str
    at: float
    target: str
    seconds: float = 0.0
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A case: what a seed stands for."""

    seed: int
    replicas: int
    hop: float
    """Seconds that a message between replicas takes."""
    spread: float
    """Seconds until a replica tells others what it has."""
    tokens: tuple[TokenPlan, ...]
    pilots: tuple[PilotPlan, ...]
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        many = "replica" if self.replicas == 1 else "replicas"
        times = f"{self.hop:g} s from one to the next, {self.spread:g} s until they agree"
        lines = [f"seed {self.seed}: {self.replicas} {many}; {times}"]
        lines += [
            f"  token {token.id}, at {token.at:g} s: "
            + ", then ".join(f"{attempt.kind} after {attempt.seconds:g} s" for attempt in token.attempts)
            for token in self.tokens
        ]
        lines += [
            f"  pilot {pilot.name}: from {pilot.start:g} s, {pilot.workers} workers, replica {pilot.home}, lease "
            f"{pilot.lease:g} s, hears {1 - pilot.deaf:.0%}"
            for pilot in self.pilots
        ]
        lines += [
            f"  at {fault.at:g} s {fault.kind} {fault.target}"
            + (f" for {fault.seconds:g} s" if fault.seconds else "")
            + (f", {fault.amount:g}" if fault.amount else "")
            for fault in self.faults
        ]
        return "\n".join(lines)


PILOT_FAULTS = (
    "crash", "crash known", "crash at write", "pause", "pause", "pause at write", "cut", "cut", "lost requests",
    "lost answers", "duplicates", "delays", "clock", "drain", "disk full",
)  # fmt: skip
REPLICA_FAULTS = ("pause replica", "stop replica", "split replica", "replica clock")
TOKEN_FAULTS = ("edit", "reset", "picas")
FAULT_KINDS = (*dict.fromkeys(PILOT_FAULTS), *REPLICA_FAULTS, *TOKEN_FAULTS)
_DEAFNESS = (0.0, 0.0, 0.5, 1.0)
_ENDINGS = ("return",) * 8 + ("raise", "retry", "fail", "release")


def make_plan(seed: int) -> Plan:
    """The plan of a seed."""
    rng = Random(f"plan {seed}")
    replicas = rng.choice((1, 3, 3))
    tokens = tuple(_token(rng, number) for number in range(rng.randint(1, 4)))
    ears = Random(f"ears {seed}")  # dice of their own: these came later, and old seeds are to stay what they were
    pilots = tuple(
        replace(_pilot(rng, number, replicas), deaf=ears.choice(_DEAFNESS)) for number in range(rng.randint(2, 4))
    )
    faults = sorted(
        (_fault(rng, replicas, tokens, pilots) for _ in range(rng.randint(1, 8))), key=lambda fault: fault.at
    )
    if last_pilot(seed).endless:
        tokens += (TokenPlan("late", HORIZON + LATE, (Attempt("return", 1.0),)),)
    return Plan(seed, replicas, rng.choice((0.002, 0.02, 0.1)), rng.choice((0.5, 0.5, 5.0)), tokens, pilots, (*faults,))


def last_pilot(seed: int) -> PilotPlan:
    """The one that works what is left when all faults are over. One that ends by itself, or one that hears nothing."""
    endless = seed % 4 == 3
    return PilotPlan("last", 0, 0.0, 3, deaf=float(endless), endless=endless)


def _token(rng: Random, number: int) -> TokenPlan:
    attempts = [Attempt(rng.choice(_ENDINGS), _duration(rng)) for _ in range(rng.randint(0, 2))]
    at = 0.0 if rng.random() < 0.6 else round(rng.uniform(0, HORIZON / 2), 2)
    return TokenPlan(f"t{number}", at, (*attempts, Attempt("return", _duration(rng))))


def _duration(rng: Random) -> float:
    """Of work: from nothing to some leases."""
    longest = rng.choice((0.1, 3.0, LEASE, 2 * LEASE, 3 * LEASE))
    return round(rng.uniform(0, longest), 3)


def _pilot(rng: Random, number: int, replicas: int) -> PilotPlan:
    start = 0.0 if rng.random() < 0.6 else round(rng.uniform(0, HORIZON / 2), 2)
    lease = rng.choice((LEASE,) * 6 + (LEASE / 2, LEASE * 2))
    return PilotPlan(f"p{number}", rng.randrange(replicas), start, rng.randint(1, 2), lease)


def _fault(rng: Random, replicas: int, tokens: tuple[TokenPlan, ...], pilots: tuple[PilotPlan, ...]) -> Fault:
    at = round(rng.uniform(0, HORIZON * 0.75), 3)
    longest = rng.choice((1.0, LEASE / 2, 3.5 * LEASE, 3.5 * LEASE))
    seconds = round(rng.uniform(longest / 3, longest), 3)
    family = rng.random()
    if family < 0.65:
        kind, target = rng.choice(PILOT_FAULTS), rng.choice(pilots).name
    elif family < 0.85:
        kind, target = rng.choice(REPLICA_FAULTS), str(rng.randrange(replicas))
    else:
        kind, target = rng.choice(TOKEN_FAULTS), rng.choice(tokens).id
    fault = Fault(kind, at, target, seconds)
    if kind in {"lost requests", "lost answers", "duplicates", "delays"}:
        return replace(fault, amount=round(rng.uniform(0.1, 0.6), 2))
    if kind in {"clock", "replica clock"}:
        return replace(fault, amount=round(rng.choice((-1, 1)) * rng.choice((1.0, LEASE, 3600.0)), 1))
    return fault
