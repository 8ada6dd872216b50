"""The whole error tree on one screen: one root, one leaf per different reaction.

Losing a race, an empty view and a full pilot are values, not exceptions. `Retry`, `Fail` and `Release` are not errors
either: they are what a user raises to say how a token ends, and live here so that one import finds them.
"""

from __future__ import annotations


class ApicasError(Exception):
    """The root of everything that apicas raises."""


class ConfigError(ApicasError):
    """The configuration, an option or a pool's address cannot be used as it is."""


class PoolError(ApicasError):
    """The pool could not do what was asked."""


class PoolUnavailableError(PoolError):
    """The pool's store did not answer, or answered that it cannot now. Trying again later may work."""


class AccessDeniedError(PoolError):
    """The store refused the credentials or the permission. Final: a retry would lock the account out."""


class PoolNotFoundError(PoolError):
    """There is no such database. `apicas init` creates it."""


class PoolInUseError(PoolError):
    """Another process uses this pool, and its file system cannot be shared safely."""


class ViewNotFoundError(PoolError):
    """The pool has no such view. `apicas init` installs those of apicas."""


class TokenNotFoundError(PoolError, LookupError):
    """The pool has no such token, or the token has no such attachment."""


class EditConflictError(PoolError):
    """A token kept changing under an edit until the retries were used up."""


class InvalidTokenError(ApicasError, ValueError):
    """The document cannot be stored as a token; the message is the reason."""


class TransitionError(ApicasError):
    """A change was asked of a token that is in no state for it."""


class LeaseLostError(ApicasError):
    """The token is no longer ours: somebody else claimed, reset or deleted it. Nothing was written."""


class PilotDiedError(ApicasError):
    """A pilot inside an application works no more tokens. Its cause says why."""


class TokenTimeoutError(ApicasError):
    """The work on a token went past its time limit."""


class TokenMemoryError(ApicasError):
    """The work on a token took more memory than its limit."""


class CommandError(ApicasError):
    """A command ended with a non-zero exit code, or could not be started."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code: int = exit_code


class OutputError(ApicasError):
    """A command ended well, but what it was to make is not there, or cannot be stored."""


class Decision(Exception):  # noqa: N818 - it says how a token ends, and is no error
    """The root of what process_token may raise to say outright how its token ends."""


class Retry(Decision):
    """The work failed, try it again: back to todo, counted as a scrub, not before `after` seconds from now.

    Args:
        reason: what is kept in the token's `error` list.
        after: seconds during which no pilot claims the token.
    """

    def __init__(self, reason: str = "retry asked for", *, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class Fail(Decision):
    """The work failed for good: straight to error, without another try.

    Args:
        reason: what is kept in the token's `error` list.
        exit_code: non-zero; a zero becomes 1, else the token would show as done.
    """

    def __init__(self, reason: str = "failed", *, exit_code: int = 1) -> None:
        super().__init__(reason)
        self.exit_code: int = exit_code or 1


class Release(Decision):
    """Hand the token back: to todo, without counting it as a failure.

    Args:
        reason: what the log says.
        after: seconds during which no pilot claims the token.
    """

    def __init__(self, reason: str = "released", *, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after
