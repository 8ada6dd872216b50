"""The lines that a pilot writes about its executions. Standard library only: PiCaS's environment uses it too.

Each line is one write() to a file that is open for appending, so that no other line splits it, and a SIGKILL after it
takes nothing back. Times are monotonic seconds, which all processes of a machine share. Fields are separated by tabs:

    B  time  execution  token  generation  pilot              an execution began; the pilot by its id in the token
    E  time  execution                                        it came to its end
    X  time  execution  error                                 it was cut, or raised, or kills itself
    C  time  ending                                           a token left the pilot: done, failed, released, lost
    R  time  token  owner                                     the pilot reclaimed a token
"""

from __future__ import annotations

import itertools
import json
import os
import time
from typing import Any, Final

SETTINGS: Final = "APICAS_CHAOS_PILOT"
"""The environment variable with a pilot's settings, as JSON: they may hold a password, which has no place in argv."""


def settings() -> dict[str, Any]:
    """The settings of this pilot."""
    found: dict[str, Any] = json.loads(os.environ[SETTINGS])
    return found


class Lines:
    """Writes the lines of one pilot.

    Args:
        name: of the pilot; begins the ids of its executions.
        path: the file.
    """

    def __init__(self, name: str, path: str) -> None:
        self._name = name
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._numbers = itertools.count()

    def begin(self, token_id: str, generation: Any, pilot: Any) -> str:
        """Note that an execution begins; answers with its id, which no other execution has."""
        execution = f"{self._name}/{os.getpid()}/{next(self._numbers)}"
        self._write("B", execution, token_id, generation, pilot)
        return execution

    def end(self, execution: str) -> None:
        """Note that an execution came to its end."""
        self._write("E", execution)

    def cut(self, execution: str, error: BaseException) -> None:
        """Note that an execution was cut, or raised."""
        self._write("X", execution, type(error).__name__)

    def ending(self, ending: str) -> None:
        """Note how a token left the pilot."""
        self._write("C", ending)

    def reclaimed(self, token_id: str, owner: str) -> None:
        """Note a reclaim."""
        self._write("R", token_id, owner)

    def _write(self, kind: str, *fields: Any) -> None:
        text = "\t".join([kind, f"{time.monotonic():.6f}", *(str(field) for field in fields)])
        os.write(self._file, f"{text}\n".encode())
