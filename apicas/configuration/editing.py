"""Changing one key of a configuration file, and nothing else in it: comments and order stay.

The standard library writes no TOML. So a line is replaced, added or taken out, and the result is read again before it
takes the place of the file: if it does not say what was meant, the file stays, and its owner is asked to edit it.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from apicas._files import held_alone, replace_private
from apicas._secrets import Secret
from apicas.configuration.addresses import has_password, parted
from apicas.configuration.keys import KEYS, NUMBER, PATH_KEYS, complaint_about, value_of
from apicas.exceptions import ConfigError


def set_key(path: Path, key: str, text: str) -> None:
    """Set a key.

    Args:
        path: of the file; made, for its owner alone, where there is none.
        key: one of KEYS, but for the password.
        text: the value, as it was typed.

    Raises:
        ConfigError: the key, the value or the file cannot be used.
    """
    _check_key(key)
    value = value_of(key, text, key)
    if key in PATH_KEYS:  # typed here, and read relative to the file
        value = os.path.abspath(os.path.expanduser(value))  # noqa: PTH100, PTH111 - no links resolved, no user demanded
    _check_value(key, value)
    _change(path, key, f"{key} = {json.dumps(value, ensure_ascii=False)}", value)


def unset_key(path: Path, key: str) -> bool:
    """Take a key out; answers whether it was there.

    Raises:
        ConfigError: there is no such key, or the file cannot be used.
    """
    _check_key(key)
    if not _has(path, key):
        return False
    _change(path, key, "", None)
    return True


def _check_key(key: str) -> None:
    if key == "password":
        raise ConfigError("a command line is public, and so would the password be: `apicas passwd` asks for it")
    if key not in KEYS:
        raise ConfigError(
            f"there is no key {key!r}; there are {', '.join(name for name in KEYS if name != 'password')}"
        )


def _check_value(key: str, value: Any) -> None:
    complaint = complaint_about({key: value})
    if complaint is not None:
        raise ConfigError(complaint)
    if KEYS[key] is NUMBER and not value > 0:
        raise ConfigError(f"{key} is {value}; it is more than 0")
    if key == "auth" and value not in {"basic", "cookie"}:
        raise ConfigError(f"auth is {value!r}; there are basic and cookie")
    if key == "pool":
        _check_pool(Secret(value))


def _check_pool(pool: Secret) -> None:
    if has_password(pool):
        raise ConfigError("a command line is public: leave the password out of the address; `apicas passwd` keeps it")
    if parted(pool)[0] is None or not pool.reveal().startswith(("sqlite://", "http://", "https://", "memory:")):
        raise ConfigError("that is no pool's address: write sqlite:///file.db or http(s)://user@host:5984/database")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'no UTF-8'}") from None


def _has(path: Path, key: str) -> bool:
    is_broken, values = _toml(_text(path))
    is_there = key in values
    del values
    if is_broken:
        raise ConfigError(f"{path} is no TOML: edit it yourself")
    return is_there


def _toml(text: str) -> tuple[bool, dict[str, Any]]:
    try:
        return False, tomllib.loads(text)
    except (ValueError, RecursionError):
        return True, {}


def _change(path: Path, key: str, line: str, value: Any) -> None:
    """Put a line in the place of a key's, or at the end; an empty one takes it out."""
    with held_alone(path.resolve()):  # another key may be set at the same time
        _change_alone(path, key, line, value)


def _change_alone(path: Path, key: str, line: str, value: Any) -> None:
    changed = _changed(_text(path), key, line, value)
    # Raised out here: in there an error would take along the rest of the file, and a password in it.
    if changed is None:
        raise ConfigError(f"{path} is no TOML, or {key} takes more than a plain line in it: edit it yourself")
    problem = _write(path, changed)
    del changed
    if problem:
        raise ConfigError(f"{path} cannot be written: {problem}")


def _changed(text: str, key: str, line: str, value: Any) -> Secret | None:
    """The text with the line; None where that does not give what was meant."""
    is_broken, wanted = _toml(text)
    wanted.pop(key, None)
    if line:
        wanted[key] = value
    lines = text.splitlines()
    places = [place for place, found in enumerate(lines) if re.match(rf"\s*{key}\s*=", found)]
    new = [line] if line else []
    lines[places[0] if places else len(lines) : places[0] + 1 if places else len(lines)] = new
    changed = "".join(f"{each}\n" for each in lines)
    return Secret(changed) if not is_broken and _toml(changed) == (False, wanted) else None


def _write(path: Path, text: Secret) -> str:
    """Replace a file as a whole, with the mode that it has; answers with what went wrong."""
    path = path.resolve()
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    except OSError as error:
        return error.strerror or str(error)
    return replace_private(path, text.reveal().encode(), mode)
