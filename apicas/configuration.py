"""Where the pool is, and who we are to it.

Rules:
- The pool's address comes from the caller (`--pool`), else `$APICAS_POOL`, else `apicas.toml` in this directory, else
  `config.toml` in the user's configuration directory, else it is a SQLite file in this directory.
- Name and password come with the address, else from `$APICAS_USERNAME` and `$APICAS_PASSWORD`, else from a file, else
  from the user's netrc; but those of a file go to no other server than the file's own: a directory that somebody else
  made must not be able to send a user's password elsewhere.
- So a file that others can write may not name a server, nor whom to trust. One with a password may not be read by them.
- A password on a command line is public, and refused.
- Passwords, and addresses that may hold one, are secrets from the moment they are read: see apicas._secrets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from apicas._files import check_private, is_foreign
from apicas._netrc import netrc_login, netrc_path
from apicas._secrets import Secret, secret
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
    "outbox": str,
}
_VARIABLES: Final = {"APICAS_POOL": "pool", "APICAS_USERNAME": "username", "APICAS_PASSWORD": "password"}
# With these, a file decides where credentials go.
_TRUSTED_KEYS: Final = frozenset({"username", "password", "ca_file"})
# Not by a parser of URLs: a password with a slash or a hash in it would be taken for something else, and not be seen.
_HAS_PASSWORD: Final = re.compile(r"https?://[^/@:]*:[^@]+@", re.IGNORECASE)
# Of what is no pool's address: a port and an @ somewhere behind it are no password.
_SHOWS_PASSWORD: Final = re.compile(r"https?://[^/@:\s]*:[^/@\s]+@", re.IGNORECASE)
_PUBLIC: Final = (
    "a password on the command line can be read by everybody on this machine: leave it out of {}, and set "
    f"$APICAS_PASSWORD, or write password = ... into {FILE_NAME}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What is needed to reach a pool, and to keep tokens in it."""

    pool: str
    """The address, without name and password."""
    source: str
    """Where the address comes from, for people."""
    username: str | None = None
    password: Secret | None = None
    auth: str | None = None
    ca_file: str | None = None
    lock_timeout: float | None = None
    """Seconds."""
    foreign_lock_timeout: float | None = None
    """Seconds."""
    outbox: str | None = None
    """The directory for finished results that are not in the pool yet; None for the default."""

    @property
    def is_remote(self) -> bool:
        """Whether the pool is on a server."""
        return _is_remote(self.pool)

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
    """One place that says something: the address without login, the login, and the other settings."""

    name: str
    is_file: bool = False
    is_shared: bool = False
    """Whether it is a file in a directory that may be another's."""
    address: str | None = None
    in_address: str | None = None
    """The name inside the address: the only one that is meant."""
    username: str | None = None
    """The name that the password belongs to."""
    password: Secret | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse a command line with a password in a URL, wherever it stands.

    Raises:
        ConfigError: there is one; the message does not show it.
    """
    if any(_SHOWS_PASSWORD.search(text) for argument in arguments for text in (argument, unquote(argument))):
        raise ConfigError(_PUBLIC.format("the arguments"))


def configure(
    pool: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    user_directory: Path | None = None,
) -> Configuration:
    """Find the pool and the credentials for it.

    Args:
        pool: the address from the command line; None where it was not given there.
        environ: the environment; None for this process's.
        directory: where `apicas.toml` is looked for; None for the working directory.
        user_directory: where `config.toml` is looked for; None for the user's own.

    Raises:
        ConfigError: a file or an address cannot be used; the message says what to do.
    """
    variables = _variables(environ)
    netrc = _netrc_path(environ)
    outbox = (os.environ if environ is None else environ).get("APICAS_OUTBOX")
    del environ  # it holds secrets, and what is below may raise
    command_line = secret(pool)
    del pool
    if command_line is not None and _has_password(command_line):
        raise ConfigError(_PUBLIC.format("--pool"))
    sources = _sources(command_line, variables, directory or Path(), user_directory or _user_directory())
    chosen = next((source for source in sources if source.address is not None), None)
    address = DEFAULT_POOL if chosen is None or chosen.address is None else chosen.address
    settings = {name: value for source in reversed(sources) for name, value in source.settings.items()}
    settings |= {"outbox": outbox} if outbox else {}
    username, password = _login(address, chosen, sources)
    # A file in somebody's directory may name a host of ours: not by a connection that others can listen to.
    is_safe = chosen is None or not chosen.is_shared or _split(address).scheme.lower() == "https"
    if password is None and _is_remote(address) and netrc is not None and is_safe:
        username, password = _login_by_netrc(netrc, address, username)
    return Configuration(
        pool=address,
        source=chosen.name if chosen else "the default",
        username=username,
        password=password,
        **settings,
    )


def _variables(environ: Mapping[str, str] | None) -> Mapping[str, Secret]:
    """What the environment says of us, by the names of keys."""
    values = os.environ if environ is None else environ
    return {key: Secret(values[name]) for name, key in _VARIABLES.items() if values.get(name)}


def _netrc_path(environ: Mapping[str, str] | None) -> Path | None:
    return netrc_path(os.environ if environ is None else environ)


def _sources(
    pool: Secret | None, variables: Mapping[str, Secret], directory: Path, user_directory: Path
) -> Sequence[_Source]:
    """All places, the one that decides first."""
    shared, own = directory / FILE_NAME, user_directory / "config.toml"
    return [
        _source(_COMMAND_LINE, {} if pool is None else {"pool": pool}),
        _source(_ENVIRONMENT, variables),
        *([_read(shared, is_shared=True)] if shared.is_file() else []),
        *([_read(own)] if own.is_file() else []),
    ]


def _user_directory() -> Path:
    from platformdirs import user_config_path  # noqa: PLC0415 - not needed where the caller says where to look

    return user_config_path("apicas")


def _source(
    name: str, texts: Mapping[str, Secret], settings: Mapping[str, Any] | None = None, *, is_shared: bool = False
) -> _Source:
    """One place, with the login taken out of its address; keys of their own come before that.

    Raises:
        ConfigError: the address cannot be read.
    """
    address, username, password = _parted(texts["pool"]) if "pool" in texts else (None, None, None)
    if "pool" in texts and address is None:
        raise ConfigError(
            f"the pool's address in {name} cannot be read: in a name or a password write %2F for a slash, %23 for #, "
            "%3F for ? and %40 for @, and nothing behind the database"
        )
    return _Source(
        name,
        is_file=settings is not None,
        is_shared=is_shared,
        address=address,
        in_address=username,
        username=texts["username"].reveal() if "username" in texts else username,
        password=texts.get("password", password),
        settings=settings or {},
    )


@dataclass(frozen=True, slots=True)
class _File:
    """What stands in a file, before it is known what of it is secret."""

    path: Path
    status: os.stat_result
    values: dict[str, Any] = field(repr=False)

    def complaint(self) -> str | None:
        """What is wrong with the keys; None for nothing."""
        for name, value in self.values.items():
            if name not in _KEYS:
                return f"there is no key {name!r}; there are {', '.join(_KEYS)}"
            if not isinstance(value, _KEYS[name]) or isinstance(value, bool):
                return f"{name} must be {'a number' if _KEYS[name] is _NUMBER else 'a string'}"
        return None

    @property
    def has_password(self) -> bool:
        """Whether there is a password in it."""
        return "password" in self.values or _has_password(Secret(self.values.get("pool", "")))

    @property
    def decides(self) -> bool:
        """Whether it says where credentials go, or whom to trust with them."""
        return not _TRUSTED_KEYS.isdisjoint(self.values) or _is_remote(self.values.get("pool", ""))

    def source(self, *, is_shared: bool) -> _Source:
        """What it says."""
        names = ("pool", "username", "password")
        texts = {name: Secret(self.values[name]) for name in names if name in self.values}
        settings = {name: value for name, value in self.values.items() if name not in names}
        for name in ("ca_file", "outbox"):
            if name in settings:
                # Not Path.expanduser, which raises for a user that does not exist.
                settings[name] = str(self.path.parent / os.path.expanduser(settings[name]))  # noqa: PTH111
        return _source(str(self.path), texts, settings, is_shared=is_shared)


def _read(path: Path, *, is_shared: bool = False) -> _Source:
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
    if (complaint := file.complaint()) is not None:
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
    import tomllib  # noqa: PLC0415 - most runs have no file

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


def _login(address: str, chosen: _Source | None, sources: Sequence[_Source]) -> tuple[str | None, Secret | None]:
    """The name and the password for an address, from the places that may give them to its server."""
    if not _is_remote(address):
        return None, None
    first = [chosen] if chosen else []
    logins = [
        (source.username, source.password) for source in [*first, *sources] if _may_log_in(source, chosen, address)
    ]
    in_address = chosen.in_address if chosen else None
    username = in_address or next((name for name, _ in logins if name), None)
    password = next((word for name, word in logins if word is not None and name in {None, username}), None)
    return username, password


def _may_log_in(source: _Source, chosen: _Source | None, address: str) -> bool:
    """Whether the credentials of one place may go to an address that comes from another."""
    if source is chosen or not source.is_file:
        return True
    if source.address is None:  # meant for the pool that the user names, though not for one that another file names
        return chosen is None or not chosen.is_file
    return _origin(source.address) == _origin(address)


def _login_by_netrc(path: Path, address: str, username: str | None) -> tuple[str | None, Secret | None]:
    """The name and the password that a netrc has for an address's host, if it is the name that is known already."""
    found = netrc_login(path, _split(address).hostname or "")
    if found is None or (found[0] and username not in {None, found[0]}):
        return username, None
    return username or found[0] or None, found[1]


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


def _has_password(address: Secret) -> bool:
    """Whether an address shows a password, also one that is written in percents."""
    text = address.reveal()
    return any(_HAS_PASSWORD.match(shown) for shown in (text, unquote(text)))


def _parted(pool: Secret) -> tuple[str | None, str | None, Secret | None]:
    """An address without login, and the login; None for an address that cannot be read."""
    text = pool.reveal()
    url = _split(text)
    if not _is_remote(text):
        return text, None, None
    if ("@" in text and "@" not in url.netloc) or url.query or url.fragment:
        return None, None, None
    username = unquote(url.username) if url.username else None
    if username and ":" in username:  # what stands behind the colon may be the password, and names are shown
        return None, None, None
    address = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl() if "@" in text else text
    return address, username, Secret(unquote(url.password)) if url.password else None
