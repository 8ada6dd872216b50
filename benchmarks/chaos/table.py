"""The table, for people."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks.chaos.pilots import ROOT
from benchmarks.chaos.row import Row
from benchmarks.chaos.trial import Options

LEGEND = """\
duplicates     executions beyond one per token by apicas pilots, and why: the execution before was in a pilot that was
               killed or stopped, or was handed back by one that was told to end
at once        times that a token was worked by two live apicas pilots; must be 0
double         outcomes beyond one per generation; must be 0
lost           tokens not done at the end; must be 0. `+n` beside done: tokens in error that were meant to end so
refused        outcomes that a pilot did not write, since the token was not its own any more
next outcome   most seconds from the end of a fault to the next outcome that anybody wrote
silence        most seconds about a fault in which nobody wrote an outcome
reclaimed      most seconds from a kill or stop until all that its pilot held had been reclaimed
tokens/s       before the first fault, and after the last
died           pilots that ended by themselves with an error"""

_HEAD = (
    *("row", "store", "tokens", "done", "executions", "faults", "duplicates", "at once", "double", "lost", "refused"),
    *("next outcome / silence, s", "reclaimed, s", "tokens/s", "died", "seconds", "note"),
)


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table that is also readable as it is."""
    picas = any(row.duplicates_by_picas or row.beside_picas for row in rows)
    head = [*_HEAD, "by PiCaS", "beside PiCaS"] if picas else list(_HEAD)
    lines = [head, *(_cells(row, picas=picas) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def report(rows: Sequence[Row], options: Options) -> str:
    """A page with the table, and what one has to know to compare it with another."""
    facts = [
        f"commit {_commit()}",
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, shared by pilots, store and benchmark",
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}",
        ", ".join(f"{name} {value}" for name, value in asdict(options).items()),
    ]
    problems = [f"- {row.store}, {row.row}: {problem}" for row in rows for problem in row.problems]
    parts = [
        "\n".join(f"- {fact}" for fact in facts),
        markdown(rows),
        "```\n" + LEGEND + "\n```",
        "Not as promised:\n\n" + "\n".join(problems) if problems else "Every promise held.",
    ]
    return "\n\n".join(parts) + "\n"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _cells(row: Row, *, picas: bool) -> list[str]:
    why = ", ".join(f"{number} {reason}" for reason, number in sorted(row.why.items()))
    cells = [
        *(row.row, row.store, f"{row.tokens:,}", f"{row.done:,}" + (f" +{row.failed}" if row.failed else "")),
        *(f"{row.executions:,}", str(row.faults), f"{row.duplicates}" + (f" ({why})" if why else "")),
        *(str(row.at_once), str(row.double_commits), str(row.lost), str(row.refused)),
        *(f"{_number(row.recover)} / {_number(row.silence)}", _number(row.reclaim)),
        *(f"{_number(row.before, 0)} / {_number(row.after, 0)}", str(row.died), f"{row.seconds:.0f}", row.note),
    ]
    return [*cells, str(row.duplicates_by_picas), str(row.beside_picas)] if picas else cells


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
