"""The two files of apicas: `apicas.toml` in the working directory, and `config.toml` of the user."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from apicas._files import check_private, is_foreign
from apicas._secrets import Secret
from apicas.configuration.addresses import has_password, is_remote
from apicas.configuration.keys import LOGIN_KEYS, PATH_KEYS, complaint_about
from apicas.configuration.sources import Source, make_source
from apicas.exceptions import ConfigError

# With these, a file decides where credentials go.
_TRUSTED_KEYS: Final = frozenset({"username", "password", "ca_file"})


@dataclass(frozen=True, slots=True)
class _File:
    """What stands in a file, before it is known what of it is secret."""

    path: Path
    status: os.stat_result
    values: dict[str, Any] = field(repr=False)

    @property
    def has_password(self) -> bool:
        """Whether there is a password in it."""
        return "password" in self.values or has_password(Secret(self.values.get("pool", "")))

    @property
    def decides(self) -> bool:
        """Whether it says where credentials go, or whom to trust with them."""
        return not _TRUSTED_KEYS.isdisjoint(self.values) or is_remote(self.values.get("pool", ""))

    def source(self, *, is_shared: bool) -> Source:
        """What it says."""
        texts = {name: Secret(self.values[name]) for name in LOGIN_KEYS if name in self.values}
        settings = {name: value for name, value in self.values.items() if name not in LOGIN_KEYS}
        for name in PATH_KEYS:
            if name in settings:
                # Not Path.expanduser, which raises for a user that does not exist.
                settings[name] = str(self.path.parent / os.path.expanduser(settings[name]))  # noqa: PTH111
        return make_source(str(self.path), texts, settings, is_file=True, is_shared=is_shared)


def read_file(path: Path, *, is_shared: bool = False) -> Source:
    """Read one file.

    Raises:
        ConfigError: it is no TOML, has keys that mean nothing, shows a password to others, or was written by others.
    """
    try:
        file = _load(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    # Raised out here: in there an error would take along the text that it is about.
    if isinstance(file, str):
        raise ConfigError(f"{path} {file}")
    if (complaint := complaint_about(file.values)) is not None:
        raise ConfigError(f"{path}: {complaint}")
    if file.has_password:
        check_private(path, file.status, "holds a password")
    if file.decides and is_foreign(path, file.status):
        raise ConfigError(
            f"{path} says to whom your password goes, and others may have written it: use a file of your own, which "
            "nobody else can write"
        )
    return file.source(is_shared=is_shared)


def _load(path: Path) -> _File | str:
    """A file's content; a text that says what is wrong with it.

    Raises:
        OSError: it cannot be read.
    """
    import tomllib

    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        try:
            return _File(path, status, tomllib.load(file))
        except RecursionError:
            return "is no TOML: nested too deeply"
        except ValueError as error:  # a decoding error, or TOML's
            # Its text may quote a line with a password, but the place is all that is needed.
            place = re.search(r"line \d+", str(error))
            return f"is no TOML{f', see {place[0]}' if place else ''}"
