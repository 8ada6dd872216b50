"""What iterators and the runtime ask of a modifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Protocol, TypeVar

from apicas.modifiers.claims import Claim, Owner

M = TypeVar("M", bound=MutableMapping[str, Any])


class TokenModifier(Protocol):
    """What iterators and the runtime ask of a modifier."""

    def bind(self, owner: Owner, now: Callable[[], float]) -> None:
        """Use this owner's host name, and this clock, where a call names none."""
        ...

    def lock(self, token: M, claim: Claim) -> M:
        """Claim the token: todo -> locked."""
        ...

    def refresh(self, token: M, now: float) -> M:
        """Show that the owner lives: a new lock time."""
        ...

    def unlock(self, token: M) -> M:
        """Take the lock off."""
        ...

    def unclose(self, token: M) -> M:
        """Take the end off."""
        ...

    def add_output(self, token: M, output: Mapping[str, Any]) -> M:
        """Put fields into the token."""
        ...

    def crash(self, token: M, now: float | None = None, *, not_before: float = 0.0) -> M:
        """Send the token back to todo because the process of its work died."""
        ...

    def close(self, token: M, now: float | None = None) -> M:
        """End the token: exit code 0 where none was set."""
        ...

    def scrub(self, token: M, now: float | None = None, *, not_before: float = 0.0) -> M:
        """Send the token back to todo and count it."""
        ...

    def set_error(
        self, token: M, message: str | None = None, exception: str | None = None, now: float | None = None
    ) -> M:
        """End the token in error."""
        ...

    def add_error(
        self, token: M, message: str | None = None, exception: str | None = None, now: float | None = None
    ) -> M:
        """Record what went wrong, without ending the token."""
        ...

    def release(self, token: M, now: float | None = None, *, not_before: float = 0.0) -> M:
        """Send the token back to todo uncounted."""
        ...

    def reclaim(self, token: M, now: float, *, charge: bool = True, not_before: float = 0.0) -> M:
        """Take the token from an owner that is gone."""
        ...

    def reset(self, token: M, now: float | None = None) -> M:
        """Put the token back to todo as if new."""
        ...
