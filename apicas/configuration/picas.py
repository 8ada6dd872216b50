"""What PiCaS's own configuration says: `~/.config/picas/conf.yml`, and a `picasconfig.py` in the working directory.

Both are read as they are, and only where nothing nearer says where the pool is or what the password is: whatever is
wrong with them concerns nobody else. `picasconfig.py` is a program; it is not run, but read: texts, what is put
together of them, and variables PICAS_* of the environment are understood.
"""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

from apicas._files import check_private, is_foreign
from apicas._secrets import Secret
from apicas.configuration.addresses import is_remote
from apicas.configuration.keys import PICAS_CONF, PICAS_MODULE
from apicas.configuration.sources import Source, make_source
from apicas.exceptions import ConfigError

_KEY_FILE: Final = "key.dat"
_EXTRA: Final = "`pip install 'apicas[picas]'`"
_PREFIX: Final = "PICAS_"
"""Of variables of the environment that a picasconfig.py may use."""
_MOST_BYTES: Final = 1_000_000
_NAMES: Final = {
    "PICAS_HOST_URL": "host_url",
    "PICAS_DATABASE": "database",
    "PICAS_USERNAME": "username",
    "PICAS_PASSWORD": "password",
}

Lookup = Callable[[str], str | None]


def picas_sources(home: Path | None, directory: Path, lookup: Lookup) -> list[Source]:
    """What PiCaS's files say, conf.yml first. Nothing is raised: what is wrong is the source's problem.

    Args:
        home: the user's home directory; None where that is not known.
        directory: where `picasconfig.py` is looked for.
        lookup: the value of a variable of the environment, for a `picasconfig.py` that asks for one.
    """
    conf = None if home is None else _read_conf(home / PICAS_CONF)
    module = _read_module(directory / PICAS_MODULE, lookup, has_conf=conf is not None)
    return [source for source in (conf, module) if source is not None]


def _read(path: Path) -> tuple[str, os.stat_result] | str | None:
    """The text of a file with its status; what is wrong with it; None where there is no such file."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode(), os.fstat(file.fileno())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"{path}: {error.strerror}"
    except UnicodeDecodeError:
        return f"{path} is no UTF-8"


# conf.yml. ------------------------------------------------------------------------------------------------------------


def _read_conf(path: Path) -> Source | None:
    read = _read(path)
    if read is None or isinstance(read, str):
        return None if read is None else _broken(path, read)
    values = _conf_values(read[0])
    if isinstance(values, str):
        return _broken(path, f"{path} {values}")
    if is_foreign(path, read[1]):
        return _broken(path, f"{path} says to whom your password goes, and others may have written it")
    encrypted = values.pop("encrypted_password", "")
    unlock = partial(_decrypt, path, Secret(encrypted)) if encrypted else None
    return _source(path, {key: Secret(value) for key, value in values.items()}, unlock)


def _conf_values(text: str) -> dict[str, str] | str:
    """The texts in a conf.yml; a text that says why it cannot be read."""
    try:
        import yaml
    except ImportError:
        return f"names your pool, and reading it takes {_EXTRA}; or say where the pool is with --pool"
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # not shown: it may quote what stands there
        return "is no YAML"
    if not isinstance(values, dict):
        return "has no keys"
    wanted = ("host_url", "database", "username", "encrypted_password")
    return {key: values[key] for key in wanted if isinstance(values.get(key), str) and values[key]}


def _decrypt(conf: Path, encrypted: Secret) -> Secret | str:
    """The password of a conf.yml; a text that says why it cannot be had. PiCaS keeps the key in the file beside it."""
    path = conf.parent / _KEY_FILE
    read = _read(path)
    if read is None or isinstance(read, str):
        return read or f"the key for the password in {conf} is missing: {path}"
    try:
        check_private(path, read[1], "is the key to a password")
    except ConfigError as error:
        return str(error)
    try:
        from cryptography.fernet import Fernet, InvalidToken
    except ImportError:
        return f"to decrypt the password in {conf} takes {_EXTRA}"
    try:
        return Secret(Fernet(read[0].strip()).decrypt(encrypted.reveal()).decode())
    except (InvalidToken, ValueError):
        return f"the password in {conf} is not encrypted with the key in {path}: `apicas passwd` keeps it anew"


# picasconfig.py. ------------------------------------------------------------------------------------------------------


def _read_module(path: Path, lookup: Lookup, *, has_conf: bool) -> Source | None:
    read = _read(path)
    if read is None or isinstance(read, str):
        return None if read is None else _broken(path, read)
    values, unknown = _module_values(read[0], _Reader(lookup), has_conf=has_conf)
    if not values and not unknown:
        return None
    if is_foreign(path, read[1]):
        return _broken(path, f"{path} says to whom your password goes, and others may have written it")
    missing = [unknown[name] for name in ("PICAS_HOST_URL", "PICAS_DATABASE", "") if name in unknown]
    if missing:
        return _broken(path, f"{path}: {missing[0]}; say where the pool is with --pool or $APICAS_POOL")
    texts = {_NAMES[name]: value for name, value in values.items() if name in _NAMES}
    unlock: Callable[[], Secret | str] | None = None
    if "PICAS_PASSWORD" in unknown:
        unlock = partial(str, f"{path}: {unknown['PICAS_PASSWORD']}")
    elif "password" in texts:
        unlock = partial(_plain, path, read[1], texts.pop("password"))
    return _source(path, texts, unlock, is_shared=True)


def _plain(path: Path, status: os.stat_result, password: Secret) -> Secret | str:
    """The password of a file in which it can be read; a text if others can read it too."""
    try:
        check_private(path, status, "holds a password")
    except ConfigError as error:
        return str(error)
    return password


def _module_values(text: str, reader: _Reader, *, has_conf: bool) -> tuple[dict[str, Secret], dict[str, str]]:
    """What a picasconfig.py says, by name, and why what it does not say can only be known by running it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its style
            tree = ast.parse(text)
        return _assigned(tree, reader, has_conf=has_conf)
    except SyntaxError as error:
        return {}, {"": f"it is no Python, see line {error.lineno}"}
    except (ValueError, RecursionError, MemoryError):
        return {}, {"": "it is no Python that can be read"}


