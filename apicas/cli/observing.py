"""The options of commands that run a pilot, for those who want to see what it does: events, metrics, logs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

if TYPE_CHECKING:
    from apicas._runtime.options import RunOptions

LOOPBACK: Final = "127.0.0.1"

EventsOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--events",
        metavar="FILE|DIR",
        help="Write what happens as JSON Lines; into a directory, a file per pilot. See apicas report.",
        show_default=False,
    ),
]
MetricsPortOption: TypeAlias = Annotated[
    int | None,
    typer.Option("--metrics-port", metavar="PORT", help="Serve metrics for Prometheus; 0: any.", show_default=False),
]
MetricsHostOption: TypeAlias = Annotated[
    str, typer.Option("--metrics-host", metavar="ADDRESS", help="Where to serve them.")
]
LogFormatOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--log-format", metavar="text|json", help="How log lines are written.", show_default="text"),
]


@contextmanager
def served(options: RunOptions, host: str, port: int | None) -> Iterator[RunOptions]:
    """Serve metrics of a pilot inside, where a port is named; gives the options that it needs for that.

    Raises:
        ConfigError: they cannot be served: the extra is missing, or the port is taken.
    """
    if port is None:
        yield options
        return
    from dataclasses import replace

    from apicas.cli.terminal import tell
    from apicas.metrics import Metrics

    metrics = Metrics()
    with metrics.serving(host, port) as address:
        tell(f"metrics are on {address}")
        yield replace(options, observers=[*options.observers, metrics])
