"""Where the pool is, and who we are to it. For users: docs/configuration.md.

Rules:
- One order for everything: the caller (`--pool`), `$APICAS_*`, `apicas.toml` in this directory, `config.toml` in the
  user's configuration directory, PiCaS's `conf.yml`, `picasconfig.py` in this directory. Where none names a pool it is
  a SQLite file in this directory.
- Name and password come with the address, else from these places in this order; then from what `apicas passwd` keeps
  and from the user's netrc, and only then from PiCaS's files, which may have an old password.
- Those of a file go to no other server than the file's own: a directory that somebody else made must not be able to
  send a user's password elsewhere.
- So a file that others can write may not name a server, nor whom to trust. One with a password may not be read by them.
- A password on a command line is public, and refused.
- Passwords, and addresses that may hold one, are secrets from the moment they are read: see apicas._secrets.
- A file that is meant to name the pool and cannot is an error: to go on with another pool would be worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from apicas._secrets import Secret, secret
from apicas.configuration.addresses import has_password, is_remote, shows_password
from apicas.configuration.keys import DEFAULT_POOL, FILE_NAME, KEYS, USER_FILE_NAME, VARIABLES
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from apicas.clients.base import PoolClient
    from apicas.configuration.environment import Surroundings
    from apicas.configuration.sources import Source

__all__ = [
    "DEFAULT_POOL",
    "FILE_NAME",
    "KEYS",
    "USER_FILE_NAME",
    "VARIABLES",
    "Configuration",
    "check_arguments",
    "configure",
    "configured_log_format",
    "user_directory",
]

_COMMAND_LINE: Final = "--pool"
_DEFAULT: Final = "the default"
_PUBLIC: Final = (
    "a password on the command line can be read by everybody on this machine: leave it out of {}, and set "
    f"$APICAS_PASSWORD, keep it with `apicas passwd`, or write password = ... into {FILE_NAME}"
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
    log_format: str | None = None
    """How log lines are written; None for text."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where each key's value comes from, for people; a key that nobody set is not in it."""
    notes: tuple[str, ...] = ()
    """What was looked for and could not be read, for people."""
    is_of_picas: bool = False
    """Whether PiCaS's own configuration names the pool, and nothing of apicas does."""

    @property
    def is_remote(self) -> bool:
        """Whether the pool is on a server."""
        return is_remote(self.pool)

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
        from apicas.clients.connect import connect

        if self.pool.startswith("sqlite:"):
            return connect(self.pool, create=create)
        names = ("username", "password", "auth", "ca_file") if self.is_remote else ()
        options = {name: getattr(self, name) for name in names}
        return connect(self.pool, **{name: value for name, value in options.items() if value is not None})


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse a command line with a password in a URL, wherever it stands.

    Raises:
        ConfigError: there is one; the message does not show it.
    """
    if any(map(shows_password, arguments)):
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
        directory: where `apicas.toml` and `picasconfig.py` are looked for; None for the working directory.
        user_directory: where `config.toml` and kept passwords are looked for; None for the user's own.

    Raises:
        ConfigError: a file or an address cannot be used; the message says what to do.
    """
    from apicas.configuration.environment import surroundings
    from apicas.configuration.logins import Places, find_login

    around = surroundings(environ)
    del environ  # it holds secrets, and what is below may raise
    command_line = secret(pool)
    del pool
    if command_line is not None and has_password(command_line):
        raise ConfigError(_PUBLIC.format(_COMMAND_LINE))
    own = _user_directory() if user_directory is None else user_directory
    sources = _sources(command_line, around, directory or Path(), own)
    places = Places(sources, around, directory or Path(), own)
    chosen = next((source for source in sources if source.address is not None), None) or _of_picas(places)
    address = DEFAULT_POOL if chosen is None or chosen.address is None else chosen.address
    settings, origins = _settings(sources)
    login = find_login(address, chosen, places)
    return Configuration(
        pool=address,
        source=_DEFAULT if chosen is None else chosen.name,
        username=login.username,
        password=login.password,
        origins={"pool": _DEFAULT if chosen is None else chosen.name, **login.origins, **origins},
        notes=tuple(login.notes),
        is_of_picas=chosen is not None and chosen.is_foreign,
        **settings,
    )


def configured_log_format() -> str | None:
    """How log lines are to be written, as the places of apicas say; None where they do not.

    It is asked for before anything else, also by commands that need no pool: so no address is looked for.

    Raises:
        ConfigError: one of these places cannot be read.
    """
    from apicas.configuration.environment import surroundings

    settings, _ = _settings(_sources(None, surroundings(None), Path(), _user_directory()))
    found: str | None = settings.get("log_format")
    return found


def user_directory() -> Path:
    """Where `config.toml` and the passwords that `apicas passwd` keeps belong."""
    return _user_directory()


def _user_directory() -> Path:
    from platformdirs import user_config_path

    return user_config_path("apicas")


def _sources(pool: Secret | None, around: Surroundings, directory: Path, own: Path) -> list[Source]:
    """The places of apicas, the one that decides first."""
    from apicas.configuration.environment import source_of
    from apicas.configuration.sources import is_there, make_source

    shared, user = directory / FILE_NAME, own / USER_FILE_NAME
    sources = [make_source(_COMMAND_LINE, {} if pool is None else {"pool": pool}), source_of(around.variables)]
    for path in (shared, user):
        if is_there(path):
            from apicas.configuration.files import read_file

            sources.append(read_file(path, is_shared=path is shared))
    return sources


def _of_picas(places: Any) -> Source | None:
    """The file of PiCaS's that names the pool; None where there is none.

    Raises:
        ConfigError: the first of them is there, and does not tell.
    """
    found: Source | None = next(iter(places.of_picas), None)
    if found is not None and found.problem is not None:
        raise ConfigError(found.problem)
    return found


def _settings(sources: Sequence[Source]) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings besides the login, key by key from the first place that has them, and these places."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source in reversed(sources):
        values |= source.settings
        origins |= dict.fromkeys(source.settings, source.name)
    return values, origins
