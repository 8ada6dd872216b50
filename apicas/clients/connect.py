"""From a pool's address to its client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from apicas._secrets import Secret, secret
from apicas.exceptions import ConfigError

if TYPE_CHECKING:
    from apicas.clients.base import PoolClient

_FORMS: Final = "write sqlite:///file.db, http(s)://user@host:5984/database or memory:"


def connect(pool: str, **options: Any) -> PoolClient:
    """Make the client of a pool. It connects when it is entered: `async with apicas.connect(...) as client:`.

    Nothing is looked for elsewhere, and so no password: `apicas.configuration.configure(pool).connect()` finds what the
    command line finds.

    Args:
        pool: `sqlite:///relative.db`, `sqlite:////absolute.db`, `memory:`, or `http(s)://user:password@host:port/database`.
        options: what the client's class takes, such as `ca_file=` for CouchDB.

    Raises:
        ConfigError: the address is none of these.
    """
    if not isinstance(pool, str):
        raise ConfigError(f"a pool's address is a text, and no {type(pool).__name__}: {_FORMS}")
    try:
        parts = urlsplit(pool)
    except ValueError:  # unbalanced brackets around an IPv6 address
        raise ConfigError(f"{_shown(pool)!r} is no pool's address") from None
    # Imported where needed: a pilot on a SQLite file pays for no HTTP library.
    if pool in {"memory:", "memory://"}:
        from apicas.clients.memory import MemoryClient  # noqa: PLC0415

        return MemoryClient(**options)
    if parts.scheme == "sqlite":
        return _sqlite(pool, options)
    if parts.scheme in {"http", "https"}:
        address = Secret(pool)
        # What is below may raise, and a traceback may show the values of variables.
        del pool, parts
        return _couch(address, {**options, "password": secret(options.pop("password", None))})
    raise ConfigError(f"{_shown(pool)!r} is no pool: {_FORMS}")


def _sqlite(pool: str, options: dict[str, Any]) -> PoolClient:
    path = pool.removeprefix("sqlite://")
    if not path.startswith("/") or path.endswith("/"):
        raise ConfigError(f"{_shown(pool)!r} names no file: write sqlite:///file.db, or sqlite:////directory/file.db")
    from apicas.clients.sqlite import SQLiteClient  # noqa: PLC0415

    return SQLiteClient(unquote(path[1:]), **options)


def _couch(pool: Secret, options: dict[str, Any]) -> PoolClient:
    address = _shown(pool.reveal())
    parts = urlsplit(pool.reveal())
    if parts.username is not None:
        options.setdefault("username", unquote(parts.username))
    if parts.password is not None and options["password"] is None:
        options["password"] = Secret(unquote(parts.password))
    parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    server, _, database = parts.path.strip("/").rpartition("/")
    if not database or parts.hostname is None:
        raise ConfigError(f"{address!r} names no database: write http(s)://user@host:5984/database")
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        raise ConfigError(f"{address!r}: the port is no number") from None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = f"/{server}" if server else ""
    from apicas.clients.couch import CouchClient  # noqa: PLC0415

    return CouchClient(f"{parts.scheme}://{host}{port}{path}", db=unquote(database), **options)


def _shown(pool: str) -> str:
    """An address as people may see it: without a password."""
    head, at, tail = pool.rpartition("@")
    if not at:
        return pool
    scheme, _, credentials = head.rpartition("//")
    return f"{scheme}//{credentials.split(':', 1)[0]}@{tail}"
