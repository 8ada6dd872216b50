"""One PiCaS pilot, in PiCaS's own environment: the inside of the contender picas.py."""

from __future__ import annotations

import logging
import time
from typing import Any

from couchdb.http import ResourceConflict  # type: ignore[import-not-found]  # it is in an environment of its own
from picas.actors import RunActor  # type: ignore[import-not-found]  # as above
from picas.clients import CouchDB  # type: ignore[import-not-found]  # as above
from picas.modifiers import BasicTokenModifier  # type: ignore[import-not-found]  # as above

from benchmarks.contenders.worker import Gate


class _Actor(RunActor):  # type: ignore[misc]  # an untyped package
    """Does nothing, or sleeps, and closes the token."""

    def __init__(self, database: Any, gate: Gate, seconds: float) -> None:
        super().__init__(database, view="todo")
        self.modifier = BasicTokenModifier()
        self._gate = gate
        self._seconds = seconds

    def process_task(self, token: Any) -> None:
        """Work one token."""
        if self._seconds:
            time.sleep(self._seconds)
        self._gate.tally(token["input"])
        token["output"] = token["input"]
        token["exit_code"] = 0
        self.modifier.close(token)

    def cleanup_run(self, *_: Any, **__: Any) -> None:
        """Called after the token was saved."""
        self._gate.acknowledged()


class _Database(CouchDB):  # type: ignore[misc]  # as above
    """Counts what others were quicker to write."""

    conflicts = 0

    def save(self, document: Any) -> Any:
        try:
            return super().save(document)
        except ResourceConflict:
            self.conflicts += 1
            raise


def work(settings: dict[str, Any], gate: Gate) -> None:
    """Run one pilot to its end."""
    database = _Database(
        url=settings["url"],
        db=settings["database"],
        username=settings["username"] or None,
        password=settings["password"],
    )
    actor = _Actor(database, gate, settings["seconds"])
    logging.disable(logging.INFO)  # one line per pilot and lost token, on standard error
    gate.extra["gave_up"] = 0
    gate.wait()
    try:
        actor.run()
    except OSError:  # it says so when it has lost ten races in a row
        gate.extra["gave_up"] = 1
    gate.extra["lost_races"] = database.conflicts
