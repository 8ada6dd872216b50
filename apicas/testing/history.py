"""What happened in a simulated pool: every write that a replica took, and who worked what from when to when.

    store = ReplicatedStore(3, seed=7)
    history = History(store)
    process = history.watched("pilot", actor.process_token)

The rules in `apicas.testing.invariants` are told of it while it happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from apicas.clients.port import SaveStatus
from apicas.testing.revisions import Replica, Revision
from apicas.testing.store import ReplicatedStore, Write
from apicas.testing.virtual import Group
from apicas.tokens import Token, annex, claim_of, count, generation_of, is_foreign_lock


@dataclass(slots=True, eq=False)
class Life:
    """One pilot, for those who look at it from outside."""

    name: str
    home: int
    lease: float
    """Its `lock_timeout`, in seconds."""
    group: Group | None = None
    crashed: bool = False
    ended: bool = False
    """Whether its run came to its end."""
    woken: float = 0.0
    """Loop seconds at which it began, or was last woken."""

    @property
    def runs(self) -> bool:
        """Whether its process runs just now."""
        return not self.crashed and not (self.group is not None and self.group.paused)


@dataclass(slots=True, eq=False)
class Execution:
    """One token, worked once."""

    pilot: Life
    token_id: str
    claim: str
    generation: int
    began: float
    """Loop seconds."""
    ended: float | None = None
    outcome: str = ""
    """How the work came to its end: `returned`, the name of what it raised, or `stopped`."""
    taken: float | None = None
    """When the store's document stopped being of this claim, by somebody else's write."""
    taken_by: str = ""


class Listener:
    """What wants to be told; override what matters."""

    def stored(self, write: Write) -> None:
        """A first replica took a write."""

    def decided(self, write: Write) -> None:
        """A majority of the replicas has taken a write: it is the one that happened on its revision."""

    def began(self, execution: Execution) -> None:
        """Work on a token begins."""

    def ended(self, execution: Execution) -> None:
        """Work on a token has come to its end, or its pilot has crashed."""

    def run_ended(self, life: Life) -> None:
        """A pilot has come to its end."""


@dataclass(slots=True)
class _Entry:
    time: float
    who: str
    text: Callable[[], str] | str


class History:
    """Records what happens.

    Args:
        store: what it happens in.
    """

    def __init__(self, store: ReplicatedStore) -> None:
        self.store = store
        self.people: set[str] = set()
        """The names of clients that are no apicas pilots: persons, scripts, PiCaS. Much is allowed to these."""
        self.lives: dict[str, Life] = {}
        self.executions: list[Execution] = []
        self.working: dict[Execution, None] = {}
        """What is being worked just now, in the order in which it began."""
        self.listeners: list[Listener] = []
        self.meddled: dict[str, float] = {}
        """When one of the people last wrote a token; loop seconds, by id."""
        self.kept: dict[tuple[str, str], float] = {}
        """What was put into an outbox, by token and claim, and when; see `saw_kept`."""
        self.entries: list[_Entry] = []
        store.observers.append(self)

    @staticmethod
    def now() -> float:
        """Loop seconds."""
        return asyncio.get_running_loop().time()

    # What pilots do. ------------------------------------------------------------------------------------------------

    def pilot(self, name: str, home: int = 0, *, lease: float = 60.0, group: Group | None = None) -> Life:
        """Announce a pilot.

        Args:
            name: of its client.
            home: the replica that its client is connected to.
            lease: its `lock_timeout`, in seconds.
            group: what it runs in, if it may be paused.
        """
        life = self.lives[name] = Life(name, home, lease, group, woken=self.now())
        return life

    def run_ended(self, name: str) -> None:
        """Note that a pilot's run came to its end: it holds nothing any more."""
        self.lives[name].ended = True
        for listener in self.listeners:
            listener.run_ended(self.lives[name])

    def run_began(self, name: str) -> None:
        """Note that a pilot that had ended runs again, as the same process."""
        self.lives[name].ended = False

    def paused(self, name: str) -> None:
        """Note that a pilot's process was stopped."""
        self.note(name, "is stopped")

    def woken(self, name: str) -> None:
        """Note that it goes on."""
        self.lives[name].woken = self.now()
        self.note(name, "wakes up")

    def crashed(self, name: str) -> None:
        """Note that a pilot is gone, and with it what it was working."""
        life = self.lives[name]
        life.crashed = True
        self.note(name, "crashes")
        for execution in [one for one in self.working if one.pilot is life]:
            self._end(execution, "crashed")

    def watched(self, name: str, process: Callable[[Token], Awaitable[Any]]) -> Callable[[Token], Awaitable[Any]]:
        """A coroutine function that works a token, and is seen doing it.

        Args:
            name: of the pilot; it is announced here if it has not been.
            process: works a token.
        """
        if name not in self.lives:
            self.pilot(name)
        life = self.lives[name]

        async def process_token(token: Token) -> Any:
            execution = self._begin(life, token)
            try:
                result = await process(token)
            except BaseException as error:
                cancelled = isinstance(error, (asyncio.CancelledError, GeneratorExit))
                self._end(execution, "stopped" if cancelled else type(error).__name__)
                raise
            self._end(execution, "returned")
            return result

        return process_token

    def _begin(self, life: Life, token: Token) -> Execution:
        execution = Execution(life, token.id, claim_of(token) or "", token.generation, self.now())
        self.note(life.name, f"begins with {token.id}, generation {execution.generation}")
        held = [leaf for replica in self.store.replicas for leaf in replica.leaves_of(token.id) if not leaf.deleted]
        if all(claim_of(leaf.content) != execution.claim for leaf in held):  # lost before it began
            execution.taken, execution.taken_by = execution.began, "?"
        self.executions.append(execution)
        self.working[execution] = None
        for listener in self.listeners:
            listener.began(execution)
        return execution

    def _end(self, execution: Execution, outcome: str) -> None:
        if execution.ended is not None:
            return
        for listener in self.listeners:
            listener.ended(execution)
        execution.ended, execution.outcome = self.now(), outcome
        self.working.pop(execution, None)
        self.note(execution.pilot.name, f"ends {execution.token_id}: {outcome}")

    def saw_kept(self, who: str, token_id: str, claim: str) -> None:
        """Note that an outcome was put into an outbox: from now on it is not to be lost, whatever happens to its pilot.

        Args:
            who: the pilot.
            token_id: the token.
            claim: the claim under which it was worked.
        """
        self.kept.setdefault((token_id, claim), self.now())
        self.note(who, f"keeps what came of {token_id}, claim {claim}")

    # What the store does. -------------------------------------------------------------------------------------------

    def written(self, write: Write, replica: Replica) -> None:
        """Told by the store: a replica took a write."""
        number = len(write.taken)
        if number == 1:
            if write.client in self.people:
                self.meddled[write.revision.id] = self.now()
            for listener in self.listeners:
                listener.stored(write)
        if number == self.store.majority:
            self._note_taken(write)
            for listener in self.listeners:
                listener.decided(write)
        self.entries.append(_Entry(self.now(), write.client, lambda: _write_text(write, replica)))

    def _note_taken(self, write: Write) -> None:
        """Note which executions have lost their token by this write."""
        for execution in self.working:
            if execution.token_id != write.revision.id or execution.taken is not None:
                continue
            after, parent = write.revision.content, write.revision.parent
            if parent is None or claim_of(parent.content) != execution.claim:
                continue  # on another branch of the tree, of which this claim is no part
            ours = claim_of(after) == execution.claim or annex(after).get("settled") == execution.claim
            if write.revision.deleted or not ours or (write.client in self.people and is_foreign_lock(after)):
                execution.taken, execution.taken_by = self.now(), write.client

    def answered(self, write: Write) -> None:
        """Told by the store: the coordinator knows what became of a write."""
        if write.status is not SaveStatus.WRITTEN:
            what = write.status.value if write.status else "?"
            self.note(write.client, f"is told {what} of {write.revision.id} {write.revision.rev}")

    # Reading it. ----------------------------------------------------------------------------------------------------

    def note(self, who: str, text: str) -> None:
        """Put a line into the history."""
        self.entries.append(_Entry(self.now(), who, text))

    def lines(self) -> list[str]:
        """The whole history, for people."""
        return [
            f"{entry.time:10.3f}  {entry.who:12}  {entry.text if isinstance(entry.text, str) else entry.text()}"
            for entry in self.entries
        ]

    # What listeners ask. --------------------------------------------------------------------------------------------

    def untroubled_since(self, life: Life) -> float | None:
        """Since when a pilot runs, reaches the store, and is answered; None where it does not just now."""
        if not life.runs or not self.store.has_quorum(life.name, life.home):
            return None
        return max(life.woken, self.store.troubled.get(life.name, 0.0))


def _write_text(write: Write, replica: Replica) -> str:
    revision = write.revision
    return f"writes {revision.id} {write.base or '-'} -> {revision.rev} at {replica.number}: {describe(revision)}"


def describe(revision: Revision) -> str:
    """A version of a token in a few words."""
    if revision.deleted:
        return "deleted"
    content = revision.content
    fields = annex(content)
    counters = [
        f"{name} {number}"
        for name, number in (
            ("scrubs", count(content.get("scrub_count"))),
            ("crashes", count(fields.get("crashes"))),
            ("releases", count(fields.get("releases"))),
        )
        if number
    ]
    ids = [f"{name} {fields[name]}" for name in ("claim", "settled", "taken") if name in fields]
    lock = [f"lock {content.get('lock')}"] if revision.state == "locked" else []
    return ", ".join([str(revision.state), f"generation {generation_of(content)}", *lock, *ids, *counters])
