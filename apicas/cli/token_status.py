"""How a single token is, for `apicas status`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from apicas._documents import Document
from apicas.cli.fields import time_of
from apicas.tokens import Token, TokenState, annex, attempt_of, count, is_foreign_lock


def summary_of(document: Document) -> Document:
    """What is to be known of a token, as JSON; without what nobody knows."""
    token, entries = Token(document), annex(document)
    held = token.state is TokenState.LOCKED and not is_foreign_lock(document)
    summary: Document = {
        "id": token.id,
        "state": str(token.state),
        "attempt": attempt_of(document),
        "hostname": token.hostname,
        "since": time_of(entries.get("claimed")) or time_of(document.get("lock")),
        "beat": time_of(document.get("lock")) if held else None,
        "done": time_of(document.get("done")),
        "exit_code": token.exit_code,
        "progress": _mapping(entries.get("progress")) if held else None,
        "usage": _mapping(entries.get("usage")),
        "workdir": entries.get("workdir"),
        "scrubbed": token.scrub_count,
        "crashed": token.crashes,
        "vanished": count(entries.get("vanished")),
        "released": token.releases,
        "error": token.errors[-1].get("message") if token.errors else None,
    }
    return {name: value for name, value in summary.items() if value not in (None, "", 0) or name == "exit_code"}


def lines_of(document: Document) -> Iterator[str]:
    """The same as lines for people."""
    summary = summary_of(document)
    yield f"{summary['id']}: {', '.join(_situation(summary))}"
    progress = summary.get("progress")
    if progress is not None:
        yield f"  progress  {percent(progress.get('fraction'))} {progress.get('message', '')}".rstrip()
    if "usage" in summary:
        yield f"  took      {', '.join(taken(summary['usage']))}"
    if "workdir" in summary:
        yield f"  files     {summary['workdir']}"
    if "error" in summary:
        yield f"  error     {summary['error']}"


def _situation(summary: Mapping[str, Any]) -> Iterator[str]:
    yield summary["state"]
    if summary.get("exit_code") not in {"", 0, None}:
        yield f"exit code {summary['exit_code']}"
    if "attempt" in summary:
        yield f"attempt {summary['attempt']}"
    if "hostname" in summary:
        yield f"on {summary['hostname']}"
    for name in ("since", "beat", "done"):
        if name in summary:
            yield f"{'last beat' if name == 'beat' else name} {clock(summary[name])}"
    for name in ("scrubbed", "crashed", "vanished", "released"):
        if name in summary:
            yield f"{summary[name]} x {name}"


def taken(usage: Mapping[str, Any]) -> Iterator[str]:
    """What an attempt took, in words."""
    names = {"cpu_seconds": ("{:,.1f} s of CPU time", 1.0), "seconds": ("{:,.1f} s", 1.0)}
    for name, (text, unit) in {**names, "peak_memory": ("{:,.0f} MB of memory", 1e6)}.items():
        value = usage.get(name)
        if isinstance(value, (int, float)):
            yield text.format(value / unit)


def percent(fraction: Any) -> str:
    """A fraction as it is shown."""
    return f"{fraction:.0%}" if isinstance(fraction, (int, float)) else "?"


def clock(seconds: float) -> str:
    """A time as it is shown: in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _mapping(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) and value else None
