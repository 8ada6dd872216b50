"""`apicas pilots`: who is at work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from apicas.cli.parameters import PoolOption
from apicas.cli.terminal import one_line, painted, plural, results, say_json, tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apicas._documents import Document
    from apicas.cli.holders import Holder
    from apicas.configuration import Configuration

EPILOG = """\b
It is read from the locks in the pool: who holds nothing is not to be seen. `silent` is a pilot without a sign of life
within the lease of its tokens, `gone` one whose process has ended on this node: running pilots put such tokens back to
todo. A lock of another tool, as of PiCaS, is refreshed by nobody: it shows no life, and is left alone.

\b
Examples:
  apicas pilots
  apicas pilots --tokens
  apicas pilots --json | jq -r 'select(.sign == "silent").job.slurm'
"""

_COLOURS: Final = {"alive": "green", "silent": "yellow", "gone": "red", "foreign": ""}


def pilots(
    *,
    pool: PoolOption = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Also show the tokens that each holds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object for each.")] = False,
) -> None:
    """Show who is at work: pilots by what they hold, where, and when they last gave a sign of life."""
    import asyncio

    from apicas._documents import encode
    from apicas.cli.holders import MAX_READ
    from apicas.cli.opening import configured

    now, found = asyncio.run(_read(configured(pool)))
    with results():
        for holder in found:
            if as_json:
                say_json(encode(_as_json(holder)))
                continue
            typer.echo(painted(one_line(headline(holder, now)), _COLOURS[holder.sign]))
            if tokens:
                for line in _token_lines(holder, now):
                    typer.echo(one_line(line))
    if not found:
        tell("no token is held")
    elif sum(len(holder.tokens) for holder in found) >= MAX_READ:
        tell(f"there are more than {plural(MAX_READ, 'locked token')}: those beyond were not read")


async def _read(configuration: Configuration) -> tuple[float, list[Holder]]:
    from apicas.cli.holders import holders_in
    from apicas.cli.opening import opened

    async with opened(configuration) as client:
        found = await holders_in(client)
        return client.time(), found


def headline(holder: Holder, now: float) -> str:
    """A holder in one line."""
    return ", ".join(_parts(holder, now))


def _parts(holder: Holder, now: float) -> Iterator[str]:
    from apicas._runtime.survey import at_time, in_hours

    name = "another tool" if holder.pilot is None else f"pilot {holder.pilot}"
    yield f"{name} on {holder.hostname or 'a node that is not named'}"
    for kind, job in holder.jobs.items():
        yield f"{kind} job {job}"
    yield plural(len(holder.tokens))
    if holder.since is not None:
        oldest = "the oldest " if len(holder.tokens) > 1 else ""
        yield f"{oldest}since {at_time(holder.since)} ({in_hours(now - holder.since)})"
    if holder.beat is not None and holder.pilot is not None:
        yield f"last beat {in_hours(now - holder.beat)} ago"
    if holder.pilot is not None:
        yield from _doubts(holder)


def brief(holder: Holder, now: float) -> str:
    """A holder in half a line."""
    from apicas._runtime.survey import in_hours

    jobs = [f"{kind} job {job}" for kind, job in holder.jobs.items()]
    began = "" if holder.since is None else f" for {in_hours(now - holder.since)}"
    parts = [holder.hostname or "a node that is not named", *jobs, f"{plural(len(holder.tokens))}{began}"]
    if holder.beat is not None and holder.pilot is not None:
        parts.append(f"beat {in_hours(now - holder.beat)} ago")
    return ", ".join([*parts, *_doubts(holder)])


def _doubts(holder: Holder) -> list[str]:
    """What is wrong with a holder."""
    if holder.pilot is None:
        return ["another tool"]
    if holder.sign != "alive":
        return [str(holder.sign)]
    return [f"{plural(len(holder.silent))} without a beat"] if holder.silent else []


def _token_lines(holder: Holder, now: float) -> Iterator[str]:
    for document in holder.tokens:
        yield f"  {document['_id']}{_since(document, now)}{_progress(document)}"


def _since(document: Document, now: float) -> str:
    from apicas._javascript import to_number
    from apicas._runtime.survey import in_hours
    from apicas.cli.holders import lock_time
    from apicas.tokens import FIRST_LOCK_TIME, annex

    claimed = to_number(annex(document).get("claimed"))
    began = claimed if claimed >= FIRST_LOCK_TIME else lock_time(document)
    return "" if began is None else f"  for {in_hours(now - began)}"


def _progress(document: Document) -> str:
    from apicas.tokens import annex

    progress = annex(document).get("progress")
    fraction = progress.get("fraction") if isinstance(progress, dict) else None
    return f"  {fraction:.0%}" if isinstance(fraction, (int, float)) and -1 < fraction < 2 else ""


def _as_json(holder: Holder) -> dict[str, Any]:
    return {
        "pilot": holder.pilot,
        "sign": str(holder.sign),
        "hostname": holder.hostname,
        "job": holder.jobs,
        "since": holder.since,
        "beat": holder.beat,
        "tokens": [document["_id"] for document in holder.tokens],
        "silent": holder.silent,
    }
