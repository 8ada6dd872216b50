"""Writing documents in bulk, and what became of each when the server fails, or the answer gets lost.

A failure that repeats may be due to a document, or to the server. The canary tells: a write of next to nothing. Where
that fails too the pool is unavailable, and no document is blamed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from apicas._documents import check_fields, encode
from apicas.clients.bulks import BulkRefusedError, EncodedDocument
from apicas.clients.couch import answers
from apicas.clients.couch.failures import AnswerLostError, NotConnectedError, ServerFailedError
from apicas.clients.couch.options import CouchOptions
from apicas.clients.couch.transport import Answer, Transport
from apicas.clients.port import SaveResult, SaveStatus
from apicas.exceptions import InvalidTokenError, PoolUnavailableError

# A document that is never replicated and in no view; one for all pilots, whose conflict is as good an answer as any.
_CANARY: Final = (EncodedDocument({"_id": "_local/apicas-canary"}, b'{"_id":"_local/apicas-canary"}'),)
# What a proxy refuses for its size is larger than this.
_LARGE: Final = 200_000


class BulkWriter:
    """Writes bulks to one database.

    Args:
        transport: to the server.
        path: of the database's `_bulk_docs`.
        options: for how often a bulk is sent.
    """

    def __init__(self, transport: Transport, path: str, options: CouchOptions) -> None:
        self._transport = transport
        self._path = path
        self._options = options

    async def write(self, batch: Sequence[EncodedDocument]) -> list[SaveResult]:
        """Write a bulk: once, or again where the first attempt failed.

        Raises:
            BulkRefusedError: something in it is to blame, or may be.
            PoolUnavailableError: it never left, or the server cannot now.
        """
        body = answers.bulk_body(batch)
        repeated = False
        for attempt in range(self._options.attempts):
            failure: PoolUnavailableError
            try:
                answer = await self._transport.send("POST", self._path, body)
            except AnswerLostError as error:
                if not _may_be_too_large(body, error):
                    return answers.unknown(len(batch), str(error))
                failure, repeated = error, True
            except NotConnectedError as error:
                failure = error
            except ServerFailedError as error:
                results = _after_failure(batch, error, repeated=repeated)
                if results is not None:
                    return results
                failure, repeated = error, repeated or error.status != 429
            else:
                return _results(batch, answer, repeated=repeated)
            if attempt == self._options.attempts - 1:
                await self._blame(failure)
            await self._transport.pause(attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _blame(self, failure: PoolUnavailableError) -> NoReturn:
        """Find what is to blame for a failure that repeats.

        Raises:
            BulkRefusedError: something in the bulk may be.
            PoolUnavailableError: the server is, or the way to it.
        """
        blames_the_request = isinstance(failure, AnswerLostError) or (
            isinstance(failure, ServerFailedError) and failure.blames_the_request
        )
        if not blames_the_request or not await self._takes_writes():
            raise failure
        raise BulkRefusedError(str(failure), uncertain=True) from failure

    async def _takes_writes(self) -> bool:
        """Whether the server carries out a write in which nothing can be wrong."""
        try:
            answer = await self._transport.send("POST", self._path, answers.bulk_body(_CANARY))
            (result,) = answers.bulk_results(_CANARY, answer.status, answer.json())
        except PoolUnavailableError:
            return False
        return result.status is not SaveStatus.UNKNOWN


def _may_be_too_large(body: bytes, error: AnswerLostError) -> bool:
    """Whether the connection may have been broken on purpose, by a proxy that does not take so much."""
    return len(body) > _LARGE and not isinstance(error.__cause__, TimeoutError)


def _results(batch: Sequence[EncodedDocument], answer: Answer, *, repeated: bool) -> list[SaveResult]:
    if answer.status >= 400 and answer.status != 404:  # 404 is about the address, not about a document
        word, _ = answers.error_of(answer.body)
        raise BulkRefusedError(answer.reason, uncertain=repeated or word == answers.MISSING_STUB)
    try:
        rows = answer.json()
    except PoolUnavailableError as error:
        return answers.unknown(len(batch), str(error))
    return answers.bulk_results(batch, answer.status, rows, repeated=repeated)


def _after_failure(
    batch: Sequence[EncodedDocument], error: ServerFailedError, *, repeated: bool
) -> list[SaveResult] | None:
    """What a failed bulk write means; None to send it again.

    Raises:
        BulkRefusedError: something in the bulk is to blame.
    """
    if error.rows is not None:
        # A cluster whose replicas did not answer in time still tells, row by row, what it knows.
        return answers.bulk_results(batch, error.status, error.rows, repeated=repeated)
    if error.error in answers.DOCUMENT_ERRORS:
        raise BulkRefusedError(str(error), uncertain=repeated or error.error == answers.MISSING_STUB) from error
    if error.status == 504:  # a proxy that passed the request on, and waited in vain
        return answers.unknown(len(batch), str(error))
    return None


def tombstone(document: Mapping[str, Any]) -> EncodedDocument | SaveResult:
    """What replaces a deleted document: nothing of its content."""
    stub = {"_id": document.get("_id"), "_rev": document.get("_rev")}
    try:
        check_fields(stub)
    except InvalidTokenError as error:
        return SaveResult(SaveStatus.REJECTED, reason=str(error))
    if stub["_rev"] is None:
        # CouchDB would take it for a new document that is deleted from the start.
        return SaveResult(SaveStatus.CONFLICT, reason="no revision to delete")
    return EncodedDocument(stub, encode({**stub, "_deleted": True}))
