"""What may go wrong between here and the server, told apart by what it means for a write.

A request that never left did nothing. One whose answer got lost may have done everything. One that the server failed
on may have done a part of it. To users all three are a pool that is unavailable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import aiohttp

from apicas._documents import decode
from apicas.clients.couch.answers import error_of
from apicas.exceptions import InvalidTokenError, PoolUnavailableError

# A server out of room or of file handles answers 500 to every write: no document is to blame.
_EXHAUSTED: Final = (b"enospc", b"no space left", b"emfile")


class NotConnectedError(PoolUnavailableError):
    """No connection could be made: the request never left."""


class AnswerLostError(PoolUnavailableError):
    """The request left and no whole answer came back: it may have been carried out."""


class ServerFailedError(PoolUnavailableError):
    """The server answered that it failed, or that it cannot now.

    Args:
        message: for people.
        status: the HTTP status: 408, 429, or 500 and above.
        body: the answer's body.
    """

    def __init__(self, message: str, status: int, body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.body = body

    @property
    def blames_the_request(self) -> bool:
        """Whether a repetition of the failure may be due to what is in the request."""
        return self.status == 500 and not any(word in self.body.lower() for word in _EXHAUSTED)

    @property
    def rows(self) -> Any:
        """The rows of a bulk that a cluster failed on, decoded; None where the answer has none."""
        try:
            rows = decode(self.body)
        except InvalidTokenError:
            return None
        return rows if isinstance(rows, list) else None

    @property
    def error(self) -> str:
        """CouchDB's word for the failure; empty where there is none."""
        return error_of(self.body)[0]


_TLS_ALERT: Final = ("\x15\x03", "\\x15\\x03")
"""How a server refuses who does not begin with TLS, as aiohttp's two parsers cite it."""


@contextmanager
def translated(address: str, unusable: Callable[[str], Exception]) -> Iterator[None]:
    """Turn what aiohttp raises into errors of the pool, with the original as their cause.

    Args:
        address: the pool's, without secrets.
        unusable: makes the error for a server that cannot be used as it is addressed.
    """
    try:
        yield
    except aiohttp.ClientSSLError as error:
        reason = _reason(error)
        hint = "" if "expired" in reason else "; ca_file names whom to trust"
        raise unusable(f"{address}: no trusted connection: {reason}{hint}") from error
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise NotConnectedError(f"{address}: no connection: {_reason(error)}") from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
        raise AnswerLostError(f"{address}: no answer: {_reason(error)}") from error
    except aiohttp.ClientError as error:
        if any(alert in getattr(error, "message", "") for alert in _TLS_ALERT):
            raise unusable(f"{address}: no answer in HTTP, but a word of TLS: write https://") from error
        # What is left is an answer that is no HTTP, or an aiohttp that could not make sense of it.
        raise AnswerLostError(f"{address}: no usable answer: {type(error).__name__}") from error


def _reason(error: Exception) -> str:
    """One line that says what happened; aiohttp's own text is at times empty, and at times several lines."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.strerror:
        return error.os_error.strerror.splitlines()[0]
    text = str(error) or type(error).__name__
    return text.splitlines()[0]
