"""Putting a file into a token as it is now, whoever else writes to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO, Final

from apicas._documents import Document
from apicas.cli.carrying import chunks_of
from apicas.cli.opening import patiently
from apicas.clients.base import PoolClient
from apicas.clients.port import SaveStatus
from apicas.exceptions import EditConflictError, InvalidTokenError, TokenNotFoundError

ATTEMPTS: Final = 20


def stub_of(document: Document, name: str) -> Mapping[str, Any] | None:
    """What a document tells of an attachment; None where it has none of that name."""
    stub: Mapping[str, Any] | None = (document.get("_attachments") or {}).get(name)
    return stub


async def attach(
    client: PoolClient, token_id: str, name: str, file: BinaryIO, content_type: str, *, replace: bool
) -> bool:
    """Attach a file, again where somebody else has changed the token meanwhile.

    Args:
        client: the pool.
        token_id: the token.
        name: the attachment's.
        file: its content, from the beginning.
        content_type: a MIME type.
        replace: whether one of that name may be there.

    Returns:
        False where there is one already.

    Raises:
        TokenNotFoundError: there is no such token.
        InvalidTokenError: the pool does not take it.
        EditConflictError: the token kept changing.
    """
    unclear: str | None = None
    length = file.seek(0, 2)
    for _ in range(ATTEMPTS):
        (document,) = await patiently(lambda: client.get([token_id]))
        if document is None:
            raise TokenNotFoundError(f"there is no token {token_id!r} in {client.address}")
        stub, rev = stub_of(document, name), document["_rev"]
        if unclear not in {None, rev} and stub is not None and stub.get("length") == length:
            return True  # the answer was lost, and the file is there
        if stub is not None and not replace:
            return False
        result = await patiently(
            lambda rev=rev: client.put_attachment(token_id, rev, name, chunks_of(file), content_type)  # type: ignore[misc]
        )
        if result.written:
            return True
        if result.status is SaveStatus.REJECTED:
            raise InvalidTokenError(f"attachment {name!r} of token {token_id!r}: {result.reason}")
        unclear = rev if result.status is SaveStatus.UNKNOWN else unclear
    raise EditConflictError(f"token {token_id!r} changed {ATTEMPTS} times while a file was being attached")
