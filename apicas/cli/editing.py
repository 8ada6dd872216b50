"""What an edit may change, and how it is put into a token that others change as well. No store is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from apicas._documents import Document
from apicas.cli.fields import NOTHING, assignment, with_value
from apicas.exceptions import ConfigError
from apicas.policies.fence import LEASE_FIELDS

STORED: Final = ("_id", "_rev", "_attachments", "_conflicts")
"""What is never edited."""
GUARDED: Final = (*LEASE_FIELDS, "exit_code", "type", "apicas")
"""What says who holds a token, and in which state it is."""


class OvertakenError(Exception):
    """Somebody else has changed the same fields.

    Args:
        names: of the fields.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names))


@dataclass(frozen=True, slots=True)
class Assignments:
    """What `--set` and `--unset` say.

    Args:
        values: by the names of fields; NOTHING takes one out.
        force: whether guarded fields may change, too.
    """

    values: Mapping[str, Any]
    force: bool

    @classmethod
    def read(cls, settings: Sequence[str], unset: Sequence[str], *, force: bool) -> Self:
        """Read them.

        Raises:
            ConfigError: one is none.
        """
        values = dict(assignment(text) for text in settings)
        return cls({**values, **dict.fromkeys((name.removeprefix(".") for name in unset), NOTHING)}, force)

    def applied(self, document: Document) -> Document:
        """A token with these values.

        Raises:
            ConfigError: it may not, or cannot, be changed so.
        """
        changed = document
        for name, value in self.values.items():
            changed = with_value(changed, name, value)
        check(document, changed, force=self.force)
        return changed


def check(before: Mapping[str, Any], after: Mapping[str, Any], *, force: bool) -> None:
    """Refuse a change of fields that are not for editing.

    Raises:
        ConfigError: there is one.
    """
    for name in STORED:
        if name in after and after[name] != before.get(name):
            hint = ": see `apicas attachments`" if name == "_attachments" else ""
            raise ConfigError(f"{name} cannot be edited{hint}")
    touched = [name for name in GUARDED if before.get(name, NOTHING) != after.get(name, NOTHING)]
    if touched and not force:
        raise ConfigError(
            f"{', '.join(touched)}: not for editing, since pilots decide by it: "
            "see `apicas reset` and `apicas release`, or say --force"
        )


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that differ, with their new values; NOTHING for one that is gone."""
    names = [name for name in {**before, **after} if name not in STORED]
    return {
        name: after.get(name, NOTHING)
        for name in names
        if before.get(name, NOTHING) != after.get(name, NOTHING) or type(before.get(name)) is not type(after.get(name))
    }


def apply(document: Document, before: Mapping[str, Any], edited: Mapping[str, Any]) -> None:
    """Put changed fields into a token as it is now.

    Args:
        document: as it is now; changed.
        before: as it was when the edit began.
        edited: the changed fields.

    Raises:
        OvertakenError: somebody else gave them other values meanwhile.
    """
    now = {name: document.get(name, NOTHING) for name in edited}
    overtaken = [name for name, value in edited.items() if now[name] not in (before.get(name, NOTHING), value)]
    if overtaken:
        raise OvertakenError(overtaken)
    for name, value in edited.items():
        if value is NOTHING:
            document.pop(name, None)
        else:
            document[name] = value
