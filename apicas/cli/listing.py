"""How `apicas ls` writes tokens: a table, or JSON Lines; at once as they are read, or sorted.

What is held in memory is a page of tokens. Sorted with a limit, it is as many as the limit and some; sorted without
one, a row of each.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

import typer

from apicas._documents import Document, encode
from apicas.cli.exits import ExitCode
from apicas.cli.fields import BOOKKEEPING, NOTHING, TIMES, WORKED_OUT, ago, cell, field_of, has_field
from apicas.cli.opening import patiently
from apicas.cli.selection import Selection, tell_lacking, tell_missing, tell_unknown_fields
from apicas.cli.terminal import one_line, painted, plural, printable_json, results, tell
from apicas.clients.base import PoolClient
from apicas.exceptions import ConfigError, InvalidTokenError
from apicas.views import full_name

WIDEST: Final = 48
"""Characters of a cell; more of a field shows `apicas show`, or --json."""
_TOGETHER: Final = 200
"""Rows by which the columns are measured, and lines that are written at once."""
_SLACK: Final = 1000
"""Rows above the limit that a sorted list holds before it drops the last ones."""

_COLUMNS: Final[Mapping[str, str]] = {
    "Monitor/todo": "id,attempt,age,input",
    "Monitor/locked": "id,attempt,age,beat,hostname,input",
    "Monitor/done": "id,attempt,age,hostname,output",
    "Monitor/error": "id,attempt,age,hostname,exit_code,reason",
}
_DEFAULT: Final = "id,state,attempt,age,hostname,input"

_OWN: Final = 3
"""Fields of the tokens' own that are shown where they have no input."""
_OF_OTHERS: Final = frozenset({"input", "output", "uploads"})

Row: TypeAlias = list[Any]


def columns_of(asked: str | None, names: Sequence[str], *, as_json: bool) -> list[str]:
    """The fields to show; none for whole tokens.

    Args:
        asked: the value of --columns.
        names: of views and ids.
        as_json: whether whole tokens are what is written where nothing was asked.

    Raises:
        ConfigError: a field has no name.
    """
    if asked is None:
        if as_json:
            return []
        asked = _COLUMNS.get(full_name(names[0]) if len(names) == 1 and names[0].count("/") < 2 else "", _DEFAULT)
    columns = [name.strip() for name in asked.split(",")]
    if not all(columns):
        raise ConfigError(f"--columns {asked!r}: write FIELD,FIELD,...")
    return columns


def fitted(columns: Sequence[str], page: Sequence[Document]) -> list[str]:
    """The columns, with the tokens' own fields in the place of an input that none of these has, as those of a table."""
    if "input" not in columns or any(document.get("input") for document in page):
        return list(columns)
    place, first = columns.index("input"), page[0]
    own = [name for name in first if name not in BOOKKEEPING | _OF_OTHERS and first[name] != first["_id"]]
    names = [f".{name}" if name in WORKED_OUT else name for name in own]
    return [*columns[:place], *(names[:_OWN] or ["input"]), *columns[place + 1 :]]


class Listing:
    """What to write of each token, and in which order.

    Args:
        columns: the fields; none for whole tokens.
        sort: by which field; with - before it from the greatest.
        limit: tokens at most; None for all.
        as_json: JSON Lines instead of a table.
        asked: of the columns those that somebody named.
    """

    def __init__(
        self,
        columns: Sequence[str],
        sort: str | None,
        limit: int | None,
        *,
        as_json: bool,
        asked: Sequence[str] = (),
    ) -> None:
        self._columns = list(columns)
        self._fits = not as_json and not asked
        self._sort = sort
        self._limit = limit
        self._as_json = as_json
        self._missing: list[str] = []
        self._unseen = [*asked, *([sort.removeprefix("-")] if sort else [])]
        """Of the fields that somebody named those that no token had so far."""

    async def write(self, client: PoolClient, selection: Selection) -> None:
        """Write the tokens of a selection.

        Raises:
            typer.Exit: one of those that were named does not exist.
        """
        rows = self._rows(client, selection)
        if self._sort is not None:
            await self._write_sorted(client, selection, rows, self._sort)
        else:
            await self._write_as_read(client, selection, rows)
        tell_missing(self._missing)
        if self._missing:
            raise typer.Exit(ExitCode.INCOMPLETE)

    async def _rows(self, client: PoolClient, selection: Selection) -> AsyncIterator[tuple[Any, Row]]:
        """What the tokens are sorted by, and what is written of them."""
        name = (self._sort or "").removeprefix("-")
        async for page in selection.pages(client, missing=self._missing.append):
            now = client.time()
            if self._fits and page:  # in place: the table has them already
                self._columns[:] = fitted(self._columns, page)
                self._fits = False
            for document in page:
                row = [field_of(document, column, now) for column in self._columns] or [document]
                if self._unseen:
                    self._unseen = [column for column in self._unseen if not has_field(document, column)]
                yield field_of(document, name, now) if name else None, row

    async def _write_as_read(
        self, client: PoolClient, selection: Selection, rows: AsyncIterator[tuple[Any, Row]]
    ) -> None:
        sheet, number = self._sheet(), 0
        async for _, row in rows:
            if number == self._limit:
                await self._tell_of_the_rest(client, selection, number)
                break
            sheet.add(row)
            number += 1
        sheet.finish()
        await self._tell_if_none(client, selection, number)

    async def _write_sorted(
        self, client: PoolClient, selection: Selection, rows: AsyncIterator[tuple[Any, Row]], sort: str
    ) -> None:
        ranking = Ranking(self._limit, descending=sort.startswith("-"))
        async for key, row in rows:
            ranking.add(key, row)
        sheet = self._sheet()
        for row in ranking.rows():
            sheet.add(row)
        sheet.finish()
        await self._tell_if_none(client, selection, ranking.seen)
        if self._limit is not None and ranking.seen > self._limit:
            tell(f"{plural(ranking.seen - self._limit, 'more token')}: --limit 0 shows all")

    async def _tell_if_none(self, client: PoolClient, selection: Selection, number: int) -> None:
        """Say what a typing error may have been: nothing is listed, or fields that no token has."""
        if self._as_json:  # for a program, which has its own ways with what is not there
            return
        if number:
            tell_lacking([name for name in self._unseen if name not in WORKED_OUT])
        elif not self._missing:
            tell("there are no such tokens")
            await tell_unknown_fields(client, selection)

    async def _tell_of_the_rest(self, client: PoolClient, selection: Selection, shown: int) -> None:
        """Say how many there are in all, where that costs no look at each."""
        known = 0
        if not selection.where and not selection.ids:
            # Of all tokens, too: the total has those in no view, but some servers read every document for it.
            counts = await patiently(lambda: client.counts(selection.views))
            known = sum(counts.values())
        if known > shown:
            about = "about " if selection.everything else ""
            tell(f"{about}{plural(known - shown, 'more token')}: --limit 0 shows all")
        else:
            tell(f"these are the first {shown:,}, and there are more: --limit 0 shows all")

    def _sheet(self) -> Sheet:
        return _Lines(self._columns) if self._as_json else _Table(self._columns)


