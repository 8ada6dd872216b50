"""`apicas report`: one page of HTML that shows what pilots did."""

from __future__ import annotations

from typing import Annotated, Final

import typer

EPILOG: Final = """\b
Event files come from `apicas run --events FILE|DIR`; of a directory, all its *.jsonl are read. The page shows
throughput, tokens at work, what each worker did, durations, failures by reason, the slowest tokens, and the pilots. It
is one file, loads nothing, and can be mailed. Events of pilots that still run are fine. Who reads it sees ids of tokens
and the messages of errors.

\b
Examples:
  apicas run work:Actor --events events/
  apicas report events/ -o report.html
"""


def report(
    events: Annotated[list[str], typer.Argument(metavar="EVENTS...", help="Event files, and directories of them.")],
    *,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="The page.")] = "report.html",
    title: Annotated[str, typer.Option(metavar="TEXT", help="Its title.")] = "What the pilots did",
) -> None:
    """Write one page of HTML that shows what pilots did, from their event files."""
    from pathlib import Path

    from apicas._report.page import page
    from apicas._report.reading import Reading, files
    from apicas._report.summing import Summary
    from apicas.cli.terminal import plural, say
    from apicas.exceptions import ApicasError, ConfigError

    reading, summary = Reading(files(events)), Summary()
    summary.take(reading.lines())
    if not reading.events:
        raise ConfigError(f"there is no event in {', '.join(events)}")
    summary.finish()
    try:
        Path(output).write_text(page(summary, reading, title), encoding="utf-8", errors="replace")
    except OSError as error:
        raise ApicasError(f"{output}: {error.strerror or error}") from error
    say(f"wrote {output}: {plural(reading.events, 'event')} of {plural(len(summary.pilots), 'pilot')}")
