"""From the lines of a file to tokens.

Rules:
- Whatever is wrong with a line becomes a `BadLine` with its number and the reason, and the next line is read.
- Nothing holds more than a line: a file may be larger than the memory.
- A line is checked here as the pool would check it, so that bad ones are known before the first is pushed.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from typing import Any, BinaryIO, Final, TypeAlias

from apicas._documents import Document, decode, encode_document
from apicas.exceptions import InvalidTokenError
from apicas.tokens import TokenState, new_token, state_of

MAX_LINE_BYTES: Final = 64_000_000
"""A token of the largest size with its attachments fits. A file without line breaks must not fill the memory."""

_BOM: Final = b"\xef\xbb\xbf"
_SCALAR: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?|true|false|null", re.ASCII)
# Any name does: it is checked as a part of the whole.
_SOME_ID: Final = "token"


class Format(StrEnum):
    """How a file's lines are read."""

    AUTO = "auto"
    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    TEXT = "text"


_ENDINGS: Final[Mapping[str, Format]] = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSONL,
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".txt": Format.TEXT,
}


@dataclass(frozen=True, slots=True)
class GoodLine:
    """A line that is a token."""

    number: int
    content: Document
    size: int
    """Bytes, about."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is none."""

    number: int
    reason: str


Line: TypeAlias = GoodLine | BadLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How lines become tokens.

    Args:
        format: of the lines; AUTO to guess it.
        typed: whether cells and lines of text that look like JSON numbers, true, false or null are such.
        id_field: the field whose value becomes the token's id; None for ids of our own, or the lines' `_id`.
        fields: put into every token.
    """

    format: Format = Format.AUTO
    typed: bool = False
    id_field: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    def read(self, lines: Iterator[bytes], ending: str = "") -> Iterator[Line]:
        """Read all lines.

        Args:
            lines: with their line ends.
            ending: the file's, with the dot; by it, else by the first line, the format is guessed.
        """
        first = next(lines, b"").removeprefix(_BOM)
        lines = chain([first] if first else [], lines)
        match self._format_of(first, ending):
            case Format.CSV:
                contents = _rows(lines, ",", self._value)
            case Format.TSV:
                contents = _rows(lines, "\t", self._value)
            case Format.JSONL:
                contents = _each(lines, _json_content)
            case _:
                contents = _each(lines, self._text_content)
        return (self._finished(line) if isinstance(line, GoodLine) else line for line in contents)

    def _format_of(self, first: bytes, ending: str) -> Format:
        if self.format is not Format.AUTO:
            return self.format
        guessed = Format.JSONL if first.lstrip()[:1] in {b"{", b"[", b'"'} else Format.TEXT
        return _ENDINGS.get(ending.lower(), guessed)

    def _text_content(self, line: bytes) -> Document:
        return {"input": self._value(_text(line).rstrip("\r\n"))}

    def _value(self, text: str) -> Any:
        return decode(text) if self.typed and _SCALAR.fullmatch(text) else text

    def _finished(self, line: GoodLine) -> Line:
        """The token of a line, if a pool would take it."""
        content = {**line.content, **self.fields}
        try:
            if self.id_field is not None:
                content["_id"] = self._id_of(content)
            _check(content)
        except InvalidTokenError as error:
            return BadLine(line.number, str(error))
        return GoodLine(line.number, content, line.size)

    def _id_of(self, content: Document) -> str:
        value = content.get(self.id_field or "")
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            raise InvalidTokenError(f"no {self.id_field!r} to make an id of")
        return str(value)


def raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, none longer than MAX_LINE_BYTES: of such a one the rest is dropped."""
    while line := file.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES:
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
        yield line


def _each(lines: Iterable[bytes], content_of: Callable[[bytes], Document]) -> Iterator[Line]:
    """One token for each line that is not blank."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            _check_length(line)
            yield GoodLine(number, content_of(line), len(line))
        except InvalidTokenError as error:
            yield BadLine(number, str(error))


def _json_content(line: bytes) -> Document:
    try:
        value = decode(line)
    except InvalidTokenError as error:
        # A value over several lines; of an array, one line of each element, not one of the whole.
        filters = {b"[": "'.[]'", b"{": "."}
        opening = line.strip()[:1] if line.rstrip().endswith((b"[", b"{", b",")) else b""
        hint = f"; one JSON value per line: try `jq -c {filters[opening]}`" if opening in filters else ""
        raise InvalidTokenError(f"{error}{hint}") from None
    return value if isinstance(value, dict) else {"input": value}


def _rows(lines: Iterable[bytes], delimiter: str, value_of: Callable[[str], Any]) -> Iterator[Line]:
    """One token for each row of a table whose first row has the names of the fields."""
    csv.field_size_limit(MAX_LINE_BYTES)
    # Bytes that are no UTF-8 become surrogates, so that the reader gets past them; the row is refused below.
    texts = (line.decode("utf-8", "surrogateescape") for line in lines)
    reader = csv.reader(texts, delimiter=delimiter, strict=True)
    names: list[str] = []
    for number, row in _numbered(reader):
        if isinstance(row, str):
            yield BadLine(number, row)
        elif not names and row:
            if reason := _wrong_names(row):
                yield BadLine(number, reason)
                return
            names = [name.strip() for name in row]
        elif row:
            yield _row(number, names, row, value_of)


def _numbered(reader: Any) -> Iterator[tuple[int, list[str] | str]]:
    """The rows of a CSV reader with the numbers of their first lines; text for what is no row."""
    while True:
        number = reader.line_num + 1
        try:
            yield number, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, f"not CSV: {error}"


def _wrong_names(names: list[str]) -> str:
    stripped = [name.strip() for name in names]
    if not all(stripped):
        return "the first line names the fields, and a name is missing"
    twice = sorted({name for name in stripped if stripped.count(name) > 1})
    return f"the first line names a field twice: {', '.join(twice)}" if twice else ""


def _row(number: int, names: list[str], row: list[str], value_of: Callable[[str], Any]) -> Line:
    if len(row) != len(names):
        return BadLine(number, f"{len(row)} cells where the first line names {len(names)} fields")
    if not all(map(_is_text, row)):
        return BadLine(number, "not UTF-8")
    content = {name: value_of(cell) for name, cell in zip(names, row, strict=True)}
    return GoodLine(number, content, sum(map(len, row)))


def _is_text(cell: str) -> bool:
    """Whether all bytes of a cell were UTF-8."""
    return cell.isascii() or not any("\udc80" <= character <= "\udcff" for character in cell)


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise InvalidTokenError("not UTF-8") from None


def _check_length(line: bytes) -> None:
    if len(line) >= MAX_LINE_BYTES:
        raise InvalidTokenError(f"longer than {MAX_LINE_BYTES:,} bytes")


def _check(content: Document) -> None:
    """Refuse what a pool would refuse, and what would be in no view."""
    document = new_token(content, _SOME_ID)
    encode_document(document)
    if document["type"] != "token":
        raise InvalidTokenError('the field `type` is taken: it is "token" in every token')
    if state_of(document) is TokenState.NO_VIEW:
        raise InvalidTokenError(
            "the fields `lock`, `done` and `exit_code` are taken: with these values no view lists it"
        )
