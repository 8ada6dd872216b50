"""What the pool itself remembers of outcomes: every write of a token that was, or became, done or in error.

A SQLite pool gets a table and a trigger of the benchmark's own, before the pilots start. A CouchDB keeps the bodies of
older revisions until it compacts, so there they are read at the end.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apicas.tokens import TokenState, generation_of, state_of
from benchmarks.chaos.couch import Address

_CLOSED = {TokenState.DONE, TokenState.ERROR}
_PAGE = 500

_TRIGGER = """
CREATE TABLE chaos_outcomes (
    number INTEGER PRIMARY KEY, id TEXT, before TEXT, after TEXT, generation INTEGER, output TEXT
);
CREATE TRIGGER chaos_outcomes AFTER UPDATE ON tokens
WHEN old.state IN ('done', 'error') OR new.state IN ('done', 'error')
BEGIN
    INSERT INTO chaos_outcomes (id, before, after, generation, output) VALUES (
        new.id, old.state, new.state,
        json_extract(new.body, '$.apicas.generation'), json_extract(new.body, '$.output')
    );
END;
"""


@dataclass(frozen=True, slots=True)
class Write:
    """One write of a token that was closed before it or after it."""

    state: str
    generation: int
    output: Any
    """What is stored as the result; of no meaning in a token that is in error."""

    @property
    def closed(self) -> bool:
        """Whether the token was done or in error."""
        return self.state in _CLOSED


@dataclass(slots=True)
class Audit:
    """What the outcomes of a run show."""

    committed: set[str] = field(default_factory=set)
    """Executions whose result was written."""
    double: list[str] = field(default_factory=list)
    """Tokens with more than one outcome by apicas pilots in one generation."""
    reopened: list[str] = field(default_factory=list)
    """Tokens that were done and then not."""
    unknown: list[str] = field(default_factory=list)
    """Tokens whose result is of no finished execution."""
    overwritten_by_picas: int = 0
    unseen: int = 0
    """Older revisions that the server has forgotten."""


def watch_sqlite(path: Path) -> None:
    """Have a SQLite pool note every outcome."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(_TRIGGER)


def sqlite_writes(path: Path) -> dict[str, list[Write]]:
    """The writes of a SQLite pool that was watched, by token and in order."""
    writes: defaultdict[str, list[Write]] = defaultdict(list)
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT id, after, generation, output FROM chaos_outcomes ORDER BY number")
        for token, after, generation, output in rows:
            writes[token].append(Write(after, generation or 0, output))
    return writes


def couch_writes(database: Address, tokens: list[str], audit: Audit) -> dict[str, list[Write]]:
    """The writes of a CouchDB database, by token and in order, as far as the server remembers them."""
    writes: dict[str, list[Write]] = {}
    for at in range(0, len(tokens), _PAGE):
        page = tokens[at : at + _PAGE]
        newest = _bulk_get(database, [{"id": token} for token in page])
        older = [
            {"id": document["_id"], "rev": f"{document['_revisions']['start'] - back}-{digest}"}
            for document in newest
            for back, digest in enumerate(document["_revisions"]["ids"])
            if back
        ]
        found: defaultdict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
        known = [
            document
            for part in range(0, len(older), _PAGE)
            for document in _bulk_get(database, older[part : part + _PAGE])
        ]
        audit.unseen += len(older) - len(known)
        for document in [*known, *newest]:
            found[document["_id"]][int(document["_rev"].split("-")[0])] = document
        for token, revisions in found.items():
            writes[token] = _from_revisions([revisions[number] for number in sorted(revisions)])
    return writes


def _bulk_get(database: Address, wanted: list[dict[str, str]]) -> list[dict[str, Any]]:
    answer = database.request("POST", "_bulk_get?revs=true", {"docs": wanted})
    documents = [row["docs"][0].get("ok") for row in answer["results"] if row["docs"]]
    return [document for document in documents if document is not None]


def _from_revisions(documents: list[Mapping[str, Any]]) -> list[Write]:
    writes, was_closed = [], False
    for document in documents:
        write = Write(state_of(document), generation_of(document), document.get("output"))
        if write.closed or was_closed:
            writes.append(write)
        was_closed = write.closed
    return writes


def judge_writes(writes: Mapping[str, Iterable[Write]], finished: set[str], picas: set[str], audit: Audit) -> None:
    """Count what should be zero.

    Args:
        writes: by token.
        finished: executions that came to their end.
        picas: executions of PiCaS pilots.
        audit: takes the counts.
    """
    for token, sequence in writes.items():
        _judge_token(token, list(sequence), finished, picas, audit)


def _judge_token(token: str, writes: list[Write], finished: set[str], picas: set[str], audit: Audit) -> None:
    commits: defaultdict[int, int] = defaultdict(int)
    before: Write | None = None
    for write in writes:
        result = write.output if write.state == TokenState.DONE else None
        if before is not None and before.closed and not write.closed:
            audit.reopened.append(token)
        if write.state == TokenState.DONE:
            audit.committed.add(write.output)
        if write.state == TokenState.DONE and result not in finished:
            audit.unknown.append(f"{token}: {result}")
        repeated_by_picas = bool(picas) and before is not None and before.output == write.output
        if write.closed and result in picas:
            audit.overwritten_by_picas += before is not None and before.output != write.output
        elif write.closed and not repeated_by_picas:
            commits[write.generation] += 1
        before = write
    audit.double += [f"{token}: {number} outcomes in generation {n}" for n, number in commits.items() if number > 1]
