"""`apicas flush`: write finished results to the pool that a pilot could not write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from apicas.cli.exits import ExitCode
from apicas.cli.parameters import OutboxOption, PoolOption, YesOption
from apicas.cli.terminal import agree, one_line, plural, say, say_json, tell

if TYPE_CHECKING:
    from apicas._runtime.outbox.disk import Outbox
    from apicas._runtime.outbox.entries import Entry
    from apicas._runtime.outbox.replay import ReplayReport

EPILOG = """\b
A pilot that ends while the pool is away leaves the results of finished tokens in its outbox. The next pilot of yours on
that pool writes them, and so does this command. A result is written as long as nobody has claimed its token since;
else it is lost: it stays in the directory `lost` of the outbox, for you to look at.

\b
Examples:
  apicas flush
  apicas flush --list
  apicas flush --discard-lost
"""

_SHOWN: Final = 1000
"""Results that are listed; the others are counted."""
_WIDEST: Final = 60
"""Columns; a longer text moves the rest of its line."""


def flush(
    *,
    pool: PoolOption = None,
    outbox: OutboxOption = None,
    only_list: Annotated[bool, typer.Option("--list", help="Only list what waits and what is lost.")] = False,
    discard_lost: Annotated[bool, typer.Option("--discard-lost", help="Delete what is lost.")] = False,
    yes: YesOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
) -> None:
    """Write finished results to the pool that a pilot could not write."""
    import asyncio

    from apicas._runtime.outbox.disk import outbox_for
    from apicas.configuration import configure

    configuration = configure(pool)
    address = configuration.connect(create=False).address
    box = outbox_for(outbox or configuration.outbox, address)
    if box is None:
        say(f"{address} has no outbox: it ends with its process")
        return
    try:
        if only_list:
            asyncio.run(_list(box, as_json=as_json))
        elif discard_lost:
            asyncio.run(_discard(box, yes=yes))
        else:
            raise typer.Exit(asyncio.run(_replay(pool, box, as_json=as_json)))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unusable(box, error) from error


def _unusable(box: Outbox, error: OSError) -> Exception:
    from apicas.exceptions import ApicasError

    return ApicasError(f"the outbox {box.place} cannot be used: {error.strerror or error}")


async def _list(box: Outbox, *, as_json: bool) -> None:
    waiting, lost = await _waiting(box), await _lost(box)
    if as_json:
        _write_json(box, waiting=waiting, lost=lost)
    elif not waiting and not lost:
        say(f"nothing waits in {box.place}")
    else:
        _write_table([*waiting, *lost])


async def _waiting(box: Outbox) -> list[tuple[str, Entry]]:
    """What waits, and where."""
    found: list[tuple[str, Entry]] = []
    names = await box.names()
    for name in names:  # one at a time: each may hold some megabytes
        found += [(f"{box.place}/{name}", entry.head()) for entry in await box.read([name])]
    return sorted(found, key=lambda each: (each[1].time, each[1].token))


async def _lost(box: Outbox) -> list[tuple[str, Entry]]:
    return [(path, entry.head()) for path, entry in await box.lost()]


async def _discard(box: Outbox, *, yes: bool) -> None:
    lost = await box.lost()
    if not lost:
        say(f"nothing is lost in {box.place}")
        return
    agree(f"Delete {plural(len(lost), 'lost result')} in {box.place}?", yes=yes)
    say(f"{plural(await box.discard_lost(), 'lost result')} deleted")


async def _replay(pool: str | None, box: Outbox, *, as_json: bool) -> ExitCode:
    """Write what waits, and say what became of it."""
    from apicas._runtime.outbox.replay import ReplayReport, replay
    from apicas.cli.opening import configured, opened, patiently

    report = ReplayReport()
    if await box.names():
        async with opened(configured(pool)) as client:
            report = await patiently(lambda: replay(client, box))
    left = len(await box.names())
    lost = await _lost(box)
    if as_json:
        _write_json(box, written=_named(report.written), settled=_named(report.settled), waiting=left, lost=lost)
    else:
        _say_replayed(box, report, left, len(lost))
    return ExitCode.INCOMPLETE if left or report.lost else ExitCode.OK


def _say_replayed(box: Outbox, report: ReplayReport, left: int, lost: int) -> None:
    if report.written or report.settled:
        say(f"{plural(len(report.written), 'result')} written, {len(report.settled):,} were in the pool already")
    elif not left and not report.lost:
        say(f"nothing waits in {box.place}")
    if report.lost:
        _write_table(report.lost)
    if left:
        tell(f"{plural(left, 'result')} still wait in {box.place}: try again in a moment, or see `apicas flush --list`")
    if lost:
        tell(f"{plural(lost, 'lost result')}: `apicas flush --list` says where")


def _named(entries: Sequence[Entry]) -> list[str]:
    return [entry.token for entry in entries]


def _described(path: str, entry: Entry) -> dict[str, Any]:
    return {
        "token": entry.token,
        "ending": entry.ending,
        "time": entry.time,
        "hostname": entry.hostname,
        "reason": entry.reason,
        "file": path,
    }


def _write_json(box: Outbox, **found: Any) -> None:
    from apicas._documents import encode

    described = {
        name: [_described(*each) if isinstance(each, tuple) else each for each in value]
        if isinstance(value, list)
        else value
        for name, value in found.items()
    }
    say_json(encode({"outbox": box.place, **described}))


def _write_table(found: Sequence[tuple[str, Entry]]) -> None:
    """One line each: token, how it ended, when, on which node, why it is lost, and where it is."""
    from datetime import datetime

    rows = [("token", "ending", "when", "node", "state", "file")]
    for path, entry in found[:_SHOWN]:
        when = datetime.fromtimestamp(entry.time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        state = f"lost: {entry.reason}" if entry.reason else "waits"
        rows.append((one_line(entry.token), entry.ending, when, one_line(entry.hostname), one_line(state), path))
    widths = [min(max(len(row[column]) for row in rows), _WIDEST) for column in range(len(rows[0]) - 1)]
    for row in rows:
        say("  ".join([*(f"{text:{width}}" for text, width in zip(row[:-1], widths, strict=True)), row[-1]]))
    if len(found) > _SHOWN:
        tell(f"and {len(found) - _SHOWN:,} more")
