"""What must hold in a pool of apicas pilots, whatever happens: checked at every step, and at the end.

| invariant | what is checked |
|---|---|
| one live owner | no token is worked by two pilots while both reach the store; none is taken from a pilot that reaches it |
| stands down | who lost a token, and reaches the store, stops its work within half a lease |
| one commit | in one generation one outcome is written, by one claim |
| fence | who ends a claim, or beats it, writes over that claim; who claims, claims what is in todo |
| done stays | an outcome is not written over, except by a person |
| nothing lost | a token exists at all times, and ends; what was worked to its end is in the token, unless it was taken |
| counters grow | generation, scrub_count, crashes and releases never fall, except by a person's reset |
| releases are free | handing a token back charges it with nothing |
| every run ends | a pilot ends in time, and not by an error of its own |
| one version | in the end each document has one live version |

"Reaches the store" is meant literally: its requests get to a majority of the replicas and its answers come back. A
pilot that was stopped, cut off, or unlucky has a quarter of a lease from then on to beat again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from apicas.testing.history import Execution, History, Life, Listener
from apicas.testing.revisions import Revision
from apicas.testing.store import Write
from apicas.tokens import TokenState, annex, claim_of, count, generation_of, taken_from

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
        lease: the `lock_timeout` of the pilots, in seconds.
    """

    def __init__(self, history: History, lease: float) -> None:
        self.history = history
        self.violations: list[Violation] = []
        self._settle = lease / 4
        self._notice = lease / 2
        self._commits: dict[tuple[str, int], Write] = {}
        self._outcomes: dict[tuple[str, int], Any] = {}
        self._finals: dict[str, tuple[float, Revision]] = {}
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
        """For how many seconds a pilot has reached the store without trouble."""
        since = self.history.untroubled_since(life)
        return -1.0 if since is None else self.history.now() - since

    def _meddled_with(self, execution: Execution) -> bool:
        """Whether a person has touched the token since the work on it began."""
        return self.history.meddled.get(execution.token_id, -1.0) >= execution.began

    @override
    def began(self, execution: Execution) -> None:
        self._look_around()
        for other in self.history.working:
            if other is execution or other.token_id != execution.token_id or self._meddled_with(other):
                continue
            if min(self._reaches_for(other.pilot), self._reaches_for(execution.pilot)) >= self._settle:
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
            if execution.taken is None or self._reaches_for(execution.pilot) < self._notice:
                continue
            late = now - execution.taken - self._notice
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
                and self._reaches_for(execution.pilot) >= self._settle
            ):
                self.violate(
                    "one live owner",
                    f"{write.client} takes {execution.token_id} from {execution.pilot.name}, which works it",
                )

    # Writes. --------------------------------------------------------------------------------------------------------

    @override
    def stored(self, write: Write) -> None:
        before, after = write.revision.parent, write.revision
        if after.deleted:
            if not self.history.store.all_leaves(after.id) and write.client not in self.history.people:
                self.violate("nothing lost", f"{write.client} deletes the last version of {after.id}")
            return
        if before is None or before.deleted or write.client in self.history.people:
            return
        self._check_counters(write, before, after)
        self._check_fence(write, before, after)
        if before.state in _ENDED and annex(after.content).get("settled") != annex(before.content).get("settled"):
            self.violate("done stays", f"{write.client} writes over the {before.state} of {after.id}")

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
        elif claim is None and settled is not None and settled != annex(before.content).get("settled"):
            if settled not in {held, taken_from(before.content)}:
                self.violate("fence", f"{write.client} ends claim {settled} of {after.id}, which {held} holds")

    @override
    def decided(self, write: Write) -> None:
        self._check_robbery(write)
        self._look_around()
        after = write.revision
        if write.client in self.history.people:
            self._finals.pop(after.id, None)
            return
        if after.deleted or after.state not in _ENDED:
            return
        key = after.id, generation_of(after.content)
        settled = annex(after.content).get("settled")
        if key in self._commits and not (after.parent is not None and after.parent.state in _ENDED):
            self.violate(
                "one commit", f"{after.id} ends twice in generation {key[1]}, the second time by {write.client}"
            )
        elif self._outcomes.setdefault(key, settled) != settled:
            self.violate("one commit", f"{after.id} is ended by two claims in generation {key[1]}")
        self._commits[key] = write
        self._finals.setdefault(after.id, (self.history.now(), after))

    # The end. -------------------------------------------------------------------------------------------------------

    def finish(self, ids: Iterable[str]) -> None:
        """Check what must hold once faults have ended, all pilots are through, and replicas agree.

        Args:
            ids: of the tokens that were uploaded.
        """
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
        if at > meddled and annex(final.content).get("settled") != annex(shown.content).get("settled"):
            self.violate("done stays", f"{identifier} was {final.state}, and that outcome is gone")
        for execution in self.history.executions:
            if (
                execution.token_id == identifier
                and execution.outcome == "returned"
                and not execution.pilot.crashed
                and execution.began > meddled
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
