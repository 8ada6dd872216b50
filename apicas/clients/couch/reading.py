"""Reading documents by id, with all their live leaves.

CouchDB's `_bulk_get` lists every leaf of a document that is named without a revision, and asks a majority of the
replicas. PouchDB's shows one leaf, and says with `_all_docs` which others there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from apicas._documents import Document, check_id, encode
from apicas.clients.couch import answers
from apicas.clients.couch.transport import Transport
from apicas.exceptions import InvalidTokenError

READ_AT_ONCE: Final = 1000
"""Documents in one request, as in one write."""


class Reader:
    """Reads documents of one database.

    Args:
        transport: to the server.
        path: of the database.
    """

    def __init__(self, transport: Transport, path: str) -> None:
        self._transport = transport
        self._path = path
        self.lists_leaves = True
        """Whether `_bulk_get` lists all leaves: on every CouchDB that has it."""

    async def documents(self, ids: Sequence[str]) -> dict[str, Document]:
        """The documents by id, each as it is shown, with `_conflicts` where there are other leaves.

        Raises:
            PoolUnavailableError: one could not be read, which is not the same as not being there.
        """
        found: dict[str, Document] = {}
        for some in _parts(ids):
            if self.lists_leaves:
                found |= await self._bulk_get([{"id": identifier} for identifier in some], answers.bodies)
            else:
                found |= await self._listed(some)
        return found

    async def leaves(self, ids: Sequence[str]) -> dict[str, list[Document]]:
        """The live leaves by id, the shown one first.

        Raises:
            PoolUnavailableError: one could not be read, which is not the same as not being there.
        """
        found: dict[str, list[Document]] = {}
        for some in _parts(ids):
            if self.lists_leaves:
                requests = [{"id": identifier} for identifier in some]
            else:
                shown = await self._listed(some)
                requests = [
                    {"id": identifier, "rev": rev}
                    for identifier, document in shown.items()
                    for rev in (document["_rev"], *document.get("_conflicts", ()))
                ]
            if requests:  # PouchDB answers no request for nothing
                found |= await self._bulk_get(requests, _leaves)
        return found

    async def _bulk_get(self, requests: Sequence[Mapping[str, str]], meaning: Any) -> Any:
        async def attempt() -> Any:
            answer = await self._transport.send("POST", f"{self._path}/_bulk_get", encode({"docs": requests}))
            return meaning(answer.value()["results"])

        # An answer in which one document could not be read is a failure, too.
        return await self._transport.repeat(attempt)

    async def _listed(self, ids: Sequence[str]) -> dict[str, Document]:
        body = encode({"keys": ids, "include_docs": True, "conflicts": True})
        answer = await self._transport.ask("POST", f"{self._path}/_all_docs", body)
        return answers.listed_documents(answer.value()["rows"])


def _parts(ids: Sequence[str]) -> Iterator[list[str]]:
    """Ids that can exist, each once, in portions of a request."""
    unique = [identifier for identifier in dict.fromkeys(ids) if is_id(identifier)]
    for start in range(0, len(unique), READ_AT_ONCE):
        yield unique[start : start + READ_AT_ONCE]


def _leaves(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Document]]:
    """The live leaves of a `_bulk_get`, whose entries may be a document each, or a leaf each."""
    entries: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        entries.setdefault(result["id"], []).extend(result.get("docs") or ())
    return {identifier: answers.live_leaves(leaves) for identifier, leaves in entries.items()}


def is_id(identifier: str) -> bool:
    """Whether a text can be the id of a token, and so of nothing else in a database."""
    try:
        check_id(identifier)
    except InvalidTokenError:
        return False
    return True
