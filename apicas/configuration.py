"""Where the pool is, and who we are to it.

Rules:
- The pool's address comes from the caller (`--pool`), else `$APICAS_POOL`, else `apicas.toml` in this directory, else
  `config.toml` in the user's configuration directory, else it is a SQLite file in this directory.
- Name and password come with the address, else from `$APICAS_USERNAME` and `$APICAS_PASSWORD`, else from a file; but
  those of a file go to no other server than the file's own: a directory that somebody else made must not be able to
  send a user's password elsewhere.
- A password on a command line is public, and refused. A file with a password that others can read is refused.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from apicas.clients.base import PoolClient

DEFAULT_POOL: Final = "sqlite:///apicas.db"
FILE_NAME: Final = "apicas.toml"
_COMMAND_LINE: Final = "--pool"
_ENVIRONMENT: Final = "the environment"
_NUMBER: Final = (int, float)
_KEYS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "pool": str,
    "username": str,
    "password": str,
    "auth": str,
    "ca_file": str,
    "lock_timeout": _NUMBER,
    "foreign_lock_timeout": _NUMBER,
}
_VARIABLES: Final = {"APICAS_POOL": "pool", "APICAS_USERNAME": "username", "APICAS_PASSWORD": "password"}
# Not by a parser of URLs: a password with a slash or a hash in it would be taken for something else, and not be seen.
_HAS_PASSWORD: Final = re.compile(r"https?://[^/@:]*:[^@]+@", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What is needed to reach a pool, and to keep tokens in it."""

    pool: str
    """The address, without name and password."""
    source: str
    """Where the address comes from, for people."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    auth: str | None = None
    ca_file: str | None = None
    lock_timeout: float | None = None
    """Seconds."""
    foreign_lock_timeout: float | None = None
    """Seconds."""

    @property
    def is_remote(self) -> bool:
        """Whether the pool is on a server."""
        return self.pool.startswith(("http:", "https:"))

    @property
    def lacks_password(self) -> bool:
        """Whether there is a name and no password for it."""
        return self.is_remote and self.username is not None and self.password is None

    def connect(self, *, create: bool = True) -> PoolClient:
        """Make the pool's client, not yet open.

        Args:
            create: whether opening it makes a SQLite file that does not exist.

        Raises:
            ConfigError: the address is no pool's.
        """
        from apicas.clients.connect import connect  # noqa: PLC0415 - reading a configuration needs no client

        if self.pool.startswith("sqlite:"):
            return connect(self.pool, create=create)
        names = ("username", "password", "auth", "ca_file") if self.is_remote else ()
        options = {name: getattr(self, name) for name in names}
        return connect(self.pool, **{name: value for name, value in options.items() if value is not None})


@dataclass(frozen=True, slots=True)
class _Source:
    """One place that says something."""

    name: str
    values: Mapping[str, Any] = field(repr=False)

    @property
    def is_file(self) -> bool:
        return self.name not in {_COMMAND_LINE, _ENVIRONMENT}

    @property
    def login(self) -> tuple[str | None, str | None]:
        """Name and password: keys of their own come before those inside the address."""
        url = _split(self.values.get("pool", ""))
        username, password = self.values.get("username"), self.values.get("password")
        if username is None and url.username:
            username = unquote(url.username)
        if password is None and url.password:
            password = unquote(url.password)
        return username, password


def configure(
    pool: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    directory: Path | None = None,
    user_directory: Path | None = None,
) -> Configuration:
    """Find the pool and the credentials for it.

    Args:
        pool: the address from the command line; None where it was not given there.
        environ: the environment.
        directory: where `apicas.toml` is looked for; None for the working directory.
        user_directory: where `config.toml` is looked for; None for the user's own.

    Raises:
        ConfigError: a file or an address cannot be used; the message says what to do.
    """
    sources = _sources(pool, environ, directory or Path(), user_directory or _user_directory())
    chosen = next((source for source in sources if "pool" in source.values), None)
    address = chosen.values["pool"] if chosen else DEFAULT_POOL
    settings = {name: value for source in reversed(sources) for name, value in source.values.items()}
    username, password = _login(address, chosen, sources)
    return Configuration(
        pool=_without_login(address),
        source=chosen.name if chosen else "the default",
        username=username,
        password=password,
        **{name: settings[name] for name in _KEYS.keys() - {"pool", "username", "password"} if name in settings},
    )


def _sources(pool: str | None, environ: Mapping[str, str], directory: Path, user_directory: Path) -> Sequence[_Source]:
    """All places, the one that decides first."""
    if pool is not None and _HAS_PASSWORD.match(pool):
        raise ConfigError(
            "a password on the command line can be read by everybody on this machine: leave it out of --pool, and set "
            f"$APICAS_PASSWORD, or write password = ... into {FILE_NAME}"
        )
    files = (directory / FILE_NAME, user_directory / "config.toml")
    return [
        _Source(_COMMAND_LINE, {} if pool is None else {"pool": pool}),
        _Source(_ENVIRONMENT, {key: environ[name] for name, key in _VARIABLES.items() if environ.get(name)}),
        *(_Source(str(path), _read(path)) for path in files if path.is_file()),
    ]


def _user_directory() -> Path:
    from platformdirs import user_config_path  # noqa: PLC0415 - not needed where the caller says where to look

    return user_config_path("apicas")


def _read(path: Path) -> Mapping[str, Any]:
    """Read one file.

    Raises:
        ConfigError: it is no TOML, has keys that mean nothing, or shows a password to others.
    """
    import tomllib  # noqa: PLC0415 - most runs have no file

    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            values = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # a decoding error, or TOML's
        # Its text may quote a line with a password, but the place is all that is needed.
        place = re.search(r"line \d+", str(error))
        raise ConfigError(f"{path} is no TOML{f', see {place[0]}' if place else ''}") from None
    for name, value in values.items():
        _check(path, name, value)
    if "ca_file" in values:
        values["ca_file"] = str(path.parent / Path(values["ca_file"]).expanduser())
    if mode & 0o077 and ("password" in values or _HAS_PASSWORD.match(values.get("pool", ""))):
        raise ConfigError(f"{path} holds a password and others may read it: run `chmod 600 {shlex.quote(str(path))}`")
    return values


def _check(path: Path, name: str, value: Any) -> None:
    if name not in _KEYS:
        raise ConfigError(f"{path}: there is no key {name!r}; there are {', '.join(_KEYS)}")
    if not isinstance(value, _KEYS[name]) or isinstance(value, bool):
        raise ConfigError(f"{path}: {name} must be {'a number' if _KEYS[name] is _NUMBER else 'a string'}")


def _login(address: str, chosen: _Source | None, sources: Sequence[_Source]) -> tuple[str | None, str | None]:
    """The name and the password for an address, from the places that may give them to its server."""
    if not _is_remote(address):
        return None, None
    first = [chosen] if chosen else []
    logins = [source.login for source in [*first, *sources] if _may_log_in(source, chosen, address)]
    # A name inside the address that was asked for means just that one.
    in_address = _split(address).username
    username = unquote(in_address) if in_address else next((name for name, _ in logins if name), None)
    password = next((word for name, word in logins if word is not None and name in {None, username}), None)
    return username, password


def _may_log_in(source: _Source, chosen: _Source | None, address: str) -> bool:
    """Whether the credentials of one place may go to an address that comes from another."""
    if source is chosen or not source.is_file:
        return True
    own = source.values.get("pool")
    if own is None:  # meant for the pool that the user names, though not for one that another file names
        return chosen is None or not chosen.is_file
    return _origin(own) == _origin(address)


def _origin(address: str) -> tuple[str, str]:
    url = _split(address)
    return url.scheme.lower(), url.netloc.rpartition("@")[2].lower()


def _is_remote(address: str) -> bool:
    return _split(address).scheme.lower() in {"http", "https"}


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # the client says so in its own words
        return SplitResult("", "", "", "", "")


def _without_login(address: str) -> str:
    url = _split(address)
    if not _is_remote(address) or "@" not in address:
        return address
    if "@" not in url.netloc:
        raise ConfigError(
            "the pool's address cannot be read: in a name or a password write %2F for a slash, %23 for #, %3F for ? "
            "and %40 for @"
        )
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()
