"""`apicas show`: single tokens, whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apicas.cli.exits import ExitCode
from apicas.cli.parameters import PoolOption
from apicas.cli.terminal import results, say_json, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apicas._documents import Document
    from apicas.configuration import Configuration

EPILOG = """\b
First what apicas knows of the token: state, owner, attempts, errors, attachments; then its own fields, as they are.
Times are in UTC. --json writes the document as it is stored, one line each. The exit code is 1 if one does not exist.
Shorter: `apicas status TOKEN`. Why it does not run: `apicas explain TOKEN`. What it printed: `apicas logs TOKEN`.

\b
Examples:
  apicas show token_17
  apicas show token_17 --json | jq .output
  apicas show token_17 token_18 --tracebacks
"""


def show(
    tokens: Annotated[list[str], typer.Argument(metavar="TOKEN", help="Ids of tokens.")],
    *,
    pool: PoolOption = None,
    tracebacks: Annotated[bool, typer.Option("--tracebacks", help="Show errors with their tracebacks.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the documents, one line of JSON each.")] = False,
) -> None:
    """Show single tokens whole: state, owner, attempts, errors, attachments and fields."""
    import asyncio

    from apicas.cli.opening import configured

    documents, now, lease = asyncio.run(_read(configured(pool), tokens))
    with results():
        for number, found in enumerate(document for document in documents if document is not None):
            if as_json:
                _write_json(found)
            else:
                _write(found, now, lease, tracebacks=tracebacks, first=number == 0)
    for name, document in zip(tokens, documents, strict=True):
        if document is None:
            tell(f"there is no token {name!r}")
    if None in documents:
        raise typer.Exit(ExitCode.INCOMPLETE)


async def _read(configuration: Configuration, tokens: Sequence[str]) -> tuple[list[Document | None], float, float]:
    from apicas.cli.opening import opened, patiently

    async with opened(configuration) as client:
        return await patiently(lambda: client.get(tokens)), client.time(), client.default_lease


def _write_json(document: Document) -> None:
    from apicas._documents import encode

    say_json(encode(document))


def _write(document: Document, now: float, lease: float, *, tracebacks: bool, first: bool) -> None:
    from apicas.cli.terminal import one_line
    from apicas.cli.token_view import lines_of

    if not first:
        typer.echo()
    for line in lines_of(document, now, lease, tracebacks=tracebacks):
        typer.echo(one_line(line))
