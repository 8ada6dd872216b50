"""Options that several commands have."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

import typer

from apicas.exceptions import ConfigError

PoolOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The pool: sqlite:///file.db, or http(s)://user@host:port/database, without a password.",
        show_default="see `apicas --help`",
    ),
]
OutboxOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Where finished results wait that are not in the pool yet.",
        show_default="$APICAS_OUTBOX, else in your state directory",
    ),
]
YesOption: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRunOption: TypeAlias = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)", re.ASCII)


def seconds(text: str | None, name: str, *, unit: str = "s") -> float | None:
    """The seconds of a duration such as `90`, `90s`, `30m`, `24h` or `2d`; None for None.

    Args:
        text: what the user wrote.
        name: the option, for the message.
        unit: what a bare number counts.

    Raises:
        ConfigError: it is no duration.
    """
    if text is None:
        return None
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise ConfigError(f"{name} {text!r} is no duration: write 90s, 30m, 24h or 2d")
    return float(found[1]) * _UNITS[found[2] or unit]


def size(text: str | None, name: str) -> int | None:
    """The bytes of a size such as `500M` or `4G`, of 1024 each; None for None.

    Args:
        text: what the user wrote.
        name: the option, for the message.

    Raises:
        ConfigError: it is no size.
    """
    if text is None:
        return None
    from apicas._node.units import bytes_of

    try:
        return bytes_of(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
