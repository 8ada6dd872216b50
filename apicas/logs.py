"""Logging for actors: records that say for which token they were written, and records in a token's own log.

Both go by the token that the code works which logs, also in threads and tasks that it started. Nothing is done to any
logger uninvited: add them to one of yours.

    handler = apicas.TokenLogHandler()
    logging.getLogger("survey").addHandler(handler)
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final

from typing_extensions import override

from apicas._runtime.attempts.current import running_token

_STANDARD: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "whose"})
"""What every record has."""


class TokenLogFilter(logging.Filter):
    """Gives each record `token`, the token's id, and `attempt`, its number; empty and 0 outside of tokens.

    For a format such as `%(asctime)s %(token)s/%(attempt)d %(message)s`. Add it to a handler: a filter of a logger sees
    only what is logged there.
    """

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the record, and say whose it is."""
        token = running_token.get()
        record.token = "" if token is None else token.id
        record.attempt = 0 if token is None else token.attempt
        return True


class JsonLogFormatter(logging.Formatter):
    """Makes one line of JSON of each record, for whatever collects logs.

    It has `time` (ISO 8601, UTC), `level`, `logger` and `message`; `token` and `attempt` where the code that logs works
    a token; `exception`, a traceback; and what was given as `extra`.
    """

    @override
    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        token = running_token.get()
        if token is not None:
            line |= {"token": token.id, "attempt": token.attempt}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        for name, value in vars(record).items():
            if name not in _STANDARD:
                line.setdefault(name, value)
        return json.dumps(line, default=str)


class TokenLogHandler(logging.Handler):
    """Puts records into the log of the token that they are about: `stderr.txt`, and `apicas logs` while it runs.

    What is logged outside of tokens is left to other handlers. It keeps 1 MB of each attempt, head and tail.

    Args:
        level: the least that is kept.
    """

    def __init__(self, level: int | str = logging.NOTSET) -> None:
        super().__init__(level)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        token = running_token.get()
        if token is None or token.lease is None:
            return
        try:
            token.lease.record(f"{self.format(record)}\n")
        except Exception:  # noqa: BLE001 - as all handlers do: logging must not end what it tells of
            self.handleError(record)
