"""What a document was before: CouchDB keeps the bodies of replaced revisions until the database is compacted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apicas._documents import Document, encode
from apicas.clients.couch.answers import bodies
from apicas.clients.couch.transport import Transport


async def successor(transport: Transport, database: str, document_id: str, rev: str | None) -> Document | None:
    """The version of a document that replaced a revision, in the branch that is shown.

    Args:
        transport: to the server.
        database: its path.
        document_id: the document.
        rev: the revision; None for the document's first version.

    Returns:
        None where nothing has replaced it, where the document is deleted, and where the body is not kept any more.
    """
    shown = await _read(transport, f"{database}/_bulk_get?revs=true", {"id": document_id})
    if shown is None:
        return None
    following = _following(shown["_revisions"], rev)
    if following is None:
        return None
    return await _read(transport, f"{database}/_bulk_get", {"id": document_id, "rev": following})


async def _read(transport: Transport, path: str, request: Mapping[str, str]) -> Document | None:
    body = encode({"docs": [request]})

    async def attempt() -> Document | None:
        answer = await transport.send("POST", path, body)
        if answer.status >= 400:  # a server that keeps no history tells of none
            return None
        return bodies(answer.value()["results"]).get(request["id"])

    return await transport.repeat(attempt)


def _following(revisions: Mapping[str, Any], rev: str | None) -> str | None:
    """The revision after one, in a list of them from the last to the first."""
    start, ids = int(revisions["start"]), list(revisions["ids"])
    number, _, digest = ("0" if rev is None else rev).partition("-")
    place = start - int(number)  # of the revision itself; the one after it stands before it
    known = place == len(ids) if rev is None else 0 <= place < len(ids) and ids[place] == digest
    return f"{int(number) + 1}-{ids[place - 1]}" if known and place >= 1 else None
