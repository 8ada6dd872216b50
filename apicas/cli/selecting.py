"""From the arguments of a command to the tokens that it means."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final, TypeAlias

import typer

from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from apicas.cli.fields import Where
    from apicas.cli.selection import Selection
    from apicas.clients.base import PoolClient

IdOption: TypeAlias = Annotated[bool, typer.Option("--id", help="Take every name for a token's id.")]
IdsFromOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="And the tokens whose ids this file lists; - for standard input."),
]
WhereOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD=VALUE", help="Only tokens with this value; also != < <= > >= and ~ for a part."),
]
OlderOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Only tokens in their state for longer than this: 90s, 30m, 24h, 2d."),
]


def states(incomplete: str) -> list[str]:
    """The Monitor views that a word may become, for the shell's completion; no pool is asked."""
    return [state for state in ("todo", "locked", "done", "error") if state.startswith(incomplete)]


SELECTING: Final = """\
todo, locked, done, error and Design/view are views, all of whose tokens are meant; any other name is a token's id.
A file of --ids-from has an id in each line, or a JSON object with `_id` or `id`, as `apicas ls --json` writes them.
Several conditions must all be fulfilled: `apicas ls --help` tells of them, and `apicas ls` shows what they select."""
"""For the help of commands that take a selection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What was asked for, before the pool has been asked what it means.

    Args:
        names: of views and tokens.
        only_ids: every name is a token's.
        ids_from: a file with ids.
        conditions: each `FIELD=VALUE`.
        older: seconds in its state, as people write them.
    """

    names: Sequence[str] = ()
    only_ids: bool = False
    ids_from: str | None = None
    conditions: Sequence[str] = ()
    older: str | None = None

    def check(self) -> None:
        """Refuse a selection of nothing, before anything is opened: no command changes all tokens by mistake.

        Raises:
            ConfigError: there is none.
        """
        if not self.names and self.ids_from is None:
            raise ConfigError(
                "which tokens? Name views (todo, locked, done, error), ids, or a file with ids: --ids-from"
            )

    async def select(self, client: PoolClient, *, otherwise_all: bool = False) -> Selection:
        """Tell views from ids, and read the file.

        Args:
            client: the pool.
            otherwise_all: whether no name at all means every token.

        Raises:
            ConfigError: the file, or a condition, cannot be read.
            TokenNotFoundError: no name is that of a view or a token.
        """
        from apicas.cli.selection import Selection

        where = tuple(self._where())
        if otherwise_all and not self.names and self.ids_from is None:
            return Selection(everything=True, where=where)
        views, ids = await self._tell_apart(client)
        return Selection(views=views, ids=[*ids, *self._listed()], where=where)

    def _where(self) -> Iterator[Where]:
        from apicas.cli.fields import where

        yield from map(where, self.conditions)
        if self.older is not None:
            yield where(f"age>{self.older}")

    async def _tell_apart(self, client: PoolClient) -> tuple[list[str], list[str]]:
        """The views and the ids among the names. What is no token's id is a view's where it can be one."""
        from apicas.cli.opening import patiently
        from apicas.exceptions import TokenNotFoundError
        from apicas.views import STATES

        unique = list(dict.fromkeys(self.names))
        if self.only_ids:
            return [], unique
        views = [name for name in unique if name in STATES]
        others = [name for name in unique if name not in views]
        found = await patiently(lambda: client.get(others)) if others else []
        known = {name for name, document in zip(others, found, strict=True) if document is not None}
        views += [name for name in others if name not in known and "/" in name]
        ids = [name for name in others if name not in views]
        if unique and not views and not known and self.ids_from is None:
            names = ", ".join(map(repr, unique[:5]))
            raise TokenNotFoundError(f"there is no token, and no view, of the name {names}{_meant(unique[0])}")
        return views, ids

    def _listed(self) -> list[str]:
        if self.ids_from is None:
            return []
        if self.ids_from == "-":
            return list(dict.fromkeys(ids_in(sys.stdin.buffer, "standard input")))
        try:
            with open(self.ids_from, "rb") as file:  # noqa: PTH123 - Path would turn ./x into x, in messages too
                return list(dict.fromkeys(ids_in(file, self.ids_from)))
        except OSError as error:
            raise ConfigError(f"{self.ids_from}: {error.strerror}") from error


def _meant(name: str) -> str:
    """The state that a name may be a misspelt one of."""
    from difflib import get_close_matches

    close = get_close_matches(name.lower(), states(""), 1)
    return f": did you mean {close[0]}?" if close else ""


def ids_in(file: BinaryIO, name: str) -> Iterator[str]:
    """The ids that a file lists, one a line: as they are, as JSON text, or in a JSON object.

    Args:
        file: read to its end.
        name: for messages.

    Raises:
        ConfigError: a line has none.
    """
    for number, line in enumerate(file, 1):
        stripped = line.strip()
        if stripped:
            try:
                identifier = _id_of(stripped)
            except ValueError as error:
                raise ConfigError(f"{name}:{number}: {error}") from None
            if not isinstance(identifier, str) or not identifier:
                raise ConfigError(f"{name}:{number}: no id of a token")
            yield identifier


def _id_of(line: bytes) -> Any:
    from apicas._documents import decode

    if line[:1] not in {b"{", b'"'}:
        return line.decode()
    value = decode(line)
    return value.get("_id", value.get("id")) if isinstance(value, dict) else value
