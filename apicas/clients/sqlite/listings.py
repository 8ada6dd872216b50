"""Views as SQL: which condition, and which index answers it.

The index is named in each statement. Without statistics SQLite would pick one that it has to sort after, and statistics
of a pool are wrong by the time that they are made.

A user's view with a condition gets indexes of its own, so that a claim from one that lists few tokens of a big pool
costs what any claim costs. They are partial indexes: SQLite keeps them, whichever process writes.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from apicas._documents import decode, encode
from apicas.clients.port import MISSING, StoredView, ViewQuery
from apicas.exceptions import ConfigError
from apicas.tokens import TokenState
from apicas.views import MONITOR_VIEWS, STATES, View, condition_from_json, full_name

NO_TOKEN: Final = "no token"  # noqa: S105 - a state, not a secret
"""The state of a document whose type says that it is none."""
# SQLite's integers end here; a literal beyond is a double, as it is in JavaScript.
_LARGEST_INTEGER: Final = 2**63 - 1


class Span(msgspec.Struct, frozen=True):
    """A range of ids; None for no bound."""

    low: str | None = None
    high: str | None = None
    after: bool = False
    """Whether it begins behind `low`."""
    before: bool = False
    """Whether it ends short of `high`."""

    def conditions(self) -> list[str]:
        """The range in SQL, for the parameters."""
        low = [] if self.low is None else ["id > ?" if self.after else "id >= ?"]
        return low if self.high is None else [*low, "id < ?" if self.before else "id <= ?"]

    def parameters(self) -> list[str]:
        """The bounds."""
        return [bound for bound in (self.low, self.high) if bound is not None]

    def beyond(self, last: str, *, descending: bool) -> Span:
        """What is left of the range behind an id."""
        bounds = {"high": last, "before": True} if descending else {"low": last, "after": True}
        return msgspec.structs.replace(self, **bounds)


class Listing(msgspec.Struct, frozen=True):
    """A view, in SQL."""

    where: str
    by_id: str
    """The index in the order of ids."""
    by_spot: str | None
    """The index in the order in which claims meet tokens; only todo has one, since only from there is claimed."""

    def page(self, columns: str, span: Span, *, descending: bool = False) -> str:
        """A statement that selects rows in the order of ids; its last parameter is their number at most."""
        conditions = " AND ".join([self.where, *span.conditions()])
        order = "id DESC" if descending else "id"
        return f"SELECT {columns} FROM tokens INDEXED BY {self.by_id} WHERE {conditions} ORDER BY {order} LIMIT ?"

    def window(self, columns: str, comparison: str) -> str:
        """A statement that selects rows from one spot on (`>=`), or up to there (`<`)."""
        return (
            f"SELECT {columns} FROM tokens INDEXED BY {self.by_spot} "
            f"WHERE {self.where} AND spot {comparison} ? ORDER BY spot LIMIT ?"
        )

    def count(self) -> str:
        """A statement that counts the rows, from the index alone."""
        return f"SELECT count(*) FROM tokens INDEXED BY {self.by_id} WHERE {self.where}"


MONITOR: Final = {
    name: Listing(f"state = '{view.state}'", "tokens_by_state", "tokens_by_spot" if view.state == "todo" else None)
    for name, view in MONITOR_VIEWS.items()
}
COUNT_STATES: Final = "SELECT state, count(*) FROM tokens INDEXED BY tokens_by_state GROUP BY state"
TOKEN_STATES: Final = ", ".join(f"'{state}'" for state in (*STATES, TokenState.NO_VIEW))
COUNT_TOKENS: Final = f"SELECT count(*) FROM tokens INDEXED BY tokens_by_state WHERE state IN ({TOKEN_STATES})"


def find_listing(connection: sqlite3.Connection, name: str) -> Listing | None:
    """A view by its full name; None where there is none."""
    if name in MONITOR:
        return MONITOR[name]
    row = connection.execute("SELECT number, state, condition FROM views WHERE name = ?", (name,)).fetchone()
    return None if row is None else _user_listing(*row)


def installed(connection: sqlite3.Connection) -> list[StoredView]:
    """The views that users have added."""
    rows = connection.execute("SELECT name, state, condition FROM views ORDER BY name")
    return [
        StoredView(name=name, state=state, where=None if condition is None else decode(condition))
        for name, state, condition in rows
    ]


def install(connection: sqlite3.Connection, view: View) -> None:
    """Install a view, or replace the one of that name. Its indexes are made from all tokens, in one go.

    Raises:
        ConfigError: its condition cannot be said in SQL.
    """
    if view.name in MONITOR:  # they are there, and a View cannot give them another meaning
        return
    if view.type != "token":
        raise ConfigError(
            f"view {view.name} lists documents of type {view.type}: only a pool on CouchDB has such views"
        )
    _uninstall(connection, view.name)
    condition = None if view.where is None else encode(view.where.to_json()).decode()
    added = connection.execute(
        "INSERT INTO views (name, state, condition) VALUES (?, ?, ?)", (view.name, str(view.state), condition)
    )
    if condition is not None:
        listing = _user_listing(added.lastrowid or 0, view.state, condition)
        try:
            connection.execute(f"CREATE INDEX {listing.by_id} ON tokens (id) WHERE {listing.where}")
            if listing.by_spot is not None:
                connection.execute(f"CREATE INDEX {listing.by_spot} ON tokens (spot) WHERE {listing.where}")
        except sqlite3.Error as error:
            if not _is_about_the_statement(error):
                raise
            raise ConfigError(f"the condition of view {view.name} cannot be said in SQL: {error}") from error


def _uninstall(connection: sqlite3.Connection, name: str) -> None:
    row = connection.execute("SELECT number FROM views WHERE name = ?", (name,)).fetchone()
    if row is not None:
        connection.execute(f"DROP INDEX IF EXISTS view_{row[0]}_by_id")
        connection.execute(f"DROP INDEX IF EXISTS view_{row[0]}_by_spot")
        connection.execute("DELETE FROM views WHERE number = ?", row)


def _is_about_the_statement(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR


def _user_listing(number: int, state: str, condition: str | None) -> Listing:
    if condition is None:
        return MONITOR[full_name(state)]
    text, parameters = condition_from_json(decode(condition)).sql("body")
    where = f"state = '{TokenState(state)}' AND {_with_literals(text, parameters)}"
    return Listing(where, f"view_{number}_by_id", f"view_{number}_by_spot" if state == "todo" else None)


def _with_literals(text: str, parameters: Sequence[Any]) -> str:
    """A condition with its parameters written out: a partial index has none, and is used where its text comes again."""
    pieces: Iterator[str] = iter(text.split("?"))
    return next(pieces) + "".join(_literal(value) + piece for value, piece in zip(parameters, pieces, strict=True))


def _literal(value: Any) -> str:
    if isinstance(value, str):
        if "\x00" in value:
            raise ConfigError("a view's condition cannot hold a NUL character")
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, (bool, int)) and abs(value) <= _LARGEST_INTEGER:
        return str(int(value))
    number = float(value)
    return f"{number!r}" if math.isfinite(number) else f"{'-' if number < 0 else ''}9e999"


def span(query: ViewQuery) -> Span | None:
    """The ids that a query asks for; None where no id can be among them.

    Keys of other types than text sort before all ids, or after, as in CouchDB.
    """
    low, high = (query.end_key, query.start_key) if query.descending else (query.start_key, query.end_key)
    if isinstance(low, (list, tuple, dict)) or (high is not MISSING and not isinstance(high, (str, list, tuple, dict))):
        return None
    return Span(low if isinstance(low, str) else None, high if isinstance(high, str) else None)
