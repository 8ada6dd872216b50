"""Attachments, streamed in both directions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final
from urllib.parse import quote

from apicas.clients.couch.failures import AnswerLostError, NotConnectedError, ServerFailedError
from apicas.clients.couch.options import CouchOptions
from apicas.clients.couch.reading import is_id
from apicas.clients.couch.transport import Answer, Transport
from apicas.clients.port import SaveResult, SaveStatus
from apicas.exceptions import PoolError, PoolUnavailableError, TokenNotFoundError

CHUNK: Final = 1 << 20
"""Bytes of an attachment in memory at once."""


class Attachments:
    """The attachments in one database.

    Args:
        transport: to the server.
        database: the database's path.
        options: for how long a stream may stand still, and how often a connection is tried.
    """

    def __init__(self, transport: Transport, database: str, options: CouchOptions) -> None:
        self._transport = transport
        self._database = database
        self._options = options

    async def stream(self, document_id: str, name: str) -> AsyncGenerator[bytes, None]:
        """Read an attachment in chunks.

        Raises:
            TokenNotFoundError: there is no such document, or no such attachment.
        """
        if not (is_id(document_id) and name):  # it would name something else of the database's
            raise TokenNotFoundError(f"token {document_id!r} has no attachment {name!r}, or does not exist")
        async with self._transport.stream(self._path(document_id, name), silence=self._options.timeout) as response:
            if response.status == 404:
                raise TokenNotFoundError(f"token {document_id!r} has no attachment {name!r}, or does not exist")
            if response.status >= 400:
                raise PoolError(f"{self._transport.address}: attachment {name!r}: {response.status}")
            async for chunk in response.content.iter_chunked(CHUNK):
                yield chunk

    async def put(
        self, document_id: str, rev: str, name: str, data: AsyncIterator[bytes], content_type: str
    ) -> SaveResult:
        """Attach a stream to a revision of a document."""
        path = f"{self._path(document_id, name)}?rev={quote(rev, safe='')}"
        failures: list[Exception] = []
        try:
            answer = await self._upload(path, _watched(data, failures), content_type)
        except (AnswerLostError, ServerFailedError) as error:
            # The stream is used up; and the user's own error, if it had one, is what the user should see.
            if failures:
                raise failures[0] from None
            return SaveResult(SaveStatus.UNKNOWN, reason=str(error))
        try:
            return _result(answer)
        except PoolUnavailableError as error:  # a good status, around something else than the server's answer
            return SaveResult(SaveStatus.UNKNOWN, reason=str(error))

    def _path(self, document_id: str, name: str) -> str:
        return f"{self._database}/{_segment(document_id)}/{_segment(name)}"

    async def _upload(self, path: str, data: AsyncIterator[bytes], content_type: str) -> Answer:
        for attempt in range(self._options.attempts - 1):
            try:
                return await self._transport.upload(path, data, content_type)
            except NotConnectedError:  # nothing of the stream was used
                await self._transport.pause(attempt)
        return await self._transport.upload(path, data, content_type)


def _segment(text: str) -> str:
    """A part of a path; dots are encoded too, since a server, or a proxy, would walk up at `..`."""
    return quote(text, safe="").replace(".", "%2E")


def _result(answer: Answer) -> SaveResult:
    if answer.status == 409:
        return SaveResult(SaveStatus.CONFLICT, reason=answer.reason)
    if answer.status == 202:
        return SaveResult(SaveStatus.UNKNOWN, reason="accepted by a minority of the replicas")
    if answer.status >= 400:
        return SaveResult(SaveStatus.REJECTED, reason=answer.reason)
    return SaveResult(SaveStatus.WRITTEN, answer.value()["rev"])


async def _watched(data: AsyncIterator[bytes], failures: list[Exception]) -> AsyncIterator[bytes]:
    """Pass a stream on, and keep what it raises: the library would hide it behind an error of the connection."""
    try:
        async for chunk in data:
            if chunk:  # an empty chunk would end the body
                yield chunk
    except Exception as error:
        failures.append(error)
        raise
