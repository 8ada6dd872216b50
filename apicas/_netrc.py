"""Names and passwords from `~/.netrc`, or from the file that `$NETRC` names: one per host, for all of a user's tools.

Rules:
- An entry is for its host only; what stands under `default` is for no pool.
- The file is this user's, and nobody else can read it, if there is something in it that would be used.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from apicas._files import check_private
from apicas._secrets import Secret
from apicas.exceptions import ConfigError


def netrc_path(environ: Mapping[str, str]) -> Path | None:
    """Where the file is; None where that is not known."""
    if name := environ.get("NETRC"):
        return Path(name).expanduser()
    return Path(home) / ".netrc" if (home := environ.get("HOME")) else None


def netrc_login(path: Path, host: str) -> tuple[str, Secret] | None:
    """The name (perhaps empty) and the password for a host; None where there is no such entry, or no file.

    Raises:
        ConfigError: the file cannot be read, is no netrc, or has an entry for the host that others can read too.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):  # /dev/null, for none
        os.close(descriptor)
        return None
    # An error is raised out here: in there it would take along the lines that it is about.
    problem, login = _read(descriptor, host)
    if problem:
        raise ConfigError(f"{path} is no netrc{problem}")
    if login is not None:
        check_private(path, found, "holds a password")
    return login


def _read(descriptor: int, host: str) -> tuple[str, tuple[str, Secret] | None]:
    """What is wrong with a file, and its entry for a host. Closes the file."""
    from netrc import NetrcParseError, netrc  # noqa: PLC0415 - every command asks where the file is, and few read it

    try:
        # The file that was looked at, and no other of that name.
        entries = netrc(descriptor).hosts  # type: ignore[arg-type]  # it goes to open(), which takes a number
    except NetrcParseError as error:
        return f", see line {error.lineno}", None
    except (OSError, ValueError):  # not UTF-8
        return " that can be read", None
    for name, (username, _, password) in entries.items():
        if name.lower() == host.lower() and name != "default" and password:
            return "", (username, Secret(password))
    return "", None
