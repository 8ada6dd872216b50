"""The same changes for tokens that are nested inside one document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from typing_extensions import override

from apicas.modifiers.basic import BasicTokenModifier
from apicas.modifiers.claims import Claim, Owner
from apicas.modifiers.protocol import M
from apicas.tokens import (
    TokenState,
    state_by_fields,
)


class _NestedModifier(BasicTokenModifier):
    """A nested token needs no `type`: its document has it."""

    @staticmethod
    @override
    def _state(token: MutableMapping[str, Any]) -> TokenState:
        return state_by_fields(token)


class NestedTokenModifier:
    """The same changes for tokens that are nested inside one document, each addressed by its key path.

    Every method takes the path and the document before the arguments of BasicTokenModifier, changes the document and
    returns it.

    Args:
        timeout: unused; PiCaS passes one.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self.timeout = timeout
        self.modifier: BasicTokenModifier = _NestedModifier()

    def bind(self, owner: Owner, now: Callable[[], float]) -> None:
        """Use this owner's host name, and this clock (unix seconds), where a call names none."""
        self.modifier.bind(owner, now)

    @staticmethod
    def get_token(path: str | Sequence[str | int], record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """The nested token.

        Raises:
            KeyError: there is nothing at that path, or no mapping.
        """
        found: Any = record
        for key in (path,) if isinstance(path, str) else path:
            try:
                found = found[key]
            except (IndexError, TypeError):
                raise KeyError(key) from None
        if not isinstance(found, MutableMapping):
            raise KeyError(f"no token at {path!r}")
        return found

    def lock(self, path: str | Sequence[str | int], record: M, claim: Claim) -> M:
        """See BasicTokenModifier.lock."""
        self.modifier.lock(self.get_token(path, record), claim)
        return record

    def refresh(self, path: str | Sequence[str | int], record: M, now: float) -> M:
        """See BasicTokenModifier.refresh."""
        self.modifier.refresh(self.get_token(path, record), now)
        return record

    def unlock(self, path: str | Sequence[str | int], record: M) -> M:
        """See BasicTokenModifier.unlock."""
        self.modifier.unlock(self.get_token(path, record))
        return record

    def close(self, path: str | Sequence[str | int], record: M, now: float | None = None) -> M:
        """See BasicTokenModifier.close."""
        self.modifier.close(self.get_token(path, record), now)
        return record

    def unclose(self, path: str | Sequence[str | int], record: M) -> M:
        """See BasicTokenModifier.unclose."""
        self.modifier.unclose(self.get_token(path, record))
        return record

    def add_output(self, path: str | Sequence[str | int], record: M, output: Mapping[str, Any]) -> M:
        """See BasicTokenModifier.add_output."""
        self.modifier.add_output(self.get_token(path, record), output)
        return record

    def scrub(
        self, path: str | Sequence[str | int], record: M, now: float | None = None, *, not_before: float = 0
    ) -> M:
        """See BasicTokenModifier.scrub."""
        self.modifier.scrub(self.get_token(path, record), now, not_before=not_before)
        return record

    def set_error(
        self,
        path: str | Sequence[str | int],
        record: M,
        message: str | None = None,
        exception: str | None = None,
        now: float | None = None,
    ) -> M:
        """See BasicTokenModifier.set_error."""
        self.modifier.set_error(self.get_token(path, record), message, exception, now)
        return record

    def release(
        self, path: str | Sequence[str | int], record: M, now: float | None = None, *, not_before: float = 0
    ) -> M:
        """See BasicTokenModifier.release."""
        self.modifier.release(self.get_token(path, record), now, not_before=not_before)
        return record

    def crash(
        self, path: str | Sequence[str | int], record: M, now: float | None = None, *, not_before: float = 0
    ) -> M:
        """See BasicTokenModifier.crash."""
        self.modifier.crash(self.get_token(path, record), now, not_before=not_before)
        return record

    def reclaim(
        self,
        path: str | Sequence[str | int],
        record: M,
        now: float,
        *,
        charge: bool = True,
        not_before: float = 0,
    ) -> M:
        """See BasicTokenModifier.reclaim."""
        self.modifier.reclaim(self.get_token(path, record), now, charge=charge, not_before=not_before)
        return record

    def reset(self, path: str | Sequence[str | int], record: M, now: float | None = None) -> M:
        """See BasicTokenModifier.reset."""
        self.modifier.reset(self.get_token(path, record), now)
        return record
