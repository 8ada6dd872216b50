"""What may go wrong between here and the server, told apart by what it means for a write.

A request that never left did nothing. One whose answer got lost may have done everything. One that the server failed
on may have done a part of it. To users all three are a pool that is unavailable.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import aiohttp

from apicas._documents import decode
from apicas.clients.couch.answers import error_of
from apicas.exceptions import InvalidTokenError, PoolUnavailableError

# A server out of room or of file handles answers 500 to every write: no document is to blame.
_EXHAUSTED: Final = (b"enospc", b"no space left", b"emfile")

# OpenSSL's numbers for why a certificate is not believed, which Python has no names for.
_NOT_YET: Final = 9
_EXPIRED: Final = 10
_OTHER_NAME: Final = frozenset({62, 64})
# Its word for an answer that is no TLS; newer versions have the second.
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"})
_ALERTS: Final = ("\\x15\\x03", "\x15\x03")


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
        raise unusable(f"{address}: no trusted connection: {_distrust(error)}") from error
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise NotConnectedError(f"{address}: no connection: {_reason(error)}{_maybe_no_tls(address, error)}") from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
        raise AnswerLostError(f"{address}: no answer: {_reason(error)}") from error
    except aiohttp.ClientError as error:
        if _is_tls(error):
            raise unusable(f"{address}: the server speaks https on that port, write https:// there") from error
        # What is left is an answer that is no HTTP, or an aiohttp that could not make sense of it.
        raise AnswerLostError(f"{address}: no usable answer: {type(error).__name__}") from error


def _distrust(error: aiohttp.ClientSSLError) -> str:
    """Why there is no trusted connection, and what to do about it."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
    if not isinstance(cause, ssl.SSLCertVerificationError):
        if getattr(cause, "reason", None) in _NO_TLS:
            return "the server does not speak https on that port"
        return _reason(error)
    if cause.verify_code == _EXPIRED:
        return "the server's certificate has expired; who runs the server has to renew it"
    if cause.verify_code == _NOT_YET:
        return "the server's certificate is not valid yet: is the clock of this machine right?"
    if cause.verify_code in _OTHER_NAME:
        return f"{cause.verify_message.rstrip('.')}; the address has to have a name that the certificate is for"
    return (
        f"the server's certificate is by nobody who is trusted here ({cause.verify_message}); "
        "`apicas config set ca_file FILE` names whose to trust, ca_file=FILE in Python"
    )


def _maybe_no_tls(address: str, error: Exception) -> str:
    """CouchDB's port for http waits for the end of a line where it hears TLS, and says nothing."""
    if address.startswith("https:") and isinstance(error, TimeoutError):
        return "; so it is, too, where the port speaks http only"
    return ""


def _is_tls(error: aiohttp.ClientError) -> bool:
    """Whether the answer to a request in the open is an alert of TLS: aiohttp shows what is no HTTP in its message."""
    return isinstance(error, aiohttp.ClientResponseError) and any(alert in error.message for alert in _ALERTS)


def _reason(error: Exception) -> str:
    """One line that says what happened; aiohttp's own text is at times empty, and at times several lines."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.strerror:
        return error.os_error.strerror.splitlines()[0]
    text = str(error) or type(error).__name__
    return text.splitlines()[0]
