"""From `module:name` to the function or the actor."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from apicas.exceptions import ConfigError

_NAMES_SHOWN: Final = 10


def load(target: str) -> Callable[..., Any]:
    """Import what is to be run.

    Args:
        target: `module:name`, with the module in the working directory or installed, or `path/to/file.py:name`.

    Raises:
        ConfigError: there is no such thing, or importing it fails.
    """
    module_name, colon, name = target.rpartition(":")
    if not colon or not name or not module_name:
        hint = f"; a command comes after --: `apicas run -- {target}`" if Path(target).exists() else ""
        raise ConfigError(f"{target!r} is no MODULE:NAME{hint}")
    found: Any = _module(module_name)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{module_name} has no {name!r}{_others(found)}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"{target} is neither a function nor a RunActor class, but {type(found).__name__}")
    work: Callable[..., Any] = found
    return work


def _module(name: str) -> ModuleType:
    path = Path(name)
    directory = Path.cwd()
    if path.suffix == ".py" or len(path.parts) > 1:
        if not path.is_file():
            raise ConfigError(f"there is no file {name}")
        directory, name = path.resolve().parent, path.stem
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _broken(name, error) from error
        raise ConfigError(f"there is no module {name!r} in {directory}, and none is installed") from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> ConfigError:
    """What the user's module raised, and where, in one line."""
    if isinstance(error, SyntaxError):
        place = f" ({error.filename}, line {error.lineno})" if error.filename else ""
        return ConfigError(f"{name} cannot be imported: {error.msg}{place}")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return ConfigError(
        f"{name} cannot be imported: {type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"
    )


def _others(module: Any) -> str:
    """What could have been meant."""
    own = [
        name
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return f"; it has {', '.join(own[:_NAMES_SHOWN])}" if own else ""
