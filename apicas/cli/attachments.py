"""`apicas attachments`: list, write out and put in the files of a token."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from apicas.cli.parameters import PoolOption, YesOption
from apicas.cli.terminal import agree, one_line, results, say, say_json, tell
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apicas.clients.base import PoolClient
    from apicas.clients.port import AttachmentInfo
    from apicas.configuration import Configuration

EPILOG = """\b
Without a name the attachments are listed. With one its content goes to standard output, or into a file, which gets its
name when it is complete; a directory after -o gets a file of the attachment's name.

\b
--put attaches a file, under its own name or under NAME. It asks before it replaces one. The token may be running: its
pilot keeps what others attach.

\b
Examples:
  apicas attachments token_17
  apicas attachments token_17 stdout.txt | tail
  apicas attachments token_17 spectrum.fits -o results/
  apicas attachments token_17 --put calibration.dat
  apicas attachments token_17 notes.txt --put my-notes.txt --yes
"""


def attachments(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The id of a token.")],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The name of an attachment.", show_default=False)
    ] = None,
    *,
    pool: PoolOption = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to write it, - for here.", show_default="standard output"
        ),
    ] = None,
    put: Annotated[str | None, typer.Option(metavar="FILE", help="Attach this file.", show_default=False)] = None,
    yes: YesOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="List as JSON, one object a line.")] = False,
) -> None:
    """List the attachments of a token, write one to a file, or put one in."""
    import asyncio

    from apicas.cli.opening import configured

    if put is not None and output is not None:
        raise ConfigError("--put and --output: one of them")
    if output is not None and name is None:
        raise ConfigError("--output: which attachment? Its name comes after the token's id")
    if put is not None:
        with _read(put) as file:
            asyncio.run(_put(configured(pool), token, _base(put) if name is None else name, file, yes=yes))
    elif name is not None:
        asyncio.run(_fetch(configured(pool), token, name, _destination(output, name)))
    else:
        _write_list(asyncio.run(_list(configured(pool), token)), token, as_json=as_json)


def _read(path: str) -> BinaryIO:
    try:
        return open(path, "rb")  # noqa: PTH123 - Path would turn ./x into x, in messages too
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _base(path: str) -> str:
    from pathlib import PurePath

    return PurePath(path).name


def _destination(output: str | None, name: str) -> str | None:
    """The file to write; None for standard output."""
    from pathlib import Path

    from apicas._documents import check_attachment_name

    if output in {None, "-"}:
        return None
    path = Path(str(output))
    if not path.is_dir():
        if str(output).endswith("/"):
            raise ConfigError(f"{output}: there is no such directory")
        return str(output)
    check_attachment_name(name)  # it is to be a file's name, and may be of somebody else's choice
    return str(path / name)


async def _list(configuration: Configuration, token: str) -> Sequence[AttachmentInfo]:
    from apicas.cli.opening import opened, patiently

    async with opened(configuration) as client:
        return await patiently(lambda: client.attachments(token))


def _write_list(files: Sequence[AttachmentInfo], token: str, *, as_json: bool) -> None:
    from apicas._documents import encode

    if not files:
        tell(f"{token} has no attachments")
    width = max((len(one_line(file.name)) for file in files), default=0)
    for file in files:
        if as_json:
            say_json(encode({"name": file.name, "content_type": file.content_type, "length": file.length}))
        else:
            say(f"{one_line(file.name):{width}}  {file.length:>13,} bytes  {file.content_type}")


async def _fetch(configuration: Configuration, token: str, name: str, path: str | None) -> None:
    from apicas.cli.files import written_whole
    from apicas.cli.opening import opened

    async with opened(configuration) as client:
        if path is None:
            await _print(client, token, name)
            return
        with written_whole(path) as file:
            async for chunk in client.stream_attachment(token, name):
                file.write(chunk)
    tell(f"wrote {path}")


async def _print(client: PoolClient, token: str, name: str) -> None:
    """Write it to standard output; on a terminal without what drives it."""
    from codecs import getincrementaldecoder

    from apicas.cli.terminal import printable_text

    decoder = getincrementaldecoder("utf-8")("replace")
    async for chunk in client.stream_attachment(token, name):
        with results():
            if sys.stdout.isatty():
                sys.stdout.write(printable_text(decoder.decode(chunk)))
            else:
                sys.stdout.buffer.write(chunk)
    with results():
        sys.stdout.flush()


async def _put(configuration: Configuration, token: str, name: str, file: BinaryIO, *, yes: bool) -> None:
    import mimetypes

    from apicas.cli.attaching import attach, stub_of
    from apicas.cli.opening import opened, patiently
    from apicas.exceptions import TokenNotFoundError

    async with opened(configuration) as client:
        (document,) = await patiently(lambda: client.get([token]))
        if document is None:
            raise TokenNotFoundError(f"there is no token {token!r} in {client.address}")
        replace = stub_of(document, name) is not None
        if replace:
            agree(f"{token} has an attachment {name}: replace it?", yes=yes)
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        if not await attach(client, token, name, file, kind, replace=replace):
            raise ConfigError(f"{token} has an attachment {name} by now: try again")
    say(f"attached {name} to {token}")
