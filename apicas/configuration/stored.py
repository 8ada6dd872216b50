"""Passwords that `apicas passwd` keeps: in the system's keyring if there is one, else in a file that only we can read.

A password is kept for one server, by its scheme, host and port, and one name: it goes nowhere else, whatever a file in
some directory says the pool is. The keyring is asked only where a name is known, since asking may open a window.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from apicas._documents import decode, encode
from apicas._files import check_private, held_alone, replace_private
from apicas._secrets import Secret
from apicas.exceptions import ConfigError, InvalidTokenError

FILE_NAME: Final = "passwords.json"
KEYRING: Final = "the system's keyring"


def stored_login(directory: Path, origin: str, username: str | None) -> tuple[str, Secret, str] | None:
    """The name and the password for a server, and where that was found; None where none is kept.

    Args:
        directory: the user's configuration directory.
        origin: of the server, see `addresses.origin_of`.
        username: whose; None for the only one that is kept for this server in the file.

    Raises:
        ConfigError: the file cannot be read, or others can read it.
    """
    path = directory / FILE_NAME
    entries = _read(path).get(origin, {})
    if username is None and len(entries) == 1:
        username = next(iter(entries))
    if username is None:
        return None
    if username in entries:
        return username, entries[username], str(path)
    found = _from_keyring(origin, username)
    return None if found is None else (username, found, KEYRING)


def store(directory: Path, origin: str, username: str, password: Secret, *, in_file: bool = False) -> str:
    """Keep a password, and answer where.

    Args:
        directory: the user's configuration directory.
        origin: of the server.
        username: whose.
        password: the password.
        in_file: not in the keyring, which batch nodes do not have.

    Raises:
        ConfigError: the file cannot be written, or others can read it.
    """
    if not in_file and _into_keyring(origin, username, password):
        _change(directory, origin, username, None)  # the file is asked first
        return KEYRING
    _change(directory, origin, username, password)
    return str(directory / FILE_NAME)


def forget(directory: Path, origin: str, username: str) -> list[str]:
    """Keep a password no longer, and answer where it was."""
    found = [str(directory / FILE_NAME)] if _change(directory, origin, username, None) else []
    return [*found, KEYRING] if _out_of_keyring(origin, username) else found


# The file. ------------------------------------------------------------------------------------------------------------

_Entries = Mapping[str, Mapping[str, Secret]]


def _read(path: Path) -> _Entries:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        check_private(path, os.fstat(file.fileno()), "holds passwords")
        entries = _entries(file.read())
    # Raised out here: in there an error would take along what stands in the file.
    if entries is None:
        raise ConfigError(f"{path} is not as `apicas passwd` writes it: delete it, and keep the passwords anew")
    return entries


def _entries(body: bytes) -> _Entries | None:
    try:
        found = decode(body)
    except InvalidTokenError:
        return None
    if not isinstance(found, dict) or not all(map(_is_login_list, found.values())):
        return None
    return {origin: {name: Secret(word) for name, word in logins.items()} for origin, logins in found.items()}


def _is_login_list(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(word, str) for word in value.values())


def _change(directory: Path, origin: str, username: str, password: Secret | None) -> bool:
    """Write a password into the file, or take it out; answers whether that changed anything."""
    path = directory / FILE_NAME
    if password is None and not path.exists():
        return False
    with held_alone(path):  # another one may keep a password at the same time
        return _change_alone(path, origin, username, password)


def _change_alone(path: Path, origin: str, username: str, password: Secret | None) -> bool:
    entries = {server: dict(logins) for server, logins in _read(path).items()}
    logins = entries.setdefault(origin, {})
    before = logins.pop(username, None)
    if password is not None:
        logins[username] = password
    if before is None and password is None:
        return False
    body = {server: {name: word.reveal() for name, word in kept.items()} for server, kept in entries.items() if kept}
    problem = replace_private(path, encode(body))
    del body  # it holds secrets, and what is below may raise
    if problem:
        raise ConfigError(f"{path} cannot be written: {problem}")
    return True


# The keyring. ---------------------------------------------------------------------------------------------------------


def _keyring() -> Any:
    """The library; None where it is not installed (extra `keyring`)."""
    try:
        import keyring
    except ImportError:
        return None
    return keyring


def _service(origin: str) -> str:
    return f"apicas {origin}"


def _from_keyring(origin: str, username: str) -> Secret | None:
    keyring = _keyring()
    if keyring is None:
        return None
    try:
        found = keyring.get_password(_service(origin), username)
    except Exception:  # noqa: BLE001 - a system without one, or a locked one; each backend raises what it likes
        return None
    return Secret(found) if isinstance(found, str) else None


def _into_keyring(origin: str, username: str, password: Secret) -> bool:
    """Whether the keyring has taken it, and gives it back: one that forgets what it is told is none."""
    keyring = _keyring()
    if keyring is None:
        return False
    try:
        keyring.set_password(_service(origin), username, password.reveal())
    except Exception:  # noqa: BLE001 - as above
        return False
    return _from_keyring(origin, username) == password


def _out_of_keyring(origin: str, username: str) -> bool:
    keyring = _keyring()
    if keyring is None:
        return False
    try:
        keyring.delete_password(_service(origin), username)
    except Exception:  # noqa: BLE001 - as above, and where it has none
        return False
    return True
