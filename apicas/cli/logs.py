"""Log records as lines on standard error: one line each, so that a batch job's output can be searched."""

from __future__ import annotations

import logging
from typing import Final

import typer
from typing_extensions import override

from apicas._runtime.attempts.current import running_token
from apicas.cli.terminal import one_line, printable_json
from apicas.configuration import configured_log_format
from apicas.configuration.keys import CHOICES
from apicas.exceptions import ConfigError
from apicas.logs import JsonLogFormatter

_LEVELS: Final = (logging.WARNING, logging.INFO, logging.DEBUG)


class LineHandler(logging.Handler):
    """Writes each record as one line; a traceback only with the details, and in that line too."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(whose)s%(message)s", "%Y-%m-%dT%H:%M:%S"))
        self._tracebacks = tracebacks

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Write one line to what is standard error now: a moving display stands in for it."""
        try:
            typer.echo(one_line(self.format(record)), err=True)
        except Exception:  # noqa: BLE001 - as all handlers do: logging must not end what it tells of
            self.handleError(record)

    @override
    def format(self, record: logging.LogRecord) -> str:
        """The line; what the user's code logs while it works a token says which one."""
        token = None if record.name.partition(".")[0] == "apicas" else running_token.get()
        record.whose = "" if token is None else f"token {token.id}, attempt {token.attempt}: "
        if self._tracebacks or not record.exc_info:
            return super().format(record)
        error = record.exc_info[1]
        short = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None})
        return f"{super().format(short)}: {type(error).__name__}: {error}"


class JsonHandler(LineHandler):
    """Writes each record as one JSON object on a line, with the token that the code works which logs."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__(tracebacks=tracebacks)
        self.setFormatter(JsonLogFormatter())

    @override
    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        return printable_json(logging.Handler.format(self, record).encode())

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, whole: one that is cut is no JSON."""
        try:
            typer.echo(self.format(record), err=True)
        except Exception:  # noqa: BLE001 - as all handlers do: logging must not end what it tells of
            self.handleError(record)


def configure(verbosity: int, log_format: str | None = None) -> None:
    """Show warnings; with verbosity 1 also what happens, with 2 every detail of apicas.

    The records of the user's own code are shown by the same rule, except that nobody asked for others' details.

    Args:
        verbosity: as above.
        log_format: text or json; None for what is configured, else text.

    Raises:
        ConfigError: there is no such format, or the configuration cannot be read.
    """
    log_format = log_format or configured_log_format() or "text"
    if log_format not in CHOICES["log_format"]:
        raise ConfigError(f"the log format is text or json, not {log_format!r}")
    level = _LEVELS[min(verbosity, 2)]
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, LineHandler)]
    root.addHandler(JsonHandler(tracebacks=True) if log_format == "json" else LineHandler(tracebacks=verbosity > 1))
    root.setLevel(max(level, logging.INFO))
    logging.getLogger("apicas").setLevel(level)