class Ranking:
    """The first of many rows by a key, in memory for about as many as are wanted.

    Numbers come before text, and text before everything else; what has no such field comes last.

    Args:
        limit: rows that are wanted; None for all.
        descending: the greatest first.
    """

    def __init__(self, limit: int | None, *, descending: bool) -> None:
        self._limit = limit
        self._descending = descending
        self._ranked: list[tuple[tuple[int, Any], Row]] = []
        self._unranked: list[Row] = []
        self.seen = 0

    def add(self, key: Any, row: Row) -> None:
        """Take a row."""
        self.seen += 1
        if key is None or key is NOTHING:
            if self._limit is None or len(self._unranked) < self._limit:
                self._unranked.append(row)
            return
        self._ranked.append((_rank(key), row))
        if self._limit is not None and len(self._ranked) >= self._limit + _SLACK:
            self._order()
            del self._ranked[self._limit :]

    def rows(self) -> list[Row]:
        """The first of them."""
        self._order()
        return [*(row for _, row in self._ranked), *self._unranked][: self._limit]

    def _order(self) -> None:
        self._ranked.sort(key=lambda ranked: ranked[0], reverse=self._descending)


def _rank(key: Any) -> tuple[int, Any]:
    if isinstance(key, (int, float)):
        return 0, key
    return (1, key) if isinstance(key, str) else (2, cell(key, 1 << 20))


class Sheet(Protocol):
    """Where rows are written to."""

    def add(self, row: Row) -> None:
        """Write a row, now or a little later."""
        ...

    def finish(self) -> None:
        """Write what is left."""
        ...


class _Lines:
    """JSON Lines.

    Args:
        columns: the names of the fields; none for whole tokens.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._waiting: list[str] = []

    def add(self, row: Row) -> None:
        value = row[0]
        if self._columns:
            fields = zip(self._columns, row, strict=True)
            value = {name: None if found is NOTHING else found for name, found in fields}
        self._waiting.append(printable_json(_json(value)))
        if len(self._waiting) == _TOGETHER:
            self.finish()

    def finish(self) -> None:
        if self._waiting:
            with results():
                typer.echo("\n".join(self._waiting))
            self._waiting = []


def _json(value: Document) -> bytes:
    try:
        return encode(value)
    except InvalidTokenError as error:  # what another tool stored, and Python cannot hold
        return encode({"id": value.get("_id", value.get("id")), "unreadable": str(error)})


class _Table:
    """A table whose columns are as wide as the first rows need.

    Args:
        columns: the names of the fields.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._waiting: list[list[str]] = []
        self._widths: list[int] = []

    def add(self, row: Row) -> None:
        cells = [one_line(self._cell(name, value)) for name, value in zip(self._columns, row, strict=True)]
        if self._widths:
            self._write(cells)
            return
        self._waiting.append(cells)
        if len(self._waiting) == _TOGETHER:
            self.finish()

    def finish(self) -> None:
        if self._widths or not self._waiting:
            return
        self._widths = [max(map(len, column)) for column in zip(self._columns, *self._waiting, strict=True)]
        with results():
            typer.echo(painted(self._line([one_line(name) for name in self._columns]), "bold"))
        for cells in self._waiting:
            self._write(cells)
        self._waiting = []

    @staticmethod
    def _cell(name: str, value: Any) -> str:
        if name in TIMES and value is not NOTHING:
            return ago(value)
        # An id is there to be copied.
        return cell(value, 1 << 20 if name == "id" else WIDEST)

    def _write(self, cells: Sequence[str]) -> None:
        with results():
            typer.echo(self._line(cells))

    def _line(self, cells: Sequence[str]) -> str:
        return "  ".join(f"{text:{width}}" for text, width in zip(cells, self._widths, strict=True)).rstrip()
