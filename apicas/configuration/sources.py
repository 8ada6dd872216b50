"""One place that says something: the address without login, the login, and the other settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apicas._secrets import Secret
from apicas.configuration.addresses import parted
from apicas.exceptions import ConfigError


@dataclass(frozen=True, slots=True)
class Source:
    """What one place says. Nothing of it is shown, but its name and what is no secret."""

    name: str
    is_file: bool = False
    is_shared: bool = False
    """Whether it is a file in a directory that may be another's."""
    is_foreign: bool = False
    """Whether it is another tool's: its password may be an old one, so those that apicas keeps come before it."""
    address: str | None = None
    in_address: str | None = None
    """The name inside the address: the only one that is meant."""
    username: str | None = None
    """The name that the password belongs to."""
    password: Secret | None = None
    unlock: Callable[[], Secret | str] | None = None
    """Finds a password that is not as it stands there; a text says why it cannot."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    """Why it does not say the address, though it is meant to."""


def make_source(
    name: str,
    texts: Mapping[str, Secret],
    settings: Mapping[str, Any] | None = None,
    *,
    is_file: bool = False,
    is_shared: bool = False,
) -> Source:
    """One place, with the login taken out of its address; keys of their own come before that.

    Args:
        name: for people.
        texts: `pool`, `username` and `password`, where it says them.
        settings: the other keys.
        is_file: whether it is a file: its login is for the server that it names.
        is_shared: whether others may have made it.

    Raises:
        ConfigError: the address cannot be read.
    """
    address, username, password = parted(texts["pool"]) if "pool" in texts else (None, None, None)
    if "pool" in texts and address is None:
        raise ConfigError(
            f"the pool's address in {name} cannot be read: in a name or a password write %2F for a slash, %23 for #, "
            "%3F for ? and %40 for @, and nothing behind the database"
        )
    return Source(
        name,
        is_file=is_file,
        is_shared=is_shared,
        address=address,
        in_address=username,
        username=texts["username"].reveal() if "username" in texts else username,
        password=texts.get("password", password),
        settings=settings or {},
    )


def is_there(path: Path) -> bool:
    """Whether there is such a file.

    Raises:
        ConfigError: we may not look, as where a user's directory is still that of somebody else.
    """
    try:
        return path.exists()
    except OSError as error:
        whose = "whose directory is that? $HOME and $XDG_CONFIG_HOME say where yours is"
        raise ConfigError(f"{path}: {error.strerror}: {whose}") from error
