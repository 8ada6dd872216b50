"""What must hold in a pool of apicas pilots, whatever happens: checked at every step, and at the end.

| invariant | what is checked |
|---|---|
| one live owner | no token is worked by two pilots while both reach the store, or taken from one that reaches it |
| stands down | who lost a token, and reaches the store, stops its work within half a lease |
| one commit | in one generation one outcome is written, by one claim |
| fence | who ends a claim, or beats it, writes over that claim; who claims, claims what is in todo |
| done stays | an outcome is not written over, except by a person |
| nothing lost | a token exists at all times, and ends; a finished result is in the token, unless that was taken |
| counters grow | generation, scrub_count, crashes and releases never fall, except by a person's reset |
| releases are free | handing a token back charges it with nothing |
| every run ends | a pilot ends in time, and not by an error of its own |
| one version | in the end each document has one live version |

"Reaches the store" is meant literally: its requests get to a majority of the replicas and its answers come back. A
pilot that was stopped, cut off, or unlucky has a quarter of a lease from then on to beat again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from apicas.testing.history import Execution, History, Life, Listener
from apicas.testing.revisions import Revision
from apicas.testing.store import Write
from apicas.tokens import TokenState, annex, claim_of, count, generation_of, is_foreign_lock, taken_from

INVARIANTS = (
    "one live owner",
    "stands down",
    "one commit",
    "fence",
    "done stays",
    "nothing lost",
    "counters grow",
    "releases are free",
    "every run ends",
    "one version",
)
SETTLES = 0.25
"""Leases after which a pilot that is reached again has beaten."""
NOTICES = 0.5
"""Leases after which it has noticed what it lost."""
_ENDED = {TokenState.DONE, TokenState.ERROR}


class ViolationError(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True, slots=True)
class Violation:
    """What was seen."""

    invariant: str
    """One of INVARIANTS."""
    time: float
    """Loop seconds."""
    text: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text} (at {self.time:.3f} s)"


class Invariants(Listener):
    """Watches a history.

    Args:
        history: what happens.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.violations: list[Violation] = []
        self._commits: dict[tuple[str, int], Write] = {}
        self._outcomes: dict[tuple[str, int], Any] = {}
        self._settled: set[tuple[str, str]] = set()
        """Tokens and claims of which some replica has had an outcome."""
        self._finals: dict[str, tuple[float, Revision]] = {}
        self._by_people: set[tuple[str, str]] = set()
        """Ids and revisions of what people, and PiCaS, have written."""
        self._claimed: dict[tuple[str, str], float] = {}
        """When a claim of a token was first stored: a pilot that is stopped then begins with its work much later."""
        history.listeners.append(self)

    def violate(self, invariant: str, text: str) -> None:
        """Note that something does not hold."""
        assert invariant in INVARIANTS
        violation = Violation(invariant, self.history.now(), text)
        self.violations.append(violation)
        self.history.note("VIOLATION", str(violation))

    def check(self) -> None:
        """Raise the first violation.

        Raises:
            ViolationError: there is one.
        """
        if self.violations:
            raise ViolationError(str(self.violations[0]))

    # Owners. --------------------------------------------------------------------------------------------------------

    def _reaches_for(self, life: Life) -> float:
        """For how long a pilot has reached the store without trouble, in leases of its own."""
        since = self.history.untroubled_since(life)
        return -1.0 if since is None else (self.history.now() - since) / life.lease

    def _shared_an_outage(self, life: Life, other: str) -> bool:
        """Whether nothing was wrong with a pilot itself: the store was away, for it and for another one alike."""
        rival = self.history.lives.get(other)
        alone = max(life.woken, self.history.store.singled_out.get(life.name, 0.0))
        return (
            len(self.history.store.replicas) == 1
            and rival is not None
            and life.runs
            and self.history.now() - alone > 2 * max(life.lease, rival.lease)
        )

    def _meddled_with(self, execution: Execution) -> bool:
        """Whether a person has touched the token since the work on it began."""
        return self.history.meddled.get(execution.token_id, -1.0) >= execution.began

    @override
    def began(self, execution: Execution) -> None:
        self._look_around()
        for other in self.history.working:
            if other is execution or other.token_id != execution.token_id or self._meddled_with(other):
                continue
            if min(self._reaches_for(other.pilot), self._reaches_for(execution.pilot)) >= SETTLES:
                self.violate(
                    "one live owner",
                    f"{execution.pilot.name} begins with {execution.token_id}, which {other.pilot.name} works",
                )

    @override
    def ended(self, execution: Execution) -> None:
        self._look_around()

    def _look_around(self) -> None:
        """See who still works what is not theirs any more."""
        now = self.history.now()
        for execution in self.history.working:
            if execution.taken is None or self._reaches_for(execution.pilot) < NOTICES:
                continue
            late = now - execution.taken - NOTICES * execution.pilot.lease
            if late > 0:
                execution.taken = None  # said once
                self.violate(
                    "stands down",
                    f"{execution.pilot.name} works {execution.token_id}, which {execution.taken_by} took from it; it "
                    f"should have stopped {late:.1f} s ago",
                )

    def _check_robbery(self, write: Write) -> None:
        """Nobody but a person takes a token from a pilot that works it and reaches the store."""
        for execution in self.history.working:
            if (
                execution.taken == self.history.now()
                and execution.taken_by == write.client
                and execution.token_id == write.revision.id
                and write.client != execution.pilot.name
                and not self._meddled_with(execution)
                and (
                    self._reaches_for(execution.pilot) >= SETTLES
                    or self._shared_an_outage(execution.pilot, write.client)
                )
            ):
                self.violate(
                    "one live owner",
                    f"{write.client} takes {execution.token_id} from {execution.pilot.name}, which works it",
                )

    @override
    def run_ended(self, life: Life) -> None:
        self._look_around()
        if self._reaches_for(life) < SETTLES:
            return
        for execution in self.history.executions:
            is_kept = (execution.token_id, execution.claim) in self.history.kept
            if execution.pilot is life and execution.outcome == "returned" and not is_kept and self._is_held(execution):
                self.violate("nothing lost", f"{life.name} ends, and {execution.token_id}, which it worked, is locked")

    def _is_held(self, execution: Execution) -> bool:
        """Whether the store still takes a token for being worked."""
        leaves = self.history.store.all_leaves(execution.token_id)
        return bool(leaves) and all(
            claim_of(leaf.content) == execution.claim and not is_foreign_lock(leaf.content) for leaf in leaves
        )

    def _check_waste(self, write: Write) -> None:
        """Nobody needs to take a token whose pilot has long worked it to its end, and reaches the store."""
        claim = taken_from(write.revision.content)
        for execution in self.history.executions if claim is not None else ():
            if (
                execution.claim == claim
                and execution.outcome == "returned"
                and execution.ended is not None
                and not execution.pilot.ended
                and self.history.now() - execution.ended > NOTICES * execution.pilot.lease
                and self._reaches_for(execution.pilot) >= NOTICES
            ):
                self.violate(
                    "nothing lost",
                    f"{write.client} takes {execution.token_id}, which {execution.pilot.name} worked to its end "
                    f"{self.history.now() - execution.ended:.1f} s ago",
                )

    # Writes. --------------------------------------------------------------------------------------------------------

    @override
    def stored(self, write: Write) -> None:
        before, after = write.revision.parent, write.revision
        self._settled.add((after.id, annex(after.content).get("settled", "")))
        claim = claim_of(after.content)
        if claim is not None:
            self._claimed.setdefault((after.id, claim), self.history.now())
        if write.client in self.history.people:
            self._by_people.add((after.id, after.rev))
        if after.deleted:
            if not self.history.store.all_leaves(after.id) and write.client not in self.history.people:
                self.violate("nothing lost", f"{write.client} deletes the last version of {after.id}")
            return
        if before is None or before.deleted or write.client in self.history.people:
            return
        settled = annex(after.content).get("settled")
        late = before.state is TokenState.ERROR and settled is not None and settled == taken_from(before.content)
        if before.state in _ENDED and settled != annex(before.content).get("settled") and not late:
            self.violate("done stays", f"{write.client} writes over the {before.state} of {after.id}")
        self._check_counters(write, before, after)
        self._check_fence(write, before, after)

    def _check_counters(self, write: Write, before: Revision, after: Revision) -> None:
        old, new = _counters(before), _counters(after)
        fallen = [name for name in old if new[name] < old[name]]
        if fallen:
            self.violate("counters grow", f"{write.client} sets {', '.join(fallen)} of {after.id} back")
        if new["releases"] > old["releases"] and (
            new["crashes"] > old["crashes"] or new["scrub_count"] > old["scrub_count"]
        ):
            self.violate("releases are free", f"{write.client} charges {after.id} for a release")

    def _check_fence(self, write: Write, before: Revision, after: Revision) -> None:
        held, claim = claim_of(before.content), claim_of(after.content)
        settled = annex(after.content).get("settled")
        if claim is not None and claim != held and before.state is not TokenState.TODO:
            self.violate("fence", f"{write.client} claims {after.id}, which is {before.state}")
        ends = settled is not None and settled != annex(before.content).get("settled")
        # A claim that was cut short is handed back, also where it never arrived: from todo to todo, no harm is done.
        never_held = before.state is after.state is TokenState.TODO
        if ends and not never_held and settled not in {held, taken_from(before.content)}:
            self.violate("fence", f"{write.client} ends claim {settled} of {after.id}, which {held} holds")

    @override
    def decided(self, write: Write) -> None:
        self._check_robbery(write)
        self._check_waste(write)
        self._look_around()
        after = write.revision
        if write.client in self.history.people:
            self._finals.pop(after.id, None)
            return
        if after.deleted or after.state not in _ENDED:
            return
        key = after.id, generation_of(after.content)
        settled = annex(after.content).get("settled")
        before = self._commits.get(key)
        if before is not None and after in _line_of(before.revision):
            return  # it arrived late at a replica: the pilot has written on it since
        if before is not None and not (after.parent is not None and after.parent.state in _ENDED):
            self.violate(
                "one commit", f"{after.id} ends twice in generation {key[1]}, the second time by {write.client}"
            )
        elif self._outcomes.setdefault(key, settled) != settled:
            self.violate("one commit", f"{after.id} is ended by two claims in generation {key[1]}")
        self._commits[key] = write
        self._finals.setdefault(after.id, (self.history.now(), after))

    # The end. -------------------------------------------------------------------------------------------------------

    def finish(self, ids: Iterable[str], aside: Collection[tuple[str, str]] = ()) -> None:
        """Check what must hold once faults have ended, all pilots are through, and replicas agree.

        Args:
            ids: of the tokens that were uploaded.
            aside: tokens and claims whose outcomes an outbox has among those that are lost: somebody else was quicker.
        """
        for token_id, claim in self.history.kept:
            if (token_id, claim) not in self._settled and (token_id, claim) not in aside:
                self.violate("nothing lost", f"what was kept of {token_id} under {claim} is neither written nor aside")
        for identifier in ids:
            leaves = self.history.store.all_leaves(identifier)
            if not leaves:
                self.violate("nothing lost", f"{identifier} is gone")
                continue
            if len(leaves) > 1:
                self.violate("one version", f"{identifier} has {len(leaves)} live versions")
            self._check_end(identifier, leaves[0])

    def _check_end(self, identifier: str, shown: Revision) -> None:
        if shown.state not in _ENDED:
            self.violate("nothing lost", f"{identifier} is {shown.state} in the end")
        meddled = self.history.meddled.get(identifier, -1.0)
        at, final = self._finals.get(identifier, (-1.0, shown))
        # A result that came to light beside an error, on a replica that was cut off, is better than the error.
        better = final.state is TokenState.ERROR and shown.state is TokenState.DONE
        gone = annex(final.content).get("settled") != annex(shown.content).get("settled")
        # Nor is one better than what a person wrote on the other branch, whichever came first.
        theirs = {one.rev for one in _line_of(shown)} - {one.rev for one in _line_of(final)}
        is_theirs = any((identifier, rev) in self._by_people for rev in theirs)
        if at > meddled and gone and not better and not is_theirs:
            self.violate("done stays", f"{identifier} was {final.state}, and that outcome is gone")
        for execution in self.history.executions:
            if (
                execution.token_id == identifier
                and execution.outcome == "returned"
                and not execution.pilot.crashed
                and self._claimed.get((identifier, execution.claim), execution.began) > meddled
                and annex(shown.content).get("settled") != execution.claim
                and generation_of(shown.content) <= execution.generation
            ):
                self.violate(
                    "nothing lost",
                    f"{execution.pilot.name} worked {identifier} to its end, nobody took it, and its result is lost",
                )


def _counters(revision: Revision) -> dict[str, int]:
    fields = annex(revision.content)
    return {
        "generation": generation_of(revision.content),
        "scrub_count": count(revision.content.get("scrub_count")),
        "crashes": count(fields.get("crashes")),
        "releases": count(fields.get("releases")),
    }


def _line_of(revision: Revision) -> Iterator[Revision]:
    """A revision and those that it was written over."""
    found: Revision | None = revision
    while found is not None:
        yield found
        found = found.parent
