"""Commands with placeholders: how the fields of a token get into a command, and stay what they are.

| placeholder | what it stands for |
|---|---|
| `{input}` | a field of the token |
| `{input.x}`, `{input[x]}`, `{input[0]}` | what is inside a field; brackets take any name |
| `{[a name]}` | a field whose name is no plain word |
| `{{`, `}}` | a brace |

Rules:
- Strings stand for themselves, anything else is written as JSON.
- One argument stays one argument, whatever blanks, quotes or line ends a value has. (A value that starts with a dash
  may still look like an option to the program: put `--` before it where that matters.)
- In a line for the shell, values travel in environment variables, and the line only names these. No quoting is safe in
  every place of a line (comments, here-documents, backquotes), but what a variable holds is never read as code.
- This is no str.format: there are no attributes, calls or formats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any, Final, TypeAlias

from apicas._documents import encode, shown
from apicas.exceptions import ConfigError, InvalidTokenError

VARIABLE: Final = "APICAS_ARGUMENT_"
"""What the names of the variables begin with that a line for the shell gets its values in."""

_PIECE = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<path>[^{}]*)\}|(?P<stray>[{}])")
_PATH = re.compile(r"([\w-]+|\[[^\[\]]+\])(\.[\w-]+|\[[^\[\]]+\])*")
_STEP = re.compile(r"[\w-]+|\[[^\[\]]+\]")
_WORD = re.compile(r"[\w-]{1,64}")
_LOOKED_AT: Final = 200
"""Fields among which one of nearly the right name is looked for: a document may have any number."""
_BRACES_HINT = "a brace that is no placeholder is written twice, as {{ or }}"


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A place in a command for a value of the token.

    Args:
        path: as it was written.
        steps: the names, or the positions in lists, from the token down to the value.
    """

    path: str
    steps: tuple[str, ...]

    def text(self, document: Mapping[str, Any]) -> str:
        """The value as it stands in an argument.

        Raises:
            InvalidTokenError: the token lacks the field, or no argument can hold its value.
        """
        value = self._find(document)
        try:
            text = value if isinstance(value, str) else encode(value).decode()
            text.encode()
        except InvalidTokenError as error:
            raise InvalidTokenError(f"{self.path} cannot be put into a command: {error}") from None
        except UnicodeEncodeError:
            raise InvalidTokenError(f"{self.path} cannot be put into a command: it is no Unicode text") from None
        if "\0" in text:
            raise InvalidTokenError(f"{self.path} cannot be put into a command: it holds a NUL character")
        return text

    def _find(self, document: Mapping[str, Any]) -> Any:
        value: Any = document
        for step in self.steps:
            try:
                value = value[int(step) if isinstance(value, (list, tuple)) and step.isdecimal() else step]
            except (LookupError, TypeError, ValueError):
                raise InvalidTokenError(
                    f"the command needs {self.path}, which the token does not have{self._hint(document)}"
                ) from None
        return value

    def _hint(self, document: Mapping[str, Any]) -> str:
        """What may have been meant: a field of nearly this name, of the token or of its input."""
        if self.steps == ("id",):
            return ": its id is {_id}"
        inside = document.get("input")
        fields = {name: name for name in _plain(document)}
        if isinstance(inside, Mapping):
            fields = {name: f"input.{name}" for name in _plain(inside)} | fields
        close = get_close_matches(self.steps[-1], fields, 1)
        if not close and self.steps[0] not in document:
            close = get_close_matches(self.steps[0], fields, 1)
        return f": did you mean {{{fields[close[0]]}}}?" if close else f" ({_BRACES_HINT})"


def _plain(names: Iterable[str]) -> list[str]:
    """Those of the first names that can be shown as they are."""
    return [name for name in islice(names, _LOOKED_AT) if _WORD.fullmatch(name)]


Template: TypeAlias = tuple[str | Placeholder, ...]


def parse(text: str) -> Template:
    """Take a text with placeholders apart.

    Raises:
        ConfigError: a brace or a placeholder is malformed.
    """
    template: list[str | Placeholder] = [""]
    for piece in _pieces(text):
        if isinstance(piece, str) and isinstance(template[-1], str):
            template[-1] += piece
        else:
            template.append(piece)
    return tuple(template)


def parse_line(text: str) -> Template:
    """Take a line for the shell apart.

    Raises:
        ConfigError: a brace or a placeholder is malformed, or a placeholder is inside quotes, or after a dollar sign.
    """
    template = parse(text)
    quote = ""
    for piece in template:
        if isinstance(piece, str):
            quote = _open_quote(piece, quote)
        elif quote:
            raise ConfigError(f"{{{piece.path}}} is one word already: leave out the {quote} before it ({_BRACES_HINT})")
    return template


def fill(arguments: Sequence[Template], document: Mapping[str, Any], written: Callable[[str], str] = str) -> list[str]:
    """Put a token's values into a command: each argument of it becomes one argument.

    Args:
        arguments: of the command.
        document: the token.
        written: what a value becomes before it is put there.

    Raises:
        InvalidTokenError: the token lacks a field, or no argument can hold its value.
    """
    return [
        "".join(piece if isinstance(piece, str) else written(piece.text(document)) for piece in template)
        for template in arguments
    ]


def fill_line(template: Template, document: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Put a token's values beside a line for the shell: the line, and the variables that it needs.

    Raises:
        InvalidTokenError: the token lacks a field, or no variable can hold its value.
    """
    line = ""
    variables: dict[str, str] = {}
    for piece in template:
        if isinstance(piece, str):
            line += piece
        else:
            name = f"{VARIABLE}{len(variables)}"
            variables[name] = piece.text(document)
            line += f'"${{{name}}}"'
    return line, variables


def _pieces(text: str) -> Iterator[str | Placeholder]:
    end = 0
    for match in _PIECE.finditer(text):
        yield text[end : match.start()]
        end = match.end()
        if match["brace"]:
            yield match["brace"][0]
        elif match["stray"]:
            raise ConfigError(f"a brace without its other half in {shown(text)}: {_BRACES_HINT}")
        else:
            yield _placeholder(match["path"])
    yield text[end:]


def _placeholder(path: str) -> Placeholder:
    if not _PATH.fullmatch(path):
        raise ConfigError(f"{{{path}}} is no placeholder such as {{input}} or {{input.x}}: {_BRACES_HINT}")
    return Placeholder(path, tuple(step.strip("[]") for step in _STEP.findall(path)))


def _open_quote(text: str, quote: str) -> str:
    """What would change the meaning of a word after a piece of a line for the shell: an open quote; "" for nothing.

    Args:
        text: the piece.
        quote: the one that is open before it.
    """
    escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif not quote and character in "'\"":
            quote = character
        elif character == quote:
            quote = ""
    if escaped:
        return "\\"
    return "$" if not quote and text.endswith("$") else quote
