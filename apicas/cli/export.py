"""`apicas export`: write tokens to a file."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from apicas.cli.exits import ExitCode
from apicas.cli.parameters import PoolOption
from apicas.cli.selecting import IdOption, IdsFromOption, Names, OlderOption, WhereOption, states
from apicas.cli.terminal import plural, printable_json, results, tell
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from apicas.cli.carrying import Carrier
    from apicas.clients.base import PoolClient
    from apicas.configuration import Configuration

EPILOG = """\b
Without a name all tokens are written, in the order of their ids, those in no view included. A line is a token as it is
stored: its id, its lock, and what apicas knows of it. Attachments stand in the lines, as base64: so one file or one
pipe has everything, and jq and gzip work on it. One of more than a megabyte follows its token in lines of its own.

\b
Pilots may go on meanwhile: each token is as it was when it was read. A file gets its name when it is complete; one
whose name ends in .gz is compressed. `apicas import` puts tokens back.

\b
Examples:
  apicas export -o survey.jsonl.gz
  apicas export done --no-attachments | jq -c '{id: ._id, output}' > outputs.jsonl
  apicas export error --where exit_code=137 -o failed.jsonl
  apicas export --pool sqlite:///pilot.db | apicas import --pool https://me@couch.example:6984/survey
"""


def export(  # noqa: PLR0913 - typer makes an option of each
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VIEW|ID", help="Views, and ids of tokens.", show_default="all tokens", autocompletion=states
        ),
    ] = None,
    *,
    pool: PoolOption = None,
    ids: IdOption = False,
    ids_from: IdsFromOption = None,
    where: WhereOption = None,
    older: OlderOption = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write.", show_default="standard output"),
    ] = None,
    attachments: Annotated[bool, typer.Option("--attachments/--no-attachments", help="Write attachments, too.")] = True,
) -> None:
    """Write tokens with their attachments to a file, as JSON Lines."""
    import asyncio

    from apicas.cli.opening import configured
    from apicas.cli.sources import ARCHIVES

    if output is not None and output.endswith(ARCHIVES):
        raise ConfigError(f"--output {output!r}: export writes .jsonl or .jsonl.gz, and `apicas archive` archives")
    wanted = Names(names=names or (), only_ids=ids, ids_from=ids_from, conditions=where or (), older=older)
    asyncio.run(_export(configured(pool), wanted, output, attachments=attachments))


async def _export(configuration: Configuration, names: Names, output: str | None, *, attachments: bool) -> None:
    from apicas.cli.carrying import Carrier
    from apicas.cli.opening import opened
    from apicas.cli.selection import tell_missing

    missing: list[str] = []
    async with opened(configuration) as client:
        with _written(output) as write:
            carrier = Carrier(client, write, attachments=attachments)
            await _carry(client, names, carrier, missing)
    tell_missing(missing)
    carried = carrier.carried
    tell(f"exported {plural(carried.tokens)} with {plural(carried.attachments, 'attachment')}")
    if carried.left_out:
        tell(f"{plural(carried.left_out, 'attachment')} left out")
    if carried.split:
        tell(f"{plural(carried.split)} stored in several versions, of which one was exported: see `apicas heal`")
    if carried.failed:
        tell(f"{plural(carried.failed)} not exported: see above")
    if missing or carried.failed:
        raise typer.Exit(ExitCode.INCOMPLETE)


async def _carry(client: PoolClient, names: Names, carrier: Carrier, missing: list[str]) -> None:
    from apicas.cli.changing import Ticker

    ticker = Ticker("exported")
    selection = await names.select(client, otherwise_all=True)
    async for page in selection.pages(client, missing=missing.append):
        await carrier.add(page)
        ticker.show(carrier.carried.tokens)


@contextmanager
def _written(output: str | None) -> Iterator[Callable[[bytes], object]]:
    """What takes the lines."""
    if output in {None, "-"}:
        yield _to_standard_output()
        with results():
            sys.stdout.flush()
        return
    from apicas.cli.files import written_whole

    with written_whole(str(output)) as file:
        if str(output).endswith(".gz"):
            import gzip

            with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, filename="", mtime=0) as packed:
                yield packed.write
        else:
            yield file.write


def _to_standard_output() -> Callable[[bytes], object]:
    if sys.stdout.isatty():  # what is in tokens may be meant to drive it
        return lambda line: typer.echo(printable_json(line.rstrip(b"\n")))

    def write(line: bytes) -> None:
        with results():
            sys.stdout.buffer.write(line)

    return write
