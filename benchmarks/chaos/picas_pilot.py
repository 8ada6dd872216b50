"""One PiCaS pilot, as a process in PiCaS's own environment; it counts its executions as ours do."""

from __future__ import annotations

import time
from typing import Any

from picas.actors import RunActor  # type: ignore[import-not-found]  # it is in an environment of its own
from picas.clients import CouchDB  # type: ignore[import-not-found]  # as above
from picas.modifiers import BasicTokenModifier  # type: ignore[import-not-found]  # as above

from benchmarks.chaos.lines import Lines, settings


class Actor(RunActor):  # type: ignore[misc]  # an untyped package
    """Sleeps as long as the token says; the result is the id of the execution."""

    def __init__(self, database: Any, lines: Lines) -> None:
        super().__init__(database, view="todo")
        self.modifier = BasicTokenModifier()
        self.client = database
        self.lines = lines

    def process_task(self, token: Any) -> None:
        """Work one token."""
        # What is in the token of a claim is what an apicas pilot left there: PiCaS has no claims.
        execution = self.lines.begin(token.id, token.value.get("apicas", {}).get("generation", 0), None)
        try:
            time.sleep(token["input"]["seconds"])
        except BaseException as error:
            self.lines.cut(execution, error)
            raise
        token["output"] = execution
        token["exit_code"] = 0
        self.modifier.close(token)
        self.lines.end(execution)


def main() -> None:
    """Run one pilot to its end."""
    chosen = settings()
    database = CouchDB(
        url=chosen["url"], db=chosen["database"], username=chosen["username"], password=chosen["password"] or ""
    )
    Actor(database, Lines(chosen["name"], chosen["ledger"])).run(max_token_time=60, max_scrub=0)


if __name__ == "__main__":
    main()