def _assigned(tree: ast.Module, reader: _Reader, *, has_conf: bool) -> tuple[dict[str, Secret], dict[str, str]]:
    unknown: dict[str, str] = {}
    for statement in tree.body:
        names, value = _assignment(statement)
        text = None if value is None else reader.read(value)
        for name in names or _names_inside(statement):
            reader.known.pop(name, None)
            unknown.pop(name, None)
            if text is not None and names:
                reader.known[name] = text
            elif name in _NAMES and not (has_conf and value is not None and _is_of_conf(value)):
                unknown[name] = f"{name} in line {statement.lineno} is worked out by code, which apicas does not run"
    # The template of the examples has them all, and all of them empty.
    return {name: text for name, text in reader.known.items() if name in _NAMES and text.reveal()}, unknown


def _assignment(statement: ast.stmt) -> tuple[list[str], ast.expr | None]:
    """The names that a statement of the top level gives one value, and that; no names for other statements."""
    match statement:
        case ast.Assign(targets=targets, value=value) if all(isinstance(target, ast.Name) for target in targets):
            return [target.id for target in targets if isinstance(target, ast.Name)], value
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            return [name], value
    return [], None


def _names_inside(statement: ast.stmt) -> set[str]:
    """The names that a statement may give a value in some other way: an `if`, a `try`, an import."""
    nodes = list(ast.walk(statement))
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    return stored | {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}


def _is_of_conf(value: ast.expr) -> bool:
    """Whether a value is taken from conf.yml, as the examples of PiCaS do: `config.config["host_url"]`."""
    return any(
        isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "config"
        for node in ast.walk(value)
    )


class _Reader:
    """Works out texts without running anything."""

    def __init__(self, lookup: Lookup) -> None:
        self.known: dict[str, Secret] = {}
        self._lookup = lookup

    def read(self, node: ast.expr) -> Secret | None:
        """The text that an expression gives; None where only running it would tell."""
        match node:
            case ast.Constant(value=str(text)):
                return Secret(text)
            case ast.Name(id=name):
                return self.known.get(name)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._joined([left, right])
            case ast.JoinedStr(values=parts):
                return self._joined(parts)
            case ast.FormattedValue(value=value, conversion=-1, format_spec=None):
                return self.read(value)
        return self._variable(node)

    def _joined(self, nodes: list[ast.expr]) -> Secret | None:
        texts = [text for text in map(self.read, nodes) if text is not None]
        return Secret("".join(text.reveal() for text in texts)) if len(texts) == len(nodes) else None

    def _variable(self, node: ast.expr) -> Secret | None:
        """The text of `os.environ[...]`, `os.environ.get(...)` and `os.getenv(...)`, for PICAS_* alone.

        Of others it could make a part of an address: a file that came with somebody's repository would send them there.
        """
        match node:
            case ast.Subscript(value=place, slice=ast.Constant(value=str(name))) if _dotted(place) == "os.environ":
                value = self._ours(name)
                return None if value is None else Secret(value)
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *default], keywords=[]) if _dotted(
                function
            ) in {"os.environ.get", "os.getenv"}:
                if not name.startswith(_PREFIX):
                    return None
                value = self._ours(name)
                if value is not None or not default:
                    return None if value is None else Secret(value)
                return self.read(default[0])
        return None

    def _ours(self, name: str) -> str | None:
        return self._lookup(name) if name.startswith(_PREFIX) else None


def _dotted(node: ast.expr) -> str:
    return f"{_dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


# Both. ----------------------------------------------------------------------------------------------------------------


def _broken(path: Path, problem: str) -> Source:
    return Source(str(path), is_file=True, is_foreign=True, problem=problem)


def _source(
    path: Path,
    texts: Mapping[str, Secret],
    unlock: Callable[[], Secret | str] | None,
    *,
    is_shared: bool = False,
) -> Source | None:
    """What a file of PiCaS says, with server and database put together; None for nothing.

    Args:
        path: of the file.
        texts: `host_url`, `database` and `username`, where it says them.
        unlock: finds the password.
        is_shared: whether others may have made it.
    """
    if "host_url" not in texts or "database" not in texts:
        absent = [key for key in ("host_url", "database") if key not in texts]
        return _broken(path, f"{path} does not say {' and '.join(absent)}") if texts else None
    if not is_remote(texts["host_url"].reveal()):
        return _broken(path, f"{path}: the server is no http:// or https:// address")
    database = quote(texts["database"].reveal(), safe="")
    address = Secret(f"{texts['host_url'].reveal().rstrip('/')}/{database}")
    login = {"username": texts["username"]} if "username" in texts else {}
    try:
        found = make_source(str(path), {"pool": address, **login}, is_file=True, is_shared=is_shared)
    except ConfigError as error:
        return _broken(path, str(error))
    return Source(
        found.name,
        is_file=True,
        is_shared=is_shared,
        is_foreign=True,
        address=found.address,
        in_address=found.in_address,
        username=found.username,
        unlock=unlock if found.password is None else _handing(found.password),
    )


def _handing(password: Secret) -> Callable[[], Secret | str]:
    return lambda: password
